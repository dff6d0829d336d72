"""`cell`: a function of a few tensors that is one step of a dynamic program, and runs for many calls at once."""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from .. import random
from ..arguments import check_function
from ..nn.buffers import buffer_proposals
from ..pytree import Structure, flatten, unflatten
from ..random import Key
from ..tape import INTERPRET, applying, mode, no_grad
from ..tensor import Tensor
from .draws import RowStreams
from .lazy import Call, Lazy, Spec, Written
from .recorder import Recorder, Signature, constant, kept

P = ParamSpec("P")
R = TypeVar("R")

# What a number given to a cell becomes: an array with the batch as its one axis.
INTEGER, FLOAT = Spec((), np.dtype(np.int64)), Spec((), np.dtype(np.float32))


class cell(Generic[P, R]):  # a decorator, and named as one
    """A step of a dynamic program, of which all calls that are ready run as one batch inside `dp.batched`.

    The body is any pure tensor code. It sees every tensor, array and number among its arguments with one more axis in
    front, the batch: a state of shape (H,) as (B, H), a token as an integer array (B,). What it returns must have the
    batch in front too. Everything else (None, booleans, strings, the object of a method) is the same for all calls of
    a batch, and calls that differ in it make batches of their own; so do calls with lists of different lengths.
    Parameters come by closure, or by `self`.

    Where no batch is being recorded, a call runs at once, as a batch of one. A cell that calls another one runs its
    body in place.

    Random numbers drawn in the body are those of the call, whatever batch it is in: the shape that is drawn has the
    batch in front.

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

    def __init__(self, fun: Callable[P, R]) -> None:
        check_function(fun)
        self.fun = fun
        functools.update_wrapper(self, fun)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __repr__(self) -> str:
        return f"<cell {self.fun.__qualname__}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        recorder = mode.interpreter
        if mode.state != INTERPRET or type(recorder) is not Recorder:
            return self.fun(*args, **kwargs) if _body.running else self._alone(args, kwargs)
        values: list[Any] = []
        key = (self, mode.beneath, _signed(args, values), _signed(kwargs, values) if kwargs else None)
        try:
            signature: Any = recorder.signatures.get(key)
        except TypeError as error:
            raise TypeError(
                f"{self!r}: an argument is neither a tensor, an array or a number nor hashable: {error}"
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

    def _alone(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A batch of one, with the random numbers of the next use of the current stream."""
        values: list[Any] = []
        _signed(args, values), _signed(kwargs, values)
        stream = random.current()
        outs, structure = self._run(
            args, kwargs, iter([_with_batch(v) for v in values]), RowStreams(lambda: [stream.next_key()])
        )
        for out in outs:
            self._check(out, 1)
        return unflatten(structure, [out[0] for out in outs])

    def _run(
        self, args: Any, kwargs: Any, inputs: Iterator[Any], draws: RowStreams
    ) -> tuple[list[Any], Structure]:
        """The results of the body, and how they are nested; `inputs` take the places of the values in the arguments."""
        given, options = _filled(args, inputs), _filled(kwargs, inputs)
        before, _body.running = _body.running, True
        try:
            with random.scope(draws):
                return flatten(self.fun(*given, **options))
        finally:
            _body.running = before

    def _check(self, out: Any, rows: int) -> None:
        if not isinstance(out, Tensor):
            raise TypeError(f"{self!r} must return tensors, got {type(out).__name__}")
        if not out.ndim or out.shape[0] != rows:
            raise ValueError(
                f"{self!r} must return tensors with the batch on their first axis ({rows} calls), got shape {out.shape}"
            )

    def _tried(self, recorder: Recorder, args: Any, kwargs: Any) -> Signature:
        """The signature of these arguments, with the results found by a run on zeros; how a batch of it is computed."""
        values: list[Any] = []
        _signed(args, values), _signed(kwargs, values)
        specs = [_spec(v) for v in values]
        taken = {n for spec in specs for n in spec.shape}
        rows = next(n for n in itertools.count(7) if n not in taken)  # a result that lost the batch shows
        draws = RowStreams([Key(0)] * rows)
        with applying(None), no_grad(), buffer_proposals(), np.errstate(all="ignore"):
            zeros = iter([Tensor._of(spec.zeros(rows), None) for spec in specs])
            try:
                outs, structure = self._run(args, kwargs, zeros, draws)
                for out in outs:
                    self._check(out, rows)
            except Exception as error:
                error.add_note(f"in {self!r}, called by example {recorder.example} on {specs}")
                raise

        def run(calls: Sequence[Call]) -> Sequence[Tensor]:
            columns = zip(*[call.values for call in calls], strict=True)
            inputs = iter([recorder.column(c, spec) for c, spec in zip(columns, specs, strict=True)])
            rows = RowStreams(lambda: [key.fold(use) for key, use in [call.draws for call in calls]])
            outs, _ = self._run(args, kwargs, inputs, rows)
            return outs

        flat = structure.kind is tuple and all(child.kind is None for child in structure.children)
        single = structure.kind is None
        return Signature(
            recorder,
            self.fun.__qualname__,
            run,
            tuple([Spec(out.shape[1:], out.dtype) for out in outs]),
            single,
            None if flat or single else structure,
            draws.use > 0,
        )


class _Body(threading.local):
    running = False


_body = _Body()


def in_body() -> bool:
    """Whether the body of a cell runs in this thread."""
    return _body.running


def _signed(tree: Any, values: list[Any]) -> Any:
    """What of an argument belongs to the signature; its tensors, arrays and numbers are put into `values`."""
    kind = type(tree)
    if kind is Lazy:
        values.append(tree)
        return tree.spec
    if kind is tuple:
        return tuple([_signed(x, values) for x in tree])
    try:
        return _signs[kind](tree, values)
    except KeyError:
        sign = _signs[kind] = _sign_of(kind)
        return sign(tree, values)


def _sign_of(kind: type) -> Callable[[Any, list[Any]], Any]:
    """`_signed` for arguments of one type. A value's signature is its spec, a number's that of its array."""
    if kind is Written:
        return lambda x, values: _signed(x.now, values)
    if issubclass(kind, (Tensor, np.ndarray)):

        def array(x: Any, values: list[Any]) -> Any:
            if kind is np.ndarray or x.node is None:
                x = Tensor._of(kept(x if kind is np.ndarray else x.data), None)
            values.append(x)
            return Spec(x.shape, x.dtype)

        return array
    if issubclass(kind, (np.integer, np.floating)):

        def value(x: Any, values: list[Any]) -> Any:
            values.append(x)
            return Spec(x.shape, x.dtype)

        return value
    if issubclass(kind, (list, tuple)):
        return lambda tree, values: (kind, *[_signed(x, values) for x in tree])
    if kind is dict:
        return lambda tree, values: (dict, *[(type(k), k, _signed(v, values)) for k, v in tree.items()])
    if kind is complex:
        return lambda number, values: constant(number)
    if kind.__hash__ is object.__hash__ and kind.__eq__ is object.__eq__:
        return lambda it, values: it  # a module: equal to itself alone
    return lambda it, values: (kind, it)


def _integer(x: int, values: list[Any]) -> Spec:
    values.append(x)
    return INTEGER


def _float(x: float, values: list[Any]) -> Spec:
    values.append(x)
    return FLOAT


_signs: dict[type, Callable[[Any, list[Any]], Any]] = {
    int: _integer,
    float: _float,
    type(None): lambda none, values: None,
}


def _filled(tree: Any, inputs: Iterator[Any]) -> Any:
    """An argument with other values in the places that `_signed` found."""
    kind = type(tree)
    if isinstance(tree, (Tensor, np.ndarray, np.integer, np.floating)) or kind is int or kind is float:
        return next(inputs)
    if isinstance(tree, tuple):
        parts = [_filled(x, inputs) for x in tree]
        return kind(*parts) if hasattr(kind, "_fields") else tuple(parts)
    if isinstance(tree, list):
        return [_filled(x, inputs) for x in tree]
    if kind is dict:
        return {k: _filled(v, inputs) for k, v in tree.items()}
    return tree


def _spec(value: Any) -> Spec:
    if type(value) is Lazy:
        return value.spec
    if type(value) is int or type(value) is float:
        return INTEGER if type(value) is int else FLOAT
    return Spec(value.shape, value.dtype)


def _with_batch(value: Any) -> Tensor:
    """A value as a batch of one."""
    if isinstance(value, Tensor):
        return value[None]
    spec = _spec(value)
    return Tensor._of(np.asarray(value, spec.dtype)[None], None)
