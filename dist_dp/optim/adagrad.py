"""Adagrad."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import numpy as np

from .hyperparameters import number
from .optimizer import Clipping, Optimizer, Pieces
from .schedule import Schedule


class Adagrad(Optimizer):
    """Adagrad (Duchi, Hazan & Singer 2011, the diagonal form), as in torch.

    h = h + g^2;  p = p - lr / (1 + (t-1) * lr_decay) * g / (sqrt(h) + eps),
    where t counts the updates that this parameter has had. `weight_decay` adds decay * p to the gradient.

    Args:
        params, clip_norm, clip_value: see `Optimizer`.
        lr: learning rate, a number or a `Schedule`.
        lr_decay: how fast the learning rate falls with t.
        weight_decay: factor of the L2 penalty.
        initial_accumulator_value: h before the first update.
        eps: added to the denominator.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([1.0], requires_grad=True)
    >>> optimizer = optim.Adagrad([w], lr=0.5)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.5], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        **clipping: Unpack[Clipping],
    ) -> None:
        first = initial_accumulator_value
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": first,
        }
        super().__init__(params, {**defaults, "eps": eps}, **clipping)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        for name in ("lr_decay", "initial_accumulator_value", "eps"):
            group[name] = number(name, group[name])

    def initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"sum": group["initial_accumulator_value"]}

    def update(self, pieces: Pieces, group: Mapping[str, Any], lr: float, count: int) -> None:
        rate = lr / (1 + (count - 1) * group["lr_decay"])
        for p, g, state, s, _ in pieces:
            h = state["sum"]
            np.add(h, np.multiply(g, g, s), h)
            np.sqrt(h, s)
            np.add(s, group["eps"], s)
            np.divide(g, s, s)
            np.multiply(s, rate, s)
            np.subtract(p, s, p)
