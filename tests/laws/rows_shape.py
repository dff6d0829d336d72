"""Rows of the operations that look at, join, cut and rearrange arrays: `ops/views.py`, `joining.py`, `shape.py`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from laws.rows import Call, Draw, Row
from numpy.lib.stride_tricks import sliding_window_view

from dist_dp import ops


def of_one(
    name: str, arguments: Callable[[Draw, Any], dict[str, Any]], min_dims: int = 0, **options: Any
) -> Row:
    """The row of a function of one array that NumPy has under the same name and with the same options."""

    def build(d: Draw) -> Call:
        x = d.array(d.shape(min_dims))
        return Call(x, **arguments(d, x))

    return Row(name, getattr(ops, name), getattr(np, name), build, **options)


def reshape(d: Draw) -> Call:
    x = d.array(d.shape())
    shape = tuple(n for n in x.shape[::-1] if n != 1)
    if d.flag() and shape and x.size:
        i = d.integer(0, len(shape) - 1)
        shape = (*shape[:i], -1, *shape[i + 1 :])
    return Call(x, shape)


def squeeze(d: Draw) -> Call:
    x = d.array((*d.shape(), 1))
    return Call(x, d.pick(None, -1, (x.ndim - 1,)))


def permuted(d: Draw) -> Call:
    x = d.array(d.shape())
    axes = list(range(x.ndim))
    shift = d.integer(0, x.ndim)
    return Call(
        x, d.pick(None, tuple(axes[shift:] + axes[:shift]), tuple(a - x.ndim for a in reversed(axes)))
    )


def broadcast(d: Draw) -> Call:
    part, whole = d.broadcastable(2)
    return Call(d.array(part), np.broadcast_shapes(part, whole))


def windows(x: Any, axis: int, size: int, step: int) -> Any:
    every = [slice(None)] * x.ndim
    every[axis] = slice(None, None, step)
    return sliding_window_view(x, size, axis)[tuple(every)]


def unfold(d: Draw) -> Call:
    x = d.array(d.shape(1, empty=False))
    axis = d.axis(x.ndim)
    return Call(x, axis, d.integer(1, x.shape[axis]), d.integer(1, 2))


def joined(d: Draw) -> Call:
    shape = d.shape(1)
    axis = d.axis(len(shape))
    at = axis % len(shape)
    xs = [d.array((*shape[:at], d.integer(0, 3), *shape[at + 1 :])) for _ in range(d.integer(1, 3))]
    return Call(xs, axis)


def alike(min_dims: int = 0, axis: bool = False) -> Callable[[Draw], Call]:
    def build(d: Draw) -> Call:
        shape = d.shape(min_dims)
        xs = [d.array(shape) for _ in range(d.integer(1, 3))]
        return Call(xs, d.axis(len(shape) + 1)) if axis else Call(xs)

    return build


def cut(d: Draw) -> Call:
    x = d.array(d.shape(1))
    axis = d.axis(x.ndim)
    return Call(x, d.pick(1, [1], [0, 2], [2, 1]), axis)


def chunks(x: Any, chunks: int, axis: int) -> Any:
    n = x.shape[axis]
    length = max(-(-n // chunks), 1)
    return np.split(x, range(length, n, length), axis)


def pad(d: Draw) -> Call:
    # Mirrored and continued elements need some to begin with.
    mode = d.pick("constant", "edge", "reflect", "symmetric", "wrap")
    x = d.array(d.shape(1, empty=mode == "constant"))
    widths = d.pick(1, (2, 1), [(d.integer(0, 4), d.integer(0, 4)) for _ in range(x.ndim)])
    return Call(x, widths, mode, **({"constant_values": 1.5} if mode == "constant" and d.flag() else {}))


def repeat(d: Draw) -> Call:
    x = d.array(d.shape(1))
    axis = d.pick(None, d.axis(x.ndim))
    n = x.size if axis is None else x.shape[axis]
    return Call(x, d.pick(2, 0, [i % 3 for i in range(n)] or 1), axis)


def roll(d: Draw) -> Call:
    x = d.array(d.shape())
    if x.ndim == 0 or d.flag():
        return Call(x, d.integer(-4, 4))
    axes = d.axes(x.ndim)
    shift = tuple(range(1, len(axes) + 1)) if isinstance(axes, tuple) and d.flag() else d.integer(-4, 4)
    return Call(x, shift, axes)


def rot90(d: Draw) -> Call:
    x = d.array(d.shape(2))
    return Call(x, d.integer(-2, 5), d.pick((0, 1), (-1, 0)))


def two_axes(d: Draw, x: Any) -> dict[str, Any]:
    first = d.axis(x.ndim)
    second = (first + d.integer(1, x.ndim - 1)) % x.ndim
    return {"offset": d.integer(-2, 2), "axis1": first, "axis2": second}


def grid(d: Draw) -> Call:
    xs = [d.array(d.shape(1, 1)) for _ in range(d.integer(1, 3))]
    return Call(*xs, indexing=d.pick("xy", "ij"), sparse=d.flag())


def several(d: Draw) -> Call:
    return Call(*[d.array(d.shape()) for _ in range(d.integer(1, 2))])


def none(d: Draw, x: Any) -> dict[str, Any]:
    return {}


def axis_of(d: Draw, x: Any) -> dict[str, Any]:
    return {"axis": d.axes(x.ndim)}


def diagonal_number(d: Draw, x: Any) -> dict[str, Any]:
    return {"k": d.integer(-2, 2)}


ROWS = [
    Row("reshape", ops.reshape, np.reshape, reshape),
    of_one("ravel", none),
    Row("flatten", ops.flatten, lambda x, a, b: x.reshape((x.shape[0], math.prod(x.shape[1:]))),
        lambda d: Call(d.array(d.shape(2)), 1, -1)),
    of_one("expand_dims", lambda d, x: {"axis": d.pick(d.axis(x.ndim + 1), (0, -1))}),
    Row("squeeze", ops.squeeze, np.squeeze, squeeze),
    Row("transpose", ops.transpose, np.transpose, permuted),
    Row("permute", ops.permute, np.transpose, lambda d: Call(d.array(d.shape(3, 3)), (2, 0, 1))),
    of_one("swapaxes", lambda d, x: {"axis1": d.axis(x.ndim), "axis2": d.axis(x.ndim)}, min_dims=1),
    of_one("moveaxis", lambda d, x: {"source": d.axis(x.ndim), "destination": d.axis(x.ndim)}, min_dims=1),
    Row("moveaxis of two", ops.moveaxis, np.moveaxis, lambda d: Call(d.array(d.shape(3, 3)), (0, -1), (1, 0))),
    Row("broadcast_to", ops.broadcast_to, np.broadcast_to, broadcast),
    Row("broadcast_arrays", ops.broadcast_arrays, np.broadcast_arrays,
        lambda d: Call(*[d.array(s) for s in d.broadcastable(3)])),
    Row("unfold", ops.unfold, windows, unfold),
    Row("concatenate", ops.concatenate, np.concatenate, joined),
    Row("concatenate flat", lambda xs: ops.concatenate(xs, None), lambda xs: np.concatenate(xs, None), alike()),
    Row("stack", ops.stack, np.stack, alike(axis=True)),
    Row("hstack", ops.hstack, np.hstack, alike()),
    Row("vstack", ops.vstack, np.vstack, alike()),
    Row("dstack", ops.dstack, np.dstack, alike()),
    Row("column_stack", ops.column_stack, np.column_stack, alike(1)),
    Row("split", ops.split, np.split, cut),
    Row("array_split", ops.array_split, np.array_split, lambda d: Call(d.array(d.shape(1)), d.integer(1, 4))),
    Row("chunk", ops.chunk, chunks, lambda d: Call(d.array(d.shape(1)), d.integer(1, 4), 0)),
    Row("pad", ops.pad, np.pad, pad),
    of_one("tile", lambda d, x: {"reps": d.pick(2, (2, 1), (0, 3), (1, 2, 1, 2))}),
    Row("repeat", ops.repeat, np.repeat, repeat),
    of_one("flip", axis_of),
    Row("roll", ops.roll, np.roll, roll),
    Row("rot90", ops.rot90, np.rot90, rot90),
    of_one("tril", diagonal_number, min_dims=2),
    of_one("triu", diagonal_number, min_dims=2),
    of_one("diagonal", two_axes, min_dims=2),
    of_one("trace", two_axes, min_dims=2),
    Row("diag", ops.diag, np.diag, lambda d: Call(d.array(d.shape(1, 2)), d.integer(-2, 2))),
    Row("meshgrid", ops.meshgrid, np.meshgrid, grid),
    Row("atleast_1d", ops.atleast_1d, np.atleast_1d, several),
    Row("atleast_2d", ops.atleast_2d, np.atleast_2d, several),
    Row("atleast_3d", ops.atleast_3d, np.atleast_3d, several),
]  # fmt: skip
