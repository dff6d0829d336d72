"""The group of one: no peers, nothing to wait for, the same fold."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from ..fold import Span
from ..group import Exchange, Group, Layout, Memory, Total, cut


class SoloGroup(Group):
    """One worker alone; every call returns at once.

    >>> SoloGroup().all_reduce([1.0, 2.0])
    array([1., 2.])
    """

    def __init__(self, generation: int = 0) -> None:
        self.rank, self.size, self.generation = 0, 1, generation
        self._messages: deque[bytes] = deque()

    @property
    def broken(self) -> bool:
        return False

    def reserve(self, layout: Layout, count: int, bucket_bytes: int | None = None) -> Memory:
        buffers = [[np.empty(size, dtype) for dtype, size in layout] for _ in range(count)]
        return Memory(layout, cut(layout, bucket_bytes), buffers)

    def start(self, memory: Memory, values: Mapping[Span, int | None], shards: int) -> Exchange:
        return _Solo(memory, values, shards)

    def pending(self) -> Total | None:
        return None

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        return [bytes(payload)]

    def send(self, to: int, payload: bytes | memoryview) -> None:
        self._check_rank("to", to)
        self._messages.append(bytes(payload))

    def recv(self, source: int) -> bytes:
        self._check_rank("source", source)
        if not self._messages:
            raise RuntimeError("recv from this worker itself, and nothing was sent; send first")
        return self._messages.popleft()

    def abort(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""


class _Solo(Exchange):
    def __init__(self, memory: Memory, values: Mapping[Span, int | None], shards: int) -> None:
        # One worker owns all shards, so its one maximal subtree is the whole tree: the total lies there already.
        index = values.get((0, shards))
        self._arrays = None if index is None else memory.buffers[index]

    def ready(self, buckets: int) -> None:
        """Nobody reads ahead."""

    def finish(self, note: bytes = b"", regroup: bool = False) -> Total:
        return Total(self._arrays, [note], regroup)
