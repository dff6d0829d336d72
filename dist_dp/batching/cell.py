"""`cell`: a function of a few tensors that is one step of a dynamic program, and runs for many calls at once."""

from __future__ import annotations

import dataclasses
import enum
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
from .lazy import Call, Lazy, Spec, Written, body
from .ragged import Ragged, inputs, trial
from .recorder import Recorder, Signature, constant, frozen, kept

P = ParamSpec("P")
R = TypeVar("R")

# What a number given to a cell becomes: an array with the batch as its one axis.
INTEGER, FLOAT = Spec((), np.dtype(np.int64)), Spec((), np.dtype(np.float32))


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
            key = (self, mode.beneath, _signed(args, values), _signed(kwargs, values) if kwargs else None)
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
                bound.arguments[name] = _Static(bound.arguments[name])
        return bound.args, bound.kwargs

    def _inside(self, args: Any, kwargs: Any) -> Any:
        """The body of a cell that another one calls."""
        plain = [x.value if type(x) is _Static else x for x in args]
        return self.fun(*plain, **{k: x.value if type(x) is _Static else x for k, x in kwargs.items()})

    def _alone(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A batch of one, with the random numbers of the next use of the current stream."""
        values: list[Any] = []
        specs = _specs((_signed(args, values), _signed(kwargs, values)))
        self._check_values(values)
        stream = random.current()
        outs, structure = self._run(
            args, kwargs, inputs([values], specs, _with_batch), RowStreams(lambda: [stream.next_key()])
        )
        self._check(outs, structure, 1)
        return unflatten(structure, [out[0] for out in outs])

    def _run(
        self, args: Any, kwargs: Any, inputs: Iterator[Any], draws: RowStreams
    ) -> tuple[list[Any], Structure]:
        """The results of the body, and how they are nested; `inputs` take the places of the values in the arguments."""
        given, options = _filled(args, inputs), _filled(kwargs, inputs)
        before, body.running = body.running, True
        try:
            with random.scope(draws):
                return flatten(self.fun(*given, **options))
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
                hash(_signed(x, []))
            except TypeError:
                return name
        return "an argument"

    def _explained(self, args: Any, kwargs: Any, recorder: Recorder, rows: int) -> str:
        """What a body that failed on `rows` rows of zeros was given."""
        shown, numbers = [], []
        for name, x in self._named(args, kwargs).items():
            values: list[Any] = []
            specs = _specs(_signed(x, values))
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
        """The signature of these arguments, with the results found by a run on zeros; how a batch of it is computed."""
        values: list[Any] = []
        specs = _specs((_signed(args, values), _signed(kwargs, values)))
        self._check_values(values)
        ragged = any(type(spec) is list for spec in specs)
        taken = {n for spec in flatten(specs)[0] for n in spec.shape}
        rows = next(n for n in itertools.count(7) if n not in taken)  # a result that lost the batch shows
        draws = RowStreams([Key(0)] * rows)
        with applying(None), no_grad(), buffer_proposals(), np.errstate(all="ignore"):

            def tried(
                make: Callable[[Spec, int], Any], rows: int, draws: RowStreams
            ) -> tuple[list[Any], Structure]:
                outs, structure = self._run(args, kwargs, trial(rows, specs, make), draws)
                self._check(outs, structure, rows)
                return outs, structure

            try:
                try:
                    make = Spec.zeros
                    outs, structure = tried(make, rows, draws)
                except np.linalg.LinAlgError:
                    make, draws = Spec.identities, RowStreams([Key(0)] * rows)
                    outs, structure = tried(make, rows, draws)
                # Is it the length of something else, or the batch again?
                if any(rows in out.shape[1:] for out in outs):
                    fewer, _ = tried(make, rows - 1, RowStreams([Key(0)] * (rows - 1)))
                    self._check_axes(outs, fewer, rows)
            except Exception as error:
                error.add_note(self._explained(args, kwargs, recorder, rows))
                raise

        def run(calls: Sequence[Call]) -> Sequence[Tensor]:
            all_values = [call.values for call in calls]
            if ragged:
                given = inputs(all_values, specs, recorder.column)
            else:
                columns = zip(*all_values, strict=True)
                given = iter([recorder.column(c, spec) for c, spec in zip(columns, specs, strict=True)])
            rows = RowStreams(lambda: [key.fold(use) for key, use in [call.draws for call in calls]])
            outs, _ = self._run(args, kwargs, given, rows)
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


class _Static:
    """An argument that the body sees as it is."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


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
    if kind.__hash__ is None:
        raise TypeError(f"unhashable type: {kind.__name__!r}")
    if kind in (str, bytes, bool) or issubclass(kind, (type, enum.Enum, np.generic)):
        return lambda it, values: (kind, it)
    if (
        dataclasses.is_dataclass(kind) and kind.__eq__ is not object.__eq__
    ):  # field by field, down to their types
        names = [field.name for field in dataclasses.fields(kind)]
        return lambda it, values: (kind, *[frozen(getattr(it, name)) for name in names])
    # A module and other objects are the same if they are one. (The signature keeps it, so its address stays its own.)
    return lambda it, values: (kind, id(it))


def _integer(x: int, values: list[Any]) -> Spec:
    values.append(x)
    return INTEGER


def _float(x: float, values: list[Any]) -> Spec:
    values.append(x)
    return FLOAT


def _ragged(it: Ragged, values: list[Any]) -> Any:
    items = it.items
    values.append(len(items))
    return (Ragged, _alike(items, values) if items else None)


def _alike(items: Sequence[Any], values: list[Any]) -> Any:
    """What belongs to the signature of each of these items; their values, all first ones before all second ones."""
    if len(items) == 1:
        return _signed(items[0], values)
    kinds = set(map(type, items))
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is Lazy:
        values += items
        signs: Any = {item.spec for item in items}
    elif kind is int or kind is float:
        values += items
        return INTEGER if kind is int else FLOAT
    elif kind is tuple and len(set(map(len, items))) == 1:
        return tuple([_alike(parts, values) for parts in zip(*items, strict=True)])
    else:
        each: list[list[Any]] = [[] for _ in items]
        signs = {_signed(item, its) for item, its in zip(items, each, strict=True)}
        for same in zip(*each, strict=len(signs) == 1):
            values += same
    if len(signs) > 1:
        one, other, *_ = sorted(map(repr, signs))
        raise ValueError(f"the items of a dp.Ragged must be alike, got {one} and {other}")
    return signs.pop()


_signs: dict[type, Callable[[Any, list[Any]], Any]] = {
    Ragged: _ragged,
    int: _integer,
    float: _float,
    type(None): lambda none, values: None,
    _Static: lambda it, values: (_Static, constant(it.value)),
}


def _specs(sign: Any) -> list[Any]:
    """The specs in a signature, in the order of the values; those of an item of a ragged list as a list."""
    if type(sign) is Spec:
        return [sign]
    if type(sign) is not tuple:
        return []
    specs = [spec for part in sign for spec in _specs(part)]
    if not sign or sign[0] is not Ragged:
        return specs
    if any(type(spec) is list for spec in specs):
        raise TypeError("a dp.Ragged among the items of another: give the cell two lists, or one of tuples")
    return [specs]


def _filled(tree: Any, inputs: Iterator[Any]) -> Any:
    """An argument with other values in the places that `_signed` found."""
    kind = type(tree)
    if kind is _Static:
        return tree.value
    if isinstance(tree, (Tensor, np.ndarray, np.integer, np.floating)) or kind is int or kind is float:
        return next(inputs)
    if isinstance(tree, tuple):
        parts = [_filled(x, inputs) for x in tree]
        return kind(*parts) if hasattr(kind, "_fields") else tuple(parts)
    if isinstance(tree, list):
        return [_filled(x, inputs) for x in tree]
    if kind is dict:
        return {k: _filled(v, inputs) for k, v in tree.items()}
    if kind is Ragged:
        lists = Ragged(tree.items)
        lists.lengths = next(inputs)
        lists.owners = np.repeat(np.arange(len(lists.lengths)), lists.lengths)
        lists.values = _filled(tree.items[0], inputs) if tree.items else None
        return lists
    return tree


def _with_batch(values: Sequence[Any], spec: Spec, aligned: bool = True) -> Tensor:
    """Values of one call as a batch."""
    tensors = [v if isinstance(v, Tensor) else Tensor._of(np.asarray(v, spec.dtype), None) for v in values]
    return tensors[0][None] if len(tensors) == 1 else ops.stack(tensors)
