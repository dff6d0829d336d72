"""Which examples stand in which shard of which step: arithmetic on (seed, epoch, step, shard), with no state.

Every worker computes the same answer for any step without having seen the steps before it.  So a resume, a
replay or a newcomer needs the number of the step and no more, and a shard may move between workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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

    ``dataclasses.asdict`` gives it as plain JSON values.  Raises TypeError for what is no int (or no bool),
    ValueError below 1 and where ``drop_last`` leaves no step.

    >>> batches = Batches(length=10, batch_size=4, shards=2, seed=0, shuffle=False, epochs=2)
    >>> batches.steps_per_epoch, batches.total_steps, batches.locate(4)
    (3, 6, (1, 1))
    >>> [batches.indices(4, shard).tolist() for shard in range(2)]
    [[4, 5], [6, 7]]
    """

    length: int
    batch_size: int
    shards: int
    seed: int
    shuffle: bool = True
    epochs: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "shards", "epochs"):
            object.__setattr__(self, name, integer_argument(name, getattr(self, name), least=1))
        object.__setattr__(self, "seed", integer_argument("seed", self.seed))
        for name in ("shuffle", "drop_last"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"drop_last=True leaves no batch: length {self.length} is below batch_size {self.batch_size}"
            )

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
        positions = np.arange(
            start + number * size // self.shards, start + (number + 1) * size // self.shards, dtype=np.int64
        )
        return _order(self.length, self.seed, epoch)[positions] if self.shuffle else positions


@lru_cache(maxsize=4)
def _order(length: int, seed: int, epoch: int) -> Permutation:
    # Kept for the epoch at hand and the next, which a prefetch thread reaches first.
    return Permutation(length, Key(seed, "order", epoch))
