"""Lion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Unpack

import numpy as np

from .adam import checked_betas
from .optimizer import Clipping, Optimizer, Pieces
from .schedule import Schedule


class Lion(Optimizer):
    """Lion (Chen et al. 2023, algorithm 2): every element moves by lr, in the direction of an interpolated momentum.

    p = p - lr * (sign(b1 m + (1-b1) g) + decay * p);  m = b2 m + (1-b2) g.

    Args:
        params, clip_norm, clip_value: see `Optimizer`.
        lr: learning rate, a number or a `Schedule`; the paper takes 3 to 10 times less than for AdamW.
        betas: share of the momentum in the direction, and its decay rate, in [0, 1).
        weight_decay: decoupled, as AdamW's; the paper takes 3 to 10 times more than for AdamW.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([1.0, -2.0], requires_grad=True)
    >>> optimizer = optim.Lion([w], lr=0.25)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([ 0.75, -1.75], requires_grad=True)
    """

    decay: ClassVar[Literal["gradient", "weights", "rule"]] = "weights"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **clipping: Unpack[Clipping],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, **clipping)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        group["betas"] = checked_betas(group["betas"])

    def initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"exp_avg": 0.0}

    def update(self, pieces: Pieces, group: Mapping[str, Any], lr: float, count: int) -> None:
        beta1, beta2 = group["betas"]
        for p, g, state, s, t in pieces:
            m = state["exp_avg"]
            np.add(np.multiply(m, beta1, s), np.multiply(g, 1 - beta1, t), s)
            np.sign(s, s)
            np.subtract(p, np.multiply(s, lr, s), p)
            np.multiply(m, beta2, m)
            np.add(m, np.multiply(g, 1 - beta2, t), m)
