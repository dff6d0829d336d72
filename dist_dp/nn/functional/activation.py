"""Activations under torch's names; those that `dist_dp.ops` has under the same name are the same functions."""

from __future__ import annotations

import numpy as np

from ... import ops
from ...arguments import check_number
from ...ops import elu, leaky_relu, relu, sigmoid, silu, tanh
from ...ops.activation import checked_axis
from ...ops.core import TensorLike
from ...ops.views import lifted
from ...tensor import Tensor

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "tanh",
]

# Klambauer et al. 2017: the fixed point of mean 0 and variance 1.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def gelu(input: TensorLike, approximate: str = "none") -> Tensor:
    """x Φ(x), Φ the normal distribution function; with approximate="tanh" by a tanh (Hendrycks, Gimpel 2016)."""
    return ops.gelu(input, approximate)


def softmax(input: TensorLike, dim: int) -> Tensor:
    """exp(x) / Σ exp(x) along `dim`.

    >>> import numpy as np
    >>> from dist_dp.nn import functional as F
    >>> F.softmax(np.zeros((1, 4), np.float32), dim=1)
    tensor([[0.25, 0.25, 0.25, 0.25]])
    """
    x = lifted(input)
    return ops.softmax(x, checked_axis("softmax", dim, x.ndim, "dim"))


def log_softmax(input: TensorLike, dim: int) -> Tensor:
    """x - log Σ exp(x) along `dim`, without overflow."""
    x = lifted(input)
    return ops.log_softmax(x, checked_axis("log_softmax", dim, x.ndim, "dim"))


def softmin(input: TensorLike, dim: int) -> Tensor:
    """softmax(-x) along `dim`."""
    x = lifted(input)
    return ops.softmax(ops.negative(x), checked_axis("softmin", dim, x.ndim, "dim"))


def softplus(input: TensorLike, beta: float = 1.0) -> Tensor:
    """log(1 + exp(beta x)) / beta, without overflow. Raises ValueError for beta <= 0."""
    check_number(beta, "softplus: beta")
    if not beta > 0:
        raise ValueError(f"softplus: beta must be positive, got {beta}")
    return ops.softplus(input) if beta == 1 else ops.softplus(ops.multiply(input, beta)) / beta


def logsigmoid(input: TensorLike) -> Tensor:
    """log σ(x) = -softplus(-x)."""
    return -ops.softplus(ops.negative(input))


def mish(input: TensorLike) -> Tensor:
    """x tanh(softplus(x)): Misra 2019."""
    return ops.multiply(input, ops.tanh(ops.softplus(input)))


def softsign(input: TensorLike) -> Tensor:
    """x / (1 + |x|)."""
    return ops.divide(input, 1 + ops.abs(input))


def hardtanh(input: TensorLike, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x kept within [min_val, max_val].

    Raises:
        ValueError: min_val >= max_val.
    """
    check_number(min_val, "hardtanh: min_val")
    check_number(max_val, "hardtanh: max_val")
    if not min_val < max_val:
        raise ValueError(f"hardtanh: min_val must be below max_val, got {min_val} and {max_val}")
    return ops.clip(input, min_val, max_val)


def relu6(input: TensorLike) -> Tensor:
    """min(max(x, 0), 6)."""
    return ops.clip(input, 0.0, 6.0)


def hardsigmoid(input: TensorLike) -> Tensor:
    """min(max(x + 3, 0), 6) / 6."""
    return relu6(ops.add(input, 3.0)) / 6.0


def hardswish(input: TensorLike) -> Tensor:
    """x hardsigmoid(x): Howard et al. 2019."""
    return ops.multiply(input, hardsigmoid(input))


def selu(input: TensorLike) -> Tensor:
    """1.0507 elu(x, 1.6733): Klambauer et al. 2017."""
    return ops.elu(input, _SELU_ALPHA) * _SELU_SCALE


def celu(input: TensorLike, alpha: float = 1.0) -> Tensor:
    """max(x, 0) + min(alpha (exp(x / alpha) - 1), 0): Barron 2017."""
    return ops.elu(ops.divide(input, alpha)) * alpha


def prelu(input: TensorLike, weight: TensorLike) -> Tensor:
    """x where x > 0, else weight x, with one weight for all elements or one for each channel (axis 1).

    Raises:
        ValueError: another number of weights.
    """
    x, w = lifted(input), lifted(weight)
    channels = x.shape[1] if x.ndim > 1 else 1
    if w.ndim != 1 or len(w) not in (1, channels):
        raise ValueError(
            f"prelu: weight must have shape (1,) or ({channels},) for input {x.shape}, got {w.shape}"
        )
    if len(w) > 1:
        w = ops.reshape(w, (channels, *(1,) * (x.ndim - 2)))
    return ops.where(ops.greater(x, 0), x, ops.multiply(w, x))


def glu(input: TensorLike, dim: int = -1) -> Tensor:
    """a σ(b) with a and b the two halves of x along `dim`: Dauphin et al. 2017.

    Raises:
        ValueError: an axis of odd length.
    """
    x = lifted(input)
    if not -x.ndim <= dim < x.ndim or x.shape[dim] % 2:
        raise ValueError(f"glu: axis dim={dim} must exist and have an even length, got shape {x.shape}")
    half = x.shape[dim] // 2
    front = (slice(None),) * (dim % x.ndim)
    a, b = (ops.get_item(x, (*front, part)) for part in (np.s_[:half], np.s_[half:]))
    return a * ops.sigmoid(b)
