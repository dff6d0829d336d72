"""What a shard adds to a step, and how two such things are added: the elements of the fixed tree.

A step is `(sum of weight x gradient) / (sum of weights)`, divided once after the tree; buffers and metrics ride in
the same tree and are weighted means too. Addition is elementwise, so the only thing that decides the bits is the
order of the additions, and that is the tree's (`runtime.fold`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.fold import Span, combine

from ..tape import Array


class Summand(Protocol):
    """What is added up over the shards: flat arrays, and which parameters they say something about."""

    arrays: list[Array]
    touched: NDArray[np.bool_]

    def add(self, other: Any, arrays: bool = True) -> Any:
        """Add another one into this one; without `arrays`, only what it touched."""


class Sum:
    """A summand that is no gradient: parameters, moments, or gradients in another format."""

    def __init__(self, arrays: Sequence[Array], parameters: int) -> None:
        self.arrays = list(arrays)
        self.touched: NDArray[np.bool_] = np.zeros(parameters, np.bool_)

    def add(self, other: Sum, arrays: bool = True) -> None:
        """Element by element."""
        for mine, theirs in zip(self.arrays, other.arrays, strict=True):
            np.add(mine, theirs, mine)
        np.logical_or(self.touched, other.touched, self.touched)


@dataclass
class Contribution:
    """The sum over some shards: gradients already multiplied by their weights, and the weights.

    Attributes:
        gradients: sum of weight x gradient; None if no shard here had any example.
        weight: sum of weights.
        metrics: for each metric the sum of weight x value and the sum of weights of the shards that logged it.
        buffers: the same for the proposed values of the model's buffers, by name.
    """

    gradients: Summand | None = None
    weight: float = 0.0
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    buffers: dict[str, tuple[NDArray[np.float64], float]] = field(default_factory=dict)


class ContributionSum:
    """Adds contributions in place; a gradient buffer that is emptied by an addition goes back to the pool.

    At most log2(shards) + 1 buffers are in use at once, because the tree adds two as soon as both are complete.

    Attributes:
        arrays_added: the arrays themselves were added already, bucket by bucket (`overlap.py`).
    """

    def __init__(self, pool: list[Any]) -> None:
        self._pool = pool
        self.arrays_added = False

    def __call__(self, left: Contribution, right: Contribution) -> Contribution:
        if left.gradients is None:
            left.gradients = right.gradients
        elif right.gradients is not None:
            left.gradients.add(right.gradients, arrays=not self.arrays_added)
            self._pool.append(right.gradients)
        left.weight += right.weight
        _add(left.metrics, right.metrics)
        _add(left.buffers, right.buffers)
        return left


def note(
    kind: str | None, partials: Mapping[Span, Contribution], word: str = ""
) -> tuple[str | None, list[Any], str]:
    """What a worker tells the others beside its gradients: the kind of its op (None: that of the others), the rest of
    its partial sums, and a word of its own."""
    parts = [
        (lo, hi, part.weight, part.metrics, part.buffers, part.gradients and part.gradients.touched)
        for (lo, hi), part in partials.items()
    ]
    return kind, parts, word


def different_ways(where: str) -> RuntimeError:
    """The error of workers that are not in the same op."""
    return RuntimeError(
        f"the workers' programs went different ways: {where}. Every worker must make the same calls and leave a "
        "loop at the same step: decide by what is equal everywhere (steps, `metrics` of the loop), not by a shard"
    )


def total_of(
    told: Sequence[tuple[str | None, list[Any], str]], shards: int
) -> tuple[str, Contribution, NDArray[np.bool_] | None]:
    """The kind of the op, the sum of what the notes of all workers hold, without gradients, and which parameters have
    one.

    Raises:
        RuntimeError: the workers are in ops of different kinds: their programs went different ways.
    """
    kinds = {rank: kind for rank, (kind, *_) in enumerate(told) if kind is not None}
    if len(set(kinds.values())) > 1:
        raise different_ways(", ".join(f"worker of rank {rank} is {kind}" for rank, kind in kinds.items()))
    partials: dict[Span, Contribution] = {}
    touched: NDArray[np.bool_] | None = None
    for _, parts, _ in told:
        for lo, hi, weight, metrics, buffers, mask in parts:
            partials[lo, hi] = Contribution(None, weight, metrics, buffers)
            if mask is not None:
                touched = mask if touched is None else touched | mask
    return next(iter(kinds.values())), combine(partials, shards, ContributionSum([])), touched


def _add(left: dict[str, tuple[Any, float]], right: Mapping[str, tuple[Any, float]]) -> None:
    for name, (total, weight) in right.items():
        before = left.get(name)
        left[name] = (total, weight) if before is None else (before[0] + total, before[1] + weight)
