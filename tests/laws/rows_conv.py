"""Rows of convolutions and poolings, against loops over every window that could not be plainer."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from laws.rows import Array, Call, Draw, Row

from dist_dp import ops


def pairs(value: Any, rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    before: Sequence[int],
    dilation: Sequence[int],
    counts: Sequence[int],
) -> Iterator[tuple[tuple[int, ...], list[tuple[tuple[int, ...], tuple[int, ...]]]]]:
    """For every window: its place in the result, and (place in the kernel, pixel) of each of its pixels."""
    for out in product(*map(range, counts)):
        inside = []
        for place in product(*map(range, kernel)):
            pixel = tuple(
                o * s + i * d - p for o, s, i, d, p in zip(out, stride, place, dilation, before, strict=True)
            )
            if all(0 <= q < n for q, n in zip(pixel, size, strict=True)):
                inside.append((place, pixel))
        yield out, inside


def naive_conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Array:
    size, kernel = x.shape[2:], weight.shape[2:]
    rank = len(size)
    stride, dilation = pairs(stride, rank), pairs(dilation, rank)
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if padding == "same":
        before, total = [n // 2 for n in spans], spans
    else:
        before = list(pairs(0 if padding == "valid" else padding, rank))
        total = [2 * p for p in before]
    counts = [(n + t - m - 1) // s + 1 for n, t, m, s in zip(size, total, spans, stride, strict=True)]
    out = np.zeros((len(x), len(weight), *counts))
    channels, filters = x.shape[1] // groups, len(weight) // groups
    for at, inside in windows(size, kernel, stride, before, dilation, counts):
        for o in range(len(weight)):
            first = o // filters * channels
            for place, pixel in inside:
                for c in range(channels):
                    out[:, o, *at] += weight[o, c, *place] * x[:, first + c, *pixel]
    return out if bias is None else out + bias.reshape(-1, *(1,) * rank)


def naive_conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Array:
    size, kernel = x.shape[2:], weight.shape[2:]
    rank = len(size)
    stride, padding, dilation = pairs(stride, rank), pairs(padding, rank), pairs(dilation, rank)
    counts = [
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(
            size, stride, padding, dilation, kernel, pairs(output_padding, rank), strict=True
        )
    ]
    channels, filters = x.shape[1] // groups, weight.shape[1]
    out = np.zeros((len(x), filters * groups, *counts))
    for at, inside in windows(counts, kernel, stride, padding, dilation, size):
        for c in range(x.shape[1]):
            for place, pixel in inside:
                for o in range(filters):
                    out[:, c // channels * filters + o, *pixel] += weight[c, o, *place] * x[:, c, *at]
    return out if bias is None else out + bias.reshape(-1, *(1,) * rank)


def naive_pool(
    fold: Callable[[Array], Array],
    x: Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Array:
    size = x.shape[2:]
    rank = len(size)
    kernel, padding, dilation = pairs(kernel_size, rank), pairs(padding, rank), pairs(dilation, rank)
    stride = kernel if stride is None else pairs(stride, rank)
    counts = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        count = room // s + 1
        if ceil_mode and room % s and count * s < n + p:
            count += 1
        counts.append(count)
    out = np.zeros((*x.shape[:2], *counts))
    for at, inside in windows(size, kernel, stride, padding, dilation, counts):
        pixels = np.stack([x[:, :, *pixel] for _, pixel in inside])
        value = fold(pixels)
        if count_include_pad:
            sides = [
                min(o * s + k, n + 2 * p) - o * s
                for o, s, k, n, p in zip(at, stride, kernel, size, padding, strict=True)
            ]
            value = value * len(inside) / np.prod(sides)
        out[:, :, *at] = value
    return out


def naive_max_pool(x: Array, *args: Any, **kwargs: Any) -> Array:
    return naive_pool(lambda pixels: pixels.max(0), x, *args, **kwargs)


def naive_avg_pool(x: Array, *args: Any, count_include_pad: bool = True, **kwargs: Any) -> Array:
    return naive_pool(lambda pixels: pixels.mean(0), x, *args, count_include_pad=count_include_pad, **kwargs)


def naive_adaptive_avg_pool(x: Array, output_size: Any) -> Array:
    size = x.shape[2:]
    target = pairs(output_size, len(size))
    out = np.zeros((*x.shape[:2], *target))
    for at in product(*map(range, target)):
        inside = (slice(i * n // m, -(-(i + 1) * n // m)) for i, n, m in zip(at, size, target, strict=True))
        out[:, :, *at] = x[:, :, *inside].mean(tuple(range(2, 2 + len(size))))
    return out


# ----- arguments -----


def images(d: Draw, channels: int, size: Sequence[int]) -> Array:
    return d.array((0 if d.kind == "empty" else d.integer(1, 2), channels, *size))


def conv(rank: int) -> Callable[[Draw], Call]:
    def build(d: Draw) -> Call:
        groups = d.integer(1, 2)
        inputs, filters = d.integer(1, 2), d.integer(1, 2)
        kernel = [d.integer(1, 3) for _ in range(rank)]
        dilation = tuple(d.integer(1, 2) for _ in range(rank))
        stride = tuple(d.integer(1, 3) for _ in range(rank))
        padding = d.pick(tuple(d.integer(0, 2) for _ in range(rank)), 1, "same", "valid")
        size = [m * (k - 1) + d.integer(1, 4) for m, k in zip(dilation, kernel, strict=True)]
        return Call(
            images(d, inputs * groups, size),
            d.array((filters * groups, inputs, *kernel)),
            d.pick(None, d.array((filters * groups,))),
            stride=1 if padding == "same" else stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )

    return build


def conv_transpose(rank: int) -> Callable[[Draw], Call]:
    def build(d: Draw) -> Call:
        groups = d.integer(1, 2)
        inputs, filters = d.integer(1, 2), d.integer(1, 2)
        kernel = [d.integer(1, 3) for _ in range(rank)]
        stride = tuple(d.integer(1, 3) for _ in range(rank))
        return Call(
            images(d, inputs * groups, [d.integer(2, 3) for _ in range(rank)]),
            d.array((inputs * groups, filters, *kernel)),
            d.pick(None, d.array((filters * groups,))),
            stride=stride,
            padding=d.pick(0, tuple((k - 1) // 2 for k in kernel)),
            output_padding=tuple(d.integer(0, s - 1) for s in stride),
            groups=groups,
            dilation=d.integer(1, 2),
        )

    return build


def pool(rank: int, dilated: bool) -> Callable[[Draw], Call]:
    def build(d: Draw) -> Call:
        kernel = tuple(d.integer(1, 3) for _ in range(rank))
        padding = tuple(d.integer(0, k // 2) for k in kernel)
        dilation = d.integer(1, 2) if dilated and not any(padding) else 1
        options: dict[str, Any] = {"dilation": dilation} if dilated else {"count_include_pad": d.flag()}
        size = [dilation * (k - 1) + d.integer(1, 3) for k in kernel]
        return Call(
            d.distinct((0 if d.kind == "empty" else d.integer(1, 2), d.integer(1, 2), *size)),
            kernel,
            d.pick(None, tuple(d.integer(1, 3) for _ in range(rank))),
            padding=padding,
            ceil_mode=d.flag() and dilation == 1,
            **options,
        )

    return build


def adaptive(rank: int) -> Callable[[Draw], Call]:
    def build(d: Draw) -> Call:
        size = [d.integer(1, 5) for _ in range(rank)]
        return Call(images(d, 2, size), d.pick(1, 2, tuple(d.integer(1, 4) for _ in range(rank))))

    return build


ROWS = [
    Row("conv1d", ops.conv1d, naive_conv, conv(1)),
    Row("conv2d", ops.conv2d, naive_conv, conv(2)),
    Row("conv_transpose1d", ops.conv_transpose1d, naive_conv_transpose, conv_transpose(1)),
    Row("conv_transpose2d", ops.conv_transpose2d, naive_conv_transpose, conv_transpose(2)),
    Row("max_pool1d", ops.max_pool1d, naive_max_pool, pool(1, dilated=True)),
    Row("max_pool2d", ops.max_pool2d, naive_max_pool, pool(2, dilated=True)),
    Row("avg_pool1d", ops.avg_pool1d, naive_avg_pool, pool(1, dilated=False)),
    Row("avg_pool2d", ops.avg_pool2d, naive_avg_pool, pool(2, dilated=False)),
    Row("adaptive_avg_pool1d", ops.adaptive_avg_pool1d, naive_adaptive_avg_pool, adaptive(1)),
    Row("adaptive_avg_pool2d", ops.adaptive_avg_pool2d, naive_adaptive_avg_pool, adaptive(2)),
]
