"""The group of processes on one host: gradients lie in shared memory, and peers read them where they lie.

An exchange moves nothing: each worker adds its share of every bucket straight out of the others' buffers into one
common result. Two words per worker carry it, `ready` and `folded`; both count up for ever, so a word that was reached
stays reached, and a worker that was interrupted can look again later who had come how far.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..array_fold import Program
from ..fold import Span
from ..group import Bucket, Exchange, Group, Layout, Memory, Total, cut, share
from .segment import CHUNK, LINE, NOTE, RING, SPANS, Segment, new_file

Array = NDArray[Any]


class _Plan(NamedTuple):
    """Of an exchange: how to add, what this worker adds of each bucket and where to, and the whole total, if any."""

    program: Program
    folds: list[tuple[dict[Span, Array | None], Array]]
    total: list[Array] | None


class ShmGroup(Group):
    """The workers of one generation that share a file.

    Args:
        descriptor: of a file made by `new_file(size)` for this generation alone. It stays the caller's: the group
            works on a duplicate.
        rank, size, generation: see `Group`.

    >>> import os
    >>> descriptor = ShmGroup.new_file(1)
    >>> ShmGroup(descriptor, 0, 1).all_reduce([1.0, 2.0])
    array([1., 2.])
    >>> os.close(descriptor)
    """

    def __init__(self, descriptor: int, rank: int, size: int, generation: int = 0) -> None:
        self.rank, self.size, self.generation = rank, size, generation
        self.segment = Segment(descriptor, size)
        self._gathers = self._exchanges = 0
        self._last: _ShmExchange | None = None
        self._to_self: deque[bytes] = deque()

    @staticmethod
    def new_file(size: int) -> int:
        """The descriptor of a new file for a generation of `size` workers; pass it to each, then close it."""
        return new_file(size)

    @property
    def broken(self) -> bool:
        return self.segment.words[Segment.aborted] != 0

    def reserve(self, layout: Layout, count: int, bucket_bytes: int | None = None) -> Memory:
        asked = self.gather_objects((layout, bucket_bytes, count, self.segment.unused()))
        for rank, (other, bucket, _, _) in enumerate(asked):
            if (other, bucket) != (layout, bucket_bytes):
                raise ValueError(
                    f"reserve: worker {rank} asked for {other} in buckets of {bucket} bytes, worker {self.rank} for"
                    f" {layout} in {bucket_bytes}; all must ask for the same"
                )
        counts = [count for _, _, count, _ in asked]
        free = set.intersection(*(set(unused) for _, _, _, unused in asked))
        places, length = [], 0
        for dtype, size in layout:
            places.append(length)
            length += -(-size * np.dtype(dtype).itemsize // LINE) * LINE
        region = self.segment.map((sum(counts) + 1) * length, free)

        def buffer(index: int) -> list[Array]:
            return [
                np.ndarray(size, dtype, region, index * length + place)
                for (dtype, size), place in zip(layout, places, strict=True)
            ]

        firsts = [sum(counts[:rank]) for rank in range(self.size)]
        peers = [
            [buffer(first + i) for i in range(count)] for first, count in zip(firsts, counts, strict=True)
        ]
        return _ShmMemory(layout, cut(layout, bucket_bytes), self.rank, peers, buffer(sum(counts)))

    def start(self, memory: Memory, values: Mapping[Span, int | None], shards: int) -> Exchange:
        assert isinstance(memory, _ShmMemory)
        self._exchanges += 1
        self._last = exchange = _ShmExchange(self, memory, values, shards, self._exchanges)
        return exchange

    def pending(self) -> Total | None:
        return None if self._last is None else self._last.pending()

    def settled(self) -> None:
        """Nothing is pending any more: the total was handed over."""
        self._last = None

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        segment, words, view = self.segment, self.segment.words, self.segment.bytes
        parts: list[list[bytes]] = [[] for _ in range(self.size)]
        done, longest = 0, 1
        while done < longest:
            self._gathers = turn = self._gathers + 1
            place = segment.chunk(self.rank, turn)
            piece = payload[done : done + CHUNK]
            words[place // 8] = len(payload)
            view[place + 8 : place + 8 + len(piece)] = piece
            segment.publish(segment.gathered[self.rank], turn)
            segment.wait(segment.gathered, turn)
            for rank, found in enumerate(parts):
                place = segment.chunk(rank, turn)
                length = words[place // 8]
                longest = max(longest, length)
                found.append(bytes(view[place + 8 : place + 8 + max(0, min(CHUNK, length - done))]))
            done += CHUNK
        return [b"".join(found) for found in parts]

    def send(self, to: int, payload: bytes | memoryview) -> None:
        self._check_rank("to", to)
        if to == self.rank:
            self._to_self.append(bytes(payload))
            return
        self._put(to, len(payload).to_bytes(8, "little"))
        self._put(to, payload)

    def _put(self, to: int, payload: bytes | memoryview) -> None:
        segment, view = self.segment, memoryview(payload).cast("B")
        ring, put, taken = segment.ring(self.rank, to)
        begin = at = segment.words[put]
        while (done := at - begin) < len(view):
            # Half a ring at most, so that the one writes while the other reads; never across the end.
            step = min(len(view) - done, RING // 2, RING - at % RING)
            segment.wait([taken], at + step - RING)
            place = ring + at % RING
            segment.bytes[place : place + step] = view[done : done + step]
            at += step
            segment.publish(put, at)

    def recv(self, source: int) -> bytes:
        self._check_rank("source", source)
        if source == self.rank:
            if not self._to_self:
                raise RuntimeError("recv from this worker itself, and nothing was sent; send first")
            return self._to_self.popleft()
        return self._take(source, int.from_bytes(self._take(source, 8), "little"))

    def _take(self, source: int, size: int) -> bytes:
        segment, received = self.segment, BytesIO()
        ring, put, taken = segment.ring(source, self.rank)
        begin = at = segment.words[taken]
        while (done := at - begin) < size:
            segment.wait([put], at + 1)
            step = min(size - done, segment.words[put] - at, RING - at % RING)
            place = ring + at % RING
            received.write(segment.bytes[place : place + step])
            at += step
            segment.publish(taken, at)
        return received.getvalue()

    def abort(self) -> None:
        self.segment.words[Segment.aborted] = 1

    def close(self) -> None:
        self.segment.close()


class _ShmMemory(Memory):
    """
    Attributes:
        peers: the buffers of all workers, by rank.
        total: where the total is put together.
    """

    def __init__(
        self,
        layout: Layout,
        buckets: list[Bucket],
        rank: int,
        peers: list[list[list[Array]]],
        total: list[Array],
    ) -> None:
        super().__init__(layout, buckets, peers[rank])
        self.rank, self.peers, self.total = rank, peers, total
        self._planned_for: tuple[list[bytes], int] | None = None

    def plan(self, headers: list[bytes], shards: int) -> _Plan:
        """What is to be done when the workers hold what these headers say; kept as long as they say the same."""
        if self._planned_for != (headers, shards):
            held: dict[Span, list[Array] | None] = {}
            for buffers, header in zip(self.peers, headers, strict=True):
                numbers = iter(memoryview(header).cast("q"))
                for lo, hi, index in zip(numbers, numbers, numbers, strict=True):
                    held[lo, hi] = buffers[index] if index >= 0 else None
            folds: list[tuple[dict[Span, Array | None], Array]] = []
            for which, lo, hi in self.buckets:
                lo, hi = share(lo, hi, self.rank, len(self.peers))
                parts = {span: None if b is None else b[which][lo:hi] for span, b in held.items()}
                folds.append((parts, self.total[which][lo:hi]))
            program = Program(held, shards)
            self._plan = _Plan(program, folds, None if program.empty else self.total)
            self._planned_for = headers, shards
        return self._plan


class _ShmExchange(Exchange):
    """The word `ready` holds the number of the exchange (high half) and how many buckets are final, one more when the
    note is there too (low half); `folded` holds the number of the exchange."""

    def __init__(
        self, group: ShmGroup, memory: _ShmMemory, values: Mapping[Span, int | None], shards: int, number: int
    ) -> None:
        if len(values) > SPANS:
            raise ValueError(f"values: a range has at most {SPANS} maximal subtrees, got {len(values)}")
        self._group, self.segment, self._memory, self._shards = group, group.segment, memory, shards
        self._number, self._base, self._folded = number, number << 32, 0
        self._plan: _Plan | None = None
        self._total: Total | None = None
        numbers = [3 * len(values)]
        for (lo, hi), index in values.items():
            numbers += lo, hi, -1 if index is None else index
        place = self.segment.header(group.rank, number) // 8
        self.segment.words[place : place + len(numbers)] = array("q", numbers)
        self.segment.publish(self.segment.ready[group.rank], self._base)

    def ready(self, buckets: int) -> None:
        self.segment.publish(self.segment.ready[self._group.rank], self._base + buckets)
        self._fold(self.segment.least(self.segment.ready) - self._base)

    def finish(self, note: bytes = b"", regroup: bool = False) -> Total:
        group, segment, number = self._group, self.segment, self._number
        words, view = segment.words, segment.bytes
        place = segment.note(group.rank, number)
        words[place // 8], words[place // 8 + 1] = len(note), regroup
        if len(note) <= NOTE:
            view[place + 16 : place + 16 + len(note)] = note
        buckets = len(self._memory.buckets)
        segment.publish(segment.ready[group.rank], self._base + buckets + 1)
        while self._folded < buckets:
            segment.wait(segment.ready, self._base + self._folded + 1)
            self._fold(min(buckets, segment.least(segment.ready) - self._base))
        segment.wait(segment.ready, self._base + buckets + 1)

        places = [segment.note(rank, number) for rank in range(group.size)]
        if any(words[place // 8] > NOTE for place in places):
            notes = group.gather_bytes(note)
        else:
            notes = [bytes(view[place + 16 : place + 16 + words[place // 8]]) for place in places]
        asked = any(words[place // 8 + 1] for place in places)
        self._total = Total(self._planned().total, notes, asked)
        segment.publish(segment.folded[group.rank], number)
        segment.wait(segment.folded, number)
        group.settled()
        return self._total

    def _fold(self, buckets: int) -> None:
        """Fold this worker's share up to this bucket, if it has not come so far yet."""
        if buckets > self._folded:
            plan = self._planned()
            for values, out in plan.folds[self._folded : buckets]:
                plan.program.run(values, out, self._memory.operation)
            self._folded = buckets

    def _planned(self) -> _Plan:
        """Once all have started."""
        if self._plan is None:
            words, headers = self.segment.words, []
            for rank in range(self._group.size):
                place = self.segment.header(rank, self._number) // 8
                headers.append(words[place + 1 : place + 1 + words[place]].tobytes())
            self._plan = self._memory.plan(headers, self._shards)
        return self._plan

    def pending(self) -> Total | None:
        """The total, if it stands: by what every worker has said until now, not until the wait broke."""
        if self._total is None or self.segment.least(self.segment.folded) < self._number:
            return None
        return Total(self._total.arrays, self._total.notes, True)
