"""Indexing: x[index], and functions that write and add at x[index].

A *basic* index (integers, slices, None, Ellipsis) is a view: one operation, whose gradient is one assignment
into zeros. Every other index (integer arrays, boolean masks, lists, mixed with slices) is brought by views to
one normal form, *one integer array along one axis* (`_located`), for which `along.py` has the operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from ..tape import INTERPRET, RECORD, Array, mode
from ..tensor import Tensor
from .along import flat_index, pick, put, scatter
from .core import Op, TensorLike, apply, as_array, unary
from .elementwise import add
from .order import nonzero
from .views import behind_examples, broadcast_to, inverse, lifted, part, place, reshape, transpose

__all__ = ["add_at", "get_item", "plain_index", "set_item"]

_BASIC = frozenset({int, slice, type(None), EllipsisType})


def _is_basic(index: Any) -> bool:
    return type(index) in _BASIC or (type(index) is tuple and _BASIC.issuperset(map(type, index)))


# ----- writing to a basic index -----


def _replaced(x: Array, value: Any, index: Any) -> Array:
    out = x.copy()
    out[index] = value
    return out


def _part_shape(x: Any, index: Any) -> tuple[int, ...]:
    """The shape of x[index]; `x` may be one example of many, which has a shape but no values."""
    values = x.data if mode.state != INTERPRET else np.broadcast_to(np.False_, x.shape)
    shape: tuple[int, ...] = values[index].shape
    return shape


def _replace_batch(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    x, value = inputs
    (index,) = params
    if not batched[0]:
        x = np.broadcast_to(x, (size, *x.shape))
    if batched[
        1
    ]:  # values broadcast to the part of each example: their ranks are made equal behind the examples
        rank = len(np.broadcast_to(np.False_, x.shape[1:])[index].shape)
        value = value.reshape((size, *(1,) * (rank + 1 - np.ndim(value)), *value.shape[1:]))
    return apply(op, (x, value), (behind_examples(index),))


_replace: Op = Op(
    "replace",
    _replaced,
    "x value",
    params="index",
    vjp=(lambda g, index: _replace.run(g, 0, params=(index,)), lambda g, index, x_shape: g[index]),
    jvp=(
        lambda t, index: _replace.run(t, 0, params=(index,)),
        lambda t, index, x_shape: place.run(t, params=(x_shape, index, 0)),
    ),
    batch=_replace_batch,
    same_dtype=(0,),
)


# ----- any index, brought to the normal form -----


def plain_index(index: Any) -> Any:
    """An index for NumPy arrays: tensors inside it become their arrays.

    Raises:
        TypeError: an entry is not an integer, a slice, None, Ellipsis, or an array of integers or booleans.

    >>> from dist_dp import Tensor, ops
    >>> ops.plain_index((0, Tensor([1, 2])))
    (0, array([1, 2]))
    """
    if _is_basic(index):
        return index
    entries = [_entry(i) for i in (index if isinstance(index, tuple) else (index,))]
    return tuple([e.data if isinstance(e, Tensor) else e for e in entries])


def _entry(entry: Any) -> Any:
    """One entry of an index: an int, a slice, None, Ellipsis, or an array or Tensor of integers or booleans."""
    if type(entry) in _BASIC:
        return entry
    if isinstance(entry, (list, tuple)):
        entry = np.asarray([e.data if isinstance(e, Tensor) else e for e in entry])
        entry = entry if entry.size else entry.astype(np.intp)
    elif not isinstance(entry, Tensor):
        entry = np.asarray(entry)
    kind = entry.dtype.kind
    if kind not in "iub":
        raise TypeError(
            "an index must be made of integers, slices, None, Ellipsis and arrays of integers or booleans, "
            f"got dtype {entry.dtype}; convert with x.astype('int64') if the values are whole numbers"
        )
    if entry.ndim == 0 and kind != "b" and not (isinstance(entry, Tensor) and mode.state == INTERPRET):
        return int(entry)  # under vmap the examples may differ, so that a Tensor stays one
    return entry


Restore = Callable[[Tensor], Tensor]


def _located(x: Tensor, entries: Sequence[Any]) -> tuple[Tensor, Any, int, Restore]:
    """`x[entries]` as `take(y, where, axis)`; also the way back, from a changed `y` to `x` with that part
    changed.

    The basic part of the index comes first (every axis stays: an integer beside arrays is an array to NumPy).
    Several arrays are then brought side by side and their axes joined to one: where NumPy puts their result,
    at the first of them if they stand next to each other and in front if a slice, None or Ellipsis stands
    between.
    """
    basic, arrays, x_axes = _assigned(x.shape, entries)
    whole = basic.count(slice(None)) == len(basic)
    y = x if whole else unary(part, x, (tuple(basic),))

    def into_x(changed: Tensor) -> Tensor:
        return changed if whole else apply(_replace, (x, changed), (tuple(basic),))

    axes = list(arrays)
    if len(axes) == 1:
        return y, arrays[axes[0]], axes[0], into_x
    others = [i for i in range(y.ndim) if i not in arrays]
    first = axes[0] if _adjacent(entries) else 0
    order = (*others[:first], *axes, *others[first:])
    apart = order != tuple(range(y.ndim))
    shape = tuple([y.shape[i] for i in order])
    stop = first + len(axes)
    together = transpose(y, order) if apart else y
    joined = reshape(together, (*shape[:first], math.prod(shape[first:stop]), *shape[stop:]))
    where = apply(flat_index, list(arrays.values()), (shape[first:stop], x_axes))

    def back(changed: Tensor) -> Tensor:
        changed = reshape(changed, shape)
        return into_x(transpose(changed, inverse(order)) if apart else changed)

    return joined, where, first, back


def _is_array(entry: Any) -> bool:
    return type(entry) not in _BASIC


def _adjacent(entries: Sequence[Any]) -> bool:
    places = [i for i, e in enumerate(entries) if _is_array(e) or isinstance(e, int)]
    return places[-1] - places[0] == len(places) - 1


def _assigned(
    shape: tuple[int, ...], entries: Sequence[Any]
) -> tuple[list[Any], dict[int, Any], tuple[int, ...]]:
    """The basic part of an index, its integer arrays by the axis they select from once that was applied, and
    the axes of x that they stand for."""
    ranks = [e.ndim if _is_array(e) and e.dtype.kind == "b" else int(e is not None) for e in entries]
    used = sum(r for r, e in zip(ranks, entries, strict=True) if e is not Ellipsis)
    if used > len(shape):
        raise IndexError(f"too many indices: {used} for the {len(shape)} axes of shape {shape}")
    rest = [slice(None)] * (len(shape) - used)
    basic: list[Any] = []
    arrays: dict[int, Any] = {}
    x_axes: list[int] = []
    axis = 0
    for rank, entry in zip(ranks, entries, strict=True):
        if entry is Ellipsis:
            basic, axis = basic + rest, axis + len(rest)
            continue
        if entry is None or isinstance(entry, slice):
            basic.append(entry)
        elif isinstance(entry, int) or entry.dtype.kind != "b":
            arrays[len(basic)] = np.asarray(entry) if isinstance(entry, int) else entry
            basic.append(slice(None))
            x_axes.append(axis)
        elif entry.shape != shape[axis : axis + rank]:
            raise IndexError(
                f"a boolean mask must have the shape {shape[axis : axis + rank]} of the axes that it selects "
                f"from (axis {axis} on), got {entry.shape}"
            )
        else:  # a mask of rank 0 selects from a new axis of length 1
            for i, places in enumerate(nonzero(entry if rank else entry.reshape(1))):
                arrays[len(basic)] = places
                basic.append(slice(None) if rank else None)
                x_axes.append(axis + i)
        axis += rank
    return basic, arrays, tuple(x_axes)


def _normal(x: Tensor, index: Any) -> tuple[Any, tuple[Tensor, Any, int, Restore] | None]:
    """An index as a basic one, or else its normal form."""
    if _is_basic(index):
        return index, None
    entries = tuple([_entry(i) for i in (index if isinstance(index, tuple) else (index,))])
    if _is_basic(entries):
        return entries, None
    if len(entries) == 1 and entries[0].dtype.kind == "b" and entries[0].shape == x.shape and x.ndim > 1:
        where = nonzero(entries[0].reshape(-1))[0]
        return None, (reshape(x, -1), where, 0, lambda changed: reshape(changed, x.shape))
    return None, _located(x, entries)


def get_item(x: TensorLike, index: Any) -> Tensor:
    """x[index] for every index that NumPy takes; tensors of integers or booleans may stand in it.

    A basic index (integers, slices, None, Ellipsis) gives a view. Gradients of elements chosen several times
    add up.

    Raises:
        IndexError: an index is out of bounds, there are too many, or a mask has another shape than what it
            selects from.
        TypeError: an index is not made of integers, booleans, slices, None and Ellipsis.

    >>> from dist_dp import ops
    >>> ops.get_item([1.0, 2.0, 3.0], [0, 2, 0])
    tensor([1., 3., 1.])
    """
    if type(index) in _BASIC or (type(index) is tuple and _BASIC.issuperset(map(type, index))):
        return unary(part, x, (index,))
    x = lifted(x)
    if isinstance(index, (np.ndarray, Tensor)) and index.ndim and x.ndim and index.dtype.kind in "iu":
        return apply(pick, (x, index), (0,))  # type: ignore[no-any-return]
    if mode.state < RECORD or (mode.state == RECORD and x.node is None):
        return Tensor._of(np.asarray(x.data[plain_index(index)]), None)
    basic, place = _normal(x, index)
    if place is None:
        return unary(part, x, (basic,))
    y, where, axis, _ = place
    return apply(pick, (y, where), (axis,))  # type: ignore[no-any-return]


def _fitting(x: Tensor, value: Any, shape: tuple[int, ...]) -> Any:
    """`value` as it can be written to a place of `shape` in `x`: of the dtype of x, of no more axes, not a
    wider shape.
    """
    if isinstance(value, (int, float)) and x.dtype.kind == "f":
        return value
    given: Any = value if isinstance(value, Tensor) else as_array(value, "value")
    if not np.can_cast(given.dtype, x.dtype, "same_kind"):
        raise TypeError(
            f"`value` of dtype {given.dtype} does not fit a tensor of {x.dtype}; convert one of them first"
        )
    if given.dtype != x.dtype:
        given = given.astype(x.dtype)
    extra = given.ndim - len(shape)
    if extra > 0 and given.shape[:extra] == (1,) * extra:
        given = given.reshape(given.shape[extra:])
    try:
        fits = np.broadcast_shapes(given.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"`value` must broadcast to the shape {shape} of x[index], got shape {given.shape}")
    return given


def _chosen_shape(y: Tensor, where: Any, axis: int) -> tuple[int, ...]:
    return (*y.shape[:axis], *where.shape, *y.shape[axis + 1 :])


def set_item(x: TensorLike, index: Any, value: TensorLike) -> Tensor:
    """A copy of x in which x[index] is `value`; what `x[index] = value` records.

    `value` broadcasts to x[index] and takes the dtype of x. It receives the gradient of the places that it
    was written to (where an index repeats, only the last write counts) and x that of all others.

    Raises:
        IndexError, TypeError: as `get_item`; TypeError also where the dtype of `value` does not fit.
        ValueError: `value` does not broadcast to x[index].

    >>> from dist_dp import ops
    >>> ops.set_item([1.0, 2.0, 3.0], slice(1, None), 0.0)
    tensor([1., 0., 0.])
    """
    x = lifted(x)
    basic, located = _normal(x, index)
    if located is None:
        value = _fitting(x, value, _part_shape(x, basic))
        return apply(_replace, (x, value), (basic,))  # type: ignore[no-any-return]
    y, where, axis, restore = located
    shape = _chosen_shape(y, where, axis)
    fitted = _fitting(x, value, shape)
    if not isinstance(fitted, (int, float)) and fitted.shape != shape:
        fitted = broadcast_to(fitted, shape)
    return restore(apply(put, (y, where, fitted), (axis,)))


def add_at(x: TensorLike, index: Any, value: TensorLike) -> Tensor:
    """A copy of x in which `value` was added to x[index], as often as an index occurs: np.add.at, JAX's
    x.at[index].add.

    Raises:
        IndexError, TypeError, ValueError: as `set_item`.

    >>> from dist_dp import ops
    >>> ops.add_at([1.0, 2.0, 3.0], [0, 0, 2], 10.0)
    tensor([21.,  2., 13.])
    """
    x = lifted(x)
    basic, located = _normal(x, index)
    if located is None:
        there = unary(part, x, (basic,))
        there = add(there, _fitting(x, value, there.shape))
        return apply(_replace, (x, there), (basic,))  # type: ignore[no-any-return]
    y, where, axis, restore = located
    shape = _chosen_shape(y, where, axis)
    value = broadcast_to(
        _fitting(x, np.asarray(value, x.dtype) if isinstance(value, (int, float)) else value, shape), shape
    )
    return restore(add(y, apply(scatter, (value, where), (axis, y.shape[axis]))))
