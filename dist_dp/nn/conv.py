"""Convolutions and pooling in one and two dimensions, on (N, C, L) and (N, C, H, W)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..ops.core import TensorLike
from ..tensor import Tensor
from . import init
from .arguments import check_flags, count, sizes
from .module import Module, Parameter

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "MaxPool1d",
    "MaxPool2d",
]

Size = int | Sequence[int]


class _Convolution(Module):
    """What convolutions and transposed ones share: their settings, their parameters and their text."""

    _axes: ClassVar[int]
    _transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        layer = type(self).__name__
        self.in_channels = count(layer, "in_channels", in_channels)
        self.out_channels = count(layer, "out_channels", out_channels)
        self.groups = count(layer, "groups", groups)
        check_flags(layer, bias=bias)
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value % groups:
                raise ValueError(f"{layer}: {name}={value} must be divisible by groups={groups}")
        self.kernel_size = sizes(layer, "kernel_size", kernel_size, self._axes)
        self.stride = sizes(layer, "stride", stride, self._axes)
        self.dilation = sizes(layer, "dilation", dilation, self._axes)
        self.padding: tuple[int, ...] | str
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"{layer}: padding must be 'same', 'valid' or ints, got {padding!r}")
            if padding == "same" and max(self.stride) > 1:
                raise ValueError(f"{layer}: padding='same' needs stride 1, got {self.stride}")
            self.padding = padding
        else:
            self.padding = sizes(layer, "padding", padding, self._axes, least=0)
        first, second = (in_channels, out_channels) if self._transposed else (out_channels, in_channels)
        self.weight = Parameter(np.empty((first, second // groups, *self.kernel_size), dtype))
        self.bias = Parameter(np.empty(out_channels, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew, from U(-k, k) with k² = 1 / (weight.shape[1] · prod(kernel_size))."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        text = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        if self.padding != (0,) * self._axes:
            text += f", padding={self.padding!r}"
        if self.dilation != (1,) * self._axes:
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text if self.bias is not None else text + ", bias=False"


class Conv1d(_Convolution):
    """Correlation of sequences (N, in_channels, L) with out_channels filters: see `ops.conv1d`.

    Parameters: `weight` (out_channels, in_channels / groups, kernel_size), `bias` (out_channels,).

    Raises:
        ValueError: a size below its least, channels that `groups` does not divide; at the call, an input that is not
        (N, in_channels, L) or is shorter than the kernel.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.Conv1d(3, 8, 5, padding=2)(np.ones((4, 3, 10), np.float32)).shape
    (4, 8, 10)
    """

    _axes = 1

    def forward(self, x: TensorLike) -> Tensor:
        return ops.conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2d(_Convolution):
    """Correlation of images (N, in_channels, H, W) with out_channels filters: see `ops.conv2d`.

    Parameters: `weight` (out_channels, in_channels / groups, kh, kw), `bias` (out_channels,). Errors as for Conv1d.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.Conv2d(1, 6, 5, stride=2)(np.ones((2, 1, 28, 28), np.float32)).shape
    (2, 6, 12, 12)
    """

    _axes = 2

    def forward(self, x: TensorLike) -> Tensor:
        return ops.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class _TransposedConvolution(_Convolution):
    _transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, dtype
        )
        if isinstance(self.padding, str):
            raise TypeError(f"{type(self).__name__}: padding must be an int or ints, got {padding!r}")
        self.padding: tuple[int, ...] = self.padding
        self.output_padding = sizes(
            type(self).__name__, "output_padding", output_padding, self._axes, least=0
        )

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text + (f", output_padding={self.output_padding}" if any(self.output_padding) else "")


class ConvTranspose1d(_TransposedConvolution):
    """The transpose of `Conv1d` as a linear map: see `ops.conv_transpose1d`.

    Parameters: `weight` (in_channels, out_channels / groups, kernel_size), `bias` (out_channels,). Errors as for
        Conv1d.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.ConvTranspose1d(8, 3, 4, stride=2)(np.ones((5, 8, 10), np.float32)).shape
    (5, 3, 22)
    """

    _axes = 1

    def forward(self, x: TensorLike) -> Tensor:
        return ops.conv_transpose1d(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


class ConvTranspose2d(_TransposedConvolution):
    """The transpose of `Conv2d` as a linear map: see `ops.conv_transpose2d`.

    Parameters: `weight` (in_channels, out_channels / groups, kh, kw), `bias` (out_channels,). Errors as for Conv1d.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.ConvTranspose2d(8, 3, 2, stride=2)(np.ones((5, 8, 7, 7), np.float32)).shape
    (5, 3, 14, 14)
    """

    _axes = 2

    def forward(self, x: TensorLike) -> Tensor:
        return ops.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


class _Pool(Module):
    _axes: ClassVar[int]

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False
    ) -> None:
        layer = type(self).__name__
        self.kernel_size = sizes(layer, "kernel_size", kernel_size, self._axes)
        self.stride = sizes(layer, "stride", kernel_size if stride is None else stride, self._axes)
        self.padding = sizes(layer, "padding", padding, self._axes, least=0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(f"{layer}: padding={padding} must be at most half of kernel_size={kernel_size}")
        check_flags(layer, ceil_mode=ceil_mode)
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _MaxPool(_Pool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.dilation = sizes(type(self).__name__, "dilation", dilation, self._axes)


class MaxPool1d(_MaxPool):
    """The largest element of every window of (N, C, L); `stride` is `kernel_size` by default.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.MaxPool1d(2)(np.array([[[1, 3, 2, 0]]], np.float32))
    tensor([[[3., 2.]]])
    """

    _axes = 1

    def forward(self, x: TensorLike) -> Tensor:
        return ops.max_pool1d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class MaxPool2d(_MaxPool):
    """The largest element of every window of (N, C, H, W); `stride` is `kernel_size` by default.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.MaxPool2d(2)(np.ones((2, 6, 28, 28), np.float32)).shape
    (2, 6, 14, 14)
    """

    _axes = 2

    def forward(self, x: TensorLike) -> Tensor:
        return ops.max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)


class _AvgPool(_Pool):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        check_flags(type(self).__name__, count_include_pad=count_include_pad)
        self.count_include_pad = count_include_pad


class AvgPool1d(_AvgPool):
    """The mean of every window of (N, C, L); zeros of the padding count unless count_include_pad=False.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.AvgPool1d(2)(np.array([[[1, 3, 2, 0]]], np.float32))
    tensor([[[2., 1.]]])
    """

    _axes = 1

    def forward(self, x: TensorLike) -> Tensor:
        return ops.avg_pool1d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class AvgPool2d(_AvgPool):
    """The mean of every window of (N, C, H, W); zeros of the padding count unless count_include_pad=False.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.AvgPool2d(7)(np.ones((2, 6, 28, 28), np.float32)).shape
    (2, 6, 4, 4)
    """

    _axes = 2

    def forward(self, x: TensorLike) -> Tensor:
        return ops.avg_pool2d(
            x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )


class AdaptiveAvgPool1d(Module):
    """Means of `output_size` windows that cover (N, C, L) evenly.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.AdaptiveAvgPool1d(2)(np.array([[[1, 3, 2, 0]]], np.float32))
    tensor([[[2., 1.]]])
    """

    def __init__(self, output_size: int) -> None:
        self.output_size = count("AdaptiveAvgPool1d", "output_size", output_size)

    def forward(self, x: TensorLike) -> Tensor:
        return ops.adaptive_avg_pool1d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool2d(Module):
    """Means of `output_size` = (h, w) windows that cover (N, C, H, W) evenly.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.AdaptiveAvgPool2d(1)(np.ones((2, 6, 5, 7), np.float32)).shape
    (2, 6, 1, 1)
    """

    def __init__(self, output_size: Size) -> None:
        self.output_size: Any = sizes("AdaptiveAvgPool2d", "output_size", output_size, 2)

    def forward(self, x: TensorLike) -> Tensor:
        return ops.adaptive_avg_pool2d(x, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
