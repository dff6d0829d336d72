"""LAMB."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Unpack

import numpy as np

from ..tape import Array
from .adam import advance_moments, checked_betas
from .clip import square_sum
from .hyperparameters import number
from .optimizer import Clipping, Optimizer, Pieces
from .schedule import Schedule


class LAMB(Optimizer):
    """LAMB (You et al. 2020, algorithm 2): Adam's direction, scaled for each parameter to the parameter's own length.

    m and v as in `Adam`;  u = m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps) + decay * p;  p = p - lr * |p| / |u| * u,
    with 2-norms over the whole parameter, summed in float64; where either is 0 their quotient is taken as 1.

    Args:
        params, clip_norm, clip_value: see `Optimizer`.
        lr: learning rate, a number or a `Schedule`.
        betas: decay rates of the two moments, in [0, 1).
        eps: added to the denominator.
        weight_decay: decoupled, and part of the direction that is scaled.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([3.0, 4.0], requires_grad=True)
    >>> optimizer = optim.LAMB([w], lr=0.1, eps=0.0)
    >>> w.sum().backward()
    >>> optimizer.step()
    >>> w.detach().numpy().round(3)  # moved by 0.1 * 5 in the direction (1, 1)
    array([2.646, 3.646], dtype=float32)
    """

    decay: ClassVar[Literal["gradient", "weights", "rule"]] = "rule"
    per_parameter: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
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
        root = math.sqrt(1 - beta2**count)
        eps, factor, decay = group["eps"] * root, root / (1 - beta1**count), group["weight_decay"]

        def direction(p: Array, state: Mapping[str, Array], s: Array, t: Array) -> Array:
            np.sqrt(state["exp_avg_sq"], s)
            np.add(s, eps, s)
            np.divide(state["exp_avg"], s, s)
            np.multiply(s, factor, s)
            return np.add(s, np.multiply(p, decay, t), s) if decay else s

        # Computed twice, for its norm and for the step: cheaper than an array to keep it in.
        lengths, directions = [], []
        for p, g, state, s, t in pieces:
            advance_moments(state["exp_avg"], state["exp_avg_sq"], g, beta1, beta2, s)
            lengths.append(square_sum(p))
            directions.append(square_sum(direction(p, state, s, t)))
        length, norm = math.sqrt(math.fsum(lengths)), math.sqrt(math.fsum(directions))
        rate = lr * length / norm if length > 0 and norm > 0 else lr
        for p, _, state, s, t in pieces:
            u = direction(p, state, s, t)
            np.subtract(p, np.multiply(u, rate, u), p)
