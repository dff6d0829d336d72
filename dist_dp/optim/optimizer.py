"""`Optimizer`: what all update rules share: groups, flat buffers, schedules, clipping, state.

A rule itself is one function over equal pieces of flat arrays (`update`), called for cache-sized pieces, so that the many
small passes of an update (moments, square roots, decay) stay in cache and cost one trip through memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..tape import Array, Leaf, writes
from ..tensor import Tensor
from .flat import Flat, GradientBuffer, runs
from .schedule import Schedule

PIECE = 1 << 14  # elements updated at once: 64 KiB of float32 for each of parameter, gradient, state and scratch


class Optimizer:
    """Base of the optimizers. A subclass names its state arrays and defines `update` for a piece.

    Args:
        params: parameters, or a list of groups `{"params": [...], "lr": ..., ...}` as in torch.
        defaults: hyperparameters of every group that does not name its own; `lr` is a number or a `Schedule`.
        clip_norm: scale the whole gradient down to this global 2-norm where it is larger (Pascanu et al. 2013).
        clip_value: clip every element of the gradient to [-clip_value, clip_value].

    Raises:
        ValueError: no parameters, a parameter named twice, or a hyperparameter out of range.
        TypeError: something that is not a parameter, or one that requires no gradient.
    """

    state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        params: Iterable[Any],
        defaults: Mapping[str, Any],
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        for name, value in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive or None, got {value!r}")
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.defaults = dict(defaults)
        self.param_groups = [self._group(g) for g in _as_groups(params)]
        self.total_steps: int | None = None  # for schedules that end with the run; set by the training loop
        self.steps = 0
        self._params = [p for group in self.param_groups for p in group["params"]]
        if len({id(p) for p in self._params}) != len(self._params):
            raise ValueError("params: a parameter stands in them twice; list each once")
        self._lay_out()

    def _group(self, group: Mapping[str, Any]) -> dict[str, Any]:
        unknown = set(group) - {"params"} - set(self.defaults)
        if unknown:
            raise ValueError(
                f"params: a group has unknown options {sorted(unknown)}; {type(self).__name__} knows {sorted(self.defaults)}"
            )
        full = {**self.defaults, **group, "params": list(group["params"])}
        for p in full["params"]:
            if not isinstance(p, Tensor):
                raise TypeError(f"params must be tensors, got {type(p).__name__}")
            if not isinstance(p.node, Leaf):
                raise TypeError("params must be leaf tensors with requires_grad=True; got one that collects no gradient")
        if not full["params"]:
            raise ValueError("params: a group is empty; pass model.parameters() of a model that has some")
        self.check(full)
        return full

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise ValueError where a hyperparameter of `group` is out of its range; subclasses add their own."""
        if not isinstance(group["lr"], Schedule) and not group["lr"] >= 0:
            raise ValueError(f"lr must be a number >= 0 or a Schedule, got {group['lr']!r}")

    def _lay_out(self) -> None:
        """Move the parameters into flat buffers, one for each group and dtype, and make room for gradients and state."""
        self.flats: list[Flat] = []
        self._groups: list[dict[str, Any]] = []
        for group in self.param_groups:
            for dtype in dict.fromkeys(p.dtype for p in group["params"]):
                self.flats.append(Flat([p for p in group["params"] if p.dtype == dtype]))
                self._groups.append(group)
        self.state = [{name: np.zeros_like(f.values) for name in self.state_names} for f in self.flats]
        self._counts = [np.zeros(len(f.params), np.int64) for f in self.flats]  # updates that each parameter has had
        self.gradients = GradientBuffer(self.flats)
        self.gradients.receive()

    # --- one step -------------------------------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients. A parameter that is not used afterwards has none, and the next step leaves it alone."""
        self.gradients.receive()

    def step(self) -> None:
        """Update every parameter that has a gradient, from `p.grad`."""
        self.gradients.seal()
        self.apply(self.gradients)

    def apply(self, gradients: GradientBuffer, divisor: float = 1.0) -> None:
        """Update from `gradients / divisor`: the sum over shards of weight x gradient, and the sum of weights.

        `gradients` is overwritten.
        """
        scale = 1.0
        if self.clip_norm is not None:
            norm = gradients.norm() / divisor
            scale = min(1.0, self.clip_norm / (norm + 1e-6))
        start = 0
        for flat, group, grads, state, counts in zip(
            self.flats, self._groups, gradients.arrays, self.state, self._counts, strict=True
        ):
            touched = gradients.touched[start : start + len(flat.params)]
            start += len(flat.params)
            counts[touched] += 1
            lr = self.rate(group)
            scratch = [np.empty(min(PIECE, flat.values.size), flat.values.dtype) for _ in range(2)]
            for i, j in runs(touched, counts):
                rule = self.rule(group, lr, int(counts[i]))
                for lo in range(flat.bounds[i], flat.bounds[j], PIECE):
                    piece = slice(lo, min(lo + PIECE, flat.bounds[j]))
                    g = grads[piece]
                    if divisor != 1:
                        np.divide(g, divisor, g)
                    if scale != 1:
                        np.multiply(g, scale, g)
                    if self.clip_value is not None:
                        np.clip(g, -self.clip_value, self.clip_value, out=g)
                    n = g.size
                    self.update(flat.values[piece], g, {k: v[piece] for k, v in state.items()}, rule, *(s[:n] for s in scratch))
            writes.note(flat.values, f"{type(self).__name__}.step")
        self.steps += 1

    def rate(self, group: Mapping[str, Any]) -> float:
        """The learning rate of a group at this step."""
        lr = group["lr"]
        return lr.at(self.steps, self.total_steps) if isinstance(lr, Schedule) else float(lr)

    def rule(self, group: Mapping[str, Any], lr: float, count: int) -> Any:
        """The constants of `update` for parameters on their `count`-th update (1 for the first)."""
        raise NotImplementedError

    def update(self, p: Array, g: Array, state: Mapping[str, Array], rule: Any, s: Array, t: Array) -> None:
        """Update a piece of parameters `p` in place from its gradient `g` (which may be overwritten).

        `state` holds the pieces of the state arrays, `s` and `t` are scratch of the same length.
        """
        raise NotImplementedError

    def new_gradients(self) -> GradientBuffer:
        """Another gradient buffer of this optimizer's layout, for a sum over several shards."""
        return GradientBuffer(self.flats)

    # --- saving ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's form: `{"state": {index: {name: array, "step": n}}, "param_groups": [...]}`, copied."""
        index = {id(p): i for i, p in enumerate(self._params)}
        state: dict[int, dict[str, Any]] = {}
        for flat, arrays, counts in zip(self.flats, self.state, self._counts, strict=True):
            views = {name: flat.views(array) for name, array in arrays.items()}
            for k, p in enumerate(flat.params):
                state[index[id(p)]] = {
                    "step": int(counts[k]),
                    **{name: parts[k].copy() for name, parts in views.items()},
                }
        groups = [
            {**group, "params": [index[id(p)] for p in group["params"]]} for group in self.param_groups
        ]
        return {"state": dict(sorted(state.items())), "param_groups": groups, "steps": self.steps}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` (hyperparameters included) for the same parameters in the same order.

        Raises:
            ValueError: the groups, parameters or shapes differ from this optimizer's.
        """
        sizes = [len(g["params"]) for g in saved["param_groups"]]
        mine = [len(g["params"]) for g in self.param_groups]
        if sizes != mine:
            raise ValueError(f"state_dict has groups of {sizes} parameters, this optimizer has {mine}")
        index = {id(p): i for i, p in enumerate(self._params)}
        for flat, arrays, counts in zip(self.flats, self.state, self._counts, strict=True):
            views = {name: flat.views(array) for name, array in arrays.items()}
            for k, p in enumerate(flat.params):
                entry = saved["state"].get(index[id(p)], {})
                counts[k] = int(entry.get("step", 0))
                for name, parts in views.items():
                    value = np.asarray(entry.get(name, 0))
                    if name in entry and value.shape != p.shape:
                        raise ValueError(
                            f"state_dict: {name} of parameter {index[id(p)]} has shape {value.shape}, expected {p.shape}"
                        )
                    parts[k][...] = value
        for group, other in zip(self.param_groups, saved["param_groups"], strict=True):
            group.update({k: v for k, v in other.items() if k != "params" and k in self.defaults})
        self.steps = int(saved.get("steps", max((int(c.max(initial=0)) for c in self._counts), default=0)))

    @property
    def schedules(self) -> list[Schedule]:
        """The schedules among the groups' learning rates."""
        return [g["lr"] for g in self.param_groups if isinstance(g["lr"], Schedule)]

    @property
    def uses_total_steps(self) -> bool:
        """Whether some learning rate depends on the length of the run, which then cannot change on resume."""
        return any(s.uses_total for s in self.schedules)

    def describe(self) -> dict[str, Any]:
        """Rule and hyperparameters as plain JSON: what the run manifest records and compares on resume."""
        groups = [
            {k: repr(v) if isinstance(v, Schedule) else v for k, v in g.items() if k != "params"} | {"params": len(g["params"])}
            for g in self.param_groups
        ]
        return {"class": type(self).__name__, "clip_norm": self.clip_norm, "clip_value": self.clip_value, "groups": groups}

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self.defaults.items())
        return f"{type(self).__name__}({sum(p.size for p in self._params)} parameters, {options})"


def _as_groups(params: Iterable[Any]) -> Sequence[Mapping[str, Any]]:
    if isinstance(params, Tensor):
        raise TypeError("params must be a list of parameters or of groups, got a single tensor; pass [p]")
    listed = list(params)
    if not listed:
        raise ValueError("params is empty; pass model.parameters() of a model that has some")
    return listed if isinstance(listed[0], Mapping) else [{"params": listed}]
