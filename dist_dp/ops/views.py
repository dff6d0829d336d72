"""Views: operations that look at the same memory differently, and their transposes.

Reshape, transpose, broadcast, basic indices and sliding windows copy nothing where NumPy copies nothing. Each
is linear: the gradient of a part is that part of zeros (`place`), of a broadcast the sum that the engine
forms by itself, of windows the overlapped sum (`fold`). What is built on these rows without rules of its own
is in `shape.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import getitem
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..compact import Part
from ..tape import Array
from ..tensor import Tensor
from .axes import axis_index, axis_tuple
from .core import Op, TensorLike, apply, as_array, unary

__all__ = [
    "broadcast_to",
    "expand_dims",
    "moveaxis",
    "permute",
    "reshape",
    "squeeze",
    "swapaxes",
    "transpose",
    "unfold",
]

Shape = int | Sequence[int]


def lifted(x: TensorLike, name: str = "x") -> Tensor:
    """`x` as a Tensor, so that its shape can be asked for; arrays and lists carry no gradient."""
    return x if isinstance(x, Tensor) else Tensor._of(as_array(x, name), None)


# ----- a part of an array -----


def _placed(x: Array, shape: tuple[int, ...], index: Any, fill: float) -> Array:
    out = np.zeros(shape, x.dtype) if fill == 0 else np.full(shape, fill, x.dtype)
    out[index] = x
    return out


def behind_examples(index: Any) -> tuple[Any, ...]:
    """A basic index for arrays that have one more axis in front."""
    return (slice(None), *index) if isinstance(index, tuple) else (slice(None), index)


# x in the part `index` of an array of `shape` that is `fill` elsewhere: the transpose of `part`, and constant
# padding.
place: Op = Op(
    "place",
    _placed,
    params="shape index fill",
    vjp=(lambda g, index, shape: g[index],),
    jvp=(lambda t, index, shape: place.run(t, params=(shape, index, 0)),),
    batch=lambda op, size, inputs, batched, params: apply(
        op, inputs, ((size, *params[0]), behind_examples(params[1]), params[2])
    ),
)

# x[index] for integers, slices, None and Ellipsis.
part: Op = Op(
    "part",
    getitem,
    params="index",
    vjp=(
        lambda g, index, x_shape: (
            place.run(g, params=(x_shape, index, 0)) if isinstance(g, Tensor) else Part(x_shape, index, g)
        ),
    ),
    jvp=(lambda t, index, x_shape: t[index],),
    batch=lambda op, size, inputs, batched, params: apply(op, inputs, (behind_examples(params[0]),)),
)


# ----- reshape -----

_reshape = Op(
    "reshape",
    np.ndarray.reshape,
    params="shape",
    vjp=(lambda g, shape, x_shape: g.reshape(x_shape),),
    jvp=(lambda t, shape, x_shape: t.reshape(shape),),
    batch=lambda op, size, inputs, batched, params: apply(op, inputs, ((size, *params[0]),)),
)


def reshape(x: TensorLike, *shape: Any) -> Tensor:
    """The same elements in C order under another shape; a view where the memory allows one.

    Args:
        x: any shape.
        shape: integers or one tuple of them; one may be -1, for what is left.

    Raises:
        TypeError: `shape` is not of integers. ValueError: the sizes do not agree.

    >>> from dist_dp import ops
    >>> ops.reshape([1.0, 2.0, 3.0, 4.0], 2, -1)
    tensor([[1., 2.],
            [3., 4.]])
    """
    to = shape[0] if len(shape) == 1 else shape
    if not isinstance(to, tuple):
        to = tuple(to) if isinstance(to, list) else (to,)
    if not isinstance(x, Tensor):
        x = lifted(x)
    try:
        return unary(_reshape, x, (to,))
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"`shape` of reshape must be integers with the product {x.size}, the elements of x of shape {x.shape} "
            f"(one may be -1, for what is left), got {to}"
        ) from None


def expand_dims(x: TensorLike, axis: Shape) -> Tensor:
    """A view with axes of length 1 inserted, at `axis` of the result.

    Raises:
        ValueError: an axis is out of range or repeated.

    >>> from dist_dp import ops
    >>> ops.expand_dims([1.0, 2.0], -1).shape
    (2, 1)
    """
    x = lifted(x)
    rank = x.ndim + (len(axis) if isinstance(axis, (tuple, list)) else 1)
    new = axis_tuple(axis, rank)
    old = iter(x.shape)
    return reshape(x, tuple([1 if i in new else next(old) for i in range(rank)]))


def squeeze(x: TensorLike, axis: Shape | None = None) -> Tensor:
    """A view without the axes of length 1 (or without those named in `axis`).

    Raises:
        ValueError: a named axis has another length.

    >>> from dist_dp import ops
    >>> ops.squeeze([[1.0, 2.0]]).shape
    (2,)
    """
    x = lifted(x)
    if axis is None:
        return reshape(x, tuple([n for n in x.shape if n != 1]))
    gone = axis_tuple(axis, x.ndim)
    for i in gone:
        if x.shape[i] != 1:
            raise ValueError(f"`axis` of squeeze must have length 1, got axis {i} of shape {x.shape}")
    return reshape(x, tuple([n for i, n in enumerate(x.shape) if i not in gone]))


# ----- transpose -----


def inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation of axes that undoes `axes`."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


_transpose = Op(
    "transpose",
    np.ndarray.transpose,
    params="axes",
    vjp=(lambda g, axes: np.transpose(g, inverse(axes)),),
    jvp=(lambda t, axes: np.transpose(t, axes),),
    batch=lambda op, size, inputs, batched, params: apply(op, inputs, ((0, *[a + 1 for a in params[0]]),)),
)


def transpose(x: TensorLike, axes: Sequence[int] | None = None) -> Tensor:
    """A view with the axes in another order: axis i of the result is axis `axes[i]` of x; reversed by
    default.

    Raises:
        ValueError: `axes` is not a permutation of the axes of x.

    >>> from dist_dp import ops
    >>> ops.transpose([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 3.],
            [2., 4.]])
    """
    x = lifted(x)
    if axes is None:
        order = tuple(range(x.ndim - 1, -1, -1))
    else:
        order = axis_tuple(axes, x.ndim, "axes")
        if len(order) != x.ndim:
            raise ValueError(
                f"`axes` must name each of the {x.ndim} axes of shape {x.shape} once, got {tuple(axes)}"
            )
    return unary(_transpose, x, (order,))


def permute(x: TensorLike, *dims: Any) -> Tensor:
    """`transpose` as torch spells it: `permute(x, 2, 0, 1)` or `permute(x, (2, 0, 1))`.

    >>> from dist_dp import ops
    >>> ops.permute([[[1.0, 2.0]]], 2, 0, 1).shape
    (2, 1, 1)
    """
    return transpose(x, dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)


def swapaxes(x: TensorLike, axis1: int, axis2: int) -> Tensor:
    """A view with two axes exchanged.

    >>> from dist_dp import ops
    >>> ops.swapaxes([[[1.0, 2.0]]], 0, 2).shape
    (2, 1, 1)
    """
    x = lifted(x)
    order = list(range(x.ndim))
    i, j = axis_index(axis1, x.ndim, "axis1"), axis_index(axis2, x.ndim, "axis2")
    order[i], order[j] = j, i
    return unary(_transpose, x, (tuple(order),))


def moveaxis(x: TensorLike, source: Shape, destination: Shape) -> Tensor:
    """A view with the axes `source` moved to the places `destination`; the others keep their order.

    Raises:
        ValueError: an axis is out of range or repeated, or the two name different numbers of axes.

    >>> from dist_dp import ops
    >>> ops.moveaxis([[[1.0, 2.0]]], -1, 0).shape
    (2, 1, 1)
    """
    x = lifted(x)
    old, new = axis_tuple(source, x.ndim, "source"), axis_tuple(destination, x.ndim, "destination")
    if len(old) != len(new):
        raise ValueError(
            f"`source` and `destination` must name as many axes each, got {source} and {destination}"
        )
    order = [i for i in range(x.ndim) if i not in old]
    for to, i in sorted(zip(new, old, strict=True)):
        order.insert(to, i)
    return unary(_transpose, x, (tuple(order),))


# ----- broadcast -----


def _broadcast_batch(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    (x,), (shape,) = inputs, params
    return apply(
        op, (x.reshape((size, *(1,) * (len(shape) + 1 - np.ndim(x)), *x.shape[1:])),), ((size, *shape),)
    )


_broadcast_to = Op(
    "broadcast_to",
    np.broadcast_to,
    params="shape",
    vjp=(lambda g, shape: g,),  # the engine sums over what was stretched
    jvp=(lambda t, shape: np.broadcast_to(t, shape),),
    batch=_broadcast_batch,
)


def broadcast_to(x: TensorLike, shape: Shape) -> Tensor:
    """A read-only view of x stretched to `shape`; its gradient is summed over the stretched axes.

    Raises:
        ValueError: x does not broadcast to `shape`.

    >>> from dist_dp import ops
    >>> ops.broadcast_to([1.0, 2.0], (2, 2))
    tensor([[1., 2.],
            [1., 2.]])
    """
    to = (shape,) if isinstance(shape, int) else tuple(shape)
    try:
        return unary(_broadcast_to, x, (to,))
    except ValueError:
        raise ValueError(f"an array of shape {lifted(x).shape} does not broadcast to `shape` {to}") from None


# ----- sliding windows -----


def _windows(x: Array, axis: int, size: int, step: int) -> Array:
    count = (x.shape[axis] - size) // step + 1
    return as_strided(
        x,
        (*x.shape[:axis], count, *x.shape[axis + 1 :], size),
        (*x.strides[:axis], x.strides[axis] * step, *x.strides[axis + 1 :], x.strides[axis]),
        writeable=False,
    )


def _folded(g: Array, axis: int, size: int, step: int, length: int) -> Array:
    count = g.shape[axis]
    out = np.zeros((*g.shape[:axis], length, *g.shape[axis + 1 : -1]), g.dtype)
    before = (slice(None),) * axis
    for i in range(size):
        out[(*before, slice(i, i + (count - 1) * step + 1, step))] += g[..., i]
    return out


def _shifted_axis(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    return apply(op, inputs, (params[0] + 1, *params[1:]))


_unfold: Op = Op(
    "unfold",
    _windows,
    params="axis size step",
    vjp=(lambda g, axis, size, step, x_shape: _fold.run(g, params=(axis, size, step, x_shape[axis])),),
    jvp=(lambda t, axis, size, step, x_shape: _unfold.run(t, params=(axis, size, step)),),
    batch=_shifted_axis,
)
_fold: Op = Op(
    "fold",
    _folded,
    params="axis size step length",
    vjp=(lambda g, axis, size, step, length: _unfold.run(g, params=(axis, size, step)),),
    jvp=(lambda t, axis, size, step, length: _fold.run(t, params=(axis, size, step, length)),),
    batch=_shifted_axis,
)


def unfold(x: TensorLike, axis: int, size: int, step: int = 1) -> Tensor:
    """All windows of `size` elements along `axis`, `step` apart: a read-only view with the window as a new
    last axis.

    out[..., i, ..., j] = x[..., i step + j, ...], as torch's `Tensor.unfold`. Elements in several windows add
    gradients.

    Raises:
        ValueError: the window is longer than the axis, or `size` or `step` is below 1.

    >>> from dist_dp import ops
    >>> ops.unfold([1.0, 2.0, 3.0, 4.0], 0, size=2)
    tensor([[1., 2.],
            [2., 3.],
            [3., 4.]])
    """
    x = lifted(x)
    axis = axis_index(axis, x.ndim)
    if not 1 <= size <= x.shape[axis]:
        raise ValueError(
            f"`size` of unfold must be between 1 and {x.shape[axis]}, the length of axis {axis}; got {size}"
        )
    if step < 1:
        raise ValueError(f"`step` of unfold must be at least 1, got {step}")
    return unary(_unfold, x, (axis, size, step))
