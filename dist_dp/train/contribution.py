"""What a shard adds to a step, and how two such things are added: the elements of the fixed tree.

A step is `(sum of weight x gradient) / (sum of weights)`, divided once after the tree; buffers and metrics ride in
the same tree and are weighted means too. Addition is elementwise, so the only thing that decides the bits is the
order of the additions, and that is the tree's (`runtime.fold`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..optim.flat import GradientBuffer


@dataclass
class Contribution:
    """The sum over some shards: gradients already multiplied by their weights, and the weights.

    Attributes:
        gradients: sum of weight x gradient; None if no shard here had any example.
        weight: sum of weights.
        metrics: for each metric the sum of weight x value and the sum of weights of the shards that logged it.
        buffers: the same for the proposed values of the model's buffers, by name.
    """

    gradients: GradientBuffer | None = None
    weight: float = 0.0
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    buffers: dict[str, tuple[NDArray[np.float64], float]] = field(default_factory=dict)


class ContributionSum:
    """Adds contributions in place; a gradient buffer that is emptied by an addition goes back to the pool.

    At most log2(shards) + 1 buffers are in use at once, because the tree adds two as soon as both are complete.
    """

    def __init__(self, pool: list[GradientBuffer]) -> None:
        self._pool = pool

    def __call__(self, left: Contribution, right: Contribution) -> Contribution:
        if left.gradients is None:
            left.gradients = right.gradients
        elif right.gradients is not None:
            left.gradients.add(right.gradients)
            self._pool.append(right.gradients)
        left.weight += right.weight
        _add(left.metrics, right.metrics)
        _add(left.buffers, right.buffers)
        return left


def _add(left: dict[str, tuple[Any, float]], right: Mapping[str, tuple[Any, float]]) -> None:
    for name, (total, weight) in right.items():
        before = left.get(name)
        left[name] = (total, weight) if before is None else (before[0] + total, before[1] + weight)
