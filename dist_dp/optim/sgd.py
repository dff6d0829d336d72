"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import numpy as np

from .. import kernels
from .hyperparameters import number
from .optimizer import Clipping, Optimizer, Pieces
from .schedule import Schedule


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013), as in torch.

    b = g at the first update, then b = momentum * b + (1 - dampening) * g;
    p = p - lr * b, or with `nesterov` p = p - lr * (g + momentum * b). `weight_decay` adds decay * p to the gradient.

    Args:
        params, clip_norm, clip_value: see `Optimizer`.
        lr: learning rate, a number or a `Schedule`.
        momentum: how much of b stays; 0 for plain gradient descent, which keeps no state.
        dampening: how much of g does not enter b.
        weight_decay: factor of the L2 penalty.
        nesterov: look ahead along b; needs momentum and no dampening.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([1.0], requires_grad=True)
    >>> optimizer = optim.SGD([w], lr=0.125, momentum=0.5)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    >>> w
    tensor([0.4375], requires_grad=True)
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Schedule = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **clipping: Unpack[Clipping],
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening}
        super().__init__(params, {**defaults, "weight_decay": weight_decay, "nesterov": nesterov}, **clipping)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        group["momentum"] = number("momentum", group["momentum"])
        group["dampening"] = number("dampening", group["dampening"])
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening = 0, got {group['momentum']} and {group['dampening']}"
            )

    def initial_state(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if group["momentum"] else {}

    def update(self, pieces: Pieces, group: Mapping[str, Any], lr: float, count: int) -> None:
        momentum, share = group["momentum"], 1 - group["dampening"]
        for p, g, state, s, t in pieces:
            if momentum:
                buffer = state["momentum_buffer"]
                if count == 1:
                    np.copyto(buffer, g)
                elif kernels.suits(p, g, buffer):  # the same bits
                    kernels.compiled.sgd(p, g, buffer, momentum, share, lr, int(group["nesterov"]))
                    continue
                else:
                    np.multiply(buffer, momentum, buffer)
                    np.add(buffer, g if share == 1 else np.multiply(g, share, t), buffer)
                g = np.add(g, np.multiply(buffer, momentum, s), s) if group["nesterov"] else buffer
            np.subtract(p, np.multiply(g, lr, s), p)
