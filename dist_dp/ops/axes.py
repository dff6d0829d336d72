"""What reductions over axes share: naming the axes, and putting them back.

`axis` is everywhere None (all axes), an integer or a sequence of integers; rows see None or a tuple of axes counted
from the front. `keepdims` keeps the reduced axes with length 1.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.exceptions import AxisError

from ..tape import Array
from ..tensor import Tensor
from .core import Op, TensorLike, apply

Axis = int | Sequence[int] | None
Axes = tuple[int, ...] | None


def axis_index(axis: Any, ndim: int, name: str = "axis") -> int:
    """`axis` of an array of `ndim` axes, counted from the front.

    Raises:
        TypeError: not an integer. AxisError (a ValueError and an IndexError): there is no such axis.

    >>> axis_index(-1, 3)
    2
    """
    try:
        i = operator.index(axis)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, got {axis!r:.80}") from None
    if not -ndim <= i < ndim:
        there = f"expected {-ndim} to {ndim - 1}" if ndim else "it has no axes"
        raise AxisError(f"{name} {i} is out of bounds for array of dimension {ndim}: {there}")
    return i % ndim


def axis_tuple(axis: Any, ndim: int, name: str = "axis") -> tuple[int, ...]:
    """`axis`, one or several of an array of `ndim` axes, as a tuple of different axes counted from the front.

    Raises:
        TypeError: not an integer or a sequence of them. AxisError: there is no such axis. ValueError: one stands twice.

    >>> axis_tuple((0, -1), 3)
    (0, 2)
    """
    if isinstance(axis, str) or not isinstance(axis, Iterable):
        return (axis_index(axis, ndim, name),)
    axes = tuple([axis_index(a, ndim, name) for a in axis])
    if len(set(axes)) < len(axes):
        raise ValueError(f"`{name}` must name each axis once, got {axis!r:.80}: a repeated axis of {ndim}")
    return axes


def normal_axes(x: TensorLike, axis: int | Sequence[int]) -> tuple[int, ...]:
    """`axis` as rows have it: a tuple of axes of `x`, counted from the front; raises as `axis_tuple`."""
    # A Tensor's property would be one more call.
    ndim = x.data.ndim if type(x) is Tensor else x.ndim if isinstance(x, Tensor) else np.ndim(x)
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    return axis_tuple(axis, ndim)


def length(shape: tuple[int, ...], axes: Axes) -> int:
    """How many elements go into one."""
    return math.prod(shape) if axes is None else math.prod([shape[a] for a in axes])


def kept(g: Any, shape: tuple[int, ...], axis: Axes, keepdims: bool) -> Any:
    """`g` with the reduced axes of `shape` back as axes of length 1."""
    if keepdims or axis is None:  # a scalar broadcasts as it is
        return g
    return g.reshape(kept_shape(shape, axis))


def kept_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([1 if i in axes else n for i, n in enumerate(shape)])


def spread(g: Any, axis: Axes, keepdims: bool, shape: tuple[int, ...]) -> Any:
    """`g` repeated over the reduced axes of `shape`."""
    g = kept(g, shape, axis, keepdims)
    if isinstance(g, Tensor):
        return np.broadcast_to(g, shape)
    if math.prod(shape) <= 1 << 12:  # written out it takes less time than a view of it
        out = np.empty(shape, g.dtype)
        out[...] = g
        return out
    if axis is None:  # np.broadcast_to, ten times as fast for a single value
        spread: Array = np.ndarray(shape, g.dtype, np.asarray(g), 0, (0,) * len(shape))
        spread.flags.writeable = False
        return spread
    return np.broadcast_to(g, shape)


def shifted(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    """Every row here has `axis` as its first parameter: the examples' own axis comes in front of those."""
    axis = params[0]
    axes = range(inputs[0].ndim - 1) if axis is None else axis
    return apply(op, inputs, (tuple([a + 1 for a in axes]), *params[1:]))
