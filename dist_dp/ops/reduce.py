"""Reductions that weigh every element: sums, means, variances, products and logsumexp.

The derivative of a reduction is a set of weights, one per element: its gradient is the incoming one, spread over the
reduced axes, times the weights; its tangent is the sum of the tangents times the weights. Reductions that choose among
the elements are in `extrema.py`, norms in `norms.py`, running sums and products in `scan.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..arguments import check_number
from ..tape import Array
from ..tensor import Tensor
from .axes import Axes, Axis, kept, length, normal_axes, shifted, spread
from .comparison import astype
from .core import Op, TensorLike, unary
from .scan import cumulative_product, delay
from .views import broadcast_to, lifted, reshape, transpose

__all__ = [
    "average",
    "logsumexp",
    "mean",
    "prod",
    "std",
    "sum",
    "var",
]


# ----- sums and moments -----


_add_up: Callable[..., Any] = np.add.reduce  # looked up once, which is felt in a small sum


def total(x: Any, axis: Axes, keepdims: Any) -> Any:
    """The sum of an array."""
    return _add_up(x, axis, None, None, keepdims)


_sum = Op(
    "sum",
    total,
    params="axis keepdims",
    vjp=(lambda g, axis, keepdims, x_shape: spread(g, axis, keepdims, x_shape),),
    jvp=(lambda t, axis, keepdims, x_shape: np.sum(t, axis=axis, keepdims=keepdims),),
    batch=shifted,
)


def _mean_of(x: Array, axis: Axes, keepdims: Any) -> Any:
    out = np.add.reduce(x, axis, keepdims=keepdims)
    return out / (x.size // out.size) if out.size else out / 1


_mean = Op(
    "mean",
    _mean_of,
    params="axis keepdims",
    vjp=(lambda g, axis, keepdims, x_shape: spread(g / length(x_shape, axis), axis, keepdims, x_shape),),
    jvp=(lambda t, axis, keepdims, x_shape: np.sum(t, axis=axis, keepdims=keepdims) / length(x_shape, axis),),
    batch=shifted,
)


def sum(
    x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dtype: DTypeLike | None = None
) -> Tensor:
    """The sum over `axis`; integers and booleans give integers. x is converted to `dtype` first, if given.

    Raises:
        ValueError: an axis does not exist, or is named twice.

    >>> from dist_dp import ops
    >>> ops.sum([[1.0, 2.0], [3.0, 4.0]], axis=0)
    tensor([4., 6.])
    """
    if dtype is not None:
        x = astype(x, dtype, copy=False)
    return unary(_sum, x, (axis if axis is None else normal_axes(x, axis), keepdims))


def mean(
    x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dtype: DTypeLike | None = None
) -> Tensor:
    """The mean over `axis`, sum / n; integers give float64, as in NumPy. x is converted to `dtype` first, if given.

    Raises:
        ValueError: an axis does not exist, or is named twice.

    >>> from dist_dp import ops
    >>> ops.mean([[1.0, 2.0], [3.0, 4.0]], axis=1)
    tensor([1.5, 3.5])
    """
    if dtype is not None:
        x = astype(x, dtype, copy=False)
    return unary(_mean, x, (axis if axis is None else normal_axes(x, axis), keepdims))


def _centred(x: Any, axis: Axes) -> Any:
    return x - np.sum(x, axis=axis, keepdims=True) / length(x.shape, axis)


def _divisor(shape: tuple[int, ...], axis: Axes, ddof: float) -> float:
    return max(length(shape, axis) - ddof, 0)


def _variance(x: Array, axis: Axes, keepdims: Any, ddof: float) -> Any:
    mean = np.add.reduce(x, axis, keepdims=True)
    n = x.size // mean.size if mean.size else 1
    centred = np.asarray(x - mean / n)
    return np.add.reduce(np.square(centred, out=centred), axis, keepdims=keepdims) / max(n - ddof, 0)


_var = Op(
    "var",
    _variance,
    params="axis keepdims ddof",
    vjp=(
        lambda g, x, axis, keepdims, ddof: (
            kept(g * 2 / _divisor(x.shape, axis, ddof), x.shape, axis, keepdims) * _centred(x, axis)
        ),
    ),
    jvp=(
        lambda t, x, axis, keepdims, ddof: (
            np.sum(t * _centred(x, axis), axis=axis, keepdims=keepdims) * 2 / _divisor(x.shape, axis, ddof)
        ),
    ),
    batch=shifted,
)


def _per_deviation(out: Any, shape: tuple[int, ...], axis: Axes, ddof: float) -> Any:
    # Where nothing varies the slope of the root is infinite; there, as in torch, no gradient flows.
    return np.where(out == 0, 0, 1 / (out * _divisor(shape, axis, ddof)))


_std = Op(
    "std",
    lambda x, axis, keepdims, ddof: np.sqrt(_variance(x, axis, keepdims, ddof)),
    params="axis keepdims ddof",
    vjp=(
        lambda g, x, out, axis, keepdims, ddof: (
            kept(g * _per_deviation(out, x.shape, axis, ddof), x.shape, axis, keepdims) * _centred(x, axis)
        ),
    ),
    jvp=(
        lambda t, x, out, axis, keepdims, ddof: (
            np.sum(t * _centred(x, axis), axis=axis, keepdims=keepdims)
            * _per_deviation(out, x.shape, axis, ddof)
        ),
    ),
    batch=shifted,
)


def var(x: TensorLike, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """The variance over `axis`: sum (x - mean)^2 / (n - ddof), NaN if no more than `ddof` elements go into one.

    `ddof` is 0 as in NumPy, for the variance of the elements themselves; 1 estimates that of a population (torch's
    default).

    Raises:
        ValueError: an axis does not exist, or is named twice.

    >>> from dist_dp import ops
    >>> ops.var([1.0, 2.0, 3.0]), ops.var([1.0, 2.0, 3.0], ddof=1)
    (tensor(0.6666667), tensor(1.))
    """
    check_number(ddof, "ddof of var")
    return unary(_var, x, (axis if axis is None else normal_axes(x, axis), keepdims, ddof))


def std(x: TensorLike, axis: Axis = None, ddof: float = 0, keepdims: bool = False) -> Tensor:
    """The standard deviation over `axis`, the root of `var`. Elements that are all equal receive the gradient 0.

    Raises:
        ValueError: an axis does not exist, or is named twice.

    >>> from dist_dp import ops
    >>> ops.std([1.0, 3.0])
    tensor(1.)
    """
    check_number(ddof, "ddof of std")
    return unary(_std, x, (axis if axis is None else normal_axes(x, axis), keepdims, ddof))


def average(
    x: TensorLike, axis: Axis = None, weights: TensorLike | None = None, keepdims: bool = False
) -> Tensor:
    """The weighted mean over `axis`: sum(w x) / sum(w). Gradients flow to x and to the weights.

    Args:
        x: any shape.
        axis: None, an axis or several.
        weights: of the shape of x, or of its shape over `axis`; all equal by default.
        keepdims: keep the reduced axes with length 1.

    Raises:
        ValueError: the shape of `weights` is neither.

    >>> from dist_dp import ops
    >>> ops.average([1.0, 4.0], weights=[2.0, 1.0])
    tensor(2.)
    """
    if weights is None:
        return mean(x, axis, keepdims)
    x, weights = lifted(x), lifted(weights)
    axes = tuple(range(x.ndim)) if axis is None else normal_axes(x, axis)
    if weights.shape != x.shape:
        if axis is None or weights.shape != tuple([x.shape[a] for a in axes]):
            raise ValueError(
                f"`weights` of average must have the shape of x, {x.shape}, or its lengths along `axis`={axis}; "
                f"got {weights.shape}"
            )
        order = sorted(range(len(axes)), key=axes.__getitem__)
        weights = reshape(
            transpose(weights, order), tuple([n if a in axes else 1 for a, n in enumerate(x.shape)])
        )
    total = sum(broadcast_to(weights, x.shape), axes, keepdims)
    return sum(x * weights, axes, keepdims) / total


# ----- products -----


def _others(x: Any, axis: Axes) -> Any:
    """For every element the product of all others: from the left times from the right, with no division."""
    axes = tuple(range(x.ndim)) if axis is None else axis
    order = (*[a for a in range(x.ndim) if a not in axes], *axes)
    last = len(order) - len(axes)
    rows = np.transpose(x, order)
    shape = rows.shape
    rows = rows.reshape((*shape[:last], math.prod(shape[last:])))
    before, after = [
        delay.run(cumulative_product.run(rows, params=(last, by)), params=(last, by, 1)) for by in (1, -1)
    ]
    return np.transpose((before * after).reshape(shape), sorted(range(x.ndim), key=order.__getitem__))


def _slopes(x: Any, out: Any, axis: Axes, keepdims: bool) -> Any:
    values = out.data if isinstance(out, Tensor) else out
    return kept(out, x.shape, axis, keepdims) / x if np.all(values) else _others(x, axis)


_prod = Op(
    "prod",
    lambda x, axis, keepdims: np.multiply.reduce(x, axis, keepdims=keepdims),
    params="axis keepdims",
    vjp=(
        lambda g, x, out, axis, keepdims: kept(g, x.shape, axis, keepdims) * _slopes(x, out, axis, keepdims),
    ),
    jvp=(
        lambda t, x, out, axis, keepdims: np.sum(
            t * _slopes(x, out, axis, keepdims), axis=axis, keepdims=keepdims
        ),
    ),
    batch=shifted,
)


def prod(
    x: TensorLike, axis: Axis = None, keepdims: bool = False, *, dtype: DTypeLike | None = None
) -> Tensor:
    """The product over `axis`. Derivatives are right at zeros too. x is converted to `dtype` first, if given.

    Raises:
        ValueError: an axis does not exist, or is named twice.

    >>> from dist_dp import ops
    >>> ops.prod([2.0, 3.0, 4.0])
    tensor(24.)
    """
    if dtype is not None:
        x = astype(x, dtype, copy=False)
    return unary(_prod, x, (axis if axis is None else normal_axes(x, axis), keepdims))


# ----- logsumexp -----


def _log_of_total(x: Array, axis: Axes, keepdims: bool) -> Any:
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    top = np.maximum.reduce(x, axis, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore", over="ignore"):  # log 0 where all are -inf, e^x beside +inf
        out = np.asarray(x - top)
        out = np.log(total(np.exp(out, out), axis, True)) + top
    return out if keepdims else out.squeeze(axis)


def _softened(x: Any, out: Any, axis: Axes, keepdims: bool) -> Any:
    """The weights e^(x - out). Of several +inf each has an equal share; where all are -inf there is none."""
    out = kept(out, x.shape, axis, keepdims)
    infinite = np.isinf(out)
    weights = np.exp(np.where(infinite, -np.inf, x - out))
    if not np.any(infinite.data if isinstance(infinite, Tensor) else infinite):
        return weights
    hits = infinite & (x == out) & (out > 0)
    return weights + hits / np.maximum(np.sum(hits, axis=axis, keepdims=True), 1).astype(x.dtype)


_logsumexp = Op(
    "logsumexp",
    _log_of_total,
    params="axis keepdims",
    vjp=(
        lambda g, x, out, axis, keepdims: (
            kept(g, x.shape, axis, keepdims) * _softened(x, out, axis, keepdims)
        ),
    ),
    jvp=(
        lambda t, x, out, axis, keepdims: np.sum(
            t * _softened(x, out, axis, keepdims), axis=axis, keepdims=keepdims
        ),
    ),
    batch=shifted,
)


def logsumexp(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log sum e^x over `axis`, without overflow: the largest element is taken out of the sum first.

    Of no elements, or of -inf only, it is -inf, with the gradient 0.

    Raises:
        ValueError: an axis does not exist, or is named twice.

    >>> from dist_dp import ops
    >>> ops.logsumexp([1000.0, 1000.0])
    tensor(1000.6932)
    """
    return unary(_logsumexp, x, (axis if axis is None else normal_axes(x, axis), keepdims))
