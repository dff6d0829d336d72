"""Pooling in one and two dimensions: the maximum or the mean of every window, with torch's arguments.

No window is ever cut out: the pixels at one place (i, j) of all windows are one strided view of the images, and a
pooling is a loop over the few places. Maximum and sum separate into columns and rows, kh + kw views instead of
kh * kw. Each map stands beside its transpose, so that derivatives of every order are there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..tape import Array
from ..tensor import Tensor
from .conv import Size, batch_of_images, sizes
from .core import Op, TensorLike, apply
from .products import matmul
from .views import broadcast_to, reshape

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "max_pool1d",
    "max_pool2d",
]

# Elements of the images gone over at a time, so that they stay in the cache from one place to the next.
_BLOCK = 1 << 18


class Axis(NamedTuple):
    """How windows lie along one axis of the images."""

    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    windows: int

    @property
    def reach(self) -> int:
        """Pixels from the start of the padding to the end of the last window."""
        return (self.windows - 1) * self.stride + self.dilation * (self.kernel - 1) + 1

    @property
    def apart(self) -> bool:
        """Whether no pixel lies in two windows."""
        return self.dilation * (self.kernel - 1) < self.stride

    def places(self) -> list[slice]:
        """For every place in a window, where it lies on the padded axis for all windows."""
        starts = range(0, self.dilation * self.kernel, self.dilation)
        return [slice(i, i + (self.windows - 1) * self.stride + 1, self.stride) for i in starts]

    def scale(self, counted: bool) -> Array:
        """1 / the number of pixels in each window; of the padding too if `counted`, but of nothing behind it."""
        before, behind = (
            (0, self.size + 2 * self.padding) if counted else (self.padding, self.padding + self.size)
        )
        starts = np.arange(self.windows) * self.stride
        return 1 / (np.minimum(starts + self.kernel, behind) - np.maximum(starts, before))


Axes = tuple[Axis, ...]


def _boxes(axes: Axes) -> tuple[Any, Any]:
    """The pixels that windows reach: as an index of the padded images, and of the images themselves."""
    ends = [min(a.size, a.reach - a.padding) for a in axes]
    padded = (slice(a.padding, a.padding + end) for a, end in zip(axes, ends, strict=True))
    return (..., *padded), (..., *(slice(0, end) for end in ends))


def _padded(x: Array, axes: Axes, value: float) -> Array:
    """The images with `value` around them, so far as windows reach; a view where nothing has to be added."""
    inside, reached = _boxes(axes)
    if all(a.padding == 0 and a.reach <= a.size for a in axes):
        view: Array = x[reached]
        return view
    out = np.full((*x.shape[: x.ndim - len(axes)], *(a.reach for a in axes)), value, x.dtype)
    out[inside] = x[reached]
    return out


def _cropped(padded: Array, axes: Axes) -> Array:
    """The images out of what `_padded` made, with zeros where no window reached."""
    if all(a.padding == 0 and a.reach == a.size for a in axes):
        return padded
    inside, reached = _boxes(axes)
    out = np.zeros((*padded.shape[: padded.ndim - len(axes)], *(a.size for a in axes)), padded.dtype)
    out[reached] = padded[inside]
    return out


def _folded(x: Array, axes: Axes, ufunc: np.ufunc) -> Array:
    """`ufunc` over all places of every window: along the rows of the padded images, then along their columns."""
    for axis, behind in zip(axes, range(len(axes) - 1, -1, -1), strict=True):
        first, *rest = _places(axis, behind)
        out = x[first] if rest else x[first].copy()
        for n, place in enumerate(rest):
            out = ufunc(out, x[place], out=None if n == 0 else out)
        x = out
    return x


def _places(axis: Axis, behind: int) -> list[Any]:
    """The places of windows along an axis with `behind` more axes behind it, as indices."""
    return [(..., place, *(slice(None),) * behind) for place in axis.places()]


# ----- maximum -----


def _low(dtype: np.dtype[Any]) -> Any:
    return -np.inf if dtype.kind == "f" else False if dtype.kind == "b" else np.iinfo(dtype).min


def _max(x: Array, axes: Axes) -> Array:
    return _folded(_padded(x, axes, _low(x.dtype)), axes, np.maximum)


def _maxima(padded: Array, out: Array, axes: Axes) -> Iterator[tuple[Any, Array]]:
    """Place by place: the view of all windows' pixels there, and which of them are their window's first maximum."""
    taken = np.zeros(out.shape, np.bool_)
    places: list[Any] = [(..., *place) for place in product(*(a.places() for a in axes))]
    for place in places[:-1]:
        hit = padded[place] == out
        np.greater(hit, taken, hit)  # hit and not taken
        np.logical_or(taken, hit, taken)
        yield place, hit
    yield places[-1], np.logical_not(taken, taken)


def _layout(shape: tuple[int, ...], axes: Axes) -> Array:
    """How windows lie on padded images of `shape`, in the order of `kernels/images.c`."""
    rows, columns = axes if len(axes) == 2 else (Axis(1, 1, 1, 0, 1, 1), *axes)
    planes = math.prod(shape[: -len(axes)])
    size = (shape[-2] if len(axes) == 2 else 1, shape[-1])
    kernel, stride, dilation, windows = zip(rows[1:3] + rows[4:], columns[1:3] + columns[4:], strict=True)
    return np.array([planes, *size, *windows, *kernel, *stride, *dilation], np.int64)


def _to_maxima(g: Array, x: Array, out: Array, axes: Axes) -> Array:
    """Each window's g at its maximum, added up where windows overlap."""
    if kernels.suits(g, x, out) and out.size:
        padded = np.ascontiguousarray(_padded(x, axes, -np.inf))
        sums = np.empty_like(padded)
        kernels.compiled.unpool(_layout(padded.shape, axes), padded, out, g, sums)
        return _cropped(sums, axes)
    total = np.empty(x.shape, g.dtype)
    step = max(1, _BLOCK // max(1, x[:1].size))
    apart = all(a.apart for a in axes)
    for some in (slice(i, i + step) for i in range(0, len(x), step)):
        padded = _padded(x[some], axes, _low(x.dtype))
        sums = np.zeros(padded.shape, g.dtype)
        for place, hit in _maxima(padded, out[some], axes):
            if apart:
                np.multiply(g[some], hit, sums[place])
            else:
                sums[place] += g[some] * hit
        total[some] = _cropped(sums, axes)
    return total


def _at_maxima(t: Array, x: Array, out: Array, axes: Axes) -> Array:
    """t where each window has its maximum: the transpose of `_to_maxima`."""
    total = np.zeros(out.shape, t.dtype)
    values = _padded(t, axes, 0)
    for place, hit in _maxima(_padded(x, axes, _low(x.dtype)), out, axes):
        total += values[place] * hit
    return total


# ----- mean -----


def _scaled(x: Array, axes: Axes, counted: bool) -> Array:
    """`x` (..., windows) over the number of pixels in each window, in place."""
    for axis, behind in zip(axes, range(len(axes) - 1, -1, -1), strict=True):
        scale = axis.scale(counted).astype(x.dtype)
        x *= scale[0] if (scale == scale[0]).all() else scale.reshape(-1, *(1,) * behind)
    return x


def _mean(x: Array, axes: Axes, counted: bool) -> Array:
    return _scaled(_folded(_padded(x, axes, 0), axes, np.add), axes, counted)


def _spread(g: Array, axes: Axes, counted: bool) -> Array:
    """Every window's g, over the number of its pixels, added to each of them: the transpose of `_mean`."""
    g = _scaled(g.copy(), axes, counted)
    for axis, behind in zip(reversed(axes), range(len(axes)), strict=True):
        at = g.ndim - 1 - behind
        sums = np.zeros((*g.shape[:at], axis.reach, *g.shape[at + 1 :]), g.dtype)
        for place in _places(axis, behind):
            sums[place] += g
        g = sums
    return _cropped(g, axes)


# ----- rows -----


def _examples_in_images(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    inputs = [x if has else broadcast_to(x, (size, *x.shape)) for x, has in zip(inputs, batched, strict=True)]
    merged = [reshape(x, (size * x.shape[1], *x.shape[2:])) for x in inputs]
    out = apply(op, merged, params)
    return reshape(out, (size, out.shape[0] // size, *out.shape[1:]))


_max_pool: Op = Op(
    "max_pool",
    _max,
    params="axes",
    vjp=(lambda g, x, out, axes: _unpool.run(g, x, out, params=(axes,)),),
    jvp=(lambda t, x, out, axes: _pick.run(t, x, out, params=(axes,)),),
    batch=_examples_in_images,
)


# Which pixel is the maximum does not change with x, except where two are equal: nothing comes of x and out but 0.
def _no_gradient(g: Any) -> None:
    return None


def _no_tangent(t: Any) -> Any:
    return 0 * t


_unpool: Op = Op(
    "max_unpool",
    _to_maxima,
    "g x out_",
    "axes",
    vjp=(lambda g, x, out_, axes: _pick.run(g, x, out_, params=(axes,)), _no_gradient, _no_gradient),
    jvp=(lambda t, x, out_, axes: _unpool.run(t, x, out_, params=(axes,)), _no_tangent, None),
    batch=_examples_in_images,
)
_pick: Op = Op(
    "max_pick",
    _at_maxima,
    "t x out_",
    "axes",
    vjp=(lambda g, x, out_, axes: _unpool.run(g, x, out_, params=(axes,)), _no_gradient, _no_gradient),
    jvp=(lambda t, x, out_, axes: _pick.run(t, x, out_, params=(axes,)), None, _no_tangent),
    batch=_examples_in_images,
)
_avg_pool: Op = Op(
    "avg_pool",
    _mean,
    params="axes counted",
    vjp=(lambda g, axes, counted: _avg_spread.run(g, params=(axes, counted)),),
    jvp=(lambda t, axes, counted: _avg_pool.run(t, params=(axes, counted)),),
    batch=_examples_in_images,
)
_avg_spread: Op = Op(
    "avg_spread",
    _spread,
    params="axes counted",
    vjp=(lambda g, axes, counted: _avg_pool.run(g, params=(axes, counted)),),
    jvp=(lambda t, axes, counted: _avg_spread.run(t, params=(axes, counted)),),
    batch=_examples_in_images,
)


# ----- what a caller may ask for -----


def _windows(
    name: str, x: Tensor, kernel: Size, stride: Size | None, padding: Size, dilation: Size, ceil: bool
) -> Axes:
    rank = x.ndim - 2
    kernels = sizes(name, "kernel_size", kernel, rank, 1)
    strides = kernels if stride is None else sizes(name, "stride", stride, rank, 1)
    paddings = sizes(name, "padding", padding, rank, 0)
    dilations = sizes(name, "dilation", dilation, rank, 1)
    axes = []
    for n, k, s, p, d in zip(x.shape[2:], kernels, strides, paddings, dilations, strict=True):
        if p > (d * (k - 1) + 1) // 2:
            raise ValueError(
                f"{name}: `padding` must be at most half of the kernel, so that every window holds a pixel, "
                f"got padding={padding!r} and kernel_size={kernel!r}"
            )
        room = n + 2 * p - d * (k - 1) - 1
        if room < 0:
            raise ValueError(
                f"{name}: `kernel_size` must not be larger than the padded image, got kernel_size={kernel!r} "
                f"with dilation={dilation!r} for images of {x.shape[2:]} with padding={padding!r}"
            )
        windows = (-(-room // s) if ceil else room // s) + 1
        if (
            windows - 1
        ) * s >= n + p:  # a window that ceil_mode adds must start on the image or the padding before
            windows -= 1
        axes.append(Axis(n, k, s, p, d, windows))
    return tuple(axes)


def _max_nd(
    rank: int,
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    ceil_mode: bool,
) -> Tensor:
    name = f"max_pool{rank}d"
    x = batch_of_images(name, x, rank)
    axes = _windows(name, x, kernel_size, stride, padding, dilation, ceil_mode)
    return apply(_max_pool, (x,), (axes,))  # type: ignore[no-any-return]


def _avg_nd(
    rank: int,
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
    count_include_pad: bool,
) -> Tensor:
    name = f"avg_pool{rank}d"
    x = _real(name, batch_of_images(name, x, rank))
    axes = _windows(name, x, kernel_size, stride, padding, 1, ceil_mode)
    return apply(_avg_pool, (x,), (axes, bool(count_include_pad)))  # type: ignore[no-any-return]


def _real(name: str, x: Tensor) -> Tensor:
    if x.dtype.kind != "f":
        raise TypeError(
            f"{name}: `x` must have a floating dtype, got {x.dtype}; convert with x.astype('float32')"
        )
    return x


def _adaptive(rank: int, x: TensorLike, output_size: Size) -> Tensor:
    name = f"adaptive_avg_pool{rank}d"
    x = _real(name, batch_of_images(name, x, rank))
    targets = sizes(name, "output_size", output_size, rank, 1)
    if 0 in x.shape[2:]:
        raise ValueError(f"{name}: `x` must have images of at least one pixel, got shape {x.shape}")
    if all(n % m == 0 for n, m in zip(x.shape[2:], targets, strict=True)):
        kernel = tuple(n // m for n, m in zip(x.shape[2:], targets, strict=True))
        return _avg_nd(rank, x, kernel, None, 0, False, True)
    means = [_adaptive_means(n, m, x.dtype) for n, m in zip(x.shape[2:], targets, strict=True)]
    out = matmul(x, means[-1].T)
    return out if rank == 1 else matmul(means[0], out)


def _adaptive_means(size: int, count: int, dtype: np.dtype[Any]) -> Array:
    """The matrix (count, size) that takes the mean of pixels floor(i size / count) to ceil((i + 1) size / count)."""
    i, pixel = np.arange(count)[:, None], np.arange(size)
    inside = (pixel >= i * size // count) & (pixel < -(-(i + 1) * size // count))
    means: Array = (inside / inside.sum(1, keepdims=True)).astype(dtype)
    return means


def max_pool2d(
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest pixel of every window.

    Args:
        x: images, (N, C, H, W).
        kernel_size: size of a window; an integer, or (rows, columns).
        stride: steps between windows; `kernel_size` by default.
        padding: pixels around the image that never win; at most half of the kernel.
        dilation: steps between the pixels of a window.
        ceil_mode: also take windows that begin on the image and end behind it.

    Returns:
        (N, C, H', W') with H' = (H + 2 padding - dilation (kernel - 1) - 1) / stride + 1, rounded down, or up
        with `ceil_mode`.

    Raises:
        ValueError: a number is out of range, or a window is larger than the padded image.
        TypeError: a size is not an integer.

    Gradient: all of a window's goes to its largest pixel, the first one in reading order if several are equal.

    >>> from dist_dp import ops
    >>> ops.max_pool2d([[[[1.0, 2.0, 5.0, 0.0], [4.0, 3.0, 1.0, 1.0]]]], 2).tolist()
    [[[[4.0, 5.0]]]]
    """
    return _max_nd(2, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool1d(
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest element of every window of sequences (N, C, L): `max_pool2d` in one dimension.

    >>> from dist_dp import ops
    >>> ops.max_pool1d([[[1.0, 3.0, 2.0]]], 2, stride=1).tolist()
    [[[3.0, 3.0]]]
    """
    return _max_nd(1, x, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool2d(
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of every window.

    Args:
        x: images, (N, C, H, W), of a floating dtype.
        kernel_size, stride, padding, ceil_mode: as of `max_pool2d`; the padding is 0.
        count_include_pad: divide by the size of the window, padding and all, instead of by its pixels alone.

    Returns:
        (N, C, H', W'), sizes as of `max_pool2d`.

    Raises:
        ValueError: a number is out of range, or a window is larger than the padded image.
        TypeError: a size is not an integer, or x is not floating.

    >>> from dist_dp import ops
    >>> ops.avg_pool2d([[[[1.0, 2.0, 5.0, 0.0], [4.0, 3.0, 1.0, 1.0]]]], 2).tolist()
    [[[[2.5, 1.75]]]]
    """
    return _avg_nd(2, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool1d(
    x: TensorLike,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of every window of sequences (N, C, L): `avg_pool2d` in one dimension.

    >>> from dist_dp import ops
    >>> ops.avg_pool1d([[[1.0, 3.0, 2.0]]], 2, stride=1).tolist()
    [[[2.0, 2.5]]]
    """
    return _avg_nd(1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def adaptive_avg_pool2d(x: TensorLike, output_size: Size) -> Tensor:
    """The means of `output_size` windows that cover the image evenly, whatever its size.

    Window i of m along an axis of n pixels goes from floor(i n / m) to ceil((i + 1) n / m), as in torch.

    Args:
        x: images, (N, C, H, W), of a floating dtype.
        output_size: number of windows; an integer, or (rows, columns).

    Returns:
        (N, C, rows, columns).

    Raises:
        ValueError: `output_size` is less than 1, or the images have no pixel.
        TypeError: `output_size` is not an integer, or x is not floating.

    >>> from dist_dp import ops
    >>> ops.adaptive_avg_pool2d([[[[1.0, 2.0, 3.0]]]], (1, 2)).tolist()
    [[[[1.5, 2.5]]]]
    """
    return _adaptive(2, x, output_size)


def adaptive_avg_pool1d(x: TensorLike, output_size: Size) -> Tensor:
    """The means of `output_size` windows that cover sequences (N, C, L): `adaptive_avg_pool2d` in one dimension.

    >>> from dist_dp import ops
    >>> ops.adaptive_avg_pool1d([[[1.0, 2.0, 3.0, 4.0]]], 2).tolist()
    [[[1.5, 3.5]]]
    """
    return _adaptive(1, x, output_size)
