"""Losses under torch's names, with torch's arguments and values.

One thing is stricter: input and target must have the same shape. (N,) against (N, 1) would broadcast to N² pairs and
train on noise; here it is an error that says what to do.

`reduction` is "mean" over all elements, "sum", or "none" for the loss of every element.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from ... import ops
from ...arguments import check_number
from ...ops import cross_entropy, nll_loss
from ...ops.core import TensorLike
from ...ops.views import lifted
from ...tensor import Tensor

__all__ = [
    "Reduction",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_similarity",
    "cross_entropy",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
]

Reduction = Literal["mean", "sum", "none"]


def _pair(loss: str, input: TensorLike, target: TensorLike) -> tuple[Any, Any]:
    """Both as tensors or arrays of one shape."""
    x, y = lifted(input, f"{loss}: input"), lifted(target, f"{loss}: target")
    if x.shape != y.shape:
        advice = "give the target the input's shape"
        if x.size == y.size:
            advice = f"reshape one of them, e.g. input.reshape({', '.join(map(str, y.shape)) or '()'})"
        raise ValueError(
            f"{loss}: input and target must have the same shape, got {x.shape} and {y.shape}; broadcasting would "
            f"compare every element with every other: {advice}"
        )
    return x, y


def _reduced(loss: str, value: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return ops.mean(value)
    if reduction == "sum":
        return ops.sum(value)
    if reduction == "none":
        return value
    raise ValueError(f"{loss}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _weighted(loss: str, value: Tensor, weight: TensorLike | None) -> Tensor:
    """The losses times their weights, which must not stretch them."""
    if weight is None:
        return value
    w = lifted(weight, f"{loss}: weight")
    try:
        fits = np.broadcast_shapes(w.shape, value.shape) == value.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{loss}: weight must broadcast to the input's shape {value.shape}, got {w.shape}")
    return ops.multiply(value, w)


def _positive(loss: str, name: str, value: float) -> float:
    check_number(value, f"{loss}: {name}")
    if not value > 0:
        raise ValueError(f"{loss}: {name} must be positive, got {value}")
    return value


def mse_loss(input: TensorLike, target: TensorLike, reduction: Reduction = "mean") -> Tensor:
    """(x - y)².

    Raises:
        ValueError: different shapes, or another `reduction`.

    >>> from dist_dp.nn import functional as F
    >>> F.mse_loss([1.0, 2.0], [0.0, 4.0])
    tensor(2.5)
    """
    x, y = _pair("mse_loss", input, target)
    return _reduced("mse_loss", ops.square(ops.subtract(x, y)), reduction)


def l1_loss(input: TensorLike, target: TensorLike, reduction: Reduction = "mean") -> Tensor:
    """|x - y|. Raises ValueError for different shapes or another `reduction`."""
    x, y = _pair("l1_loss", input, target)
    return _reduced("l1_loss", ops.abs(ops.subtract(x, y)), reduction)


def huber_loss(
    input: TensorLike, target: TensorLike, reduction: Reduction = "mean", delta: float = 1.0
) -> Tensor:
    """d²/2 where |d| <= delta, else delta (|d| - delta/2), with d = x - y: Huber 1964.

    Raises:
        ValueError: different shapes, another `reduction`, delta <= 0.
    """
    x, y = _pair("huber_loss", input, target)
    distance = ops.abs(ops.subtract(x, y))
    near = ops.minimum(distance, _positive("huber_loss", "delta", delta))
    # near (d - near/2): both branches in one, and its derivative in d is `near` without a choice at the seam.
    return _reduced("huber_loss", near * (distance - 0.5 * near), reduction)


def smooth_l1_loss(
    input: TensorLike, target: TensorLike, reduction: Reduction = "mean", beta: float = 1.0
) -> Tensor:
    """d²/(2 beta) where |d| < beta, else |d| - beta/2, with d = x - y; beta = 0 is the L1 loss (Girshick 2015).

    Raises:
        ValueError: different shapes, another `reduction`, beta < 0.
    """
    if beta == 0:
        return l1_loss(input, target, reduction)
    x, y = _pair("smooth_l1_loss", input, target)
    _positive("smooth_l1_loss", "beta", beta)
    return huber_loss(x, y, reduction, beta) / beta


def binary_cross_entropy(
    input: TensorLike, target: TensorLike, weight: TensorLike | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """-w (y log x + (1 - y) log(1 - x)) of probabilities x; logarithms are kept above -100, as in torch.

    Raises:
        ValueError: different shapes, another `reduction`, an input outside [0, 1].
    """
    x, y = _pair("binary_cross_entropy", input, target)
    values = x.data if isinstance(x, Tensor) else x
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(
            "binary_cross_entropy: input must be probabilities between 0 and 1, got values from "
            f"{values.min()} to {values.max()}; apply a sigmoid, or use binary_cross_entropy_with_logits"
        )
    with np.errstate(divide="ignore"):  # log 0 = -inf is what the bound is for
        log_x = ops.maximum(ops.log(x), -100.0)
        log_rest = ops.maximum(ops.log1p(ops.negative(x)), -100.0)
    value = ops.multiply(ops.subtract(y, 1.0), log_rest) - ops.multiply(y, log_x)
    return _reduced("binary_cross_entropy", _weighted("binary_cross_entropy", value, weight), reduction)


def binary_cross_entropy_with_logits(
    input: TensorLike,
    target: TensorLike,
    weight: TensorLike | None = None,
    reduction: Reduction = "mean",
    pos_weight: TensorLike | None = None,
) -> Tensor:
    """-w (p y log σ(x) + (1 - y) log σ(-x)) of logits x, without overflow; p is `pos_weight`, 1 by default.

    Raises:
        ValueError: different shapes, another `reduction`.

    >>> from dist_dp.nn import functional as F
    >>> round(F.binary_cross_entropy_with_logits([0.0], [1.0]).item(), 4)
    0.6931
    """
    x, y = _pair("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        value = ops.softplus(x) - ops.multiply(x, y)
    else:
        scale = 1 + ops.multiply(ops.subtract(pos_weight, 1.0), y)
        value = ops.multiply(ops.subtract(1.0, y), x) + scale * ops.softplus(ops.negative(x))
    value = _weighted("binary_cross_entropy_with_logits", value, weight)
    return _reduced("binary_cross_entropy_with_logits", value, reduction)


def kl_div(
    input: TensorLike,
    target: TensorLike,
    reduction: Literal["mean", "sum", "none", "batchmean"] = "mean",
    log_target: bool = False,
) -> Tensor:
    """y (log y - x) of log probabilities x and probabilities y (or their logarithms, with `log_target`).

    reduction="batchmean" divides the sum by the length of axis 0: the mean divergence of N distributions. ("mean"
    divides by the number of elements, as in torch.)

    Raises:
        ValueError: different shapes, another `reduction`.
    """
    x, y = _pair("kl_div", input, target)
    if log_target:
        value = ops.exp(y) * ops.subtract(y, x)
    else:
        # where y = 0 the limit of y log y is 0
        value = ops.multiply(y, ops.log(ops.where(ops.greater(y, 0), y, 1.0))) - ops.multiply(y, x)
    if reduction == "batchmean":
        return ops.sum(value) / max(x.shape[0] if x.ndim else 1, 1)
    return _reduced("kl_div", value, reduction)


def poisson_nll_loss(
    input: TensorLike,
    target: TensorLike,
    log_input: bool = True,
    eps: float = 1e-8,
    reduction: Reduction = "mean",
) -> Tensor:
    """exp(x) - y x for counts y with the log rate x (or x - y log(x + eps) with the rate), up to a constant in x.

    Raises:
        ValueError: different shapes, another `reduction`.
    """
    x, y = _pair("poisson_nll_loss", input, target)
    log_rate = x if log_input else ops.log(ops.add(x, eps))
    rate = ops.exp(x) if log_input else x
    return _reduced("poisson_nll_loss", ops.subtract(rate, ops.multiply(y, log_rate)), reduction)


def gaussian_nll_loss(
    input: TensorLike,
    target: TensorLike,
    var: TensorLike,
    full: bool = False,
    eps: float = 1e-6,
    reduction: Reduction = "mean",
) -> Tensor:
    """(log v + (x - y)² / v) / 2 with v = max(var, eps), plus log(2π)/2 with `full`: Nix, Weigend 1994.

    Raises:
        ValueError: different shapes (of `var` too), another `reduction`.
    """
    x, y = _pair("gaussian_nll_loss", input, target)
    v = ops.maximum(_pair("gaussian_nll_loss (input and var)", x, var)[1], eps)
    value = 0.5 * (ops.log(v) + ops.square(ops.subtract(x, y)) / v)
    return _reduced("gaussian_nll_loss", value + 0.5 * math.log(2 * math.pi) if full else value, reduction)


def cosine_similarity(x1: TensorLike, x2: TensorLike, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1·x2 / (max(|x1|, eps) max(|x2|, eps)) along `dim`.

    Raises:
        ValueError: different shapes.
    """
    x, y = _pair("cosine_similarity", x1, x2)
    lengths = [ops.maximum(ops.sqrt(ops.sum(ops.square(v), axis=dim)), eps) for v in (x, y)]
    return ops.sum(ops.multiply(x, y), axis=dim) / (lengths[0] * lengths[1])
