"""Softmax and log-softmax along any axis, and the gated linear unit.

The heart is `exp_rows`: exponentials of rows and their sums, safe against overflow. NumPy's row maximum is by far
the dearest part of it on short rows, and softmax is the same for every shift: so where no entry can overflow and no
row vanishes, none is subtracted. Their logarithm is taken in float64 then, lest its rounding show in small results. The
compiled kernels always subtract the maximum; to them it costs little.

The gradients are operations too: blocked on arrays, with rules of their own for the orders above the first.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from .. import kernels
from ..tape import Array
from ..tensor import Tensor
from .blocked import as_rows, from_rows, in_blocks, row_sums
from .core import Op, TensorLike, apply, unary
from .elementwise import sigmoid
from .views import lifted

__all__ = ["glu", "log_softmax", "softmax"]

# exp(60) = 1e26 leaves room for 1e12 terms in float32; a sum of 1e-20 is far above its smallest numbers.
_LARGEST, _SMALLEST_SUM = 60.0, 1e-20


def exp_rows(x: Array, out: Array) -> tuple[Array, Any]:
    """out = exp(x - shift) such that nothing overflows; returns the sums of the rows and the shift of each, as columns.

    The shift is 0.0 where none is needed. Rows of -inf give zeros with sum 0; rows with NaN or inf give NaN. `out` must
    not overlap `x`.
    """
    if x.size > 2048 and x.itemsize > 2 and np.maximum.reduce(x, None) <= _LARGEST:
        sums = row_sums(np.exp(x, out))
        if sums.min() >= _SMALLEST_SUM:
            return sums[:, None], 0.0
    shift = row_maxima(x)
    np.subtract(x, shift, out)
    return row_sums(np.exp(out, out))[:, None], shift


def row_maxima(x: Array) -> Array:
    """The largest entry of each row, as a column; of a row of -inf the lowest number, so that x - max is -inf."""
    maxima: Array = np.maximum.reduce(x, -1, keepdims=True, initial=np.finfo(x.dtype).min)
    return maxima


def floating(x: TensorLike) -> Tensor:
    """`x` as a tensor, of float32 if it holds integers or booleans: softmax and its kin have no other meaning."""
    x = lifted(x)
    return x if x.dtype.kind == "f" else x.astype(np.float32)


def checked_axis(name: str, axis: Any, ndim: int, argument: str = "axis") -> int:
    """`axis` counted from the front, or an error that names the function and its argument."""
    try:
        return int(normalize_axis_index(operator.index(axis), ndim))
    except TypeError:
        raise TypeError(f"{name}: `{argument}` must be an integer, got {axis!r:.80}") from None
    except ValueError:
        if not ndim:
            raise ValueError(
                f"{name}: `{argument}` must name an axis, got {axis} for an array of shape (), which has none; "
                "give it one with x.reshape(1)"
            ) from None
        raise ValueError(
            f"{name}: `{argument}` must be in [{-ndim}, {ndim - 1}] for {ndim} axes, got {axis}"
        ) from None


def _batched(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    (axis,) = params
    return apply(op, [x if has else x[None] for x, has in zip(inputs, batched, strict=True)], (axis + 1,))


# ----- softmax -----


def _softmax(x: Array, axis: int) -> Array:
    def kernel(x: Array, out: Array) -> None:
        sums, _ = exp_rows(x, out)
        np.divide(out, sums, out)

    rows = as_rows(x, axis)
    out = np.empty_like(rows)
    if kernels.suits(rows) and rows.size:
        kernels.compiled.softmax(rows, out, rows.shape[1])
    else:
        with np.errstate(invalid="ignore"):  # rows of -inf become NaN in silence
            in_blocks(kernel, [rows, out])
    return from_rows(out, x.shape, axis)


def _softmax_gradient(g: Array, p: Array, axis: int) -> Array:
    def kernel(g: Array, p: Array, d: Array) -> None:
        np.subtract(g, np.vecdot(g, p)[:, None], d)
        np.multiply(d, p, d)

    if g.shape != p.shape:
        g, p = np.broadcast_arrays(g, p)
    rows, outs = as_rows(g, axis), as_rows(p, axis)
    d = np.empty_like(rows)
    if kernels.suits(rows, outs) and rows.size:
        kernels.compiled.softmax_gradient(rows, outs, d, rows.shape[1])
    else:
        in_blocks(kernel, [rows, outs, d])
    return from_rows(d, g.shape, axis)


# p (g - <g, p>) is linear in g and symmetric: it is softmax's vjp and its jvp, and its own vjp with respect to g.
softmax_gradient: Op = Op(
    "softmax_gradient",
    _softmax_gradient,
    "g p",
    "axis",
    vjp=(
        lambda h, p, axis: softmax_gradient.run(h, p, params=(axis,)),
        lambda h, g, p, axis: (
            h * (g - (g * p).sum(axis=axis, keepdims=True)) - g * (h * p).sum(axis=axis, keepdims=True)
        ),
    ),
    batch=_batched,
    broadcasts=True,
)
_softmax_op = Op(
    "softmax",
    _softmax,
    params="axis",
    vjp=(lambda g, out, axis: softmax_gradient.run(g, out, params=(axis,)),),
    jvp=(lambda t, out, axis: softmax_gradient.run(t, out, params=(axis,)),),
    batch=_batched,
)


def softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """out_i = e^(x_i) / sum_j e^(x_j) along `axis`, for entries of any size.

    Args:
        x: any shape with at least one axis; integers are taken as float32.
        axis: the axis that sums to 1. A slice of -inf alone gives NaN, as there is nothing to choose from.

    Raises:
        TypeError, ValueError: `axis` is not an integer, or `x` has no such axis.

    >>> from dist_dp import ops
    >>> ops.softmax([0.0, 0.0, 1000.0]).tolist()
    [0.0, 0.0, 1.0]
    """
    x = floating(x)
    return unary(_softmax_op, x, (checked_axis("softmax", axis, x.ndim),))


# ----- log-softmax -----


def _log_softmax(x: Array, axis: int) -> Array:
    def kernel(x: Array, out: Array) -> None:
        sums, shift = exp_rows(x, out)
        if isinstance(shift, float):
            exact = np.log(sums, dtype=np.float64)
            shift = exact.astype(x.dtype)
            rest = (exact - shift).astype(x.dtype)
        else:
            rest = np.log(sums)
        np.subtract(x, shift, out)
        np.subtract(out, rest, out)

    rows = as_rows(x, axis)
    out = np.empty_like(rows)
    if kernels.suits(rows) and rows.size:
        kernels.compiled.log_softmax(rows, out, rows.shape[1])
    else:
        with np.errstate(invalid="ignore", divide="ignore"):
            in_blocks(kernel, [rows, out])
    return from_rows(out, x.shape, axis)


def _log_softmax_gradient(g: Array, y: Array, axis: int) -> Array:
    def kernel(g: Array, y: Array, d: Array) -> None:
        np.exp(y, d)
        np.multiply(d, row_sums(g)[:, None], d)
        np.subtract(g, d, d)

    if g.shape != y.shape:
        g, y = np.broadcast_arrays(g, y)
    rows, outs = as_rows(g, axis), as_rows(y, axis)
    d = np.empty_like(rows)
    if kernels.suits(rows, outs) and rows.size:
        kernels.compiled.log_softmax_gradient(rows, outs, d, rows.shape[1])
    else:
        in_blocks(kernel, [rows, outs, d])
    return from_rows(d, g.shape, axis)


log_softmax_gradient: Op = Op(
    "log_softmax_gradient",
    _log_softmax_gradient,
    "g y",
    "axis",
    vjp=(
        lambda h, y, axis: h - (h * np.exp(y)).sum(axis=axis, keepdims=True),
        lambda h, g, y, axis: -h * np.exp(y) * g.sum(axis=axis, keepdims=True),
    ),
    batch=_batched,
    broadcasts=True,
)
_log_softmax_op = Op(
    "log_softmax",
    _log_softmax,
    params="axis",
    vjp=(lambda g, out, axis: log_softmax_gradient.run(g, out, params=(axis,)),),
    jvp=(lambda t, out, axis: t - (t * np.exp(out)).sum(axis=axis, keepdims=True),),
    batch=_batched,
)


def log_softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """out_i = x_i - log sum_j e^(x_j) along `axis`, accurate where softmax itself would round to 0 or 1.

    Args:
        x: any shape with at least one axis; integers are taken as float32.
        axis: the axis whose exponentials sum to 1. A slice of -inf alone gives NaN.

    Raises:
        TypeError, ValueError: `axis` is not an integer, or `x` has no such axis.

    >>> from dist_dp import ops
    >>> ops.log_softmax([0.0, -1000.0]).tolist()
    [0.0, -1000.0]
    """
    x = floating(x)
    return unary(_log_softmax_op, x, (checked_axis("log_softmax", axis, x.ndim),))


def glu(x: TensorLike, axis: int = -1) -> Tensor:
    """The first half of `x` along `axis` times the sigmoid of the second (Dauphin et al. 2016, arXiv:1612.08083).

    Raises:
        ValueError: the length of the axis is odd.

    >>> from dist_dp import ops
    >>> ops.glu([3.0, 0.0]).tolist()
    [1.5]
    """
    x = floating(x)
    axis = checked_axis("glu", axis, x.ndim)
    half, odd = divmod(x.shape[axis], 2)
    if odd:
        raise ValueError(f"glu: axis {axis} is split in halves, but its length is {x.shape[axis]}")
    before = (slice(None),) * axis
    return x[(*before, slice(half))] * sigmoid(x[(*before, slice(half, None))])
