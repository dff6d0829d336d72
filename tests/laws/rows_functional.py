"""Rows of what `nn.functional` composes of other operations: activations, losses, normalisation of vectors."""

from typing import Any

import numpy as np
from laws.rows import Call, Row, elementwise

from dist_dp.nn import functional as F


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _elu(x: Any, alpha: float = 1.0) -> Any:
    return np.where(x > 0, x, alpha * np.expm1(x))


def _two(d: Any, low: float = -2.0, high: float = 2.0) -> tuple[Any, Any]:
    shape = d.shape(empty=False)
    return d.array(shape, low, high), d.array(shape, low, high)


def _apart(d: Any) -> Call:
    """Input and target whose distances keep away from the seams at 0 and 0.5."""
    shape = d.shape(empty=False)
    target = d.array(shape)
    return Call(d.prepared(target + d.distinct(shape, gap=0.25)), target, d.pick("mean", "sum", "none"))


def _reduced(value: Any, reduction: str = "mean") -> Any:
    return {"mean": np.mean, "sum": np.sum, "none": lambda v: v}[reduction](value)


def _huber(x: Any, y: Any, reduction: str, delta: float = 0.5) -> Any:
    a = np.abs(x - y)
    return _reduced(np.where(a <= delta, 0.5 * a * a, delta * (a - 0.5 * delta)), reduction)


def _halves(d: Any) -> Call:
    x = d.array((*d.shape(max_dims=2), 2 * d.integer(1, 2)))
    return Call(x, d.pick(-1, x.ndim - 1))


def _channels(d: Any) -> Call:
    x = d.prepared(d.distinct((2, 3, d.integer(1, 2))) + 0.01)
    return Call(x, d.array((d.pick(1, 3),)))


def _glu(x: Any, dim: int) -> Any:
    a, b = np.split(x, 2, dim)
    return a * _sigmoid(b)


ROWS = [
    elementwise("F.softsign", F.softsign, lambda x: x / (1 + np.abs(x))),
    elementwise("F.mish", F.mish, lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    elementwise("F.logsigmoid", F.logsigmoid, lambda x: -np.log1p(np.exp(-x))),
    elementwise("F.selu", F.selu, lambda x: 1.0507009873554805 * _elu(x, 1.6732632423543772)),
    elementwise("F.celu", lambda x: F.celu(x, 0.7), lambda x: _elu(x / 0.7) * 0.7),
    elementwise("F.softplus", lambda x: F.softplus(x, 3.0), lambda x: np.log1p(np.exp(3 * x)) / 3),
    elementwise("F.hardswish", F.hardswish, lambda x: x * (x + 3) / 6),
    elementwise("F.hardsigmoid", F.hardsigmoid, lambda x: np.minimum(x / 6 + 0.5, 1), low=1.0, high=2.9),
    Row("F.glu", F.glu, _glu, _halves),
    Row(
        "F.prelu",
        F.prelu,
        lambda x, w: np.where(x > 0, x, w[:, None] * x),
        _channels,
    ),
    Row(
        "F.mse_loss",
        F.mse_loss,
        lambda x, y, r: _reduced((x - y) ** 2, r),
        lambda d: Call(*_two(d), d.pick("mean", "sum", "none")),
    ),
    Row("F.l1_loss", F.l1_loss, lambda x, y, r: _reduced(np.abs(x - y), r), _apart),
    Row("F.huber_loss", lambda x, y, r: F.huber_loss(x, y, r, 0.5), _huber, _apart),
    Row(
        "F.smooth_l1_loss",
        lambda x, y, r: F.smooth_l1_loss(x, y, r, 0.5),
        lambda *a: _huber(*a) / 0.5,
        _apart,
    ),
    Row(
        "F.binary_cross_entropy",
        F.binary_cross_entropy,
        lambda x, y: -np.mean(y * np.log(x) + (1 - y) * np.log(1 - x)),
        lambda d: Call(*_two(d, 0.1, 0.9)),
        batched=False,  # probabilities are checked by value
    ),
    Row(
        "F.binary_cross_entropy_with_logits",
        lambda x, y, p: F.binary_cross_entropy_with_logits(x, y, pos_weight=p),
        lambda x, y, p: -np.mean(p * y * np.log(_sigmoid(x)) + (1 - y) * np.log(_sigmoid(-x))),
        lambda d: Call(*_two(d, 0.1, 0.9), d.array((), 0.5, 2.0)),
    ),
    Row(
        "F.kl_div",
        lambda x, y: F.kl_div(x, y, "batchmean"),
        lambda x, y: np.sum(y * (np.log(y) - x)) / len(x),
        lambda d: Call(d.array((n := d.integer(1, 3), 3)), d.array((n, 3), 0.1, 1.0)),
    ),
    Row(
        "F.poisson_nll_loss",
        F.poisson_nll_loss,
        lambda x, y: np.mean(np.exp(x) - y * x),
        lambda d: Call(*_two(d)),
    ),
    Row(
        "F.gaussian_nll_loss",
        F.gaussian_nll_loss,
        lambda x, y, v: np.mean(np.log(v) + (x - y) ** 2 / v) / 2,
        lambda d: Call(d.array((2, 3)), d.array((2, 3)), d.array((2, 3), 0.5, 2.0)),
    ),
    Row(
        "F.cosine_similarity",
        F.cosine_similarity,
        lambda x, y: np.sum(x * y, 1) / np.sqrt(np.sum(x * x, 1) * np.sum(y * y, 1)),
        lambda d: Call(d.array((n := d.integer(1, 2), 3), 0.5), d.array((n, 3), 0.5)),
    ),
    Row(
        "F.normalize",
        F.normalize,
        lambda x: x / np.sqrt(np.sum(x * x, 1, keepdims=True)),
        lambda d: Call(d.array((d.integer(1, 3), 3), 0.5)),
    ),
]
