"""`cell`: a function of a few tensors that is one step of a dynamic program, and runs for many calls at once."""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeVar, overload

import numpy as np

from .. import ops, random
from ..arguments import check_function
from ..nn.buffers import buffer_proposals
from ..pytree import Structure, described, flatten, paths, unflatten
from ..random import Key
from ..tape import INTERPRET, applying, mode, no_grad
from ..tensor import Tensor
from .draws import RowStreams
from .lazy import Call, Spec, body
from .ragged import Ragged, inputs, trial
from .recorder import Recorder, Signature
from .signing import Filling, Static, filling, signed, specs_of

P = ParamSpec("P")
R = TypeVar("R")


class cell(Generic[P, R]):  # a decorator, and named as one
    """A step of a dynamic program, of which all calls that are ready run as one batch inside `dp.batched`.

    The body is any pure tensor code. It sees every tensor, array and number among its arguments with one more axis in
    front, the batch: a state of shape (H,) as (B, H), a token as an integer array (B,). What it returns must have the
    batch in front too. Everything else (None, booleans, strings, the object of a method) is the same for all calls of
    a batch, and calls that differ in it make batches of their own; so do calls with lists of different lengths, unless
    they are `Ragged`. Parameters come by closure, or by `self`.

    Where no batch is being recorded, a call runs at once, as a batch of one. A cell that calls another one runs its
    body in place.

    The body is tried on rows of zeros once for every new kind of arguments, to learn the form of its results. It must
    keep the rows apart: no reduction over the first axis, and nothing that differs between examples by closure.

    Random numbers drawn in the body are those of the call, whatever batch it is in: the shape that is drawn has the
    batch in front.

    Args:
        fun: the body.
        static: names of arguments that the body sees as they are, such as a number that is a width or an index; calls
            that differ in one make batches of their own.

    Raises:
        TypeError: an argument that is neither a tensor, an array, a number nor hashable; a result that is no tensor.
        ValueError: a result without the batch on its first axis.

    >>> import dist_dp as dp, numpy as np
    >>> @dp.cell
    ... def add(left, right):
    ...     return left + right
    >>> def total(tree):
    ...     return add(total(tree[0]), total(tree[1])) if isinstance(tree, tuple) else dp.tensor(tree)
    >>> dp.batched(total, [((1.0, 2.0), 3.0), (4.0, 5.0)])
    tensor([6., 9.])
    """

    @overload
    def __new__(cls, fun: Callable[P, R], *, static: Sequence[str] = ()) -> cell[P, R]: ...

    @overload
    def __new__(  # type: ignore[misc]
        cls, *, static: Sequence[str]
    ) -> Callable[[Callable[P, R]], cell[P, R]]: ...

    def __new__(
        cls, fun: Any = None, *, static: Sequence[str] = ()
    ) -> Any:  # `@cell(static=...)` has no fun yet
        if fun is None:
            return functools.partial(cls, static=static)
        return super().__new__(cls)

    def __init__(self, fun: Callable[P, R], *, static: Sequence[str] = ()) -> None:
        check_function(fun)
        self.fun = fun
        self._parameters = inspect.signature(fun) if static else None
        self._static = (static,) if isinstance(static, str) else tuple(static)
        for name in self._static:
            if self._parameters is None or name not in self._parameters.parameters:
                raise ValueError(f"static must name arguments of {fun.__qualname__}, got {name!r}")
        functools.update_wrapper(self, fun)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<cell {self.fun.__qualname__}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._static:
            args, kwargs = self._marked(args, kwargs)  # type: ignore[assignment]
        recorder = mode.interpreter
        if mode.state != INTERPRET or type(recorder) is not Recorder:
            return self._inside(args, kwargs) if body.running else self._alone(args, kwargs)  # type: ignore[no-any-return]
        values: list[Any] = []
        try:
            key = (self, mode.beneath, signed(args, values), signed(kwargs, values) if kwargs else None)
            signature: Any = recorder.signatures.get(key)
        except TypeError as error:
            name = self._refused(args, kwargs)
            raise TypeError(
                f"{self!r}: {name} is neither a tensor, an array or a number nor hashable: {error}"
            ) from None
        if signature is None:
            signature = recorder.signatures[key] = self._tried(recorder, args, kwargs)
        frame = sys._getframe(1)
        outs = recorder.note(signature, values, frame.f_code, frame.f_lasti)
        if signature.drawing:
            stream = random.current()
            outs[0].call.draws = stream.key, stream.use  # type: ignore[union-attr]
            stream.use += 1
        if signature.single:
            return outs[0]  # type: ignore[return-value]
        structure = signature.structure
        return outs if structure is None else unflatten(structure, outs)  # type: ignore[return-value]

    def _marked(self, args: Any, kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with those that are static marked as such."""
        assert self._parameters is not None
        bound = self._parameters.bind(*args, **kwargs)
        for name in self._static:
            if name in bound.arguments:
                bound.arguments[name] = Static(bound.arguments[name])
        return bound.args, bound.kwargs

    def _inside(self, args: Any, kwargs: Any) -> Any:
        """The body of a cell that another one calls."""
        plain = [x.value if type(x) is Static else x for x in args]
        return self.fun(*plain, **{k: x.value if type(x) is Static else x for k, x in kwargs.items()})

    def _alone(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A batch of one, with the random numbers of the next use of the current stream."""
        values: list[Any] = []
        specs = specs_of((signed(args, values), signed(kwargs, values)))
        self._check_values(values)
        stream = random.current()
        draws = RowStreams(lambda: [stream.next_key()])
        outs, structure = self._run(filling((args, kwargs)), inputs([values], specs, _with_batch), draws)
        self._check(outs, structure, 1)
        return unflatten(structure, [out[0] for out in outs])

    def _run(self, given: Filling, inputs: Iterator[Any], draws: RowStreams) -> tuple[list[Any], Structure]:
        """The results of the body, and how they are nested; `inputs` take the places of the values in the arguments."""
        args, kwargs = given(inputs)
        before, body.running = body.running, True
        try:
            with random.scope(draws):
                return flatten(self.fun(*args, **kwargs))
        finally:
            body.running = before

    def _check_values(self, values: Sequence[Any]) -> None:
        if not values:
            raise TypeError(
                f"{self!r} was called without any tensor, array or number, so that its body cannot know of how many "
                "calls: give it an argument that differs between examples, or make it a plain function"
            )

    def _check(self, outs: Sequence[Any], structure: Structure, rows: int) -> None:
        if not outs:
            raise TypeError(
                f"{self!r} must return tensors, got {described(structure)}: is a `return` missing in its body?"
            )
        for out, path in zip(outs, paths(structure), strict=True):
            if not isinstance(out, Tensor):
                raise TypeError(
                    f"{self!r} must return tensors, got {type(out).__name__} as its result{path}: a result needs a row "
                    "for each call, as a tensor with the batch on its first axis"
                )
            if not out.ndim or out.shape[0] != rows:
                raise ValueError(
                    f"{self!r} must return tensors with the batch on their first axis ({rows} calls), got shape "
                    f"{out.shape} as its result{path}: reduce over other axes than the first, as in x.sum(-1), and "
                    "keep the rows in their order"
                )

    def _check_axes(self, outs: Sequence[Any], fewer: Sequence[Any], rows: int) -> None:
        for out, other in zip(outs, fewer, strict=True):
            if out.shape[1:] != other.shape[1:]:
                raise ValueError(
                    f"{self!r} returned shape {out.shape} for {rows} calls and {other.shape} for {rows - 1}: the batch "
                    "on an axis besides the first comes of numbers of shape (batch,) beside rows of shape (batch, n); "
                    "write number[:, None]"
                )

    def _named(self, args: Any, kwargs: Any) -> dict[str, Any]:
        """The arguments by name, for messages; by number if they do not fit."""
        try:
            return inspect.signature(self.fun).bind(*args, **kwargs).arguments
        except TypeError:
            return {**{f"argument {i}": x for i, x in enumerate(args)}, **kwargs}

    def _refused(self, args: Any, kwargs: Any) -> str:
        """The name of the argument that has no signature."""
        for name, x in self._named(args, kwargs).items():
            try:
                hash(signed(x, []))
            except TypeError:
                return name
        return "an argument"

    def _explained(self, args: Any, kwargs: Any, recorder: Recorder, rows: int) -> str:
        """What a body that failed on `rows` rows of zeros was given."""
        shown, numbers = [], []
        for name, x in self._named(args, kwargs).items():
            values: list[Any] = []
            specs = specs_of(signed(x, values))
            if specs:
                shown.append(f"{name} {specs[0] if len(specs) == 1 else specs}")
            if type(x) is not Ragged and any(
                isinstance(v, (int, float, np.integer, np.floating)) for v in values
            ):
                numbers.append(name)
        note = (
            f"in {self!r}, called by example {recorder.example} with {', '.join(shown)}; tried on {rows} rows of "
            "zeros, which are the first axis here"
        )
        if numbers:
            note += (
                f"\nin a body a number is an array, one for each call (here {', '.join(numbers)}): n[:, None] beside "
                f"rows; @dp.cell(static={numbers}) hands the number itself to the body, for a width, an index, range() "
                "or if"
            )
        return note

    def _tried(self, recorder: Recorder, args: Any, kwargs: Any) -> Signature:
        """The signature of these arguments, with the results found by a run on zeros."""
        values: list[Any] = []
        specs = specs_of((signed(args, values), signed(kwargs, values)))
        self._check_values(values)
        given = filling((args, kwargs))
        taken = {n for spec in flatten(specs)[0] for n in spec.shape}
        rows = next(n for n in itertools.count(7) if n not in taken)  # a result that lost the batch shows
        make = Spec.zeros
        with applying(None), no_grad(), buffer_proposals(), np.errstate(all="ignore"):
            try:
                try:
                    outs, structure, drawing = self._trial(given, specs, rows, make)
                except np.linalg.LinAlgError:
                    make = Spec.identities
                    outs, structure, drawing = self._trial(given, specs, rows, make)
                # Is it the length of something else, or the batch again?
                if any(rows in out.shape[1:] for out in outs):
                    self._check_axes(outs, self._trial(given, specs, rows - 1, make)[0], rows)
            except Exception as error:
                error.add_note(self._explained(args, kwargs, recorder, rows))
                raise
        flat = structure.kind is tuple and all(child.kind is None for child in structure.children)
        single = structure.kind is None
        return Signature(
            recorder,
            self.fun.__qualname__,
            functools.partial(self._batch, recorder, given, specs),
            tuple([Spec(out.shape[1:], out.dtype) for out in outs]),
            single,
            None if flat or single else structure,
            drawing,
        )

    def _trial(
        self, given: Filling, specs: Sequence[Any], rows: int, make: Callable[[Spec, int], Any]
    ) -> tuple[list[Any], Structure, bool]:
        """The results for rows that `make` makes, how they are nested, and whether random numbers were drawn."""
        draws = RowStreams([Key(0)] * rows)
        outs, structure = self._run(given, trial(rows, specs, make), draws)
        self._check(outs, structure, rows)
        return outs, structure, draws.use > 0

    def _batch(
        self, recorder: Recorder, given: Filling, specs: Sequence[Any], calls: Sequence[Call]
    ) -> Sequence[Tensor]:
        """The results of these calls."""
        draws = RowStreams(lambda: [key.fold(use) for key, use in [call.draws for call in calls]])
        return self._run(given, inputs([call.values for call in calls], specs, recorder.column), draws)[0]


def _with_batch(values: Sequence[Any], spec: Spec, aligned: bool = True) -> Tensor:
    """Values of one call as a batch."""
    tensors = [v if isinstance(v, Tensor) else Tensor._of(np.asarray(v, spec.dtype), None) for v in values]
    return tensors[0][None] if len(tensors) == 1 else ops.stack(tensors)
