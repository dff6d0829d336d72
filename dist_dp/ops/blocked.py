"""Large arrays in pieces that fit the cache: what every fused operation computes with.

A NumPy expression over a large array writes each intermediate result to memory and reads it back, and touches
fresh pages for every temporary. The same expression over smaller pieces, written into outputs that exist
already, leaves the intermediate results in the cache. `in_blocks` cuts the arrays; the caller's kernel is plain
in-place NumPy on one piece.

A piece is a whole number of rows (of axis 0), and how many depends on the shape alone. So an elementwise kernel
gives the same bits for every block size, and one that sums over rows gives the same bits in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..tape import Array

# Elements of the first operand in one piece: 512 KiB of float32. Measured with a second-level cache of 1 MiB: softmax,
# norms and cross-entropy take 1.05 to 1.2 times as long in pieces half as large, because the calls show.
BLOCK = 1 << 17


def in_blocks(kernel: Callable[..., None], arrays: Sequence[Array], scratch: int = 0) -> None:
    """Run `kernel(*pieces, *scratch pieces)` over `arrays` cut along axis 0.

    Args:
        kernel: writes into the pieces of its outputs (which are among `arrays`); it is called once if they are small.
        arrays: inputs and outputs, equally long along axis 0; the first decides the number of rows in a piece.
        scratch: how many uninitialised arrays, like a piece of the first, the kernel needs beside them.

    >>> x, y = np.arange(6.0).reshape(3, 2), np.empty((3, 2))
    >>> in_blocks(lambda x, y: np.multiply(x, x, y), [x, y])
    >>> y
    array([[ 0.,  1.],
           [ 4.,  9.],
           [16., 25.]])
    """
    first = arrays[0]
    rows = len(first)
    if first.size <= BLOCK:
        kernel(*arrays, *[np.empty_like(first) for _ in range(scratch)])
        return
    step = max(1, BLOCK * rows // first.size)
    spare = [np.empty((step, *first.shape[1:]), first.dtype) for _ in range(scratch)]
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        kernel(*[a[start:stop] for a in arrays], *[s[: stop - start] for s in spare])


def elementwise(kernel: Callable[..., None], *inputs: Array, outputs: int = 1, scratch: int = 0) -> Any:
    """New arrays like the first input, filled by `kernel(*inputs, *outputs, *scratch)` on flat pieces.

    Args:
        kernel: elementwise, in place.
        inputs: arrays of one shape.
        outputs: how many arrays to make; one is returned bare, several as a tuple.
        scratch: how many uninitialised pieces the kernel needs beside them.

    >>> elementwise(lambda x, out: np.sqrt(x, out), np.array([[1.0, 4.0]]))
    array([[1., 2.]])
    """
    first = inputs[0]
    outs = [np.empty(first.shape, first.dtype) for _ in range(outputs)]
    if first.size <= BLOCK:
        kernel(*inputs, *outs, *[np.empty(first.shape, first.dtype) for _ in range(scratch)])
    else:
        in_blocks(kernel, [a.reshape(-1) for a in (*inputs, *outs)], scratch)
    return outs[0] if outputs == 1 else tuple(outs)


def as_rows(x: Array, axis: int = -1) -> Array:
    """`x` as a contiguous matrix whose rows run along `axis`: the same memory where it can be, else a copy."""
    if axis not in (-1, x.ndim - 1):
        x = np.moveaxis(x, axis, -1)
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


def from_rows(rows: Array, shape: tuple[int, ...], axis: int = -1) -> Array:
    """The inverse of `as_rows` for an array of `shape`; a view of `rows`."""
    if axis in (-1, len(shape) - 1):
        return rows.reshape(shape)
    lengths = list(shape)
    lengths.append(lengths.pop(axis))
    return np.moveaxis(rows.reshape(lengths), -1, axis)


def row_sums(x: Array) -> Array:
    """Sums of the rows of a matrix: by BLAS where it is large, several times faster on short rows than NumPy."""
    sums: Array = np.add.reduce(x, -1) if x.size <= 2048 else x @ np.ones(x.shape[1], x.dtype)
    return sums


def column_sums(x: Array) -> Array:
    """Sums of the columns of a matrix, by BLAS where it is large."""
    sums: Array = np.add.reduce(x, 0) if x.size <= 2048 else np.ones(len(x), x.dtype) @ x
    return sums
