"""What reductions over axes share: naming the axes, and putting them back.

`axis` is everywhere None (all axes), an integer or a sequence of integers; rows see None or a tuple of axes counted
from the front. `keepdims` keeps the reduced axes with length 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from ..tape import Array
from ..tensor import Tensor
from .core import Op, TensorLike, apply

Axis = int | Sequence[int] | None
Axes = tuple[int, ...] | None


def normal_axes(x: TensorLike, axis: int | Sequence[int]) -> tuple[int, ...]:
    ndim = x.ndim if isinstance(x, (Tensor, np.ndarray)) else np.ndim(x)
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    return normalize_axis_tuple(axis, ndim, "axis")  # raises if there is no such axis


def length(shape: tuple[int, ...], axes: Axes) -> int:
    """How many elements go into one."""
    return math.prod(shape) if axes is None else math.prod([shape[a] for a in axes])


def kept(g: Any, shape: tuple[int, ...], axis: Axes, keepdims: bool) -> Any:
    """`g` with the reduced axes of `shape` back as axes of length 1."""
    return (
        g if keepdims or axis is None else g.reshape(kept_shape(shape, axis))
    )  # a scalar broadcasts as it is


def kept_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple([1 if i in axes else n for i, n in enumerate(shape)])


def spread(g: Any, axis: Axes, keepdims: bool, shape: tuple[int, ...]) -> Any:
    """`g` repeated over the reduced axes of `shape`."""
    g = kept(g, shape, axis, keepdims)
    if isinstance(g, Tensor):
        return np.broadcast_to(g, shape)
    if axis is None:  # np.broadcast_to, ten times as fast for a single value
        spread: Array = np.ndarray(shape, g.dtype, np.asarray(g), 0, (0,) * len(shape))
        spread.flags.writeable = False
        return spread
    if math.prod(shape) > 1 << 12:
        return np.broadcast_to(g, shape)
    out = np.empty(shape, g.dtype)
    out[...] = g
    return out


def shifted(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    """Every row here has `axis` as its first parameter: the examples' own axis comes in front of those."""
    axis = params[0]
    axes = range(inputs[0].ndim - 1) if axis is None else axis
    return apply(op, inputs, (tuple([a + 1 for a in axes]), *params[1:]))
