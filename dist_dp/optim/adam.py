"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Unpack

import numpy as np

from .. import kernels
from .hyperparameters import number
from .optimizer import Clipping, Optimizer, Pieces
from .schedule import Schedule


def checked_betas(betas: Any) -> tuple[float, float]:
    """Two decay rates in [0, 1)."""
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"betas must be two numbers in [0, 1), got {betas!r:.80}")
    first, second = (number(f"betas[{i}]", beta, high=1.0) for i, beta in enumerate(betas))
    return first, second


def advance_moments(m: Any, v: Any, g: Any, beta1: float, beta2: float, s: Any) -> None:
    """m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2, in place."""
    np.multiply(m, beta1, m)
    np.add(m, np.multiply(g, 1 - beta1, s), m)
    np.multiply(v, beta2, v)
    np.multiply(g, g, s)
    np.add(v, np.multiply(s, 1 - beta2, s), v)


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1), with torch's placement of eps.

    m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p - lr * m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps),
    where t counts the updates that this parameter has had. `weight_decay` adds decay * p to the gradient.

    Args:
        params, clip_norm, clip_value: see `Optimizer`.
        lr: learning rate, a number or a `Schedule`.
        betas: decay rates of the two moments, in [0, 1).
        eps: added to the denominator.
        weight_decay: factor of the L2 penalty.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([1.0], requires_grad=True)
    >>> optimizer = optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> f"{w.item():.4f}"
    '0.9000'
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **clipping: Unpack[Clipping],
    ) -> None:
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, **clipping
        )

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        group["betas"] = checked_betas(group["betas"])
        group["eps"] = number("eps", group["eps"])

    def initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def update(self, pieces: Pieces, group: Mapping[str, Any], lr: float, count: int) -> None:
        beta1, beta2 = group["betas"]
        root = math.sqrt(1 - beta2**count)  # sqrt(v)/root + eps = (sqrt(v) + eps*root)/root: one pass less
        eps, rate = group["eps"] * root, lr * root / (1 - beta1**count)
        shrink = 1 - lr * group["weight_decay"] if self.decay == "rule" else 1.0
        for p, g, state, s, _ in pieces:
            m, v = state["exp_avg"], state["exp_avg_sq"]
            if kernels.suits(p, g, m, v):  # the same bits
                kernels.compiled.adam(p, g, m, v, beta1, 1 - beta1, beta2, 1 - beta2, eps, rate, shrink)
                continue
            if shrink != 1:
                np.multiply(p, shrink, p)
            advance_moments(m, v, g, beta1, beta2, s)
            np.sqrt(v, s)
            np.add(s, eps, s)
            np.divide(m, s, s)
            np.multiply(s, rate, s)
            np.subtract(p, s, p)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): p = p - lr * decay * p, then Adam's step.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([1.0], requires_grad=True)
    >>> optimizer = optim.AdamW([w], lr=0.1, weight_decay=1.0)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> f"{w.item():.4f}"
    '0.8000'
    """

    decay: ClassVar[Literal["gradient", "weights", "rule"]] = "rule"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **clipping: Unpack[Clipping],
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, **clipping)
