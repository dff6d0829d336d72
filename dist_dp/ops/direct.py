"""Convolutions by the compiled kernels, which read the images in place: the tables of offsets they go by.

`kernels/conv.c` says how. Here stand the layout of the planes an image is dealt out into, the offset on them of every
weight's pixels, and the order of the weights; they depend on the shapes alone and are made once for each.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..tape import Array
from .geometry import Geometry, Pair

# As in conv.c: filters computed at a time, lanes of a register, places in one go.
_FILTERS, _LANES, _ENOUGH = 8, 16, 512
# The planes of a band of an image have about so many elements: a quarter of a core's second-level cache.
_PLANES = 1 << 16
# Beyond so many weights a product of matrices is ahead, which takes them in blocks.
_MOST = 1 << 19


def gains(weights: tuple[int, ...], windows: Pair, geometry: Geometry) -> bool:
    """Whether this is faster than a product of matrices, for weights (filters, channels of a group, kh, kw).

    Measured over kernels of 1 to 5 rows, 1 to 512 channels and 2 to 56 windows a side: by 1.1 to 5 where it is. For a
    kernel of one pixel there is a matrix already; images of few pixels waste their last register; and few filters do
    not repay the copies of the image.
    """
    filters, places = weights[0] // geometry.groups, prod(windows)
    if not kernels.compiled.fuses:  # a multiply-add would be a call of a function
        return False
    if weights[2] * weights[3] == 1 and geometry.groups == 1:
        return filters >= 16 and places >= 64 and prod(weights) <= _MOST
    enough = filters >= 16 or geometry.groups > 1
    return places >= (16 if enough else 128) and filters * prod(weights[1:]) <= _MOST


def gains_for_weights(weights: tuple[int, ...], windows: Pair, geometry: Geometry) -> bool:
    """`gains` for the weights' gradient, of which 8 terms and 8 filters are computed at least."""
    filters, places = weights[0] // geometry.groups, prod(windows)
    if not kernels.compiled.fuses:
        return False
    if weights[2] * weights[3] == 1 and geometry.groups == 1:
        return min(filters, weights[1]) >= 16 and prod(weights) <= _MOST
    enough = filters > 4 or geometry.groups > 1 or places < 512
    return enough and filters * prod(weights[1:]) <= _MOST


Shape = tuple[int, int, int, int]


class Table(NamedTuple):
    """What a kernel needs to know of a convolution.

    Attributes:
        layout: the numbers of `Layout` in conv.c.
        shifts: by how many columns each plane is shifted.
        offsets: of each term, in the order of the weights, of one part after the other.
        parts: (terms, first row, first column) of each.
        planes: how many elements the kernel needs for planes.
        channel: and for a channel with its padding.
        places: how many windows of each filter there are in a band.
    """

    layout: Array
    shifts: Array
    offsets: Array
    parts: Array
    planes: int
    channel: int
    places: int


def _table(
    sizes: Shape,
    image: Pair,
    strides: Pair,
    lines: tuple[int, int, int],
    windows: Pair,
    target: Shape,
    shifts: Sequence[int],
    parts: Sequence[tuple[Pair, Array, Array, Array]],
    unit: int = 1,
) -> Table:
    """The layout, for terms in a number divisible by `unit`.

    Args:
        sizes: images, groups, channels, filters.
        image: its height and width.
        strides, lines, windows, target: as in `Layout`: lines are top, phases and reach, the target the size of the
            result and the steps on it.
        shifts: of the columns.
        parts: first row and column of each, phase and line of each row of its kernel, number of the shift of each
            column.
    """
    top, phases, reach = lines
    most = max(1, _PLANES // max(1, sizes[2] * len(shifts) * phases * windows[1]) - reach)
    band = _every(windows[0], _every(windows[0], most))  # all bands about equally high
    plane = _every((band + reach) * windows[1], _LANES)
    plane = _LANES * (
        plane + (plane % 2 == 0)
    )  # an odd number of cache lines: planes do not share a few sets
    c = np.arange(sizes[2])[:, None, None] * len(shifts)
    offsets = [
        (((c + which) * phases + phase[:, None]) * plane + line[:, None] * windows[1]).reshape(-1)
        for _, phase, line, which in parts
    ]
    offsets.append(np.zeros(-sum(map(len, offsets)) % unit, np.int64))
    layout = (*sizes, *image, *strides, top, phases, *windows, band, reach, plane, *target)
    return Table(
        np.array(layout, np.int64),
        np.array(shifts, np.int64),
        np.concatenate(offsets).astype(np.int64),
        np.array([(len(o), *first) for o, (first, *_) in zip(offsets, parts, strict=False)], np.int64),
        sizes[2] * len(shifts) * phases * plane + _LANES,
        (band + reach) * phases * (_up(windows[1], _LANES) * strides[1] + max(shifts) - min(shifts)),
        band * windows[1],
    )


def _every(n: int, step: int) -> int:
    """How many of n there are, taking one in `step` and the first."""
    return -(-n // step)


def _up(n: int, unit: int) -> int:
    return _every(n, unit) * unit


@functools.lru_cache(maxsize=256)
def _forward(x: Shape, filters: int, kernel: Pair, geometry: Geometry, unit: int) -> Table:
    """The convolution of images of shape `x`, with terms (channel, row, column) in a number divisible by `unit`."""
    groups, stride, (dh, dw) = geometry.groups, geometry.stride, geometry.dilation
    windows = geometry.windows((x[2], x[3]), kernel)
    (top, _), (left, _) = geometry.padding
    down = dh * np.arange(kernel[0])
    last = dh * (kernel[0] - 1)
    part = ((0, 0), down % stride[0], down // stride[0], np.arange(kernel[1]))
    return _table(
        (x[0], groups, x[1] // groups, filters // groups),
        (x[2], x[3]),
        stride,
        (top, min(stride[0], last + 1), last // stride[0]),
        windows,
        (*windows, 1, 1),
        [dw * j - left for j in range(kernel[1])],
        [part],
        unit,
    )


@functools.lru_cache(maxsize=256)
def _backward(
    g: Shape, channels: int, size: Pair, kernel: Pair, geometry: Geometry
) -> tuple[Table, list[tuple[list[int], list[int]]]]:
    """The gradient for images of `size`: one convolution of g for each place of a pixel between two windows.

    Also the rows and columns of the kernel that lead to each of these places, if there are any.
    """
    groups, stride = geometry.groups, geometry.stride
    (top, _), (left, _) = geometry.padding
    rows, columns = (
        [_met(first, *axis) for first in range(min(axis[1], axis[0]))]
        for axis in zip(size, stride, geometry.dilation, kernel, (top, left), strict=True)
    )
    lines = [n for _, down in rows for n in down] or [0]
    shifts = sorted({n for _, right in columns for n in right}) or [0]
    parts, met = [], []
    for first, (i, down) in enumerate(rows):
        for second, (j, right) in enumerate(columns):
            if i and j:
                line = np.array(down) - min(lines)
                parts.append(((first, second), 0 * line, line, np.array([shifts.index(n) for n in right])))
                met.append((i, j))
    table = _table(
        (g[0], groups, g[1] // groups, channels // groups),
        (g[2], g[3]),
        (1, 1),
        (-min(lines), 1, max(lines) - min(lines)),
        (_every(size[0], stride[0]), _every(size[1], stride[1])),
        (*size, *stride),
        shifts,
        parts,
    )
    return table, met


def _met(
    first: int, n: int, stride: int, dilation: int, kernel: int, before: int
) -> tuple[list[int], list[int]]:
    """Weights i that led from pixel first + q stride to a window, and by how much that window's number exceeds q."""
    taps = [i for i in range(kernel) if (first + before - i * dilation) % stride == 0]
    return taps, [(first + before - i * dilation) // stride for i in taps]


def _by_filter(w: Array) -> Array:
    """Weights (groups, filters, terms) as (groups, filters / 8, terms, 8), with zeros behind the filters."""
    groups, filters, terms = w.shape
    padded = np.zeros((groups, _up(filters, _FILTERS), terms), w.dtype)
    padded[:, :filters] = w
    return padded.reshape(groups, -1, _FILTERS, terms).swapaxes(2, 3).reshape(-1)


_NOTHING = np.empty(0, np.float32)


def _correlate(table: Table, x: Array, weights: Array, bias: Array | None, out: Array) -> None:
    groups, filters = int(table.layout[1]), int(table.layout[3])
    biases = np.zeros((groups, _up(filters, _FILTERS)), np.float32)
    if bias is not None:
        biases[:, :filters] = bias.reshape(groups, filters)
    memory = np.empty(table.planes + table.channel + 2 * filters * table.places + _LANES, np.float32)
    kernels.compiled.correlate(
        table.layout, x, weights, table.shifts, table.offsets, table.parts, biases, out, memory
    )


def convolve(x: Array, w: Array, bias: Array | None, geometry: Geometry) -> Array:
    """`patches.convolve`."""
    table = _forward(x.shape, len(w), w.shape[2:], geometry, 1)
    out = np.empty((x.shape[0], len(w), *geometry.windows(x.shape[2:], w.shape[2:])), x.dtype)
    groups = geometry.groups
    _correlate(table, x, _by_filter(w.reshape(groups, len(w) // groups, -1)), bias, out)
    return out


def weight_gradient(x: Array, g: Array, kernel: Pair, geometry: Geometry) -> Array:
    """`patches.weight_gradient`."""
    filters, groups = g.shape[1], geometry.groups
    table = _forward(x.shape, filters, kernel, geometry, _FILTERS)
    padded = _up(filters // groups, _LANES if filters // groups > _FILTERS else _FILTERS)
    together = min(_ENOUGH // table.places + 1, len(x))
    size = together * (table.planes + padded * table.places) + table.channel + _LANES
    memory = np.empty(size, np.float32)
    sums = np.empty((groups, len(table.offsets), padded), x.dtype)
    kernels.compiled.correlate_weights(table.layout, x, g, table.shifts, table.offsets, sums, memory)
    channels = x.shape[1] // groups
    met = sums[:, : channels * kernel[0] * kernel[1], : filters // groups]
    return np.ascontiguousarray(met.swapaxes(1, 2)).reshape(filters, channels, *kernel)


def input_gradient(g: Array, w: Array, size: Pair, geometry: Geometry) -> Array:
    """`patches.input_gradient`."""
    groups = geometry.groups
    filters, channels, *kernel = w.shape
    table, met = _backward(g.shape, channels * groups, size, tuple(kernel), geometry)
    covered = len(met) == min(geometry.stride[0], size[0]) * min(geometry.stride[1], size[1])
    out = (np.empty if covered else np.zeros)((g.shape[0], channels * groups, *size), g.dtype)
    w = w.reshape(groups, filters // groups, channels, *kernel).swapaxes(1, 2)
    weights = [
        _by_filter(w[:, :, :, rows][..., columns].reshape(groups, channels, -1)) for rows, columns in met
    ]
    _correlate(table, g, np.concatenate([*weights, _NOTHING]), None, out)
    return out
