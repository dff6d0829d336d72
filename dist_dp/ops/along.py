"""Choosing along one axis by an integer array: take, its transpose scatter, put, and what is built from
these.

All three are linear in what they move, and the rules of one are the others. Repeated indices add their
gradients in the order of the index, whatever way is the fastest for the shape at hand, so the sums are the
same bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..compact import Part
from ..tape import Array
from ..tensor import Tensor
from .axes import axis_index
from .core import Op, TensorLike, aligned, apply, same, unary
from .elementwise import add, masked
from .views import broadcast_to, lifted, moveaxis, part, reshape

__all__ = ["embedding", "gather", "index_select", "scatter_add", "segment_sum", "take", "take_along_axis"]

# ----- one integer array along one axis: take, scatter, put -----

# From this many elements on, adding a row at once beats looking up each element of it (measured).
_WIDE = 384
# Adding all first occurrences of indices at once, then all second ones, pays if each of these rounds has so many
# elements on average (measured).
_ROUND = 2048
# Rows are looked up in blocks of so many elements, whose positions stay in the cache.
_BLOCK = 1 << 14


def add_rows(out: Array, index: Array, rows: Array) -> None:
    """out[index[i]] += rows[i] in this order, in place: `out` (n, d) contiguous, `index` (k,), `rows` (k, d).

    The compiled kernel does just that, and refuses an index out of bounds. In NumPy, where no index occurs much more
    often than others, all first occurrences are added at once, then all second ones. For the rest, np.add.at is fast
    for one-dimensional arrays alone (so that they need no kernel); on rows it is 5 times slower than on the positions
    of their elements.
    """
    width = out.shape[1]
    if len(index) == 1:
        out[index[0]] += rows[0]
    elif width > 1 and rows.size and kernels.suits(out, rows):
        kernels.compiled.add_rows(out, np.ascontiguousarray(index, np.int64), rows)
    elif width > 1 and _added_in_rounds(out, index, rows):
        pass
    elif width >= _WIDE:
        for i, row in zip(index.tolist(), rows, strict=True):
            out[i] += row
    elif width == 1:
        np.add.at(out[:, 0], index, rows[:, 0])
    elif width:
        flat, columns, step = out.reshape(-1), np.arange(width), max(_BLOCK // width, 1)
        for start in range(0, len(index), step):
            at = index[start : start + step, None] * width + columns
            np.add.at(flat, at.reshape(-1), rows[start : start + step].reshape(-1))


def _added_in_rounds(out: Array, index: Array, rows: Array) -> bool:
    """Whether `add_rows` is done: in as many additions as the commonest index has occurrences, if these are large."""
    if (index < 0).any():  # one row under two names
        index = index % len(out)
    order = index.argsort(kind="stable")
    chosen = index[order]
    firsts = np.flatnonzero(np.concatenate(([True], chosen[1:] != chosen[:-1])))
    counts = np.diff(firsts, append=len(chosen))
    rounds = int(counts.max())
    if rounds > 1 and rounds * _ROUND > rows.size:
        return False
    by_count = np.argsort(-counts, kind="stable")  # so that each round adds to the beginning of the sums
    firsts, counts = firsts[by_count], counts[by_count]
    places = chosen[firsts]
    sums = out[places]
    for r, n in enumerate(np.searchsorted(-counts, -np.arange(rounds)).tolist()):
        sums[:n] += rows[order[firsts[:n] + r]]
    out[places] = sums
    return True


def _add_along(out: Array, x: Array, index: Array, axis: int) -> None:
    """out[..., index, ...] += x with `index` along `axis`, in place; `out` is contiguous."""
    if index.size == 1:
        out[(slice(None),) * axis + (index.item(),)] += x.reshape(out.shape[:axis] + out.shape[axis + 1 :])
    elif x.size:
        index, lead, length = index.reshape(-1), math.prod(out.shape[:axis]), out.shape[axis]
        if lead > 1:
            index = np.where(index < 0, index + length, index)
            index = (np.arange(lead)[:, None] * length + index).reshape(-1)
        add_rows(out.reshape(lead * length, -1), index, x.reshape(len(index), -1))


def _scattered(x: Array, index: Array, axis: int, length: int) -> Array:
    out = np.zeros((*x.shape[:axis], length, *x.shape[axis + index.ndim :]), x.dtype)
    _add_along(out, x, index, axis)
    return out


class Chosen(Part):
    """`values` at the integer array `index` along `axis`, zero elsewhere: the gradient of x for take(x, index)."""

    __slots__ = ("axis",)

    def __init__(self, shape: tuple[int, ...], index: Array, values: Array, axis: int) -> None:
        super().__init__(shape, index, values)
        self.axis = axis

    def dense(self) -> Array:
        return _scattered(self.values, self.index, self.axis, self.shape[self.axis])

    def add_to(self, total: Array) -> None:
        if total.flags.c_contiguous:
            _add_along(total, self.values, self.index, self.axis)
        else:
            total += self.dense()


def _picked_gradient(g: Any, index: Array, axis: int, x_shape: tuple[int, ...]) -> Any:
    if isinstance(g, Tensor):
        return scatter.run(g, index, params=(axis, x_shape[axis]))
    return Chosen(x_shape, index, g, axis)


def _put_forward(x: Array, index: Array, value: Any, axis: int) -> Array:
    out = x.copy()
    out[(slice(None),) * axis + (index,)] = value
    return out


def _lasting(g: Any, index: Array, axis: int, length: int) -> Any:
    """`g` (of the shape of the written values), 0 where a later write to the same place undid this one."""
    order = np.arange(index.size).reshape(index.shape)
    owner = np.empty(length, np.intp)
    owner[index] = order
    lasts = owner[index] == order
    return (
        g if lasts.all() else masked(g, lasts.reshape((*index.shape, *(1,) * (g.ndim - axis - index.ndim))))
    )


def _with_examples(x: Any, size: int, has: bool) -> Any:
    """`x` with `size` examples on axis 0; a number stays one."""
    return x if has or isinstance(x, (int, float)) else np.broadcast_to(x, (size, *x.shape))


def _joined(x: Any, axis: int) -> Any:
    """The examples of `x` moved from axis 0 to `axis`."""
    return x if isinstance(x, (int, float)) else np.moveaxis(x, 0, axis)


def _along_batch(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    """The examples join the indexed axis: example b finds its places from b times the axis's length on."""
    axis, *rest = params
    x, index, *values = inputs
    if op in (pick, rows_at) and not batched[0]:
        return np.moveaxis(apply(op, (x, index), (axis,)), axis, 0)
    x = _with_examples(x, size, batched[0])
    values = [_with_examples(v, size, has) for v, has in zip(values, batched[2:], strict=True)]
    if not batched[1]:
        return apply(op, (x, index, *values), (axis + 1, *rest))
    x, *values = (_joined(y, axis) for y in (x, *values))
    length = rest[0] if op is scatter else x.shape[axis + 1]
    if op is rows_at:  # what counts from the end of one table would lie in the table before
        index = rows_of_table.run(index, params=(length,))
    examples = np.arange(size).reshape((size, *(1,) * (index.ndim - 1)))
    index = flat_index.run(examples, index, params=((size, length), (0, axis)))
    if op is scatter:
        rest = [size * length]
    else:
        x = x.reshape((*x.shape[:axis], size * length, *x.shape[axis + 2 :]))
    out = apply(op, (x, index, *values), (axis, *rest))
    if op not in (pick, rows_at):
        out = out.reshape((*out.shape[:axis], size, length, *out.shape[axis + 1 :]))
    return np.moveaxis(out, axis, 0)


def _taken(x: Array, index: Array, axis: int) -> Array:
    return x.take(index, axis)


def _rows_of_table(index: Array, rows: int) -> Array:
    """`index`, where all of it is from 0 to rows - 1."""
    if index.size:
        # A negative number is a large one without its sign, so that one pass tells both. argmax is faster than max.
        unsigned = index.view(index.dtype.str.replace("i", "u"))
        if not 0 <= index.item(unsigned.argmax()) < rows:
            wrong = index[(index < 0) | (index >= rows)][0]
            raise IndexError(
                f"embedding: `indices` must be rows of the table, which has {rows}, counted from 0; got {wrong}"
            )
    return index


rows_of_table: Op = Op("rows_of_table", _rows_of_table, "index", params="rows", batch=same)
pick: Op = Op(
    "take",
    _taken,
    "x index",
    params="axis",
    vjp=(_picked_gradient, None),
    jvp=(lambda t, index, axis, x_shape: pick.run(t, index, params=(axis,)), None),
    batch=_along_batch,
    same_dtype=(0,),
)
# `pick` for rows of a table, which are not counted from the end.
rows_at: Op = Op(
    "embedding",
    lambda x, index, axis: x.take(_rows_of_table(index, x.shape[axis]), axis),
    "x index",
    params="axis",
    vjp=(_picked_gradient, None),
    jvp=pick.jvp,
    batch=_along_batch,
    same_dtype=(0,),
)
scatter: Op = Op(
    "scatter",
    _scattered,
    "x index",
    params="axis length",
    vjp=(lambda g, index, axis, length: pick.run(g, index, params=(axis,)), None),
    jvp=(lambda t, index, axis, length: scatter.run(t, index, params=(axis, length)), None),
    batch=_along_batch,
    same_dtype=(0,),
)
put: Op = Op(
    "put",
    _put_forward,
    "x index value",
    params="axis",
    vjp=(
        lambda g, index, axis, x_shape: put.run(g, index, 0, params=(axis,)),
        None,
        lambda g, index, axis, x_shape: _lasting(
            pick.run(g, index, params=(axis,)), index, axis, x_shape[axis]
        ),
    ),
    jvp=(
        lambda t, index, axis, x_shape: put.run(t, index, 0, params=(axis,)),
        None,
        lambda t, index, axis, x_shape: put.run(np.zeros(x_shape, t.dtype), index, t, params=(axis,)),
    ),
    batch=_along_batch,
    same_dtype=(0, 2),
)


def _flattened(*arguments: Any) -> Array:
    *indices, lengths, axes = arguments
    try:
        return np.asarray(np.ravel_multi_index(tuple(indices), lengths))  # refuses whatever is not plain
    except (TypeError, ValueError):
        pass
    out: Any = 0
    for index, n, axis in zip(indices, lengths, axes, strict=True):
        wrong = index[(index < -n) | (index >= n)]
        if wrong.size:
            raise IndexError(
                f"index {wrong[0]} is out of bounds for axis {axis} with size {n}: expected {-n} to {n - 1}"
            )
        try:
            out = out * n + np.where(index < 0, index + n, index)
        except ValueError:
            shapes = ", ".join(str(i.shape) for i in indices)
            raise IndexError(f"the integer arrays of an index must broadcast, got shapes {shapes}") from None
    return np.asarray(out)


# Indices along several axes as one index along their product, checked and made positive.
flat_index: Op = Op("flat_index", _flattened, "*indices", params="lengths axes", batch=aligned)


# ----- functions -----


def integers(index: Any, what: str) -> Any:
    """`index` as an array or Tensor of integers."""
    entry: Any = index if isinstance(index, Tensor) else np.asarray(index)
    entry = entry if entry.size or isinstance(index, (Tensor, np.ndarray)) else entry.astype(np.intp)
    if entry.dtype.kind not in "iu":
        raise TypeError(f"`{what}` must be integers, got dtype {entry.dtype}; convert with x.astype('int64')")
    return entry


def take(x: TensorLike, index: Any, axis: int | None = None) -> Tensor:
    """The elements (or slices along `axis`) at an integer `index` of any shape; of the flattened x without an
    axis.

    Shape: x.shape[:axis] + index.shape + x.shape[axis+1:].

    Raises:
        IndexError: an index is out of bounds.
        TypeError: `index` is not of integers.

    >>> from dist_dp import ops
    >>> ops.take([[1.0, 2.0], [3.0, 4.0]], [1, 0, 1], axis=1)
    tensor([[2., 1., 2.],
            [4., 3., 4.]])
    """
    x = reshape(x, -1) if axis is None else lifted(x)
    at = axis_index(axis or 0, x.ndim)
    return apply(pick, (x, integers(index, "index")), (at,))  # type: ignore[no-any-return]


def index_select(x: TensorLike, axis: int, index: Any) -> Tensor:
    """`take` as torch spells it, with a one-dimensional `index`.

    Raises:
        ValueError: `index` is not one-dimensional.

    >>> from dist_dp import ops
    >>> ops.index_select([[1.0, 2.0], [3.0, 4.0]], 0, [1, 1])
    tensor([[3., 4.],
            [3., 4.]])
    """
    if np.ndim(index) != 1:
        raise ValueError(
            f"`index` of index_select must be one-dimensional, got shape {np.shape(index)}; see take"
        )
    return take(x, index, axis)


def embedding(weight: TensorLike, indices: Any) -> Tensor:
    """Rows of a table: out[...] = weight[indices[...]].

    Args:
        weight: (rows, ...), floating.
        indices: integers of any shape; rows used several times add their gradients, in the order of the
            indices.

    Raises:
        IndexError: an index is not a row of the table; negative ones are none.
        TypeError: `indices` are not integers.

    >>> from dist_dp import ops
    >>> ops.embedding([[1.0, 2.0], [3.0, 4.0]], [[1], [0]]).shape
    (2, 1, 2)
    """
    return apply(rows_at, (lifted(weight), integers(indices, "indices")), (0,))  # type: ignore[no-any-return]


def segment_sum(values: TensorLike, segment_ids: Any, num_segments: int) -> Tensor:
    """Sums of the rows of `values` that share a segment: out[s] = sum of values[i] over segment_ids[i] = s.

    Args:
        values: (k, ...).
        segment_ids: (k,) integers in any order; negative ones count from the end.
        num_segments: the length of the result; segments without a row are 0.

    Raises:
        IndexError: a segment is not in range.
        TypeError: `segment_ids` are not integers.
        ValueError: the lengths differ.

    >>> from dist_dp import ops
    >>> ops.segment_sum([1.0, 2.0, 3.0], [0, 2, 0], 3)
    tensor([4., 0., 2.])
    """
    values, ids = lifted(values), integers(segment_ids, "segment_ids")
    if ids.ndim != 1 or values.ndim < 1 or ids.shape[0] != values.shape[0]:
        raise ValueError(
            f"`segment_ids` must be one number for each row of `values` {values.shape}, got {ids.shape}"
        )
    ids = apply(flat_index, (ids,), ((num_segments,), (0,)))
    return apply(scatter, (values, ids), (0, num_segments))  # type: ignore[no-any-return]


def _flat_places(shape: tuple[int, ...], index: Any, axis: int) -> tuple[Any, tuple[int, ...], int]:
    """The places that `index` means along `axis` of an array of `shape`, in that array flattened with `axis`
    last.

    An index shorter than the array along other axes means their first part, as in torch.
    """
    lead = (*shape[:axis], *shape[axis + 1 :])
    rows = np.arange(math.prod(lead)).reshape(lead)
    last = moveaxis(index, axis, -1)
    chosen = rows[tuple([slice(n) for n in last.shape[:-1]])][..., None]
    where = apply(flat_index, (chosen, last), ((rows.size, shape[axis]), (0, axis)))
    return where, (*lead, shape[axis]), axis


def _from_flat(x: Tensor, where: Any, axis: int) -> Tensor:
    return moveaxis(apply(pick, (reshape(moveaxis(x, axis, -1), -1), where), (0,)), -1, axis)


def take_along_axis(x: TensorLike, index: Any, axis: int | None = -1) -> Tensor:
    """out[.., i, ..] = x[.., index[.., i, ..], ..] along `axis`; x and `index` broadcast along the others.

    Raises:
        IndexError: an index is out of bounds.
        TypeError: `index` is not of integers.
        ValueError: x and `index` have different ranks, or do not broadcast.

    >>> from dist_dp import ops
    >>> ops.take_along_axis([[3.0, 1.0], [2.0, 5.0]], [[1], [0]], axis=1)
    tensor([[1.],
            [2.]])
    """
    x, index = lifted(x), lifted(integers(index, "index"))
    if axis is None:
        x, axis = reshape(x, -1), 0
    if x.ndim != index.ndim:
        raise ValueError(f"`index` must have as many axes as x, of shape {x.shape}; got shape {index.shape}")
    axis = axis_index(axis, x.ndim)
    ones = [(*s[:axis], 1, *s[axis + 1 :]) for s in (x.shape, index.shape)]
    common = np.broadcast_shapes(*ones)
    x, index = (
        broadcast_to(t, (*common[:axis], t.shape[axis], *common[axis + 1 :])) if one != common else t
        for t, one in zip((x, index), ones, strict=True)
    )
    return _from_flat(x, _flat_places(x.shape, index, axis)[0], axis)


def _checked_dims(x: Tensor, index: Tensor, dim: int, who: str) -> int:
    dim = axis_index(dim, x.ndim, "dim")
    if index.ndim != x.ndim or any(i != dim and n > x.shape[i] for i, n in enumerate(index.shape)):
        raise ValueError(
            f"`index` of {who} must have the rank of x, of shape {x.shape}, and be no longer along axes "
            f"other than dim {dim}; got shape {index.shape}"
        )
    return dim


def gather(x: TensorLike, dim: int, index: Any) -> Tensor:
    """torch's gather: out[.., i, ..] = x[.., index[.., i, ..], ..] along `dim`, of the shape of `index`.

    Raises:
        IndexError: an index is out of bounds.
        TypeError: `index` is not of integers.
        ValueError: `index` has another rank than x, or is longer along another axis.

    >>> from dist_dp import ops
    >>> ops.gather([[3.0, 1.0], [2.0, 5.0]], 1, [[1, 1]])
    tensor([[1., 1.]])
    """
    x, index = lifted(x), lifted(integers(index, "index"))
    dim = _checked_dims(x, index, dim, "gather")
    return _from_flat(x, _flat_places(x.shape, index, dim)[0], dim)


def scatter_add(x: TensorLike, dim: int, index: Any, src: TensorLike) -> Tensor:
    """torch's scatter_add: a copy of x with src[.., i, ..] added at index[.., i, ..] along `dim`.

    Raises:
        IndexError, TypeError, ValueError: as `gather`; ValueError also where `src` is smaller than `index`.

    >>> from dist_dp import ops
    >>> ops.scatter_add([1.0, 1.0], 0, [0, 0, 1], [1.0, 2.0, 3.0])
    tensor([4., 4.])
    """
    x, index, src = lifted(x), lifted(integers(index, "index")), lifted(src)
    dim = _checked_dims(x, index, dim, "scatter_add")
    if src.ndim != index.ndim or any(a < b for a, b in zip(src.shape, index.shape, strict=True)):
        raise ValueError(f"`src` must have every element of `index` {index.shape}, got shape {src.shape}")
    where, shape, _ = _flat_places(x.shape, index, dim)
    src = moveaxis(unary(part, src, (tuple([slice(n) for n in index.shape]),)), dim, -1)
    added = apply(scatter, (src, where), (0, math.prod(shape)))
    return add(x, moveaxis(reshape(added, shape), -1, dim))
