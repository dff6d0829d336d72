"""The optimizer's state spread over the workers: ZeRO stage 1, with a copy of each part at a neighbour.

Of N workers each updates one N-th of every flat parameter array, its *own* range, and hands the new values to the
others. An elementwise update of a range has the bits of that range of the whole update, so the digest does not change.
The state of a range (moments) lies with its owner and with the next worker, the buddy, which makes the same update:
that costs another N-th of the work, and no traffic. When one worker is lost everything is still there; when a worker
and its buddy are lost in the same step the run goes back to its newest checkpoint.

Source: S. Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (SC 2020),
section 5.1 (P_os). A copy in the memory of a peer is the idea of Z. Wang et al., "GEMINI" (SOSP 2023).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.fold import Span
from runtime.group import share

from ..optim import GradientBuffer, Optimizer
from ..optim.optimizer import Part


class ShardedOptimizer:
    """Which elements this worker updates and keeps the state of, and how the others learn of them."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._own: list[Span] = []
        self._kept: list[list[Span]] = []

    def place(self, rank: int, size: int) -> None:
        """Be the worker `rank` of `size` from now on; the state is whole now, and what belongs to others is dropped."""
        parts = self._optimizer.parts
        self._own = [self._range(part, rank, size) for part in parts]
        others = [self._range(part, (rank - 1) % size, size) for part in parts]
        self._kept = [sorted({own, other}) for own, other in zip(self._own, others, strict=True)]
        if size > 2:  # with two workers each is the other's buddy: both keep everything
            self._optimizer.keep_state(self._kept)

    def _range(self, part: Part, rank: int, size: int) -> Span:
        lo, hi = share(0, part.flat.values.size, rank, size)
        if not self._optimizer.per_parameter:
            return lo, hi
        bounds = part.flat.bounds  # whole parameters, where the rule looks at each as a whole
        return bounds[bisect_left(bounds, lo)], bounds[bisect_left(bounds, hi)]

    def apply(self, gradients: GradientBuffer, divisor: float) -> None:
        """One step for this worker's ranges. The parameters outside of them are out of date until `take_values`."""
        self._optimizer.apply(gradients, divisor, self._kept)

    def values(self) -> list[Any]:
        """The new values of this worker's own ranges."""
        return [
            part.flat.values[lo:hi] for part, (lo, hi) in zip(self._optimizer.parts, self._own, strict=True)
        ]

    def take_values(self, told: Sequence[Sequence[Any]]) -> None:
        """Take over the `values` of all workers, by rank."""
        for part, pieces in zip(self._optimizer.parts, zip(*told, strict=True), strict=True):
            np.concatenate(pieces, out=part.flat.values)
            part.flat.note_written(np.ones(len(part.flat.params), np.bool_), "the workers' step")

    def held(self) -> list[Any]:
        """All that is kept here, parameters and state: for each part (lo, hi, values, state by name)."""
        return [
            (index, lo, hi, part.flat.values[lo:hi], {name: a[lo:hi] for name, a in part.state.items()})
            for index, (part, kept) in enumerate(zip(self._optimizer.parts, self._kept, strict=True))
            for lo, hi in kept
        ]

    def take_held(self, told: Sequence[Sequence[Any]]) -> bool:
        """Make parameters and state whole from what the workers hold; returns whether nothing is missing. All of it is
        kept then, until `place`."""
        parts = self._optimizer.parts
        covered = [np.zeros(part.flat.values.size, np.bool_) for part in parts]
        for held in told:
            for index, lo, hi, values, state in held:
                parts[index].flat.values[lo:hi] = values
                for name in (
                    state.keys() & parts[index].state.keys()
                ):  # a newcomer's rule may have had less to keep
                    parts[index].state[name][lo:hi] = state[name]
                covered[index][lo:hi] = True
        whole = all(c.all() for c in covered)
        if whole:
            self._kept = [[(0, c.size)] for c in covered]
        return whole
