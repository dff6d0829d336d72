"""Convolutions in one and two dimensions, and their transposes, with torch's meaning of every argument.

Three linear maps carry all of it: the convolution and the two ways to transpose it, towards its input and towards
its weights. Each one's gradients are the other two, so derivatives of every order cost what the first one does.
An image of one dimension is an image of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tape import Array
from ..tensor import Tensor
from .core import Op, TensorLike, apply
from .elementwise import add
from .geometry import Geometry
from .patches import convolve, input_gradient, weight_gradient
from .views import broadcast_to, lifted, moveaxis, reshape

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]

Size = int | Sequence[int]

_AXES = {1: "(N, C, L)", 2: "(N, C, H, W)"}


# ----- the three maps -----


def _planes(x: Array) -> Array:
    return x if x.ndim == 4 else x[:, :, None]


def _as_pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    return (1, *sizes) if len(sizes) == 1 else sizes  # type: ignore[return-value]


def _convolve(x: Array, weight: Array, geometry: Geometry) -> Array:
    return _convolve_biased(x, weight, None, geometry)


def _convolve_biased(x: Array, weight: Array, bias: Array | None, geometry: Geometry) -> Array:
    out = convolve(_planes(x), _planes(weight), bias, geometry)
    return out if x.ndim == 4 else out[:, :, 0]


def _towards_input(g: Array, weight: Array, size: tuple[int, ...], geometry: Geometry) -> Array:
    out = input_gradient(_planes(g), _planes(weight), _as_pair(size), geometry)
    return out if g.ndim == 4 else out[:, :, 0]


def _towards_weight(x: Array, g: Array, kernel: tuple[int, ...], geometry: Geometry) -> Array:
    out = weight_gradient(_planes(x), _planes(g), _as_pair(kernel), geometry)
    return out if g.ndim == 4 else out[:, :, 0]


def _examples_in_images(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    """Weights of one for all: the examples' images in one batch. Weights of their own: examples as groups."""
    x, weight, *bias = inputs
    if batched[1] or any(batched[2:]):
        out = _examples_in_groups(_conv if bias else op, size, (x, weight), batched[:2], params)
        return add(out, _per_channel(bias[0], out.ndim - 3, batched[2])) if bias else out
    images = x.shape[1]
    out = apply(op, (reshape(x, (size * images, *x.shape[2:])), weight, *bias), params)
    return reshape(out, (size, images, *out.shape[1:]))


def _examples_in_groups(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    """Every example as groups of channels of its own; a group never meets another one's channels or weights."""
    *sizes, geometry = params
    x, y = (a if has else broadcast_to(a, (size, *a.shape)) for a, has in zip(inputs, batched, strict=True))
    geometry = geometry._replace(groups=size * geometry.groups)
    x = _merged_channels(x)
    if op is _weight_map:
        out = apply(op, (x, _merged_channels(y)), (*sizes, geometry))
        return reshape(out, (size, out.shape[0] // size, *out.shape[1:]))
    out = apply(op, (x, reshape(y, (-1, *y.shape[2:]))), (*sizes, geometry))
    return moveaxis(reshape(out, (out.shape[0], size, out.shape[1] // size, *out.shape[2:])), 1, 0)


def _merged_channels(x: Any) -> Any:
    """(examples, images, channels, ...) as (images, examples * channels, ...)."""
    x = moveaxis(x, 0, 1)
    return reshape(x, (x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:]))


def _per_channel(bias: Any, rank: int, batched: bool = False) -> Any:
    """A value per channel, shaped to be added to images (of every example, if `batched`)."""
    if batched:
        return reshape(bias, (bias.shape[0], 1, bias.shape[1], *(1,) * rank))
    return reshape(bias, (bias.shape[0], *(1,) * rank))


def _x(g: Any, weight: Any, x_shape: tuple[int, ...], geometry: Geometry) -> Any:
    return _input_map.run(g, weight, params=(x_shape[2:], geometry))


def _weight(g: Any, x: Any, weight_shape: tuple[int, ...], geometry: Geometry) -> Any:
    return _weight_map.run(x, g, params=(weight_shape[2:], geometry))


def _x_tangent(t: Any, weight: Any, x_shape: tuple[int, ...], geometry: Geometry) -> Any:
    return _conv.run(t, weight, params=(geometry,))


def _weight_tangent(t: Any, x: Any, weight_shape: tuple[int, ...], geometry: Geometry) -> Any:
    return _conv.run(x, t, params=(geometry,))


_conv: Op = Op(
    "conv",
    _convolve,
    "x weight",
    "geometry",
    vjp=(_x, _weight),
    jvp=(_x_tangent, _weight_tangent),
    batch=_examples_in_images,
)
_conv_biased: Op = Op(
    "conv_biased",
    _convolve_biased,
    "x weight bias",
    "geometry",
    vjp=(_x, _weight, lambda g, x_shape: np.sum(g, axis=(0, *range(2, len(x_shape))))),
    jvp=(_x_tangent, _weight_tangent, lambda t, x_shape: t.reshape((-1, *(1,) * (len(x_shape) - 2)))),
    batch=_examples_in_images,
)
_input_map: Op = Op(
    "conv_transpose",
    _towards_input,
    "y weight",
    "size geometry",
    vjp=(
        lambda g, weight, size, geometry: _conv.run(g, weight, params=(geometry,)),
        lambda g, y, weight_shape, size, geometry: _weight_map.run(g, y, params=(weight_shape[2:], geometry)),
    ),
    jvp=(
        lambda t, weight, size, geometry: _input_map.run(t, weight, params=(size, geometry)),
        lambda t, y, weight_shape, size, geometry: _input_map.run(y, t, params=(size, geometry)),
    ),
    batch=_examples_in_images,
)
_weight_map: Op = Op(
    "conv_weight",
    _towards_weight,
    "x y",
    "kernel geometry",
    vjp=(
        lambda g, y, x_shape, kernel, geometry: _input_map.run(y, g, params=(x_shape[2:], geometry)),
        lambda g, x, kernel, geometry: _conv.run(x, g, params=(geometry,)),
    ),
    jvp=(
        lambda t, y, x_shape, kernel, geometry: _weight_map.run(t, y, params=(kernel, geometry)),
        lambda t, x, kernel, geometry: _weight_map.run(x, t, params=(kernel, geometry)),
    ),
    batch=_examples_in_groups,
)


# ----- what a caller may ask for -----


def sizes(name: str, argument: str, value: Size, rank: int, least: int) -> tuple[int, ...]:
    """An integer for every axis, or one for each of `rank` axes, as a tuple; all at least `least`."""
    many = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,) * rank
    if not all(isinstance(n, (int, np.integer)) for n in many):
        raise TypeError(f"{name}: `{argument}` must be an integer or a tuple of {rank}, got {value!r}")
    if len(many) != rank:
        raise ValueError(f"{name}: `{argument}` must be an integer or have {rank} elements, got {value!r}")
    if min(many) < least:
        raise ValueError(f"{name}: `{argument}` must be at least {least}, got {value!r}")
    return tuple(int(n) for n in many)


def batch_of_images(name: str, x: TensorLike, rank: int) -> Tensor:
    """`x` as a tensor, once it is known to be a batch of images of `rank` axes."""
    x = lifted(x)
    if x.ndim != rank + 2:
        hint = f"; add the axis of examples with x[None] to {x.shape}" if x.ndim == rank + 1 else ""
        raise ValueError(f"{name}: `x` must have {rank + 2} axes {_AXES[rank]}, got shape {x.shape}{hint}")
    return x


def _operands(
    name: str,
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None,
    rank: int,
    groups: int,
    transposed: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The three operands, once their shapes are known to agree."""
    x = batch_of_images(name, x, rank)
    weight = lifted(weight)
    if not isinstance(groups, (int, np.integer)):
        raise TypeError(f"{name}: `groups` must be an integer, got {groups!r}")
    if groups < 1:
        raise ValueError(f"{name}: `groups` must be at least 1, got {groups}")
    if weight.ndim != rank + 2 or 0 in weight.shape:
        channels = "(C_in, C_out / groups" if transposed else "(C_out, C_in / groups"
        kernel = ", kh, kw)" if rank == 2 else ", k)"
        raise ValueError(
            f"{name}: `weight` must have shape {channels}{kernel}, none of them 0, got {weight.shape}"
        )
    first, second = weight.shape[:2]
    expected = first if transposed else second * groups
    if x.shape[1] != expected:
        raise ValueError(
            f"{name}: `x` must have {expected} channels for a weight of shape {weight.shape} with groups={groups}, "
            f"got {x.shape[1]} (x has shape {x.shape})"
        )
    if first % groups:
        raise ValueError(
            f"{name}: `groups` must divide the first axis of `weight`, got groups={groups} and {first} channels"
        )
    filters = second * groups if transposed else first
    bias = None if bias is None else lifted(bias)
    if bias is not None and bias.shape != (filters,):
        raise ValueError(
            f"{name}: `bias` must have shape ({filters},), one value per channel, got {bias.shape}"
        )
    return x, weight, bias


def _padding(
    name: str,
    padding: Size | str,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> list[tuple[int, int]]:
    rank = len(kernel)
    if padding == "valid":
        return [(0, 0)] * rank
    if padding == "same":
        if max(stride) > 1:
            raise ValueError(
                f"{name}: padding='same' needs a stride of 1, got {stride}; give the padding in numbers"
            )
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(n // 2, n - n // 2) for n in totals]
    if isinstance(padding, str):
        raise ValueError(f"{name}: `padding` must be an integer, a tuple, 'same' or 'valid', got {padding!r}")
    return [(n, n) for n in sizes(name, "padding", padding, rank, 0)]


def _geometry(
    stride: tuple[int, ...], padding: Sequence[tuple[int, int]], dilation: tuple[int, ...], groups: int
) -> Geometry:
    if len(stride) == 1:
        return Geometry((1, *stride), ((0, 0), *padding), (1, *dilation), int(groups))  # type: ignore[arg-type]
    return Geometry(stride, tuple(padding), dilation, int(groups))  # type: ignore[arg-type]


def _forward(
    rank: int,
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
) -> Tensor:
    name = f"conv{rank}d"
    image, filters, offset = _operands(name, x, weight, bias, rank, groups, transposed=False)
    stride = sizes(name, "stride", stride, rank, 1)
    dilation = sizes(name, "dilation", dilation, rank, 1)
    kernel = filters.shape[2:]
    pads = _padding(name, padding, kernel, stride, dilation)
    for n, k, d, p in zip(image.shape[2:], kernel, dilation, pads, strict=True):
        if n + sum(p) < d * (k - 1) + 1:
            raise ValueError(
                f"{name}: the kernel must not be larger than the padded image: a kernel of {kernel} with "
                f"dilation={dilation} does not fit an image of {image.shape[2:]} with padding={padding!r}"
            )
    geometry = _geometry(stride, pads, dilation, groups)
    if offset is None:
        return apply(_conv, (image, filters), (geometry,))  # type: ignore[no-any-return]
    return apply(_conv_biased, (image, filters, offset), (geometry,))  # type: ignore[no-any-return]


def _transposed(
    rank: int,
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None,
    stride: Size,
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> Tensor:
    name = f"conv_transpose{rank}d"
    image, filters, offset = _operands(name, x, weight, bias, rank, groups, transposed=True)
    stride = sizes(name, "stride", stride, rank, 1)
    dilation = sizes(name, "dilation", dilation, rank, 1)
    pads = sizes(name, "padding", padding, rank, 0)
    extra = sizes(name, "output_padding", output_padding, rank, 0)
    if any(e >= s for e, s in zip(extra, stride, strict=True)):
        raise ValueError(
            f"{name}: `output_padding` must be less than the stride {stride}, got {output_padding!r}"
        )
    size = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, k, s, p, d, e in zip(
            image.shape[2:], filters.shape[2:], stride, pads, dilation, extra, strict=True
        )
    )
    if min(size) < 1:
        raise ValueError(
            f"{name}: padding={padding!r} leaves nothing of the image: "
            f"x of shape {image.shape} and weight of shape {filters.shape} give an image of {size}"
        )
    out = apply(
        _input_map, (image, filters), (size, _geometry(stride, [(p, p) for p in pads], dilation, groups))
    )
    return out if offset is None else add(out, _per_channel(offset, rank))


def conv2d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Correlate images with filters, what the field calls a convolution.

    out[n, o, r, q] = bias[o] + sum over c, i, j of weight[o, c, i, j] x[n, c, r sh + i dh - ph, q sw + j dw - pw],
    where x is 0 outside the image and c runs over the channels of o's group.

    Args:
        x: images, (N, C_in, H, W).
        weight: filters, (C_out, C_in / groups, kh, kw).
        bias: (C_out,), or None.
        stride: steps between windows; an integer, or (vertical, horizontal).
        padding: zeros around the image: an integer, a pair, 'valid' (none), or 'same' (as many as keep the size,
            the odd one at the end; needs a stride of 1).
        dilation: steps between the pixels of a window.
        groups: the channels are cut into this many groups, each convolved with its own filters.

    Returns:
        (N, C_out, H', W') with H' = (H + 2 ph - dh (kh - 1) - 1) // sh + 1, and W' likewise.

    Raises:
        ValueError: shapes do not agree, a number is out of range, or the kernel is larger than the padded image.
        TypeError: a size is not an integer.

    Gradients: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.

    >>> from dist_dp import ops
    >>> image = [[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]]
    >>> ops.conv2d(image, [[[[1.0, -1.0]]]], bias=[0.5]).tolist()
    [[[[-0.5, -0.5], [-0.5, -0.5]]]]
    """
    return _forward(2, x, weight, bias, stride, padding, dilation, groups)


def conv1d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Correlate sequences with filters: `conv2d` in one dimension, with the same arguments and errors.

    Args:
        x: sequences, (N, C_in, L).
        weight: filters, (C_out, C_in / groups, k).
        bias: (C_out,), or None.

    Returns:
        (N, C_out, L') with L' = (L + 2 padding - dilation (k - 1) - 1) // stride + 1.

    >>> from dist_dp import ops
    >>> ops.conv1d([[[1.0, 2.0, 4.0, 8.0]]], [[[-1.0, 1.0]]], stride=2).tolist()
    [[[1.0, 4.0]]]
    """
    return _forward(1, x, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of `conv2d`: every pixel of x adds its multiple of a filter to the result.

    It maps what `conv2d` with the same weight, stride, padding and dilation returns back to the shape that it
    took; `output_padding` chooses among the shapes that a stride makes one of.

    Args:
        x: images, (N, C_in, H, W).
        weight: filters, (C_in, C_out / groups, kh, kw).
        bias: (C_out,), or None.
        stride, padding, dilation, groups: those of the convolution that is transposed.
        output_padding: rows and columns added at the end of the result; less than the stride.

    Returns:
        (N, C_out, H', W') with H' = (H - 1) sh - 2 ph + dh (kh - 1) + output_padding + 1, and W' likewise.

    Raises:
        ValueError: shapes do not agree, a number is out of range, or nothing of the image is left.
        TypeError: a size is not an integer.

    Source: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4.

    >>> from dist_dp import ops
    >>> ops.conv_transpose2d([[[[1.0, 2.0]]]], [[[[1.0, 10.0]]]], stride=2).tolist()
    [[[[1.0, 10.0, 2.0, 20.0]]]]
    """
    return _transposed(2, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose1d(
    x: TensorLike,
    weight: TensorLike,
    bias: TensorLike | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of `conv1d`: `conv_transpose2d` in one dimension, with the same arguments and errors.

    Args:
        x: sequences, (N, C_in, L).
        weight: filters, (C_in, C_out / groups, k).
        bias: (C_out,), or None.

    Returns:
        (N, C_out, L') with L' = (L - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1.

    >>> from dist_dp import ops
    >>> ops.conv_transpose1d([[[1.0, 2.0]]], [[[1.0, 10.0]]]).tolist()
    [[[1.0, 12.0, 20.0]]]
    """
    return _transposed(1, x, weight, bias, stride, padding, output_padding, groups, dilation)
