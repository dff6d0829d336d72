"""Vector norms over any axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..tape import Array
from ..tensor import Tensor
from .axes import Axes, Axis, kept, normal_axes, shifted
from .comparison import astype
from .core import Op, TensorLike, unary
from .elementwise import abs
from .extrema import count_nonzero, max, min
from .reduce import sum, total
from .views import lifted

__all__ = ["norm"]


def _length_of(x: Array, axis: Axes, keepdims: bool, p: float) -> Any:
    if p == 2:
        return np.sqrt(total(np.square(x), axis, keepdims))
    return total(np.abs(x) ** p, axis, keepdims) ** (1 / p)


def _direction(x: Any, out: Any, axis: Axes, keepdims: bool, p: float) -> Any:
    """sign(x) |x / out|^(p-1), and 0 for elements that are 0: so at the origin, where there is no derivative."""
    scaled = x / kept(np.where(out == 0, 1, out), x.shape, axis, keepdims)
    if p == 2:
        return np.where(kept(out, x.shape, axis, keepdims) == 0, 0, scaled)
    return np.where(x == 0, 0, np.sign(x) * np.abs(scaled) ** (p - 1))


_norm = Op(
    "norm",
    _length_of,
    params="axis keepdims p",
    vjp=(
        lambda g, x, out, axis, keepdims, p: (
            kept(g, x.shape, axis, keepdims) * _direction(x, out, axis, keepdims, p)
        ),
    ),
    jvp=(
        lambda t, x, out, axis, keepdims, p: np.sum(
            t * _direction(x, out, axis, keepdims, p), axis=axis, keepdims=keepdims
        ),
    ),
    batch=shifted,
)


def norm(x: TensorLike, ord: float | str | None = None, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The vector norm (sum |x|^ord)^(1/ord) over `axis`, over all elements by default, whatever the rank of x.

    Args:
        x: any shape; integers give float64.
        ord: any number, 2 by default; 0 counts the elements that are not 0 (without gradient), inf takes the largest
            |x| and -inf the smallest. Matrix norms are in `ops.linalg.norm`.
        axis: None, an axis or several.
        keepdims: keep the reduced axes with length 1.

    The gradient is sign(x) |x / out|^(ord-1), and 0 at the origin.

    Raises:
        TypeError: `ord` is not a number.
        ValueError: an axis does not exist, or is named twice.

    >>> from dist_dp import ops
    >>> ops.norm([3.0, 4.0]), ops.norm([3.0, -4.0], ord=1)
    (tensor(5.), tensor(7.))
    """
    p = 2 if ord is None or ord == "fro" else ord
    if not isinstance(p, (int, float)):
        raise TypeError(f"`ord` of norm must be a number, got {ord!r}; matrix norms are in ops.linalg.norm")
    x = lifted(x)
    if x.dtype.kind != "f":
        x = astype(x, np.float64)
    axes = axis if axis is None else normal_axes(x, axis)
    if p == 0:
        return astype(count_nonzero(x, axes, keepdims), x.dtype)
    if p == 1:
        return sum(abs(x), axes, keepdims)
    if math.isinf(p):
        return max(abs(x), axes, keepdims) if p > 0 else min(abs(x), axes, keepdims)
    return unary(_norm, x, (axes, keepdims, p))
