"""Convolutions by the compiled kernels, which read the images in place: the tables of offsets they go by.

`kernels/conv.c` says how. Here stand the layout of the planes an image is dealt out into, the offset on them of every
weight's pixels, and the order of the weights; they depend on the shapes alone and are made once for each.
"""

from __future__ import annotations

import functools
from math import prod
from typing import NamedTuple

import numpy as np

from .. import kernels
from ..tape import Array
from .geometry import Geometry, Pair

# As in conv.c: filters computed at a time, terms of the weights' sums, lanes of a sum, places of images in one go.
_FILTERS, _PLACES, _LANES, _ENOUGH = 8, 4, 16, 512


def gains(weights: tuple[int, ...], windows: Pair, geometry: Geometry) -> bool:
    """Whether this is faster than a product of matrices, for weights (filters, channels of a group, kh, kw).

    Measured: by 1.1 to 2 where the weights of all filters stay in the cache. Fewer than 3 filters waste most of the
    work, which is done for 8 (as much is wasted elsewhere if the channels are in groups); images of few pixels waste
    their last register; and many weights are what a product of matrices is good at.
    """
    filters = weights[0] // geometry.groups
    enough = filters >= 3 or geometry.groups > 1
    return enough and filters * prod(weights[1:]) <= 1 << 16 and prod(windows) >= 64


def gains_for_weights(weights: tuple[int, ...], windows: Pair, geometry: Geometry) -> bool:
    """`gains` for the weights' gradient, whose sums are held in 16 lanes each and added to once every few images."""
    filters = weights[0] // geometry.groups
    most = max(1 << 14, 16 * prod(windows))
    return filters * prod(weights[1:]) <= most and prod(windows) >= 64


Shape = tuple[int, int, int, int]


class Table(NamedTuple):
    """What a kernel needs to know of a convolution.

    Attributes:
        layout: the numbers of `Layout` in conv.c, without those that differ between calls.
        offsets: of each term, in the order of the weights.
        memory: how many elements the kernel needs for planes and for a row of places.
    """

    layout: Array
    offsets: Array
    planes: int
    length: int


def _table(
    sizes: tuple[int, ...],
    pixels: tuple[int, ...],
    planes: Pair,
    windows: Pair,
    target: tuple[int, ...],
    offsets: Array,
) -> Table:
    """Sizes are (images, groups, channels, filters), pixels (height, width, *strides, *phases, top, left)."""
    layout = (*sizes, len(offsets), *pixels, *planes, *windows, *target)
    count = sizes[2] * pixels[4] * pixels[5] * planes[0] * planes[1] + _LANES
    length = _up((windows[0] - 1) * planes[1] + windows[1], _LANES)
    return Table(np.array(layout, np.int64), np.ascontiguousarray(offsets, np.int64), count, length)


def _every(n: int, step: int) -> int:
    """How many of n there are, taking one in `step` and the first."""
    return -(-n // step)


def _up(n: int, unit: int) -> int:
    return _every(n, unit) * unit


@functools.lru_cache(maxsize=256)
def _forward(x: Shape, filters: int, kernel: Pair, geometry: Geometry, unit: int) -> Table:
    """The convolution of images of shape `x`, with terms (channel, row, column) in a number divisible by `unit`."""
    groups, (sh, sw), (dh, dw) = geometry.groups, geometry.stride, geometry.dilation
    channels, windows = x[1] // groups, geometry.windows((x[2], x[3]), kernel)
    down, right = dh * np.arange(kernel[0]), dw * np.arange(kernel[1])
    rows, columns = windows[0] + int(down[-1]) // sh, windows[1] + int(right[-1]) // sw
    c = np.arange(channels)[:, None, None]
    phases = (min(sh, int(down[-1]) + 1), min(sw, int(right[-1]) + 1))
    plane = (c * phases[0] + (down % sh)[:, None]) * phases[1] + right % sw
    offsets = ((plane * rows + (down // sh)[:, None]) * columns + right // sw).reshape(-1)
    offsets = np.append(offsets, np.zeros(-len(offsets) % unit, np.int64))
    (top, _), (left, _) = geometry.padding
    sizes = (x[0], groups, channels, filters // groups)
    pixels = (*x[2:], sh, sw, *phases, top, left)
    return _table(sizes, pixels, (rows, columns), windows, (*windows, 0, 1, 0, 1), offsets)


class Part(NamedTuple):
    """The pixels of an image that one set of weights leads to, with that set: `rows` x `columns` of the kernel."""

    table: Table
    rows: list[int]
    columns: list[int]


@functools.lru_cache(maxsize=256)
def _backward(g: Shape, channels: int, size: Pair, kernel: Pair, geometry: Geometry) -> list[Part]:
    """The gradient for images of `size`: one convolution of g for each place of a pixel between two windows."""
    groups = geometry.groups
    (top, _), (left, _) = geometry.padding
    ways = [
        [_met(first, *axis) for first in range(min(axis[1], axis[0]))]
        for axis in zip(size, geometry.stride, geometry.dilation, kernel, (top, left), strict=True)
    ]
    parts = []
    for first, (rows, down) in enumerate(ways[0]):
        for second, (columns, right) in enumerate(ways[1]):
            if not rows or not columns:
                continue
            windows = (
                _every(size[0] - first, geometry.stride[0]),
                _every(size[1] - second, geometry.stride[1]),
            )
            before = (max(0, -min(down)), max(0, -min(right)))
            planes = (windows[0] + before[0] + max(0, max(down)), windows[1] + before[1] + max(0, max(right)))
            o = np.arange(g[1] // groups)[:, None, None] * planes[0]
            offsets = (o + before[0] + np.array(down)[:, None]) * planes[1] + before[1] + np.array(right)
            sizes = (g[0], groups, g[1] // groups, channels // groups)
            target = (*size, first, geometry.stride[0], second, geometry.stride[1])
            table = _table(sizes, (*g[2:], 1, 1, 1, 1, *before), planes, windows, target, offsets.reshape(-1))
            parts.append(Part(table, rows, columns))
    return parts


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
    return np.ascontiguousarray(padded.reshape(groups, -1, _FILTERS, terms).swapaxes(2, 3))


_NOTHING = np.empty(0, np.float32)


def _correlate(table: Table, x: Array, weights: Array, bias: Array | None, out: Array) -> None:
    memory = np.empty(table.planes + weights.shape[1] * _FILTERS * table.length, np.float32)
    kernels.compiled.correlate(
        table.layout, x, weights, table.offsets, _NOTHING if bias is None else bias, out, memory
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
    table = _forward(x.shape, filters, kernel, geometry, _PLACES)
    terms = len(table.offsets)
    padded = _up(filters // groups, _PLACES)
    together = min(_ENOUGH // table.length + 1, len(x))
    size = together * (table.planes + padded * table.length) + padded * terms * _LANES
    memory = np.empty(size, np.float32)
    sums = np.empty((filters, terms), x.dtype)
    kernels.compiled.correlate_weights(table.layout, x, g, table.offsets, sums, memory)
    channels = x.shape[1] // groups
    return np.ascontiguousarray(sums[:, : channels * kernel[0] * kernel[1]]).reshape(
        filters, channels, *kernel
    )


def input_gradient(g: Array, w: Array, size: Pair, geometry: Geometry) -> Array:
    """`patches.input_gradient`."""
    groups = geometry.groups
    filters, channels, *kernel = w.shape
    parts = _backward(g.shape, channels * groups, size, tuple(kernel), geometry)
    covered = len(parts) == min(geometry.stride[0], size[0]) * min(geometry.stride[1], size[1])
    out = (np.empty if covered else np.zeros)((g.shape[0], channels * groups, *size), g.dtype)
    w = w.reshape(groups, filters // groups, channels, *kernel).swapaxes(1, 2)
    for table, rows, columns in parts:
        met = w[:, :, :, rows][..., columns].reshape(groups, channels, -1)
        _correlate(table, g, _by_filter(met), None, out)
    return out
