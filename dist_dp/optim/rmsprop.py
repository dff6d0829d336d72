"""RMSprop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import numpy as np

from .hyperparameters import number
from .optimizer import Clipping, Optimizer, Pieces
from .schedule import Schedule


class RMSprop(Optimizer):
    """RMSprop (Hinton 2012, lecture 6e; centered: Graves 2013, equations 38 to 45), as in torch.

    v = alpha v + (1-alpha) g^2;  d = g / (sqrt(v) + eps), or with `centered` d = g / (sqrt(v - a^2) + eps) where
    a = alpha a + (1-alpha) g;  p = p - lr * d, or with momentum b = momentum * b + d and p = p - lr * b.
    `weight_decay` adds decay * p to the gradient.

    Args:
        params, clip_norm, clip_value: see `Optimizer`.
        lr: learning rate, a number or a `Schedule`.
        alpha: decay rate of the averages, in [0, 1).
        eps: added to the denominator.
        weight_decay: factor of the L2 penalty.
        momentum: how much of b stays; 0 for none.
        centered: divide by the standard deviation of the gradient instead of its root mean square.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([1.0], requires_grad=True)
    >>> optimizer = optim.RMSprop([w], lr=0.125, alpha=0.75)
    >>> (w * w).sum().backward()
    >>> optimizer.step()
    >>> w
    tensor([0.75], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        **clipping: Unpack[Clipping],
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "momentum": momentum, "centered": centered}, **clipping)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        group["alpha"] = number("alpha", group["alpha"], high=1.0)
        group["eps"] = number("eps", group["eps"])
        group["momentum"] = number("momentum", group["momentum"])

    def initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        names = (
            ["square_avg"]
            + ["momentum_buffer"] * (group["momentum"] > 0)
            + ["grad_avg"] * bool(group["centered"])
        )
        return dict.fromkeys(names, 0.0)

    def update(self, pieces: Pieces, group: Mapping[str, Any], lr: float, count: int) -> None:
        alpha, eps, momentum = group["alpha"], group["eps"], group["momentum"]
        for p, g, state, s, _ in pieces:
            v = state["square_avg"]
            np.multiply(v, alpha, v)
            np.multiply(g, g, s)
            np.add(v, np.multiply(s, 1 - alpha, s), v)
            variance = v
            if group["centered"]:
                mean = state["grad_avg"]
                np.multiply(mean, alpha, mean)
                np.add(mean, np.multiply(g, 1 - alpha, s), mean)
                np.subtract(v, np.multiply(mean, mean, s), s)
                variance = np.maximum(s, 0, out=s)  # rounding may leave a small negative number
            np.sqrt(variance, s)
            np.add(s, eps, s)
            d = np.divide(g, s, s)
            if momentum:
                buffer = state["momentum_buffer"]
                np.multiply(buffer, momentum, buffer)
                d = np.add(buffer, s, buffer)
            np.subtract(p, np.multiply(d, lr, s), p)
