"""What the tests of optimizers share: every rule with settings that reach all its parts, parameters, gradients."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dist_dp import Tensor, optim

SHAPES = [(3, 4), (), (5,), (2, 1, 3), (0,), (700,)]

RULES: list[tuple[type[optim.Optimizer], dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.2}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (optim.Adam, {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.2}),
    (optim.AdamW, {"lr": 0.1, "weight_decay": 0.2}),
    (optim.RMSprop, {"lr": 0.01, "weight_decay": 0.2}),
    (optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "momentum": 0.8, "centered": True}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.2, "initial_accumulator_value": 0.3}),
    (optim.Lion, {"lr": 0.01, "weight_decay": 0.2}),
    (optim.LAMB, {"lr": 0.1, "weight_decay": 0.2}),
]
IDS = [f"{kind.__name__}-{i}" for i, (kind, _) in enumerate(RULES)]


def parameters(
    shapes: Iterable[tuple[int, ...]] = SHAPES, dtype: Any = np.float32, seed: int = 0
) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    return [Tensor(np.asarray(rng.normal(size=shape), dtype), requires_grad=True) for shape in shapes]


def gradients(params: Sequence[Tensor], step: int) -> list[Any]:
    """A gradient for each parameter, the same for the same step."""
    return [
        np.asarray(np.random.default_rng([step, i]).normal(size=p.shape), p.dtype)
        for i, p in enumerate(params)
    ]


def take_step(
    optimizer: optim.Optimizer, params: Sequence[Tensor], step: int, touched: Iterable[int] | None = None
) -> None:
    """One step in which the parameters named by `touched` (all, if None) have a gradient."""
    optimizer.zero_grad()
    grads = gradients(params, step)
    for i in range(len(params)) if touched is None else touched:
        params[i].grad = grads[i]
    optimizer.step()


def values(params: Sequence[Tensor]) -> list[bytes]:
    return [p.data.tobytes() for p in params]
