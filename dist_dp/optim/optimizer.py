"""`Optimizer`: what all update rules share: groups, flat buffers, schedules, clipping, decay, state.

A rule itself is one loop over equal pieces of flat arrays (`update`). The pieces fit the cache, so that the dozen small
passes of a rule (moments, square roots, quotients) cost one trip through memory.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from runtime.fold import Span
from runtime.timeline import span

from ..arguments import check_options
from ..tape import Array, Leaf
from ..tensor import Tensor
from .clip import NORM_BLOCK
from .flat import Flat, GradientBuffer, runs
from .hyperparameters import number
from .schedule import Schedule

# Elements updated at once: 512 KiB of float32 for each of parameter, gradient, state and scratch. Larger pieces leave
# the cache, smaller ones pay for more calls.
PIECE = 1 << 17


class Clipping(TypedDict, total=False):
    """The keyword arguments that every optimizer takes; see `Optimizer`."""

    clip_norm: float | None
    clip_value: float | None


@dataclass(eq=False)
class Part:
    """The parameters of one group and dtype, and what the rule remembers about them.

    Attributes:
        flat: the parameters, side by side.
        group: the hyperparameters; an entry of `param_groups`.
        state: arrays of the same layout, by torch's names.
        counts: updates that each parameter has had.
    """

    flat: Flat
    group: dict[str, Any]
    state: dict[str, Array]
    counts: NDArray[np.int64]


@dataclass(eq=False)
class Pieces:
    """Parameters `start:stop` of a part, in pieces: `for p, g, state, s, t in pieces`.

    `p` are parameters, to be updated in place; `g` their gradient, clipped and with weight decay, not to be written;
    `state` the state arrays by name; `s` and `t` scratch. All are 1-D and equally long.

    Attributes:
        size: elements in a piece.
        divisor, scale, limit: the gradient is divided, multiplied and clipped by these.
        coupled: this times the parameter is added to the gradient.
        shrink: the parameter is multiplied by this first.
    """

    part: Part
    gradient: Array
    scratch: Array
    size: int
    divisor: float
    scale: float
    limit: float | None
    coupled: float
    shrink: float
    start: int = 0
    stop: int = 0

    def __iter__(self) -> Iterator[tuple[Array, Array, dict[str, Array], Array, Array]]:
        for lo in range(self.start, self.stop, self.size):
            hi = min(lo + self.size, self.stop)
            p, g = self.part.flat.values[lo:hi], self.gradient[lo:hi]
            own, s, t = self.scratch[
                :, : hi - lo
            ]  # `own` for the gradient: p.grad stays what backward made it
            if self.divisor != 1:
                g = np.divide(g, self.divisor, own)
            if self.scale != 1:
                g = np.multiply(g, self.scale, own)
            if self.limit is not None:
                g = np.clip(g, -self.limit, self.limit, out=own)
            if self.coupled != 0:
                g = np.add(g, np.multiply(p, self.coupled, s), own)
            if self.shrink != 1:
                np.multiply(p, self.shrink, p)
            yield p, g, {name: array[lo:hi] for name, array in self.part.state.items()}, s, t


class Optimizer:
    """Base of the optimizers. A subclass names its state (`initial_state`) and updates pieces (`update`).

    The optimizer moves its parameters into memory of its own: `p.data` and `p.grad` are views of flat buffers from then
    on, overwritten by later steps and backward passes. Take `p.grad.clone()` to keep a gradient.

    Args:
        params: parameters, or a list of groups `{"params": [...], "lr": ..., ...}` as in torch.
        defaults: hyperparameters of every group that does not name its own, `lr` and `weight_decay` among them. `lr` is
            a number or a `Schedule`.
        clip_norm: scale the whole gradient down to this global 2-norm where it is larger (Pascanu et al. 2013).
        clip_value: clip every element of the gradient to [-clip_value, clip_value].

    Attributes:
        param_groups: the groups, as dicts; a hyperparameter assigned there takes effect at the next step, as in torch.
        steps: how many steps were taken; what schedules are asked with.
        total_steps: length of the run, for schedules that need it. The training loop sets it; a loop of your own does,
            or gives the schedule `total=`.

    Raises:
        ValueError: no parameters, a parameter named twice, or a hyperparameter out of range.
        TypeError: something that is no parameter or requires no gradient, or a hyperparameter of a wrong type.
    """

    # Where weight decay enters: it is added to the gradient, shrinks the weights before the rule, or the rule does it.
    decay: ClassVar[Literal["gradient", "weights", "rule"]] = "gradient"

    # Whether `update` must see each parameter whole and alone.
    per_parameter: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        defaults: Mapping[str, Any],
        clip_norm: float | None = None,
        clip_value: float | None = None,
        **unknown: Any,
    ) -> None:
        check_options(type(self).__name__, unknown, [*defaults, "clip_norm", "clip_value"])
        self.clip_norm = None if clip_norm is None else number("clip_norm", clip_norm, above=True)
        self.clip_value = None if clip_value is None else number("clip_value", clip_value, above=True)
        self.defaults = dict(defaults)
        self.param_groups = [self._group(g) for g in _as_groups(params)]
        self.total_steps: int | None = None
        self.steps = 0
        self._params: list[Tensor] = [p for group in self.param_groups for p in group["params"]]
        if len({id(p) for p in self._params}) != len(self._params):
            raise ValueError("params: a parameter stands in them twice; list each once")
        self.parts: list[Part] = []
        for group in self.param_groups:
            for dtype in dict.fromkeys(p.dtype for p in group["params"]):
                flat = Flat([p for p in group["params"] if p.dtype == dtype])
                state = self._new_state(flat, group)
                self.parts.append(Part(flat, group, state, np.zeros(len(flat.params), np.int64)))
        self._piece = (
            NORM_BLOCK if self.per_parameter else PIECE
        )  # norms over pieces depend on where they are cut
        length = min(self._piece, max(part.flat.values.size for part in self.parts))
        self._scratch = {dtype: np.empty((3, length), dtype) for dtype in {p.dtype for p in self._params}}
        self.gradients = self.new_gradients()
        present = [(p, p.grad) for p in self._params if p.grad is not None]
        self.gradients.receive()
        for p, g in present:
            p.grad = g  # what backward left before this optimizer was made

    def _group(self, group: Any) -> dict[str, Any]:
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f'params: each group must be a dict with an entry "params", got {group!r:.80}')
        unknown = set(group) - {"params"} - set(self.defaults)
        if unknown:
            raise ValueError(
                f"params: a group has unknown options {sorted(unknown)}; "
                f"{type(self).__name__} knows {sorted(self.defaults)}"
            )
        params = group["params"]
        full = {**self.defaults, **group, "params": [params] if isinstance(params, Tensor) else list(params)}
        for p in full["params"]:
            if isinstance(p, tuple):
                raise TypeError("params must be tensors, got a tuple; pass model.parameters(), without names")
            if not isinstance(p, Tensor):
                raise TypeError(f"params must be tensors, got {type(p).__name__}")
            if not isinstance(p.node, Leaf):
                what = "was computed from others" if p.node is not None else "has requires_grad=False"
                raise TypeError(
                    f"params must be leaf tensors with requires_grad=True; one of shape {p.shape} {what}. "
                    "Leave frozen parameters out: [p for p in model.parameters() if p.requires_grad]"
                )
        if not full["params"]:
            raise ValueError("params: a group is empty; pass model.parameters() of a model that has some")
        self.check(full)
        return full

    # --- what a subclass says ---------------------------------------------------------------------------------------

    def check(self, group: dict[str, Any]) -> None:
        """Check the hyperparameters of `group`, and make Python floats of its numbers, in place."""
        if not isinstance(group["lr"], Schedule):
            group["lr"] = _as_rate(group["lr"])
        group["weight_decay"] = number("weight_decay", group["weight_decay"])

    def initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        """The names of the state arrays that a group with these hyperparameters needs, each with its first value."""
        raise NotImplementedError

    def update(self, pieces: Pieces, group: Mapping[str, Any], lr: float, count: int) -> None:
        """Update parameters and state in place, piece by piece; `count` is 1 at the first update of a parameter."""
        raise NotImplementedError

    # --- one step -------------------------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients. A parameter that is not used afterwards has none, and the next step leaves it alone.

        Args:
            set_to_none: with False gradients become zeros instead, and the next step counts them, as in torch.
        """
        if set_to_none:
            self.gradients.receive()
        else:
            for p in self._params:
                if p.grad is not None:
                    p.grad = np.zeros_like(p.data)

    def step(self) -> None:
        """Update every parameter that has a gradient, from `p.grad`."""
        self.gradients.seal()
        self.apply(self.gradients)

    def apply(
        self, gradients: GradientBuffer, divisor: float = 1.0, only: Sequence[Sequence[Span]] | None = None
    ) -> None:
        """Update from `gradients / divisor`: the sum over shards of weight x gradient, and the sum of weights.

        Args:
            only: for each part the ranges of elements to update, disjoint and in order; the others are left as they
                are, though their updates are counted. The bits of an element do not depend on it; a rule that sees
                parameters whole (`per_parameter`) needs ranges of whole parameters.
        """
        rates = [self.rate(part.group) for part in self.parts]
        for part in self.parts:
            part.flat.gather()
        scale = 1.0
        if self.clip_norm is not None:
            scale = min(1.0, self.clip_norm / (gradients.norm() / divisor + 1e-6))
        first = 0
        # Rules may overflow or divide by zero in a run that diverges: NaN in the loss tells of it, at the right place.
        with span("update"), np.errstate(all="ignore"):
            for index, (part, lr, gradient) in enumerate(
                zip(self.parts, rates, gradients.arrays, strict=True)
            ):
                ranges = [(0, gradient.size)] if only is None else only[index]
                touched = gradients.touched[first : first + len(part.flat.params)]
                first += len(touched)
                if touched.any():
                    self._apply(part, gradient, touched, lr, divisor, scale, ranges)
        self.steps += 1

    def _apply(
        self,
        part: Part,
        gradient: Array,
        touched: NDArray[np.bool_],
        lr: float,
        divisor: float,
        scale: float,
        ranges: Sequence[Span],
    ) -> None:
        group, flat = part.group, part.flat
        if part.state.keys() != self.initial_state(group).keys():  # say, momentum was switched on
            part.state = self._new_state(flat, group) | part.state
        part.counts += touched
        pieces = Pieces(
            part,
            gradient,
            self._scratch[flat.values.dtype],
            self._piece,
            divisor,
            scale,
            self.clip_value,
            coupled=group["weight_decay"] if self.decay == "gradient" else 0.0,
            shrink=1 - lr * group["weight_decay"] if self.decay == "weights" else 1.0,
        )
        for i, j in runs(touched, part.counts, alone=self.per_parameter):
            for lo, hi in ranges:
                pieces.start, pieces.stop = max(lo, flat.bounds[i]), min(hi, flat.bounds[j])
                if pieces.start < pieces.stop:
                    self.update(pieces, group, lr, int(part.counts[i]))
        flat.note_written(touched, f"{type(self).__name__}.step")

    def keep_state(self, ranges: Sequence[Sequence[Span]]) -> None:
        """Keep the state arrays of these ranges of elements, for each part, and give back the memory of the rest.

        What is not kept reads as zeros. The arrays have their full length still, but memory that nobody writes is never
        taken from the system.
        """
        for part, kept in zip(self.parts, ranges, strict=True):
            for name, array in part.state.items():
                part.state[name] = fresh = np.frombuffer(
                    mmap(-1, max(1, array.nbytes)), array.dtype, array.size
                )
                for lo, hi in kept:
                    fresh[lo:hi] = array[lo:hi]

    def rate(self, group: Mapping[str, Any]) -> float:
        """The learning rate of a group at this step."""
        lr = group["lr"]
        return lr.at(self.steps, self.total_steps) if isinstance(lr, Schedule) else _as_rate(lr)

    def new_gradients(self, arrays: Sequence[Array] | None = None) -> GradientBuffer:
        """Another gradient buffer of this optimizer's layout, for a sum over several shards; in `arrays`, if given."""
        return GradientBuffer([part.flat for part in self.parts], arrays)

    @property
    def layout(self) -> tuple[tuple[str, int], ...]:
        """The flat arrays of a gradient: (dtype, number of elements) of each."""
        return tuple((part.flat.values.dtype.str, part.flat.values.size) for part in self.parts)

    def _new_state(self, flat: Flat, group: Mapping[str, Any]) -> dict[str, Array]:
        return {name: np.full_like(flat.values, first) for name, first in self.initial_state(group).items()}

    # --- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's form: `{"state": {index: {name: array, "step": n}}, "param_groups": [...]}`, copied."""
        return copy.deepcopy(self.state_views())

    def state_views(self) -> dict[str, Any]:
        """As `state_dict`, but the arrays are the optimizer's own: good until its next step."""
        index = {id(p): i for i, p in enumerate(self._params)}
        state: dict[int, dict[str, Any]] = {}
        for part in self.parts:
            views = {name: part.flat.views(array) for name, array in part.state.items()}
            for k, p in enumerate(part.flat.params):
                arrays = {name: of[k] for name, of in views.items()}
                state[index[id(p)]] = {"step": int(part.counts[k]), **arrays}
        options = [_options(group) for group in self.param_groups]
        groups = [
            {**own, "params": [index[id(p)] for p in group["params"]]}
            for own, group in zip(options, self.param_groups, strict=True)
        ]
        return {"state": dict(sorted(state.items())), "param_groups": groups, "steps": self.steps}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` (ours or torch's) for the same parameters in the same order.

        Hyperparameters are taken over too. A parameter without an entry starts anew, as in torch.

        Raises:
            TypeError: not a state dict.
            ValueError: the groups, parameters, names or shapes differ from this optimizer's; nothing was loaded.
        """
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
            raise TypeError(f"state_dict must be what state_dict() returned, got {state_dict!r:.80}")
        groups = state_dict["param_groups"]
        whole = isinstance(groups, Sequence) and all(isinstance(g, Mapping) and "params" in g for g in groups)
        if not whole or not isinstance(state_dict["state"], Mapping):
            raise TypeError(f"state_dict must be what state_dict() returned, got {state_dict!r:.80}")
        sizes = [len(g["params"]) for g in groups]
        mine = [len(g["params"]) for g in self.param_groups]
        if sizes != mine:
            raise ValueError(f"state_dict has groups of {sizes} parameters, this optimizer has {mine}")
        options = copy.deepcopy([{k: v for k, v in g.items() if k in self.defaults} for g in groups])
        options = [_options(own) | other for own, other in zip(self.param_groups, options, strict=True)]
        for group in options:
            self.check(group)
        keys = [key for g in groups for key in g["params"]]
        entries = {
            id(p): (key, state_dict["state"].get(key, {})) for p, key in zip(self._params, keys, strict=True)
        }
        of = {id(own): other for own, other in zip(self.param_groups, options, strict=True)}
        loaded = [self._loaded(part, of[id(part.group)], entries) for part in self.parts]
        for part, (state, counts) in zip(self.parts, loaded, strict=True):
            part.state, part.counts = state, counts
        for own, other in zip(self.param_groups, options, strict=True):
            rate, seen = own["lr"], other["lr"]
            own.update(other)
            if isinstance(rate, Schedule) and repr(rate) == repr(seen):  # keep the user's object
                rate.load_state(seen.state())
                own["lr"] = rate
        newest = max(int(part.counts.max()) for part in self.parts)
        self.steps = int(state_dict.get("steps", newest))

    def _loaded(
        self, part: Part, group: Mapping[str, Any], entries: Mapping[int, tuple[Any, Mapping[str, Any]]]
    ) -> tuple[dict[str, Array], NDArray[np.int64]]:
        """State arrays and update counts of a part, from the entries of its parameters."""
        state, counts = self._new_state(part.flat, group), np.zeros_like(part.counts)
        views = {name: part.flat.views(array) for name, array in state.items()}
        for k, p in enumerate(part.flat.params):
            key, entry = entries[id(p)]
            # torch's SGD and Lion count nothing, but where there is state there was an update.
            counts[k] = int(entry.get("step", bool(entry)))
            for name, of in views.items():
                value = entry.get(name)
                if entry and value is None:
                    raise ValueError(
                        f"state_dict has no {name!r} of parameter {key}, but {sorted(entry)}; it is another optimizer's"
                    )
                if value is not None and np.shape(value) != p.shape:
                    raise ValueError(
                        f"state_dict: {name} of parameter {key} has shape {tuple(np.shape(value))}, expected {p.shape}"
                    )
                if value is not None:
                    of[k][...] = np.asarray(value)
        return state, counts

    def __reduce__(self) -> tuple[Any, ...]:
        # Views do not survive copying one by one: a copy lays its parameters out anew.
        given = (
            type(self),
            self.param_groups,
            self.defaults,
            self.clip_norm,
            self.clip_value,
            self.total_steps,
        )
        return _remade, given, self.state_dict()

    def __setstate__(self, state_dict: Mapping[str, Any]) -> None:
        self.load_state_dict(state_dict)

    # --- what it is -----------------------------------------------------------------------------------------------

    @property
    def schedules(self) -> list[Schedule]:
        """The schedules among the groups' learning rates, each once."""
        found = {id(g["lr"]): g["lr"] for g in self.param_groups if isinstance(g["lr"], Schedule)}
        return list(found.values())

    @property
    def uses_total_steps(self) -> bool:
        """Whether some learning rate depends on the length of the run, which then cannot change on resume."""
        return any(s.uses_total for s in self.schedules)

    def describe(self) -> dict[str, Any]:
        """Rule and hyperparameters as plain JSON: what the run manifest records and compares on resume."""
        groups = [
            {k: repr(v) if isinstance(v, Schedule) else v for k, v in _options(g).items()}
            | {"params": len(g["params"])}
            for g in self.param_groups
        ]
        return {
            "class": type(self).__name__,
            "clip_norm": self.clip_norm,
            "clip_value": self.clip_value,
            "groups": groups,
        }

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self.defaults.items())
        return f"{type(self).__name__}({sum(p.size for p in self._params)} parameters, {options})"


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in group.items() if k != "params"}


def _as_rate(lr: Any) -> float:
    if callable(lr):
        raise TypeError(
            "lr must be a number >= 0 or a dist_dp.optim.schedule.Schedule, got a function, which the record of a run "
            "cannot hold; use optim.Cosine, optim.StepDecay, ..., or a subclass of Schedule"
        )
    return number("lr", lr)


def _as_groups(params: Any) -> Sequence[Any]:
    if isinstance(params, Tensor):
        raise TypeError("params must be a list of parameters or of groups, got a single tensor; pass [p]")
    if hasattr(params, "parameters"):
        raise TypeError(
            f"params must be parameters, got a model ({type(params).__name__}); pass model.parameters()"
        )
    if isinstance(params, (str, Mapping)) or not isinstance(params, Iterable):
        raise TypeError(f"params must be a list of parameters or of groups, got {type(params).__name__}")
    listed = list(params)
    if not listed:
        raise ValueError(
            "params is empty: the model has no parameters, or a generator was passed that was read before"
        )
    return listed if isinstance(listed[0], Mapping) else [{"params": listed}]


def _remade(
    kind: type[Optimizer],
    groups: list[dict[str, Any]],
    defaults: Mapping[str, Any],
    clip_norm: float | None,
    clip_value: float | None,
    total_steps: int | None,
) -> Optimizer:
    optimizer = kind.__new__(kind)
    Optimizer.__init__(optimizer, groups, defaults, clip_norm, clip_value)
    optimizer.total_steps = total_steps
    return optimizer
