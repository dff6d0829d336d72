"""Reductions that choose: the extreme elements, where they are, order statistics; and any, all and counts.

The gradient goes to the elements that were chosen. Equal candidates share it evenly, so that it does not depend on the
order of the elements. Where an element stands, and whether there is one, carries no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..tape import Array
from ..tensor import Tensor
from .axes import Axes, Axis, axis_index, kept, kept_shape, length, normal_axes, shifted
from .comparison import astype, not_equal
from .core import Op, TensorLike, unary
from .elementwise import masked
from .reduce import sum
from .views import lifted, reshape, transpose

__all__ = [
    "all",
    "amax",
    "amin",
    "any",
    "argmax",
    "argmin",
    "count_nonzero",
    "max",
    "median",
    "min",
    "ptp",
]


# ----- extrema and order statistics -----


def _extremum(ufunc: np.ufunc) -> Callable[..., Any]:
    def forward(x: Any, axis: Axes, keepdims: bool) -> Any:
        try:
            return ufunc.reduce(x, axis, keepdims=keepdims)
        except ValueError:
            what = "any axis" if axis is None else f"axis {axis}"
            raise ValueError(
                f"no {ufunc.__name__} of no elements: x has shape {np.shape(x)}, reduced over {what}"
            ) from None

    return forward


def _chosen(g: Any, x: Any, out: Any, axis: Axes, keepdims: bool) -> Any:
    """The gradient shared evenly between the elements equal to the one that was chosen."""
    hits = x == kept(out, x.shape, axis, keepdims)
    share = kept(g, x.shape, axis, keepdims) / np.sum(hits, axis=axis, keepdims=True).astype(g.dtype)
    return masked(share, hits)


def _chosen_tangent(t: Any, x: Any, out: Any, axis: Axes, keepdims: bool) -> Any:
    hits = x == kept(out, x.shape, axis, keepdims)
    count = np.sum(hits, axis=axis, keepdims=keepdims).astype(t.dtype)
    return np.sum(masked(t, hits), axis=axis, keepdims=keepdims) / count


def _choice(name: str, forward: Callable[..., Any], params: str = "") -> Op:
    return Op(
        name,
        forward,
        params=f"axis keepdims {params}",
        vjp=(_chosen,),
        jvp=(_chosen_tangent,),
        batch=shifted,
    )


_max = _choice("max", _extremum(np.maximum))
_min = _choice("min", _extremum(np.minimum))


def max(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element over `axis`, NaN if there is one. Equal largest elements share the gradient evenly.

    Raises:
        ValueError: an axis does not exist or is named twice, or there are no elements to choose from.

    >>> from dist_dp import ops
    >>> ops.max([[1.0, 2.0], [4.0, 3.0]], axis=1)
    tensor([2., 4.])
    """
    return unary(_max, x, (axis if axis is None else normal_axes(x, axis), keepdims))


def min(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element over `axis`, NaN if there is one. Equal smallest elements share the gradient evenly.

    Raises:
        ValueError: an axis does not exist or is named twice, or there are no elements to choose from.

    >>> from dist_dp import ops
    >>> ops.min([[1.0, 2.0], [4.0, 3.0]], axis=1)
    tensor([1., 3.])
    """
    return unary(_min, x, (axis if axis is None else normal_axes(x, axis), keepdims))


amax, amin = max, min


def ptp(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The range over `axis`: max - min.

    >>> from dist_dp import ops
    >>> ops.ptp([1.0, 5.0, 2.0])
    tensor(4.)
    """
    x = lifted(x)
    return max(x, axis, keepdims) - min(x, axis, keepdims)


def _kth(x: Array, axis: tuple[int, ...], keepdims: bool, k: int) -> Any:
    """The k-th smallest, or NaN if there is one: NaN sorts behind everything."""
    (a,) = axis
    parts = np.partition(x, sorted({k, x.shape[a] - 1}), a)
    last, kth = [np.take(parts, [i], a) for i in (-1, k)]
    out = np.where(np.isnan(last), last, kth)
    return out if keepdims else out.squeeze(a)


_order_statistic = _choice("order_statistic", _kth, "k")


def median(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The middle element over `axis`, or the mean of the middle two; NaN if any element is.

    Equal middle elements share the gradient evenly.

    Raises:
        ValueError: an axis does not exist or is named twice, or there are no elements to choose from.

    >>> from dist_dp import ops
    >>> ops.median([3.0, 1.0, 2.0]), ops.median([4.0, 1.0, 2.0, 3.0])
    (tensor(2.), tensor(2.5))
    """
    x = lifted(x)
    axes = tuple(range(x.ndim)) if axis is None else normal_axes(x, axis)
    n = length(x.shape, axes)
    if n == 0:
        raise ValueError(f"no median of no elements: x has shape {x.shape}, reduced over axis {axes}")
    rest = [a for a in range(x.ndim) if a not in axes]
    rows = reshape(transpose(x, (*rest, *axes)), (*[x.shape[a] for a in rest], n))
    if x.dtype.kind != "f":
        rows = astype(rows, np.float64)
    out = unary(_order_statistic, rows, ((len(rest),), False, n // 2))
    if n % 2 == 0:
        out = (out + unary(_order_statistic, rows, ((len(rest),), False, n // 2 - 1))) * 0.5
    return reshape(out, kept_shape(x.shape, axes)) if keepdims else out


def _position(name: str, function: Callable[..., Any]) -> Op:
    return Op(
        name,
        lambda x, axis, keepdims: function(x, axis[0], keepdims=keepdims),
        params="axis keepdims",
        batch=shifted,
    )


_argmax, _argmin = _position("argmax", np.argmax), _position("argmin", np.argmin)


def _where_is(op: Op, x: TensorLike, axis: int | None, keepdims: bool) -> Tensor:
    x = lifted(x)
    axes = (0,) if axis is None else (axis_index(axis, x.ndim),)
    if length(x.shape, None if axis is None else axes) == 0:
        raise ValueError(f"no {op.name} of no elements: x has shape {x.shape}, axis={axis}")
    if axis is not None:
        return unary(op, x, (axes, keepdims))
    out = unary(op, reshape(x, -1), (axes, False))
    return reshape(out, (1,) * x.ndim) if keepdims else out


def argmax(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the largest element is: its index along `axis`, or among all elements in C order; the first of equal ones.

    Raises:
        ValueError: there is no such axis, or no element.

    >>> from dist_dp import ops
    >>> ops.argmax([[1.0, 2.0], [4.0, 3.0]], axis=1)
    tensor([1, 0])
    """
    return _where_is(_argmax, x, axis, keepdims)


def argmin(x: TensorLike, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Where the smallest element is: its index along `axis`, or among all elements in C order; the first of equal ones.

    Raises:
        ValueError: there is no such axis, or no element.

    >>> from dist_dp import ops
    >>> ops.argmin([[1.0, 2.0], [4.0, 3.0]], axis=1)
    tensor([0, 1])
    """
    return _where_is(_argmin, x, axis, keepdims)


# ----- logic -----

_any = Op(
    "any",
    lambda x, axis, keepdims: np.logical_or.reduce(x, axis, keepdims=keepdims),
    params="axis keepdims",
    batch=shifted,
)
_all = Op(
    "all",
    lambda x, axis, keepdims: np.logical_and.reduce(x, axis, keepdims=keepdims),
    params="axis keepdims",
    batch=shifted,
)


def any(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether an element over `axis` is not 0; boolean.

    >>> from dist_dp import ops
    >>> ops.any([[0.0, 2.0], [0.0, 0.0]], axis=1)
    tensor([ True, False])
    """
    return unary(_any, x, (axis if axis is None else normal_axes(x, axis), keepdims))


def all(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether no element over `axis` is 0; boolean.

    >>> from dist_dp import ops
    >>> ops.all([[1.0, 2.0], [0.0, 1.0]], axis=1)
    tensor([ True, False])
    """
    return unary(_all, x, (axis if axis is None else normal_axes(x, axis), keepdims))


def count_nonzero(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many elements over `axis` are not 0; integers.

    >>> from dist_dp import ops
    >>> ops.count_nonzero([0.0, 2.0, 3.0])
    tensor(2)
    """
    return sum(not_equal(x, 0), axis, keepdims)
