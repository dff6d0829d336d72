"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ..tape import Array
from .optimizer import Optimizer
from .schedule import Schedule


class _Rule(NamedTuple):
    beta1: float
    beta2: float
    eps: float
    decay: float
    decoupled: bool
    shrink: float
    rate: float
    root: float


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1), with torch's placement of eps.

    m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  p = p - lr/(1-b1^t) * m / (sqrt(v/(1-b2^t)) + eps),
    where t counts the updates that this parameter has had. `weight_decay` adds decay * p to the gradient.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([1.0], requires_grad=True)
    >>> optimizer = optim.Adam([w], lr=0.1)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.9], requires_grad=True)
    """

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, clip_norm, clip_value)

    def check(self, group: Mapping[str, Any]) -> None:
        super().check(group)
        for beta in group["betas"]:
            if not 0 <= beta < 1:
                raise ValueError(f"betas must be two numbers in [0, 1), got {group['betas']!r}")
        for name in ("eps", "weight_decay"):
            if not group[name] >= 0:
                raise ValueError(f"{name} must be >= 0, got {group[name]!r}")

    def rule(self, group: Mapping[str, Any], lr: float, count: int) -> _Rule:
        beta1, beta2 = group["betas"]
        return _Rule(
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            self.decoupled,
            1 - lr * group["weight_decay"],
            lr / (1 - beta1**count),
            1 / math.sqrt(1 - beta2**count),
        )

    def update(self, p: Array, g: Array, state: Mapping[str, Array], rule: _Rule, s: Array, t: Array) -> None:
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if rule.decay:
            if rule.decoupled:
                np.multiply(p, rule.shrink, p)
            else:
                np.multiply(p, rule.decay, s)
                np.add(g, s, g)
        np.multiply(m, rule.beta1, m)
        np.multiply(g, 1 - rule.beta1, s)
        np.add(m, s, m)
        np.multiply(v, rule.beta2, v)
        np.multiply(g, g, s)
        np.multiply(s, 1 - rule.beta2, s)
        np.add(v, s, v)
        np.sqrt(v, s)
        np.multiply(s, rule.root, s)
        np.add(s, rule.eps, s)
        np.divide(m, s, s)
        np.multiply(s, rule.rate, s)
        np.subtract(p, s, p)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): p = p - lr * decay * p, then Adam's step."""

    decoupled: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, clip_norm=clip_norm, clip_value=clip_value)
