"""The functions behind the layers, under torch's names: affine maps, embedding, dropout, norms, attention, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import ops, random
from ...ops import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    avg_pool1d,
    avg_pool2d,
    conv1d,
    conv2d,
    conv_transpose1d,
    conv_transpose2d,
    dropout,
    max_pool1d,
    max_pool2d,
)
from ...ops.affine import linear
from ...ops.core import TensorLike
from ...ops.views import lifted
from ...random import Stream
from ...tensor import Tensor
from ..arguments import probability

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "conv1d",
    "conv2d",
    "conv_transpose1d",
    "conv_transpose2d",
    "dropout",
    "dropout1d",
    "dropout2d",
    "embedding",
    "group_norm",
    "layer_norm",
    "linear",
    "max_pool1d",
    "max_pool2d",
    "normalize",
    "one_hot",
    "pad",
    "rms_norm",
    "scaled_dot_product_attention",
]

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def embedding(input: TensorLike, weight: TensorLike, padding_idx: int | None = None) -> Tensor:
    """weight[input]; the row `padding_idx` receives no gradient.

    Args:
        input: integers of any shape.
        weight: (rows, dim).

    Raises:
        IndexError: an index outside the table. TypeError: not integers.

    >>> from dist_dp.nn import functional as F
    >>> F.embedding([[1, 0]], [[1.0, 2.0], [3.0, 4.0]]).tolist()
    [[[3.0, 4.0], [1.0, 2.0]]]
    """
    out = ops.embedding(weight, input)
    if padding_idx is None:
        return out
    table = lifted(weight)
    padded = ops.expand_dims(ops.equal(input, padding_idx % len(table)), -1)
    return ops.where(padded, table.detach()[padding_idx], out)


def one_hot(tensor: TensorLike, num_classes: int = -1) -> Tensor:
    """int64 (..., num_classes): 1 at the place that the integer names, else 0; -1 classes: as many as the largest + 1.

    >>> from dist_dp.nn import functional as F
    >>> F.one_hot([0, 2]).tolist()
    [[1, 0, 0], [0, 0, 1]]
    """
    return ops.one_hot(tensor, None if num_classes == -1 else num_classes, np.int64)


def _drop_channels(
    name: str, x: TensorLike, p: float, training: bool, rng: Stream | None, axes: int
) -> Tensor:
    x, p = lifted(x), probability(name, p)
    if x.ndim not in (axes + 1, axes + 2):
        raise ValueError(f"{name}: expected input (N, C, ...) with {axes} spatial axes, got shape {x.shape}")
    if not training or p == 0:
        return x
    shape = (*x.shape[: x.ndim - axes], *(1,) * axes)
    kept = (rng or random.current()).bernoulli(1 - p, shape)
    return ops.multiply(x, kept * x.dtype.type(1 / (1 - p) if p < 1 else 0))


def dropout1d(input: TensorLike, p: float = 0.5, training: bool = True, rng: Stream | None = None) -> Tensor:
    """`dropout` of whole channels of (N, C, L) or (C, L)."""
    return _drop_channels("dropout1d", input, p, training, rng, 1)


def dropout2d(input: TensorLike, p: float = 0.5, training: bool = True, rng: Stream | None = None) -> Tensor:
    """`dropout` of whole channels of (N, C, H, W) or (C, H, W)."""
    return _drop_channels("dropout2d", input, p, training, rng, 2)


def layer_norm(
    input: TensorLike,
    normalized_shape: int | Sequence[int],
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / √(var + eps) · weight + bias over the last axes `normalized_shape`."""
    return ops.layer_norm(input, normalized_shape, weight, bias, eps)


def rms_norm(
    input: TensorLike,
    normalized_shape: int | Sequence[int],
    weight: TensorLike | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last axes `normalized_shape`."""
    return ops.rms_norm(input, normalized_shape, weight, eps)


def group_norm(
    input: TensorLike,
    num_groups: int,
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / √(var + eps) · weight + bias over each group of channels (axis 1)."""
    return ops.group_norm(input, num_groups, weight, bias, eps)


def batch_norm(
    input: TensorLike,
    running_mean: TensorLike | None,
    running_var: TensorLike | None,
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    training: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / √(var + eps) · weight + bias per channel (axis 1), with the batch's statistics when `training`.

    Running statistics are read, never written: nn.BatchNorm1d and 2d keep them.
    """
    if training:
        return ops.batch_norm(input, weight, bias, eps)[0]
    return ops.batch_norm(input, weight, bias, eps, running_mean, running_var)[0]


def scaled_dot_product_attention(
    query: TensorLike,
    key: TensorLike,
    value: TensorLike,
    attn_mask: TensorLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    rng: Stream | None = None,
) -> Tensor:
    """softmax(q kᵀ scale + mask) v over (..., L, E), (..., S, E), (..., S, Ev): Vaswani et al. 2017, eq. 1.

    Args:
        attn_mask: (..., L, S): booleans, True where a query may look at a key, or floats that are added.
        dropout_p: probability of dropping a weight; applies whenever it is not 0.
        is_causal: query i looks at keys 0 to i only.
        scale: 1/√E by default.
        rng: stream of the dropout.
    """
    if dropout_p == 0:
        return ops.scaled_dot_product_attention(query, key, value, attn_mask, is_causal, scale)
    weights = attention_weights(lifted(query), lifted(key), attn_mask, is_causal, scale)
    return dropout(weights, dropout_p, True, rng) @ value


def attention_weights(
    q: Tensor, k: Tensor, mask: TensorLike | None, causal: bool, scale: float | None
) -> Tensor:
    """softmax(q kᵀ scale + mask), (..., L, S): the weights themselves, which the fused attention never writes out."""
    scores = (q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)) @ ops.swapaxes(k, -1, -2)
    if causal:
        seen = np.tril(np.ones(scores.shape[-2:], bool))
        scores = ops.where(seen, scores, -math.inf)
    if mask is not None:
        mask = lifted(mask)
        scores = ops.where(mask, scores, -math.inf) if mask.dtype == np.bool_ else scores + mask
    return ops.softmax(scores, -1)


def normalize(input: TensorLike, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(‖x‖_p, eps) along `dim`.

    >>> from dist_dp.nn import functional as F
    >>> F.normalize([[3.0, 4.0]])
    tensor([[0.6, 0.8]])
    """
    length = ops.norm(input, p, axis=dim, keepdims=True)
    return ops.divide(input, ops.maximum(length, eps))


def pad(input: TensorLike, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """x with elements before and after its last axes, given from the last axis on: (left, right, top, bottom, ...).

    Args:
        pad: an even number of widths, two for each axis from the last one.
        mode: "constant" (filled with `value`), "reflect", "replicate" or "circular".

    Raises:
        ValueError: an odd number of widths, more than there are axes, another mode.

    >>> from dist_dp.nn import functional as F
    >>> F.pad([[1.0, 2.0]], (1, 0)).tolist()
    [[0.0, 1.0, 2.0]]
    """
    x = lifted(input)
    if len(pad) % 2 or len(pad) > 2 * x.ndim:
        raise ValueError(f"pad: pad must hold two widths for each of up to {x.ndim} axes, got {tuple(pad)}")
    if mode not in _MODES:
        raise ValueError(f"pad: mode must be one of {list(_MODES)}, got {mode!r}")
    widths: list[Any] = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    widths += [(0, 0)] * (x.ndim - len(widths))
    return ops.pad(x, widths[::-1], _MODES[mode], value)
