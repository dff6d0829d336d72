"""Rows of indexing, selection along an axis and sorting: `ops/index.py`, `along.py`, `order.py`.

That every index means what it means to NumPy is tested in tests/ops/test_index.py; here are the kinds of index.
"""

from typing import Any

import numpy as np
from laws.rows import Call, Draw, Row

from dist_dp import ops


def some_index(d: Draw, shape: tuple[int, ...]) -> Any:
    """An index of one of the kinds, for an array with at least one axis and no empty one."""
    n = shape[0]
    ints = d.integers(d.pick((2,), (), (2, 2)), -n, n)
    kinds = ["int", "slice", "none", "array", "ellipsis and array", "mask"]
    if len(shape) > 1:
        kinds += ["two arrays", "apart", "int and array", "mask of two"]
    match d.pick(*kinds):
        case "int":
            return d.integer(-n, n - 1)
        case "slice":
            return (slice(None, None, d.pick(1, 2, -1)),)
        case "none":
            return (None, Ellipsis, 0)
        case "array":
            return ints
        case "ellipsis and array":
            return (..., d.integers((3,), -shape[-1], shape[-1]))
        case "mask":
            return np.arange(n) % 2 == 0
        case "two arrays":
            return (ints, d.integers((2,), 0, shape[1]))
        case "apart":
            return (ints, None, d.integers((2,), 0, shape[1]), ...)
        case "int and array":
            return (0, d.integers((3,), 0, shape[1]))
        case _:
            return (np.arange(n * shape[1]) % 3 > 0).reshape(n, shape[1])


def get(d: Draw) -> Call:
    x = d.array(d.shape(1, empty=False))
    return Call(x, some_index(d, x.shape))


def write(d: Draw) -> Call:
    call = get(d)
    x, index = call.args
    shape = x[index].shape
    kept = shape[d.integer(0, len(shape)) :]
    return Call(x, index, d.array(tuple(1 if d.integer(0, 3) == 0 else n for n in kept)))


def written(x: Any, index: Any, value: Any) -> Any:
    out = x.copy()
    out[index] = value
    return out


def added(x: Any, index: Any, value: Any) -> Any:
    out = x.copy()
    np.add.at(out, index, value)
    return out


def taken(d: Draw) -> Call:
    x = d.array(d.shape(1, empty=False))
    axis = d.pick(None, d.axis(x.ndim))
    n = x.size if axis is None else x.shape[axis]
    return Call(x, d.integers(d.shape(0, 2), -n, n), axis)


def along(d: Draw) -> Call:
    x = d.array(d.shape(1, empty=False))
    axis = d.axis(x.ndim)
    at, n = axis % x.ndim, x.shape[axis]
    shape = tuple(d.integer(0, 3) if i == at else d.pick(s, 1) for i, s in enumerate(x.shape))
    return Call(x, d.integers(shape, -n, n), axis)


def shorter(d: Draw) -> tuple[Any, int, Any]:
    """An array, a dim, and an index that is no longer along the others: what torch's gather takes."""
    x = d.array(d.shape(1, empty=False))
    dim = d.axis(x.ndim)
    at, n = dim % x.ndim, x.shape[dim]
    shape = tuple(d.integer(0, 4) if i == at else d.integer(0, s) for i, s in enumerate(x.shape))
    return x, dim, d.integers(shape, 0, n)


def places(x: Any, dim: int, index: Any) -> Any:
    every = list(np.indices(index.shape))
    every[dim] = index
    return tuple(every)


def scatter(d: Draw) -> Call:
    x, dim, index = shorter(d)
    return Call(x, dim, index, d.array(tuple(n + d.integer(0, 1) for n in index.shape)))


def scattered(x: Any, dim: int, index: Any, src: Any) -> Any:
    return added(x, places(x, dim, index), src[tuple(slice(n) for n in index.shape)])


def segments(d: Draw) -> Call:
    values = d.array(d.shape(1, 2))
    return Call(values, d.integers(values.shape[:1], 0, 4), 4)


def distinct(d: Draw) -> Call:
    x = d.distinct(d.shape(1))
    return Call(x, d.axis(x.ndim), d.flag())


def in_order(x: Any, axis: int, descending: bool) -> Any:
    return np.flip(np.sort(x, axis), axis) if descending else np.sort(x, axis)


def top(x: Any, k: int, axis: int, largest: bool) -> Any:
    order = np.argsort(-x if largest else x, axis, kind="stable")
    order = np.take(order, np.arange(k), axis)
    return np.take_along_axis(x, order, axis), order


ROWS = [
    Row("get_item", ops.get_item, lambda x, index: x[index], get, selects=True),
    Row("set_item", ops.set_item, written, write, selects=True),
    Row("set_item of a number", lambda x, index: ops.set_item(x, index, 2), lambda x, index: written(x, index, 2), get,
        selects=True),
    Row("add_at", ops.add_at, added, write, selects=True),
    Row("take", ops.take, np.take, taken),
    Row("index_select", ops.index_select, lambda x, axis, index: np.take(x, index, axis),
        lambda d: Call(d.array(d.shape(2, 2, empty=False)), d.axis(2), d.integers((3,), 0, 1))),
    Row("embedding", ops.embedding, lambda w, i: w[i],
        lambda d: Call(w := d.array(d.shape(2, 2, empty=False)), d.integers(d.shape(0, 2), 0, len(w)))),
    Row("segment_sum", ops.segment_sum, lambda x, ids, n: added(np.zeros((n, *x.shape[1:])), ids, x), segments),
    Row("take_along_axis", ops.take_along_axis, np.take_along_axis, along),
    Row("gather", ops.gather, lambda x, dim, index: x[places(x, dim, index)], lambda d: Call(*shorter(d))),
    Row("scatter_add", ops.scatter_add, scattered, scatter),
    Row("sort", ops.sort, in_order, distinct),
    Row("sort flat", lambda x: ops.sort(x, None), lambda x: np.sort(x, None), lambda d: Call(d.distinct(d.shape()))),
    Row("argsort", ops.argsort, lambda x, axis, descending: np.argsort(-x if descending else x, axis), distinct,
        order=0),
    Row("topk", ops.topk, top,
        lambda d: Call(x := d.distinct(d.shape(1)), d.integer(0, min(x.shape)), d.axis(x.ndim), d.flag())),
    Row("searchsorted", ops.searchsorted, np.searchsorted,
        lambda d: Call(np.arange(3.0) - 1, d.array(d.shape()), d.pick("left", "right")), order=0),
    Row("nonzero", ops.nonzero, np.nonzero, lambda d: Call(d.booleans(d.shape(1))), order=0, batched=False),
    Row("unique", lambda x: ops.unique(x), np.unique, lambda d: Call(d.integers(d.shape(), 0, 4)), order=0,
        batched=False),
    Row("one_hot", lambda i: ops.one_hot(i, 4), lambda i: np.eye(4, dtype=np.float32)[i],
        lambda d: Call(d.integers(d.shape(), 0, 4)), order=0),
]  # fmt: skip
