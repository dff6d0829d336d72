"""Normalisation layers: batch, layer, root-mean-square and group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..ops.core import TensorLike
from ..ops.views import lifted
from ..tensor import Tensor
from .arguments import check_flags, count, nonnegative
from .buffers import Buffer
from .module import Module, Parameter

__all__ = ["BatchNorm1d", "BatchNorm2d", "GroupNorm", "LayerNorm", "RMSNorm"]


class _BatchNorm(Module):
    """What batch normalisation is for inputs of any rank; the subclasses say which."""

    _ranks: ClassVar[tuple[int, ...]]
    _layout: ClassVar[str]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        layer = type(self).__name__
        self.num_features = count(layer, "num_features", num_features)
        self.eps = nonnegative(layer, "eps", eps)
        if momentum is not None and nonnegative(layer, "momentum", momentum) > 1:
            raise ValueError(f"{layer}: momentum must be between 0 and 1, or None, got {momentum}")
        check_flags(layer, affine=affine, track_running_stats=track_running_stats)
        self.momentum, self.affine, self.track_running_stats = momentum, affine, track_running_stats
        self.weight = Parameter(np.ones(num_features, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_features, dtype)) if affine else None
        self.running_mean = Buffer(np.zeros(num_features, dtype)) if track_running_stats else None
        self.running_var = Buffer(np.ones(num_features, dtype)) if track_running_stats else None
        self.num_batches_tracked = Buffer(np.zeros((), np.int64)) if track_running_stats else None

    def forward(self, x: TensorLike) -> Tensor:
        x = lifted(x)
        if x.ndim not in self._ranks or x.shape[1] != self.num_features:
            layout = self._layout.format(f"num_features={self.num_features}")
            raise ValueError(f"{type(self).__name__}: expected input {layout}, got shape {x.shape}")
        if self.running_mean is None or self.running_var is None:
            return ops.batch_norm(x, self.weight, self.bias, self.eps)[0]
        if not self.training:
            return ops.batch_norm(x, self.weight, self.bias, self.eps, self.running_mean, self.running_var)[0]
        out, mean, var = ops.batch_norm(x, self.weight, self.bias, self.eps)
        self._track(mean, var, x.size // self.num_features)
        return out

    def _track(self, mean: Tensor, var: Tensor, n: int) -> None:
        assert (
            self.running_mean is not None
            and self.running_var is not None
            and self.num_batches_tracked is not None
        )
        batches = self.num_batches_tracked.item() + 1
        share = 1 / batches if self.momentum is None else self.momentum
        unbiased = var.data * (n / (n - 1))
        self.propose_buffer("running_mean", (1 - share) * self.running_mean.data + share * mean.data, n)
        self.propose_buffer("running_var", (1 - share) * self.running_var.data + share * unbiased, n)
        self.propose_buffer("num_batches_tracked", batches, n)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of (N, C) or (N, C, L).

    out = (x - mean) / √(var + eps) · weight + bias for every channel (axis 1): Ioffe and Szegedy 2015.

    In training mean and variance (biased) are those of the batch, and the running ones are proposed as
    (1 - momentum) · running + momentum · batch's, with the unbiased variance (see `Module.propose_buffer`: in a
    training loop the batch is the shard, and the proposals of all shards are averaged by their number of values). In
    evaluation the running ones are used.

    Parameters: `weight` and `bias` (num_features,), from 1 and 0. Buffers: `running_mean`, `running_var`,
    `num_batches_tracked`.

    Args:
        num_features: number of channels.
        eps: added to the variance.
        momentum: share of the newest batch; None for the plain mean over all batches.
        affine: whether there are `weight` and `bias`.
        track_running_stats: without, the statistics of the batch are used in evaluation too.
        dtype: of parameters and running statistics.

    Raises:
        ValueError: num_features < 1, eps < 0, momentum outside [0, 1]; at the call, another shape, or a single value
            per
        channel in training.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.BatchNorm1d(1, eps=0.0)(np.array([[1.0], [3.0]], np.float32)).tolist()
    [[-1.0], [1.0]]
    """

    _ranks = (2, 3)
    _layout = "(N, {0}) or (N, {0}, L)"


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of (N, C, H, W): see BatchNorm1d.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.BatchNorm2d(3)(np.ones((2, 3, 4, 4), np.float32)).shape
    (2, 3, 4, 4)
    """

    _ranks = (4,)
    _layout = "(N, {0}, H, W)"


def _trailing(layer: str, normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape:
        raise ValueError(f"{layer}: normalized_shape must name at least one axis, got ()")
    return tuple(count(layer, "normalized_shape", n) for n in shape)


def _fitting(layer: str, x: TensorLike, normalized_shape: tuple[int, ...]) -> Tensor:
    x = lifted(x)
    if x.shape[-len(normalized_shape) :] != normalized_shape:
        axes = ", ".join(map(str, normalized_shape))
        raise ValueError(f"{layer}: expected input (..., {axes}), got shape {x.shape}")
    return x


class LayerNorm(Module):
    """out = (x - mean) / √(var + eps) · weight + bias over the last axes: Ba, Kiros and Hinton 2016.

    Parameters: `weight` and `bias` of shape `normalized_shape`, from 1 and 0.

    Args:
        normalized_shape: the last axis, or axes, of the input.
        eps: added to the (biased) variance.
        elementwise_affine: whether there are parameters at all.
        bias: whether there is `bias`.
        dtype: of the parameters.

    Raises:
        ValueError: a size below 1, eps < 0; at the call, an input with other last axes.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.LayerNorm(2, eps=0.0)(np.array([[1.0, 3.0]], np.float32)).tolist()
    [[-1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.normalized_shape = _trailing("LayerNorm", normalized_shape)
        self.eps = nonnegative("LayerNorm", "eps", eps)
        check_flags("LayerNorm", elementwise_affine=elementwise_affine, bias=bias)
        self.elementwise_affine = elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: TensorLike) -> Tensor:
        x = _fitting("LayerNorm", x, self.normalized_shape)
        return ops.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class RMSNorm(Module):
    """out = x / √(mean(x²) + eps) · weight over the last axes: Zhang and Sennrich 2019.

    Parameter: `weight` of shape `normalized_shape`, from 1. `eps` None is the machine epsilon of the input's dtype.
    Errors as for LayerNorm.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.RMSNorm(2, eps=0.0)(np.array([[3.0, 3.0]], np.float32)).tolist()
    [[1.0, 1.0]]
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.normalized_shape = _trailing("RMSNorm", normalized_shape)
        self.eps = None if eps is None else nonnegative("RMSNorm", "eps", eps)
        check_flags("RMSNorm", elementwise_affine=elementwise_affine)
        self.elementwise_affine = elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape, dtype)) if elementwise_affine else None

    def forward(self, x: TensorLike) -> Tensor:
        x = _fitting("RMSNorm", x, self.normalized_shape)
        return ops.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """out = (x - mean) / √(var + eps) · weight + bias over each group of channels of (N, C, ...): Wu and He 2018.

    Parameters: `weight` and `bias` (num_channels,), from 1 and 0.

    Raises:
        ValueError: a size below 1, num_channels that num_groups does not divide, eps < 0; at the call, another number
            of
        channels.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.GroupNorm(2, 6)(np.ones((4, 6, 5, 5), np.float32)).shape
    (4, 6, 5, 5)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_groups = count("GroupNorm", "num_groups", num_groups)
        self.num_channels = count("GroupNorm", "num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels={num_channels} must be divisible by num_groups={num_groups}"
            )
        self.eps = nonnegative("GroupNorm", "eps", eps)
        check_flags("GroupNorm", affine=affine)
        self.affine = affine
        self.weight = Parameter(np.ones(num_channels, dtype)) if affine else None
        self.bias = Parameter(np.zeros(num_channels, dtype)) if affine else None

    def forward(self, x: TensorLike) -> Tensor:
        x = lifted(x)
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(
                f"GroupNorm: expected input (N, num_channels={self.num_channels}, ...), got shape {x.shape}"
            )
        return ops.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"
