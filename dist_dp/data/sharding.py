"""Which examples stand in which shard of which step: arithmetic on (seed, epoch, step, shard), with no state.

Every worker computes the same answer for any step without having seen the steps before it.  So a resume, a
replay or a newcomer needs the number of the step and no more, and a shard may move between workers.
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_dp.data.order import Permutation
from dist_dp.random import Key, integer_argument


@dataclass(frozen=True)
class Batches:
    """The steps of a run over `length` examples: `epochs` passes, each in batches of `batch_size`.

    The batch at place k of an epoch holds the positions from k·batch_size up to the next batch, or to the
    end, of that epoch's order (`Permutation`, or 0, 1, 2, ... with ``shuffle=False``).  So the last batch of
    an epoch may be short; ``drop_last=True`` leaves a short one out.  Of a batch of b examples, shard s of S
    has those from s·b//S up to (s + 1)·b//S: uneven where S does not divide b, none for some where S > b.

    With ``sizes`` (one whole number for each example: nodes, tokens) the examples of a batch are dealt out so that its
    shards are of about equal size: the largest first, each to the shard that is smallest so far (Graham, "Bounds on
    multiprocessing timing anomalies", 1969: at most 4/3 of the best), ties by position. A shard keeps the order of
    the batch. That is another order of the data, and so another answer, than without sizes.

    ``dataclasses.asdict`` gives it as plain JSON values.  Raises TypeError for what is no int (or no bool),
    ValueError below 1, where ``drop_last`` leaves no step and for sizes that are not one for each example.

    >>> batches = Batches(length=10, batch_size=4, shards=2, seed=0, shuffle=False, epochs=2)
    >>> batches.steps_per_epoch, batches.total_steps, batches.locate(4)
    (3, 6, (1, 1))
    >>> [batches.indices(4, shard).tolist() for shard in range(2)]
    [[4, 5], [6, 7]]
    >>> even = Batches(length=4, batch_size=4, shards=2, seed=0, shuffle=False, sizes=(9, 2, 3, 4))
    >>> [even.indices(0, shard).tolist() for shard in range(2)]
    [[0], [1, 2, 3]]
    """

    length: int
    batch_size: int
    shards: int
    seed: int
    shuffle: bool = True
    epochs: int = 1
    drop_last: bool = False
    sizes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "shards", "epochs"):
            object.__setattr__(self, name, integer_argument(name, getattr(self, name), least=1))
        object.__setattr__(self, "seed", integer_argument("seed", self.seed))
        for name in ("shuffle", "drop_last"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.sizes is not None:
            object.__setattr__(self, "sizes", _whole(self.sizes, self.length))
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"drop_last=True leaves no batch: length {self.length} is below batch_size {self.batch_size}"
            )

    def settings(self) -> dict[str, Any]:
        """What has to stay as it is in a run that goes on, as JSON values; of sizes, their SHA-256."""
        names = ("batch_size", "shards", "seed", "shuffle", "drop_last")
        settings: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.sizes is not None:
            settings["balance"] = hashlib.sha256(repr(self.sizes).encode()).hexdigest()
        return settings

    @property
    def steps_per_epoch(self) -> int:
        """⌈length / batch_size⌉, or ⌊length / batch_size⌋ with ``drop_last``."""
        if self.drop_last:
            return self.length // self.batch_size
        return -(-self.length // self.batch_size)

    @property
    def total_steps(self) -> int:
        """epochs · steps_per_epoch."""
        return self.epochs * self.steps_per_epoch

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, place in the epoch) of `step`, all from 0.  Raises IndexError outside the run."""
        number = integer_argument("step", step)
        if not 0 <= number < self.total_steps:
            raise IndexError(f"step must lie in 0, ..., {self.total_steps - 1}, got {number}")
        return divmod(number, self.steps_per_epoch)

    def size(self, step: int) -> int:
        """How many examples the batch of `step` holds over all shards."""
        _, place = self.locate(step)
        return min(self.batch_size, self.length - place * self.batch_size)

    def indices(self, step: int, shard: int) -> NDArray[np.int64]:
        """The examples of one logical shard of `step`, in the order of the batch; int64, possibly empty.

        Raises IndexError for a step or a shard outside the run.
        """
        epoch, place = self.locate(step)
        number = integer_argument("shard", shard)
        if not 0 <= number < self.shards:
            raise IndexError(f"shard must lie in 0, ..., {self.shards - 1}, got {number}")
        start, size = place * self.batch_size, self.size(step)
        low, high = number * size // self.shards, (number + 1) * size // self.shards
        if self.sizes is not None:
            low, high = 0, size
        positions = np.arange(start + low, start + high, dtype=np.int64)
        chosen = _order(self.length, self.seed, epoch)[positions] if self.shuffle else positions
        if self.sizes is None:
            return chosen
        dealt = _dealt(tuple([self.sizes[i] for i in chosen.tolist()]), self.shards)
        return chosen[dealt[number]]


@lru_cache(maxsize=4)
def _order(length: int, seed: int, epoch: int) -> Permutation:
    # Kept for the epoch at hand and the next, which a prefetch thread reaches first.
    return Permutation(length, Key(seed, "order", epoch))


@lru_cache(maxsize=4)
def _dealt(sizes: tuple[int, ...], shards: int) -> list[list[int]]:
    """The places of a batch that each shard has."""
    dealt: list[list[int]] = [[] for _ in range(shards)]
    filled = [(0, 0, shard) for shard in range(shards)]  # a heap: how large, how many, which
    for place in sorted(range(len(sizes)), key=lambda place: (-sizes[place], place)):
        size, count, shard = filled[0]
        dealt[shard].append(place)
        heapq.heapreplace(filled, (size + sizes[place], count + 1, shard))
    return [sorted(places) for places in dealt]


def _whole(sizes: Any, length: int) -> tuple[int, ...]:
    """`sizes` as ints, one for each example and none below 0."""
    try:
        given = tuple(
            [integer_argument("balance", size, least=0, expected="whole numbers") for size in sizes]
        )
    except TypeError as error:
        raise TypeError(f"balance must be a sequence of one whole number for each example: {error}") from None
    if len(given) != length:
        raise ValueError(f"balance must have one size for each of the {length} examples, got {len(given)}")
    return given
