"""Rearranging, repeating and padding arrays.

Only triangles have rules of their own; the rest is said in terms of views (`views.py`), selection (`along.py`) and
joining (`joining.py`), so that every order of derivative and the batch rules come with it. Names and semantics are
NumPy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..random import integer_argument
from ..tensor import Tensor
from .along import take
from .axes import axis_index, axis_tuple
from .core import Op, TensorLike, same, unary
from .joining import at_least_1d, at_least_2d, at_least_3d, concatenate, cut
from .views import Shape, broadcast_to, expand_dims, lifted, moveaxis, part, place, reshape, swapaxes

__all__ = [
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "broadcast_arrays",
    "diag",
    "diagonal",
    "flatten",
    "flip",
    "meshgrid",
    "pad",
    "ravel",
    "repeat",
    "roll",
    "rot90",
    "tile",
    "trace",
    "tril",
    "triu",
]


# ----- shapes -----


def ravel(x: TensorLike) -> Tensor:
    """The elements in C order as a vector; a view where the memory allows one.

    >>> from dist_dp import ops
    >>> ops.ravel([[1.0, 2.0]])
    tensor([1., 2.])
    """
    return reshape(x, -1)


def flatten(x: TensorLike, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The axes from `start_dim` to `end_dim`, both included, joined to one.

    Raises:
        ValueError: an axis is out of range, or the first comes after the last.

    >>> from dist_dp import ops
    >>> ops.flatten([[[1.0, 2.0]]], 1).shape
    (1, 2)
    """
    x = lifted(x)
    rank = max(x.ndim, 1)
    start, end = axis_index(start_dim, rank, "start_dim"), axis_index(end_dim, rank, "end_dim")
    if start > end:
        raise ValueError(
            f"`start_dim` must not come after `end_dim`, got {start_dim} and {end_dim} for shape {x.shape}"
        )
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def atleast_1d(*xs: TensorLike) -> Tensor | tuple[Tensor, ...]:
    """Each array as it is, a scalar as a vector of one element; a tuple if several are given.

    >>> from dist_dp import ops
    >>> ops.atleast_1d(1.0)
    tensor([1.])
    """
    out = tuple([at_least_1d(lifted(x)) for x in xs])
    return out[0] if len(out) == 1 else out


def atleast_2d(*xs: TensorLike) -> Tensor | tuple[Tensor, ...]:
    """Each array with axes of length 1 in front so that it has two; a tuple if several are given.

    >>> from dist_dp import ops
    >>> ops.atleast_2d([1.0, 2.0]).shape
    (1, 2)
    """
    out = tuple([at_least_2d(lifted(x)) for x in xs])
    return out[0] if len(out) == 1 else out


def atleast_3d(*xs: TensorLike) -> Tensor | tuple[Tensor, ...]:
    """Each array with three axes: (n,) as (1, n, 1), (n, m) as (n, m, 1); a tuple if several are given.

    >>> from dist_dp import ops
    >>> ops.atleast_3d([1.0, 2.0]).shape
    (1, 2, 1)
    """
    out = tuple([at_least_3d(lifted(x)) for x in xs])
    return out[0] if len(out) == 1 else out


def broadcast_arrays(*xs: TensorLike) -> tuple[Tensor, ...]:
    """Read-only views of all arrays, stretched to their common shape.

    Raises:
        ValueError: they have none.

    >>> from dist_dp import ops
    >>> [x.shape for x in ops.broadcast_arrays([1.0, 2.0], [[1.0], [2.0]])]
    [(2, 2), (2, 2)]
    """
    parts = [lifted(x) for x in xs]
    shape = np.broadcast_shapes(*[x.shape for x in parts])
    return tuple([x if x.shape == shape else broadcast_to(x, shape) for x in parts])


def meshgrid(*xs: TensorLike, indexing: str = "xy", sparse: bool = False) -> tuple[Tensor, ...]:
    """Coordinates of a grid from the coordinates along each of its axes; views.

    Args:
        xs: vectors of lengths n1, n2, ...
        indexing: "ij" gives arrays (n1, n2, ...); "xy", NumPy's default, (n2, n1, ...).
        sparse: leave the other axes at length 1.

    Raises:
        ValueError: `indexing` is neither.

    >>> from dist_dp import ops
    >>> [x.shape for x in ops.meshgrid([1.0, 2.0], [1.0, 2.0, 3.0])]
    [(3, 2), (3, 2)]
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f'`indexing` must be "xy" or "ij", got {indexing!r}')
    n = len(xs)
    axes = list(range(n))
    if indexing == "xy" and n > 1:
        axes[:2] = 1, 0
    grids = tuple(
        [
            reshape(x, tuple([-1 if i == axis else 1 for i in range(n)]))
            for x, axis in zip(xs, axes, strict=True)
        ]
    )
    return grids if sparse else broadcast_arrays(*grids)


# ----- repeating and padding -----


def tile(x: TensorLike, reps: Shape) -> Tensor:
    """Copies of x side by side: `reps[i]` times along axis i. The shorter of shape and `reps` gets ones in front.

    >>> from dist_dp import ops
    >>> ops.tile([1.0, 2.0], 2)
    tensor([1., 2., 1., 2.])
    """
    x = lifted(x)
    listed = reps if isinstance(reps, (tuple, list)) else (reps,)
    times = tuple([integer_argument("reps", n, least=0) for n in listed])
    rank = max(x.ndim, len(times))
    times = (1,) * (rank - len(times)) + times
    shape = (1,) * (rank - x.ndim) + x.shape
    apart = reshape(x, tuple([n for side in shape for n in (1, side)]))
    repeated = broadcast_to(apart, tuple([n for pair in zip(times, shape, strict=True) for n in pair]))
    return reshape(repeated, tuple([n * side for n, side in zip(times, shape, strict=True)]))


def repeat(x: TensorLike, repeats: int | Sequence[int], axis: int | None = None) -> Tensor:
    """Each element along `axis` (of the flattened x without one) `repeats` times in a row, or each its own number.

    Raises:
        ValueError: a number of repeats is negative, or there is not one for each element.

    >>> from dist_dp import ops
    >>> ops.repeat([1.0, 2.0], [2, 1])
    tensor([1., 1., 2.])
    """
    x = reshape(x, -1) if axis is None else lifted(x)
    at = axis_index(axis or 0, x.ndim)
    counts = np.asarray(repeats) if np.size(repeats) else np.zeros(0, np.intp)
    if counts.dtype.kind not in "iu" or (counts < 0).any():
        raise ValueError(f"`repeats` must be integers from 0 on, got {repeats!r}")
    if counts.size == 1:
        n, times, shape = x.shape[at], counts.item(), x.shape
        apart = broadcast_to(expand_dims(x, at + 1), (*shape[: at + 1], times, *shape[at + 1 :]))
        return reshape(apart, (*shape[:at], n * times, *shape[at + 1 :]))
    if counts.shape != (x.shape[at],):
        raise ValueError(
            f"`repeats` must be one number or {x.shape[at]}, one for each element; got {repeats!r}"
        )
    return take(x, np.repeat(np.arange(x.shape[at]), counts), at)


def pad(x: TensorLike, pad_width: Any, mode: str = "constant", constant_values: float = 0) -> Tensor:
    """x with elements added before and after each axis.

    Args:
        pad_width: a number for all sides, (before, after) for all axes, or one such pair for each axis.
        mode: "constant" fills with `constant_values`; "edge" repeats the outermost element, "reflect" and "symmetric"
            mirror without and with it, "wrap" continues from the other side.

    Raises:
        ValueError: another mode, or a width that is negative or does not fit the axes.

    >>> from dist_dp import ops
    >>> ops.pad([1.0, 2.0, 3.0], (1, 2), mode="reflect")
    tensor([2., 1., 2., 3., 2., 1.])
    """
    x = lifted(x)
    if mode not in ("constant", "edge", "reflect", "symmetric", "wrap"):
        raise ValueError(f'`mode` must be "constant", "edge", "reflect", "symmetric" or "wrap", got {mode!r}')
    try:
        widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2)).tolist()
    except ValueError:
        widths = [[-1, -1]]
    if not all(isinstance(w, int) and w >= 0 for pair in widths for w in pair):
        raise ValueError(
            f"`pad_width` must be a number from 0 on, a pair, or a pair for each of the {x.ndim} axes, "
            f"got {pad_width!r}"
        )
    if mode == "constant":
        shape = tuple([n + before + after for n, (before, after) in zip(x.shape, widths, strict=True)])
        inner = tuple([slice(before, before + n) for n, (before, _) in zip(x.shape, widths, strict=True)])
        return unary(place, x, (shape, inner, constant_values))
    for axis, (before, after) in enumerate(widths):
        if before or after:
            x = take(x, np.pad(np.arange(x.shape[axis]), (before, after), mode=mode), axis)  # type: ignore[call-overload]
    return x


# ----- rearranging -----


def flip(x: TensorLike, axis: Shape | None = None) -> Tensor:
    """A view with the order of the elements reversed along `axis`, or along every axis.

    >>> from dist_dp import ops
    >>> ops.flip([1.0, 2.0, 3.0])
    tensor([3., 2., 1.])
    """
    x = lifted(x)
    axes = range(x.ndim) if axis is None else axis_tuple(axis, x.ndim)
    return unary(part, x, (tuple([slice(None, None, -1 if i in axes else None) for i in range(x.ndim)]),))


def roll(x: TensorLike, shift: Shape, axis: Shape | None = None) -> Tensor:
    """The elements moved on by `shift` places along `axis`, the last ones to the front; of the flattened x without one.

    Raises:
        ValueError: `shift` and `axis` name different numbers of axes.

    >>> from dist_dp import ops
    >>> ops.roll([1.0, 2.0, 3.0], 1)
    tensor([3., 1., 2.])
    """
    x = lifted(x)
    by_axis = shift if isinstance(shift, (tuple, list)) else (shift,)
    shifts = tuple([integer_argument("shift", n) for n in by_axis])
    if axis is None:
        return reshape(roll(reshape(x, -1), sum(shifts), 0), x.shape)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if len(axes) != len(shifts) and 1 not in (len(axes), len(shifts)):
        raise ValueError(
            f"`shift` and `axis` must be of one length or single numbers, got {shift} and {axis}"
        )
    for by, along in np.broadcast(shifts, axes):
        at = axis_index(int(along), x.ndim)
        n = x.shape[at]
        if n and by % n:
            head, tail = cut(x, [int(-by % n)], at)
            x = concatenate([tail, head], at)
    return x


def rot90(x: TensorLike, k: int = 1, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """A view turned by 90 degrees k times, from the first of `axes` towards the second.

    Raises:
        ValueError: `axes` are not two different axes of x.

    >>> from dist_dp import ops
    >>> ops.rot90([[1.0, 2.0], [3.0, 4.0]])
    tensor([[2., 4.],
            [1., 3.]])
    """
    x = lifted(x)
    first, second = axis_tuple(axes, x.ndim, "axes")
    k %= 4
    if k == 2:
        return flip(x, (first, second))
    if k == 1:
        return swapaxes(flip(x, second), first, second)
    return flip(swapaxes(x, first, second), second) if k else x


# ----- triangles and diagonals -----

_tril = Op(
    "tril",
    np.tril,
    params="k",
    vjp=(lambda g, k: np.tril(g, k),),
    jvp=(lambda t, k: np.tril(t, k),),
    batch=same,
)
_triu = Op(
    "triu",
    np.triu,
    params="k",
    vjp=(lambda g, k: np.triu(g, k),),
    jvp=(lambda t, k: np.triu(t, k),),
    batch=same,
)


def _matrices(x: TensorLike, who: str) -> Tensor:
    x = lifted(x)
    if x.ndim < 2:
        raise ValueError(f"{who} needs at least two axes, got shape {x.shape}")
    return x


def tril(x: TensorLike, k: int = 0) -> Tensor:
    """The lower triangles of matrices (..., n, m): elements above the k-th diagonal become 0.

    >>> from dist_dp import ops
    >>> ops.tril([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 0.],
            [3., 4.]])
    """
    return unary(_tril, _matrices(x, "tril"), (k,))


def triu(x: TensorLike, k: int = 0) -> Tensor:
    """The upper triangles of matrices (..., n, m): elements below the k-th diagonal become 0.

    >>> from dist_dp import ops
    >>> ops.triu([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 2.],
            [0., 4.]])
    """
    return unary(_triu, _matrices(x, "triu"), (k,))


def diagonal(x: TensorLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """Elements x[i, i + offset] over two axes, which the result has as one, its last.

    >>> from dist_dp import ops
    >>> ops.diagonal([[1.0, 2.0], [3.0, 4.0]], 1)
    tensor([2.])
    """
    x = moveaxis(_matrices(x, "diagonal"), (axis1, axis2), (-2, -1))
    *lead, n, m = x.shape
    count = max(min(n + min(offset, 0), m - max(offset, 0)), 0)
    start = offset if offset >= 0 else -offset * m
    stop = (
        start + (count - 1) * (m + 1) + 1 if count else start
    )  # one step down is m + 1 on in the flattened matrix
    return unary(part, reshape(x, (*lead, n * m)), ((Ellipsis, slice(start, stop, m + 1)),))


def diag(x: TensorLike, k: int = 0) -> Tensor:
    """The k-th diagonal of a matrix, or the square matrix with a vector on its k-th diagonal.

    Raises:
        ValueError: x is neither a vector nor a matrix.

    >>> from dist_dp import ops
    >>> ops.diag([1.0, 2.0])
    tensor([[1., 0.],
            [0., 2.]])
    """
    x = lifted(x)
    if x.ndim == 2:
        return diagonal(x, k)
    if x.ndim != 1:
        raise ValueError(f"diag needs a vector or a matrix, got shape {x.shape}")
    n = x.size + abs(k)
    start = k if k >= 0 else -k * n
    stop = start + (x.size - 1) * (n + 1) + 1 if x.size else start
    return reshape(unary(place, x, ((n * n,), (slice(start, stop, n + 1),), 0)), (n, n))


def trace(x: TensorLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The sum along the diagonal, sum_i x[i, i + offset], over two axes.

    >>> from dist_dp import ops
    >>> ops.trace([[1.0, 2.0], [3.0, 4.0]])
    tensor(5.)
    """
    return diagonal(x, offset, axis1, axis2).sum(-1)
