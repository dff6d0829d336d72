"""`vmap`: a function written for one example, applied to all of them at once.

Inside vmap an example is a `Batched` tensor: it looks like one example, and holds all of them in a tensor with one
more axis in front. Every operation on one comes to the interpreter of its vmap, which hands the tensor with all
examples to the operation's batch rule. The tape below sees ordinary operations on whole tensors, so that gradients of
a vmapped function, and per-example gradients inside one, need nothing of their own.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, ParamSpec

import numpy as np

from .. import ops
from ..arguments import check_function
from ..ops.core import Op, apply, as_array
from ..pytree import flatten, flatten_like, unflatten
from ..tape import Interpreter, applying, mode
from ..tensor import Tensor

P = ParamSpec("P")

# How often an operation without a batch rule was computed example by example, by its name.
fallbacks: Counter[str] = Counter()


class Level(Interpreter):
    """One vmap that is running: how many examples it has, and how operations are applied to them.

    The batch of a `Recorder` is one too, which is `silent` as errors in it are located by its calls.
    """

    def __init__(self, size: int, silent: bool = False) -> None:
        super().__init__()
        self.size, self.silent = size, silent

    def __call__(self, op: Op, inputs: tuple[Any, ...], params: tuple[Any, ...]) -> Any:
        batched = [isinstance(x, Batched) and x.level is self for x in inputs]
        whole = [x.value if has else x for x, has in zip(inputs, batched, strict=True)]
        with applying(self.outer):
            if not any(batched):
                return apply(op, whole, params)
            try:
                out = NotImplemented  # or None, as a batch rule says of inputs that it cannot take together
                if op.batch is not None:
                    out = op.batch(op, self.size, whole, batched, params)
                if out is None or (out is NotImplemented and op.composed is None):
                    out = self._looped(op, whole, batched, params)
            except Exception as error:
                if not self.silent:
                    error.add_note(f"in vmap over {self.size} examples, at {op.name}")
                raise
        if out is NotImplemented and op.composed is not None:
            return op.composed(*inputs, *params)  # its parts come back here and have batch rules
        return tuple(Batched(self, o) for o in out) if isinstance(out, tuple) else Batched(self, out)

    def _looped(self, op: Op, whole: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]) -> Any:
        fallbacks[op.name] += 1
        if mode.calls:
            alone = mode.calls[0].signature.recorder.report.alone
            alone[op.name, "it has no batch rule for these inputs"] += self.size
        if self.size == 0:
            raise ValueError(f"{op.name} has no batch rule, so vmap needs at least one example")
        examples = [
            apply(op, [x[k] if has else x for x, has in zip(whole, batched, strict=True)], params)
            for k in range(self.size)
        ]
        if op.outputs > 1:
            return tuple(ops.stack(list(parts)) for parts in zip(*examples, strict=True))
        return ops.stack(examples)

    def broadcast(self, x: Any) -> Batched:
        """The same value for every example."""
        with applying(self.outer):
            x = x if isinstance(x, Tensor) else Tensor(as_array(x))
            return Batched(self, ops.broadcast_to(x, (self.size, *x.shape)))


class Batched(Tensor):
    """One example as a function under vmap sees it; `value` holds all of them, on its first axis."""

    __slots__ = ("level", "value")

    level: Level
    value: Tensor

    def __new__(cls, level: Level, value: Tensor) -> Batched:
        self = object.__new__(cls)
        self.level, self.value = level, value
        return self

    def __init__(self, level: Level, value: Tensor) -> None:
        pass  # what Tensor.__init__ sets is `value`'s here

    @property
    def node(self) -> Any:
        return self.value.node

    @property
    def data(self) -> Any:  # type: ignore[override]
        return _Form(self)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return self.value.ndim - 1

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"<one of {self.level.size} examples: {self.dtype} {self.shape}>"

    def detach(self) -> Batched:
        return Batched(self.level, self.value.detach())

    def requires_grad_(self, value: bool = True) -> NoReturn:
        raise TypeError("requires_grad_() inside vmap: a gradient per example is what vmap(grad(f)) computes")

    def backward(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("backward() inside vmap: a gradient per example is what vmap(grad(f)) computes")

    # Writes are always made on a new tensor here, which this one then holds.

    def _records_write(self, value: Any) -> bool:
        return True

    def _become(self, result: Tensor) -> Batched:
        if result.shape != self.shape or result.dtype != self.dtype:
            raise ValueError(
                f"in-place result of {result.dtype} {result.shape} does not fit a tensor of {self.dtype} {self.shape}"
            )
        self.value = lifted(result, self.level).value
        return self


class _Form:
    """What stands for the array of an example: its shape and dtype can be asked for, its values cannot."""

    __slots__ = ("dtype", "level", "nbytes", "ndim", "shape", "size")

    def __init__(self, x: Batched) -> None:
        self.shape, self.ndim, self.size = x.shape, x.ndim, x.size
        self.dtype, self.nbytes, self.level = x.dtype, x.nbytes, x.level

    def _refused(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"a value was asked for inside vmap, where this tensor of shape {self.shape} stands for "
            f"{self.level.size} examples: `if`, float() and item() cannot depend on one, and it is of no use "
            "outside; choose with dp.ops.where, or loop over the examples"
        )

    __array__ = __array_ufunc__ = __array_function__ = _refused
    __bool__ = __float__ = __int__ = __index__ = __getitem__ = __eq__ = _refused
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # NumPy and copy look whether an object has them
            raise AttributeError(name)
        self._refused()


def lifted(x: Any, level: Level) -> Batched:
    """`x` with examples of `level`: as it is, or the same for all."""
    return x if isinstance(x, Batched) and x.level is level else level.broadcast(x)


def vmap(fun: Callable[P, Any], in_axes: Any = 0, out_axes: Any = 0) -> Callable[P, Any]:
    """`fun`, written for one example, as a function of many: vmap(fun)(xs) = stack([fun(x) for x in xs]).

    Operations are applied to all examples at once by their batch rules; one that has none is computed example by
    example and counted in `dist_dp.batching.fallbacks`. vmaps nest, and combine with grad and the other
    transforms in either order.

    Control flow cannot depend on an example's values (a TypeError says so); on shapes it can. Random numbers are
    drawn for one example and shared by all: a dropout mask inside vmap is the same for every example.

    Args:
        fun: takes and returns arrays, Tensors, and dicts, lists and tuples of them.
        in_axes: which axis of an argument counts examples: an integer for all of them, None for arguments that are
            the same for every example, or a tuple with an entry for each argument, which may itself be nested like
            the argument. Keyword arguments have their examples on axis 0.
        out_axes: where the results get theirs: an integer or a nesting of them like the results; None for a result
            that is the same for every example.

    Raises:
        ValueError: an axis is out of range, the arguments disagree about the number of examples, `in_axes` is not
            nested like the arguments, or nothing is mapped.
        TypeError: an example's value was asked for.

    >>> import dist_dp as dp, numpy as np
    >>> dp.vmap(lambda x, y: (x * y).sum())(np.ones((3, 2), np.float32), np.ones((3, 2), np.float32))
    tensor([2., 2., 2.])
    """
    check_function(fun)

    @functools.wraps(fun)
    def vmapped(*args: P.args, **kwargs: P.kwargs) -> Any:
        axes = in_axes if isinstance(in_axes, (tuple, list)) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise ValueError(
                f"in_axes must have an entry for each of the {len(args)} arguments, got {in_axes!r}"
            )
        leaves, structure = flatten((args, kwargs))
        places = [
            *flatten_like(structure.children[0], tuple(axes), "in_axes", prefix=True),
            *[0] * structure.children[1].size,
        ]
        chosen = [_axis_first(x, a) for x, a in zip(leaves, places, strict=True)]
        sizes = {x.shape[0] for x, a in zip(chosen, places, strict=True) if a is not None}
        if len(sizes) != 1:
            raise ValueError(
                "the arguments of vmap must have the same number of examples, got "
                f"{sorted(sizes) if sizes else 'none: in_axes maps no argument'}"
            )
        level = Level(sizes.pop())
        examples = [Batched(level, x) if a is not None else x for x, a in zip(chosen, places, strict=True)]
        with applying(level):
            args_, kwargs_ = unflatten(structure, examples)
            results, out_structure = flatten(fun(*args_, **kwargs_))
        axes_out = flatten_like(out_structure, out_axes, "out_axes", prefix=True)
        outs = [_axis_back(level, x, a) for x, a in zip(results, axes_out, strict=True)]
        return unflatten(out_structure, outs)

    return vmapped


def _axis_first(x: Any, axis: Any) -> Any:
    """`x` as a Tensor with its examples on axis 0."""
    if axis is None:
        return x
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise ValueError(f"in_axes must be made of ints and None, got {axis!r}")
    x = x if isinstance(x, Tensor) else Tensor(as_array(x))
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"in_axes: axis {axis} is out of range for an argument of shape {x.shape}")
    return x if axis == 0 else ops.moveaxis(x, axis, 0)


def _axis_back(level: Level, x: Any, axis: Any) -> Tensor:
    batched = isinstance(x, Batched) and x.level is level
    if axis is None:
        if batched:
            raise ValueError("out_axes is None for a result that differs between examples; give it an axis")
        return x if isinstance(x, Tensor) else Tensor(as_array(x))
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise ValueError(f"out_axes must be made of ints and None, got {axis!r}")
    value = lifted(x, level).value
    if not -value.ndim <= axis < value.ndim:
        raise ValueError(f"out_axes: axis {axis} is out of range for a result of shape {value.shape}")
    return value if axis == 0 else ops.moveaxis(value, 0, axis)


# ----- what a transform inside vmap needs: the whole tensors below all levels -----


def spread(x: Tensor, interpreter: Interpreter | None) -> Tensor:
    """`x` with examples of every vmap from `interpreter` outward, so that its gradient has them too."""
    if interpreter is None:
        return x
    if not isinstance(interpreter, Level):
        return spread(x, interpreter.outer)
    inner = x.value if isinstance(x, Batched) and x.level is interpreter else None
    if inner is None:
        inner = interpreter.broadcast(x).value
    return Batched(interpreter, spread(inner, interpreter.outer))


def whole(x: Tensor) -> Tensor:
    """The tensor below all levels."""
    while isinstance(x, Batched):
        x = x.value
    return x


def levels(x: Tensor) -> list[Level]:
    """The levels of `x`, the innermost first."""
    found = []
    while isinstance(x, Batched):
        found.append(x.level)
        x = x.value
    return found


def under(x: Tensor, found: Sequence[Level]) -> Tensor:
    """The tensor that has `x` below the levels `found`: the inverse of `whole` and `levels`."""
    for level in reversed(found):
        x = Batched(level, x)
    return x
