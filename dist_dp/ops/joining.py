"""Joining and cutting arrays: concatenate and stack, which have rules of their own, and what is said in their terms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from ..tape import Array
from ..tensor import Tensor
from .axes import axis_index
from .core import Op, TensorLike, apply, unary, variadic
from .views import lifted, part, reshape

__all__ = [
    "array_split",
    "chunk",
    "column_stack",
    "concatenate",
    "dstack",
    "hstack",
    "split",
    "stack",
    "vstack",
]


# ----- joining -----


def _concatenated(*arguments: Any) -> Array:
    try:
        return np.concatenate(arguments[:-1], arguments[-1])
    except ValueError:
        shapes = ", ".join([str(shape) for shape in dict.fromkeys(x.shape for x in arguments[:-1])][:4])
        raise ValueError(
            "`xs` of concatenate must agree in the number of dimensions and in every length but that along axis "
            f"{arguments[-1]}, got shapes {shapes}"
        ) from None


def _stacked(*arguments: Any) -> Array:
    *xs, axis = arguments
    first = xs[0]
    before, shape = (slice(None),) * axis, first.shape
    out: Array = np.empty((*shape[:axis], len(xs), *shape[axis:]), first.dtype)
    for i, x in enumerate(xs):
        if x.shape != shape:
            raise ValueError(f"`xs` of stack must all have the same shape, got {shape} and {x.shape}")
        out[(*before, i)] = x
    return out


def _pieces(g: Any, need: Sequence[bool], xs_shape: Sequence[tuple[int, ...]], axis: int) -> list[Any]:
    before, start, out = (slice(None),) * axis, 0, []
    for wanted, shape in zip(need, xs_shape, strict=True):
        stop = start + shape[axis]
        out.append(g[(*before, slice(start, stop))] if wanted else None)
        start = stop
    return out


def _layers(g: Any, need: Sequence[bool], axis: int, xs_shape: Sequence[tuple[int, ...]]) -> list[Any]:
    before = (slice(None),) * axis
    return [g[(*before, i)] if wanted else None for i, wanted in enumerate(need)]


def _tangents(ts: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    dtype = next(t.dtype for t in ts if t is not None)
    return [np.zeros(shape, dtype) if t is None else t for t, shape in zip(ts, shapes, strict=True)]


def _join_batch(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    xs = [x if has else np.broadcast_to(x, (size, *x.shape)) for x, has in zip(inputs, batched, strict=True)]
    return apply(op, xs, (params[0] + 1,))


_concatenate = Op(
    "concatenate",
    _concatenated,
    "*xs",
    params="axis",
    joint=_pieces,
    jvp=lambda ts, xs_shape, axis: np.concatenate(_tangents(ts, xs_shape), axis),
    batch=_join_batch,
)
_stack = Op(
    "stack",
    _stacked,
    "*xs",
    params="axis",
    joint=_layers,
    jvp=lambda ts, axis, xs_shape: np.stack(_tangents(ts, xs_shape), axis),
    batch=_join_batch,
)


def _several(xs: Any, who: str) -> list[Tensor]:
    try:
        parts = list(xs)
    except TypeError:
        raise TypeError(
            f"`xs` of {who} must be a sequence of tensors or arrays, got {type(xs).__name__}"
        ) from None
    if not parts:
        raise ValueError(f"`xs` of {who} must hold at least one tensor, got an empty sequence")
    for x in parts:
        if not isinstance(x, Tensor):
            return [lifted(x, f"xs[{i}] of {who}") for i, x in enumerate(parts)]
    return parts


def concatenate(xs: Sequence[TensorLike] | Tensor, axis: int | None = 0) -> Tensor:
    """The arrays one after another along `axis`; all flattened first if it is None.

    Args:
        xs: arrays of one rank that agree in every other axis; they are brought to one dtype.

    Raises:
        ValueError: no arrays, ranks or other axes that differ, or an axis out of range.

    >>> from dist_dp import ops
    >>> ops.concatenate([[1.0, 2.0], [3.0]])
    tensor([1., 2., 3.])
    """
    parts = _several(xs, "concatenate")
    if axis is None:
        parts, axis = [reshape(x, -1) for x in parts], 0
    return variadic(_concatenate, parts, (axis_index(axis, parts[0].ndim),))


def stack(xs: Sequence[TensorLike] | Tensor, axis: int = 0) -> Tensor:
    """The arrays side by side along a new axis, at `axis` of the result.

    Raises:
        ValueError: no arrays, shapes that differ, or an axis out of range.

    >>> from dist_dp import ops
    >>> ops.stack([[1.0, 2.0], [3.0, 4.0]], axis=1)
    tensor([[1., 3.],
            [2., 4.]])
    """
    parts = _several(xs, "stack")
    return variadic(_stack, parts, (axis_index(axis, parts[0].ndim + 1),))


def at_least_1d(x: Tensor) -> Tensor:
    return x if x.ndim else reshape(x, 1)


def at_least_2d(x: Tensor) -> Tensor:
    return x if x.ndim >= 2 else reshape(x, (1, x.size))


def at_least_3d(x: Tensor) -> Tensor:
    return x if x.ndim >= 3 else reshape(x, (*x.shape, 1) if x.ndim == 2 else (1, x.size, 1))


def hstack(xs: Sequence[TensorLike] | Tensor) -> Tensor:
    """Concatenate along the second axis (of vectors and scalars: along the first).

    >>> from dist_dp import ops
    >>> ops.hstack([1.0, [2.0, 3.0]])
    tensor([1., 2., 3.])
    """
    parts = [at_least_1d(x) for x in _several(xs, "hstack")]
    return concatenate(parts, 0 if parts[0].ndim == 1 else 1)


def vstack(xs: Sequence[TensorLike] | Tensor) -> Tensor:
    """Concatenate along the first axis, vectors as rows.

    >>> from dist_dp import ops
    >>> ops.vstack([[1.0, 2.0], [3.0, 4.0]]).shape
    (2, 2)
    """
    return concatenate([at_least_2d(x) for x in _several(xs, "vstack")], 0)


def dstack(xs: Sequence[TensorLike] | Tensor) -> Tensor:
    """Concatenate along the third axis, after `atleast_3d`.

    >>> from dist_dp import ops
    >>> ops.dstack([[1.0, 2.0], [3.0, 4.0]]).shape
    (1, 2, 2)
    """
    return concatenate([at_least_3d(x) for x in _several(xs, "dstack")], 2)


def column_stack(xs: Sequence[TensorLike] | Tensor) -> Tensor:
    """Concatenate along the second axis, vectors as columns.

    >>> from dist_dp import ops
    >>> ops.column_stack([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 3.],
            [2., 4.]])
    """
    return concatenate([reshape(x, (-1, 1)) if x.ndim < 2 else x for x in _several(xs, "column_stack")], 1)


# ----- cutting -----


def cut(x: Tensor, stops: Sequence[int], axis: int) -> list[Tensor]:
    before = (slice(None),) * axis
    return [
        unary(part, x, ((*before, slice(start, stop)),))
        for start, stop in zip([0, *stops], [*stops, None], strict=True)
    ]


def array_split(x: TensorLike, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Views of consecutive parts along `axis`: so many of nearly equal length, or cut before each of the given indices.

    Raises:
        ValueError: a number of sections below 1, or an axis out of range.

    >>> from dist_dp import ops
    >>> ops.array_split([1.0, 2.0, 3.0], 2)
    [tensor([1., 2.]), tensor([3.])]
    """
    x = lifted(x)
    axis = axis_index(axis, x.ndim)
    if not isinstance(indices_or_sections, (int, np.integer)):
        return cut(x, [int(i) for i in indices_or_sections], axis)
    if indices_or_sections < 1:
        raise ValueError(f"the number of sections must be at least 1, got {indices_or_sections}")
    short, longer = divmod(x.shape[axis], int(indices_or_sections))
    lengths = [short + (i < longer) for i in range(int(indices_or_sections))]
    return cut(x, list(accumulate(lengths))[:-1], axis)


def split(x: TensorLike, indices_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """`array_split` that insists on sections of equal length.

    Raises:
        ValueError: the length of the axis is not a multiple of the number of sections.

    >>> from dist_dp import ops
    >>> ops.split([1.0, 2.0, 3.0], [1])
    [tensor([1.]), tensor([2., 3.])]
    """
    x = lifted(x)
    n = x.shape[axis_index(axis, x.ndim)]
    if (
        isinstance(indices_or_sections, (int, np.integer))
        and indices_or_sections > 0
        and n % indices_or_sections
    ):
        raise ValueError(
            f"`indices_or_sections` must divide the length {n} of axis {axis}, got {indices_or_sections}; "
            "array_split makes sections of nearly equal length"
        )
    return array_split(x, indices_or_sections, axis)


def chunk(x: TensorLike, chunks: int, axis: int = 0) -> list[Tensor]:
    """torch's chunk: views of ceil(n / chunks) elements along `axis`, the last one shorter; there may be fewer of them.

    Raises:
        ValueError: `chunks` is below 1, or the axis out of range.

    >>> from dist_dp import ops
    >>> [len(c) for c in ops.chunk([1.0, 2.0, 3.0, 4.0, 5.0], 4)]
    [2, 2, 1]
    """
    x = lifted(x)
    axis = axis_index(axis, x.ndim)
    if chunks < 1:
        raise ValueError(f"`chunks` must be at least 1, got {chunks}")
    n = x.shape[axis]
    length = max(-(-n // chunks), 1)
    return cut(x, range(length, n, length), axis)
