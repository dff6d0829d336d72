"""One exchange, drawn: who owns which shards, what they contribute, how the arrays are cut; and what must come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.fold import Fold, Span
from runtime.group import Exchange, Group, Layout, Memory

Array = NDArray[Any]
Pick = Callable[[int, int], int]
"""A whole number from the first to the last given: of Hypothesis, or of a seeded generator."""

DTYPES = ("<f4", "<f8", "<i8", "<c8")


@dataclass(frozen=True)
class Case:
    """An exchange of `len(ranges)` workers.

    Attributes:
        layout, bucket_bytes, shards: as in `Group`.
        ranges: the shards of each worker, some of them none.
        silent: the shards that contribute nothing.
        spare: buffers that each worker has too many, before those that it uses.
        pieces: how many calls of `ready` come before `finish`.
        seed: of the values.
    """

    layout: Layout
    bucket_bytes: int | None
    shards: int
    ranges: tuple[Span, ...]
    silent: frozenset[int]
    spare: int
    pieces: int
    seed: int

    @classmethod
    def pick(cls, pick: Pick, size: int) -> Case:
        shards = pick(1, 9)
        borders = [0, *sorted(pick(0, shards) for _ in range(size - 1)), shards]
        lengths = (0, 1, 15, 17, 33, 1000, 40_000)
        return cls(
            layout=tuple((DTYPES[pick(0, 3)], lengths[pick(0, 6)]) for _ in range(pick(0, 3))),
            bucket_bytes=(None, 1, 64, 200, 4096)[pick(0, 4)],
            shards=shards,
            ranges=tuple(pairwise(borders)),
            silent=frozenset(i for i in range(shards) if pick(0, 3) == 0),
            spare=pick(0, 1),
            pieces=pick(0, 3),
            seed=pick(0, 99),
        )

    def value(self, shard: int) -> list[Array] | None:
        """What one shard contributes: numbers of very different size, so that any other order has other bits."""
        if shard in self.silent:
            return None
        rng = np.random.default_rng((self.seed, shard))
        arrays = []
        for dtype, length in self.layout:
            kind = np.dtype(dtype).kind
            numbers = rng.standard_normal(length) * 10.0 ** rng.integers(-4, 5, length)
            numbers[rng.random(length) < 0.1] = -0.0
            arrays.append((numbers + 1j * numbers[::-1] if kind == "c" else numbers).astype(dtype))
        return arrays

    def partials(self, lo: int, hi: int) -> dict[Span, list[Array] | None]:
        fold: Fold[list[Array] | None] = Fold(self.shards, _add, lo, hi)
        for shard in range(lo, hi):
            fold.push(self.value(shard))
        return fold.partials()

    def total(self) -> list[Array] | None:
        """What one worker with all shards has."""
        return self.partials(0, self.shards)[0, self.shards]

    def reserve(self, group: Group) -> Memory:
        return group.reserve(self.layout, self.spare + len(self._held(group.rank)), self.bucket_bytes)

    def start(self, group: Group, memory: Memory) -> Exchange:
        """Write this worker's sums into its buffers, the last first, and start."""
        values: dict[Span, int | None] = {}
        index = len(memory.buffers)
        for span, arrays in self.partials(*self.ranges[group.rank]).items():
            values[span] = None
            if arrays is not None:
                index -= 1
                values[span] = index
                for buffer, array in zip(memory.buffers[index], arrays, strict=True):
                    buffer[...] = array
        return group.start(memory, values, self.shards)

    def say_ready(self, exchange: Exchange, memory: Memory) -> None:
        for piece in range(self.pieces):
            exchange.ready(len(memory.buckets) * (piece + 1) // self.pieces)

    def _held(self, rank: int) -> list[Span]:
        return [span for span, arrays in self.partials(*self.ranges[rank]).items() if arrays is not None]


def same(a: list[Array] | None, b: list[Array] | None) -> bool:
    """Whether both are nothing, or arrays of the same bits."""
    if a is None or b is None:
        return a is b
    return [(x.dtype, x.tobytes()) for x in a] == [(x.dtype, x.tobytes()) for x in b]


def _add(left: list[Array] | None, right: list[Array] | None) -> list[Array] | None:
    if left is None or right is None:
        return right if left is None else left
    return [a + b for a, b in zip(left, right, strict=True)]
