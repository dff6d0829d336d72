"""Order and selection by value: sort, argsort, topk, and functions of values that have no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..random import integer_argument
from ..tape import Array
from ..tensor import Extremum, Tensor
from .along import integers, take_along_axis
from .axes import axis_index
from .core import Op, TensorLike, apply, same, unary
from .joining import stack
from .views import lifted, part, reshape

__all__ = ["argsort", "nonzero", "one_hot", "searchsorted", "sort", "topk", "unique"]

# ----- order -----


def _argsorted(x: Array, axis: int, descending: bool) -> Array:
    order: Array
    if descending:  # equal elements in their order: the stable order of the mirrored array, mirrored back
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    return order


_argsort = Op(
    "argsort",
    _argsorted,
    params="axis descending",
    batch=lambda op, size, inputs, batched, params: apply(op, inputs, (params[0] + 1, params[1])),
)


def argsort(x: TensorLike, axis: int | None = -1, descending: bool = False) -> Tensor:
    """The indices (int64) that sort x along `axis`; equal elements keep their order. NaN counts as the
    largest.

    >>> from dist_dp import ops
    >>> ops.argsort([3.0, 1.0, 2.0])
    tensor([1, 2, 0])
    """
    x = reshape(x, -1) if axis is None else lifted(x)
    return unary(_argsort, x, (axis_index(axis or 0, x.ndim), descending))


def sort(x: TensorLike, axis: int | None = -1, descending: bool = False) -> Tensor:
    """The elements in order along `axis`, each with the gradient of its place; stable. NaN counts as the
    largest.

    >>> from dist_dp import ops
    >>> ops.sort([3.0, 1.0, 2.0], descending=True)
    tensor([3., 2., 1.])
    """
    x = reshape(x, -1) if axis is None else lifted(x)
    return take_along_axis(x, argsort(x, axis or 0, descending), axis or 0)


def topk(x: TensorLike, k: int, axis: int = -1, largest: bool = True) -> Extremum:
    """The k largest (or smallest) elements along `axis` in order, and their indices. The first of equal
    elements wins.

    Raises:
        ValueError: k is negative or exceeds the length of the axis.

    >>> from dist_dp import ops
    >>> ops.topk([3.0, 1.0, 2.0], 2)
    Extremum(values=tensor([3., 2.]), indices=tensor([0, 2]))
    """
    x = lifted(x)
    axis = axis_index(axis, x.ndim)
    k = integer_argument("k", k)
    if not 0 <= k <= x.shape[axis]:
        raise ValueError(f"`k` must be between 0 and {x.shape[axis]}, the length of axis {axis}; got {k}")
    chosen = unary(part, argsort(x, axis, descending=largest), ((slice(None),) * axis + (slice(k),),))
    return Extremum(take_along_axis(x, chosen, axis), chosen)


# ----- without gradient -----


def _searched(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    a, v = inputs
    if not batched[0]:
        return apply(op, (a, v), params)
    return stack([apply(op, (a[k], v[k] if batched[1] else v), params) for k in range(size)])


_searchsorted = Op(
    "searchsorted",
    lambda a, v, side: np.asarray(np.searchsorted(a, v, side)),
    "a v",
    params="side",
    batch=_searched,
)


def searchsorted(a: TensorLike, v: TensorLike, side: str = "left") -> Tensor:
    """Where to insert `v` into the sorted one-dimensional `a` to keep its order: integers, without a
    gradient.

    Raises:
        ValueError: `a` is not one-dimensional, or `side` is neither "left" nor "right".

    >>> from dist_dp import ops
    >>> ops.searchsorted([1.0, 2.0, 3.0], [2.0, 9.0])
    tensor([1, 3])
    """
    if side not in ("left", "right"):
        raise ValueError(f'`side` must be "left" or "right", got {side!r}')
    if np.ndim(a) != 1:
        raise ValueError(f"`a` must be one-dimensional and sorted, got shape {np.shape(a)}")
    return apply(_searchsorted, (a, v), (side,))  # type: ignore[no-any-return]


def _ragged(op: Op, *_: Any) -> Any:
    raise TypeError(
        "the number of elements that a boolean mask selects differs between the examples of vmap, so the "
        "result has no one shape; use where(mask, x, 0)"
    )


_nonzero = Op("nonzero", lambda x: np.flatnonzero(x), batch=_ragged)


def nonzero(x: TensorLike) -> tuple[Tensor, ...]:
    """The indices of the elements that are not zero, one integer tensor for each axis, in C order.

    Raises:
        ValueError: x has no axes.

    >>> from dist_dp import ops
    >>> ops.nonzero([[0, 1], [1, 0]])
    (tensor([0, 1]), tensor([1, 0]))
    """
    x = lifted(x)
    if x.ndim == 0:
        raise ValueError("nonzero of a 0-d tensor has no axis to index; use x.reshape(1)")
    flat = unary(_nonzero, x)
    if x.ndim == 1:
        return (flat,)
    return tuple([Tensor._of(i, None) for i in np.unravel_index(flat.data, x.shape)])


def unique(x: TensorLike) -> Tensor:
    """The distinct elements in increasing order, one-dimensional.

    Raises:
        TypeError: x carries a gradient, which has no meaning here; say `x.detach()`.

    >>> from dist_dp import ops
    >>> ops.unique([3, 1, 3])
    tensor([1, 3])
    """
    x = lifted(x)
    if x.node is not None:
        raise TypeError("unique has no gradient; call it on x.detach()")
    return Tensor._of(np.unique(x.data), None)


def _one_hot_forward(index: Array, length: int, dtype: Any) -> Array:
    if index.size and not 0 <= index.min() <= index.max() < length:
        wrong = index.min() if index.min() < 0 else index.max()
        raise IndexError(f"`index` of one_hot must be from 0 to {length - 1}, got {wrong}")
    hot: Array = index[..., None] == np.arange(length)
    return hot.astype(dtype)


_one_hot = Op("one_hot", _one_hot_forward, "index", params="length dtype", batch=same)


def one_hot(index: Any, num_classes: int | None = None, dtype: DTypeLike = np.float32) -> Tensor:
    """out[..., c] = 1 where index[...] = c, else 0: a new last axis of length `num_classes` (default: the
    largest + 1).

    Raises:
        IndexError: an index is negative or not below `num_classes`.
        TypeError: `index` is not of integers.

    >>> from dist_dp import ops
    >>> ops.one_hot([0, 2], 3)
    tensor([[1., 0., 0.],
            [0., 0., 1.]])
    """
    at = lifted(integers(index, "index"))
    if num_classes is None:
        num_classes = int(at.data.max()) + 1 if at.size else 0
    return unary(_one_hot, at, (num_classes, np.dtype(dtype)))
