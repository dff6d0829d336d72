"""`Group`: the live workers of one generation, and what they can do together.

A transport provides the primitives (memory, the exchange of a step, messages); the collectives that users call are
built on them here, once, so that they mean the same and have the same bits over every transport.

The exchange of a step, in two phases:

    start    the worker says which subtrees of the tree over the shards it holds partial sums of
    ready    bucket by bucket, those sums are final and may be read by the others
    finish   every worker folds its share of each bucket in the tree's order; the shares are put together, and notes
             (small messages) go along; it returns when *every* worker holds the total

So a worker that returned from `finish` knows that all hold the total, and may apply it. One that was interrupted before
(`GroupBroken`) may hold it too: `pending` then returns it, and whether it is to be applied is what the survivors agree
on (`runtime.member`): yes, if any of them returned from `finish`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fold import Span
from .message import decode, encode

Array = NDArray[Any]
Layout = tuple[tuple[str, int], ...]
"""The flat arrays of a gradient: (dtype, number of elements) of each; the same on every worker."""

Bucket = tuple[int, int, int]
"""A stretch of a gradient that is exchanged at once: (which array of the layout, first element, end)."""


class GroupBroken(RuntimeError):
    """This generation has ended: a worker was lost, or the group was aborted. What was in flight is not agreed."""


@dataclass(frozen=True)
class Total:
    """What an exchange returns, with the same content on every worker.

    Attributes:
        arrays: the sum in the tree's order, one flat array for each of the layout, in the group's memory: valid until
            the next exchange of this group starts. None if no worker contributed any.
        notes: the note of each worker, by rank.
        regroup: whether some worker asked that the group be formed anew before the next exchange.
    """

    arrays: list[Array] | None
    notes: list[bytes]
    regroup: bool


class Memory:
    """Gradient buffers that the exchange reads where they lie.

    Attributes:
        layout: the flat arrays of each buffer.
        buckets: how the arrays are cut for the exchange, in the order in which they are exchanged; the same everywhere.
        buffers: this worker's buffers, each a list of flat arrays of the layout.
        operation: what joins two partial sums, elementwise: addition, unless every worker sets another before an
            exchange starts. The order is the tree's all the same.
    """

    operation: np.ufunc = np.add

    def __init__(self, layout: Layout, buckets: Sequence[Bucket], buffers: Sequence[Sequence[Array]]) -> None:
        self.layout, self.buckets = layout, tuple(buckets)
        self.buffers = [list(buffer) for buffer in buffers]


class Exchange(ABC):
    """One exchange in flight; made by `Group.start`."""

    @abstractmethod
    def ready(self, buckets: int) -> None:
        """Say that the first `buckets` buckets of this worker's partial sums are final. It never waits for others."""

    @abstractmethod
    def finish(self, note: bytes = b"", regroup: bool = False) -> Total:
        """Say that everything is ready, and wait for the total.

        Raises:
            GroupBroken: the group ended before all workers were known to hold the total; see `Group.pending`.
        """


class Group(ABC):
    """The live workers of one generation. Every worker makes the same calls in the same order.

    Attributes:
        rank, size: this worker's place among them, and how many they are.
        generation: counts up with every change of membership.
    """

    rank: int
    size: int
    generation: int

    # --- what a transport provides ----------------------------------------------------------------------------------

    @property
    @abstractmethod
    def broken(self) -> bool:
        """Whether the generation is known here to have ended. Cheap: the loop asks before each shard."""

    @abstractmethod
    def reserve(self, layout: Layout, count: int, bucket_bytes: int | None = None) -> Memory:
        """Make `count` buffers (each worker its own number), together with all others: a collective call.

        Args:
            bucket_bytes: cut the arrays into buckets of at most this many bytes, from the end to the beginning, as
                backward completes them. None: each array is one bucket.
        """

    @abstractmethod
    def start(self, memory: Memory, values: Mapping[Span, int | None], shards: int) -> Exchange:
        """Begin an exchange over the tree of `shards` leaves.

        Args:
            values: for each maximal subtree of this worker's range (`fold.subtrees`), which buffer of `memory` holds
                its sum; None for a subtree to which no shard contributed. Empty for a worker without shards. Together
                the workers' spans cover the tree.
        """

    @abstractmethod
    def pending(self) -> Total | None:
        """After GroupBroken from `finish`: the total, if this worker had it whole and said so to the others; else None.

        `regroup` of it is True.
        """

    @abstractmethod
    def gather_bytes(self, payload: bytes) -> list[bytes]:
        """The payload of every worker, by rank."""

    @abstractmethod
    def send(self, to: int, payload: bytes | memoryview) -> None:
        """Send bytes to one worker, which calls `recv`."""

    @abstractmethod
    def recv(self, source: int) -> bytes:
        """The next bytes that `source` sent to this worker."""

    @abstractmethod
    def abort(self) -> None:
        """End the generation, from any thread: every wait in it raises GroupBroken, here and soon elsewhere."""

    @abstractmethod
    def close(self) -> None:
        """Release what the group holds. Memory and totals that are still in use stay valid."""

    # --- what users call ----------------------------------------------------------------------------------------------

    def barrier(self) -> None:
        """Wait until every worker has come here."""
        self.gather_bytes(b"")

    def gather_objects(self, value: Any) -> list[Any]:
        """The value of every worker, by rank: plain data and arrays (`runtime.message`), never pickled."""
        return [decode(payload) for payload in self.gather_bytes(encode(value))]

    def all_gather(self, array: Any) -> list[Array]:
        """The array of every worker, by rank; shapes may differ."""
        return [np.array(a) for a in self.gather_objects(np.asarray(array))]

    def broadcast(self, array: Any, root: int = 0) -> Array:
        """The array of worker `root`, on every worker; what the others pass does not matter."""
        self._check_rank("root", root)
        mine = np.asarray(array) if self.rank == root else None
        return np.array(self.gather_objects(mine)[root])

    def all_reduce(self, array: Any) -> Array:
        """The sum of every worker's array (one shape and dtype), added in the tree's order over the ranks.

        Raises:
            ValueError: shapes or dtypes differ between the workers.
        """
        given = np.asarray(array)
        kinds = self.gather_objects((given.dtype.str, given.shape))
        if any(kind != kinds[0] for kind in kinds):
            raise ValueError(f"all_reduce: the workers' arrays differ in dtype or shape: {kinds}")
        if given.dtype.kind not in "biufc":
            raise TypeError(f"all_reduce adds numbers, got dtype {given.dtype}")
        memory = self.reserve(((given.dtype.str, given.size),), 1)
        memory.buffers[0][0][...] = given.reshape(-1)
        total = self.start(memory, {(self.rank, self.rank + 1): 0}, self.size).finish()
        assert total.arrays is not None
        return total.arrays[0].reshape(given.shape).copy()

    def reduce_scatter(self, array: Any) -> Array:
        """This worker's part of the sum: the first axis is cut into `size` nearly equal parts, the part `rank` is
        returned. The same bits as that part of `all_reduce`."""
        total = self.all_reduce(array)
        if total.ndim == 0:
            raise ValueError("reduce_scatter cuts the first axis, got a 0-d array")
        n = len(total)
        return total[self.rank * n // self.size : (self.rank + 1) * n // self.size]

    def _check_rank(self, name: str, rank: int) -> None:
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < self.size:
            raise ValueError(f"{name} must be a rank in 0, ..., {self.size - 1}, got {rank!r}")


def cut(layout: Layout, bucket_bytes: int | None) -> list[Bucket]:
    """The buckets of a layout: each array by itself, from its end to its beginning, the last array first.

    >>> cut((("<f4", 10),), 16)
    [(0, 6, 10), (0, 2, 6), (0, 0, 2)]
    """
    buckets: list[Bucket] = []
    for index in reversed(range(len(layout))):
        dtype, size = layout[index]
        most = size if bucket_bytes is None else max(1, bucket_bytes // np.dtype(dtype).itemsize)
        for hi in range(size, 0, -most) if size else ():
            buckets.append((index, max(0, hi - most), hi))
    return buckets


def share(lo: int, hi: int, rank: int, size: int) -> tuple[int, int]:
    """The part of elements lo:hi that a worker folds: contiguous, nearly equal, on borders of 16 elements."""
    blocks = -(-(hi - lo) // 16)
    return (
        min(hi, lo + 16 * (rank * blocks // size)),
        min(hi, lo + 16 * ((rank + 1) * blocks // size)),
    )
