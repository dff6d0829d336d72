"""Kernels of convolution: windows of images as columns of a matrix, so that BLAS does the arithmetic.

Every window of an image becomes a column, and a convolution the product of the weights with that matrix
("im2col": Chellapilla, Puri and Simard, "High performance convolutional neural networks for document
processing", 2006). Two things make it fast here:

- The columns are made in two steps, first the shifts along a row, then the shifts along a column. The second
  step, which writes nearly all the memory, then copies runs of whole images instead of runs of single rows.
- A block of images (or of rows of one large image) is taken at a time, such that its columns stay in the cache
  until they are multiplied. They are made anew for the gradient, which costs less than to keep them would.

Where the compiled kernels gain, they take over: they read the images in place (`direct.py`).

Inside, arrays are (channels, images, rows, columns): all images of a block share one GEMM, also where an image
is only a few pixels. The size of a block follows from the shapes alone, so equal inputs give equal bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .. import kernels
from ..tape import Array
from . import direct
from .geometry import Geometry, Pair

# Elements in a block of columns: in float32 half of the 1 MiB of second-level cache of a current server's core.
_BLOCK = 1 << 17
# The fewest columns of a block, however long they are: a GEMM of fewer runs below half its speed.
_FEWEST = 256


def convolve(x: Array, w: Array, bias: Array | None, geometry: Geometry) -> Array:
    """out[n, o] = bias[o] + sum over c, i, j of w[o, c, i, j] x[n, c, rows + i, columns + j]."""
    kernel = w.shape[2:]
    windows = geometry.windows(x.shape[2:], kernel)
    if kernels.suits(x, w, *(() if bias is None else (bias,))) and direct.gains(w.shape, windows, geometry):
        return direct.convolve(x, w, bias, geometry)
    out = np.empty((x.shape[0], w.shape[0], *windows), x.dtype)
    by_channel = out.transpose(1, 0, 2, 3)
    weights = _matrix(w, geometry.groups)
    for images, rows, matrix in _columns(x, kernel, windows, geometry):
        target = by_channel[:, images, rows]
        product = np.matmul(weights, matrix).reshape(target.shape)
        if bias is None:
            np.copyto(target, product)
        else:  # the bias costs nothing: the block is in the cache and has to be copied anyway
            np.add(product, bias[:, None, None, None], out=target)
    return out


def weight_gradient(x: Array, g: Array, kernel: Pair, geometry: Geometry) -> Array:
    """The gradient of `convolve` for w, given that of its result: a correlation of x with g."""
    groups, filters = geometry.groups, g.shape[1]
    channels = x.shape[1] // groups
    if kernels.suits(x, g) and direct.gains_for_weights((filters, channels, *kernel), g.shape[2:], geometry):
        return direct.weight_gradient(x, g, kernel, geometry)
    by_channel = g.transpose(1, 0, 2, 3)
    total = np.zeros((groups, channels * prod(kernel), filters // groups), x.dtype)
    for images, rows, matrix in _columns(x, kernel, g.shape[2:], geometry):
        block = by_channel[:, images, rows].reshape(groups, filters // groups, matrix.shape[2])
        total += np.matmul(matrix, block.swapaxes(1, 2))
    total = total.reshape(groups, channels, kernel[1], kernel[0], filters // groups)
    return np.ascontiguousarray(total.transpose(0, 4, 1, 3, 2)).reshape(filters, channels, *kernel)


def input_gradient(g: Array, w: Array, size: Pair, geometry: Geometry) -> Array:
    """The gradient of `convolve` for x, images of `size`.

    Half gathered, half scattered: for every row of the image the rows of g that it went into are set side by
    side, one GEMM turns them into all shifts along the row, and those are added up. To scatter all kh * kw
    shifts would touch memory kw times as often. With a stride, the rows of the image fall into classes that meet
    different rows of the kernel, each with a GEMM of its own.
    """
    (count, filters), (oh, ow), (kh, kw) = g.shape[:2], g.shape[2:], w.shape[2:]
    groups, (sh, sw), (dh, dw) = geometry.groups, geometry.stride, geometry.dilation
    (top, _), (left, right) = geometry.padding
    height, width = size
    channels = w.shape[1] * groups
    if kernels.suits(g, w) and direct.gains((channels, filters // groups, kh, kw), size, geometry):
        return direct.input_gradient(g, w, size, geometry)
    out = np.empty((count, channels, *size), g.dtype)
    by_channel, g = out.transpose(1, 0, 2, 3), g.transpose(1, 0, 2, 3)
    plan = _Plan.of(count, max(channels * kw, filters * kh), (-(-height // sh), ow))
    memory = np.empty(filters * kh * plan.images * plan.rows * ow, g.dtype)
    padded = np.empty((channels, plan.images, height, left + width + right), g.dtype)
    w = w.reshape(groups, filters // groups, channels // groups, kh, kw).transpose(0, 2, 4, 1, 3)
    classes = []
    for first in range(min(sh, height)):
        taps = [i for i in range(kh) if (first + top - i * dh) % sh == 0]
        if taps:  # row first + q * sh of the image met row q + offset of g, one offset for each of these taps
            offsets = [(first + top - i * dh) // sh for i in taps]
            weights = w[..., taps].reshape(groups, channels // groups * kw, filters // groups * len(taps))
            classes.append((first, offsets, weights))
    for images in _spans(count, plan.images):
        n = images.stop - images.start
        sums = padded[:, :n]
        sums.fill(0)
        for first, offsets, weights in classes:
            for rows in _spans(-(-(height - first) // sh), plan.rows):
                shape = (filters, len(offsets), n, rows.stop - rows.start, ow)
                gathered = memory[: prod(shape)].reshape(shape)
                for tap, offset in enumerate(offsets):
                    start = min(max(rows.start, -offset), rows.stop)
                    stop = max(min(rows.stop, oh - offset), start)
                    met = gathered[:, tap]
                    met[:, :, : start - rows.start] = 0
                    met[:, :, start - rows.start : stop - rows.start] = g[
                        :, images, start + offset : stop + offset
                    ]
                    met[:, :, stop - rows.start :] = 0
                shifted = np.matmul(weights, gathered.reshape(groups, weights.shape[2], -1))
                shifted = shifted.reshape(channels, kw, *shape[2:])
                lines = sums[:, :, first + rows.start * sh : first + rows.stop * sh : sh]
                for j in range(kw):
                    part = lines[..., j * dw : j * dw + (ow - 1) * sw + 1 : sw]
                    part += shifted[:, j]
        np.copyto(by_channel[:, images], sums[..., left : left + width])
    return out


def _columns(
    x: Array, kernel: Pair, windows: Pair, geometry: Geometry
) -> Iterator[tuple[slice, slice, Array]]:
    """The windows of `x` (images, channels, rows, columns), block by block.

    Yields (images, rows of windows, matrix of shape (groups, channels of a group * kernel, windows)); the rows
    of the matrix stand in the order of `_matrix`. The next block overwrites the matrix.
    """
    count, channels, height, width = x.shape
    (kh, kw), (oh, ow), (sh, sw), (dh, dw) = kernel, windows, geometry.stride, geometry.dilation
    (top, bottom), (left, right) = geometry.padding
    x = x.transpose(1, 0, 2, 3)
    plan = _Plan.of(count, channels * kh * kw, windows)
    padded = np.zeros((channels, plan.images, height, left + width + right), x.dtype)
    c, i, r, e = padded.strides
    shifts = as_strided(padded, (channels, kw, plan.images, height, ow), (c, dw * e, i, r, sw * e))
    shifted = np.zeros((channels, kw, plan.images, top + height + bottom, ow), x.dtype)
    c, j, i, r, e = shifted.strides
    all_rows = as_strided(shifted, (channels, kw, kh, plan.images, oh, ow), (c, j, dh * r, i, sh * r, e))
    memory = np.empty(channels * kh * kw * plan.images * plan.rows * ow, x.dtype)
    for images in _spans(count, plan.images):
        n = images.stop - images.start
        np.copyto(padded[:, :n, :, left : left + width], x[:, images])
        np.copyto(shifted[:, :, :n, top : top + height], shifts[:, :, :n])
        for rows in _spans(oh, plan.rows):
            part = matrix = all_rows[:, :, :, :n, rows]
            if not part.flags.c_contiguous:  # else the first step was all: a kernel of one row
                matrix = memory[: part.size].reshape(part.shape)
                np.copyto(matrix, part)
            yield images, rows, matrix.reshape(geometry.groups, -1, n * part.shape[4] * ow)


def _matrix(w: Array, groups: int) -> Array:
    """Weights (filters, channels of a group, kh, kw) as (groups, filters of a group, channels * kw * kh)."""
    return w.transpose(0, 1, 3, 2).reshape(groups, w.shape[0] // groups, prod(w.shape[1:]))


class _Plan(NamedTuple):
    """How many images, and how many rows of windows of each, make one block."""

    images: int
    rows: int

    @classmethod
    def of(cls, count: int, length: int, windows: Pair) -> _Plan:
        rows, columns = windows
        most = max(_BLOCK // length, _FEWEST)
        if rows * columns <= most:
            return cls(max(1, min(count, most // (rows * columns))), rows)
        blocks = -(-rows // max(1, most // columns))
        return cls(1, -(-rows // blocks))


def _spans(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, total)) for start in range(0, total, step))
