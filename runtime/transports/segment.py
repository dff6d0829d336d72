"""The file of anonymous shared memory that the workers of one host have in common, and waiting in it.

At its start stands the control area: words that one worker each writes, and slots for messages. Behind it lie the
regions that `ShmGroup.reserve` lays out. The file has no name, so it is gone with the last process that has it open,
however that ends.

A word is 8 bytes, aligned, written by one worker and read by all. Its value only grows, so what was seen to be true
stays true: waiting means to read until a word has come up to a value. What a word announces is written before it, and
read after it; x86 keeps that order, and elsewhere `fence` does.
"""

from __future__ import annotations

import mmap
import os
import platform
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable

from ..group import GroupBroken
from ..timeline import span

LINE = 64  # bytes that caches exchange at once
# What a slot holds; what is longer goes in turns. Of slots and rings only the pages that are used take memory.
SPANS = 64  # a range of 2**31 shards has no more maximal subtrees
HEADER = 8 * (1 + 3 * SPANS)
NOTE = 4096 - 16
CHUNK = (1 << 16) - 8
RING = 1 << 20

_SPINS = 50  # reads before the processor is offered to others: about 4 µs
_YIELD = 200e-6  # seconds of offering it before sleeping
_NAP = 1e-3  # seconds of the longest sleep: also how late an abort may be seen

# Whether plain writes of one processor are seen by others in their order, and so are its reads.
_ORDERED = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")

_sched_yield = getattr(os, "sched_yield", lambda: time.sleep(0))


class Segment:
    """The control area, and regions of memory behind it.

    Places in `words` (int64): `aborted` is one word for all; `ready`, `folded`, `gathered` list one for each worker.
    Places in `bytes`: `header`, `note` and `chunk` give the slot of a worker for an odd or even turn, `ring` that of a
    pair.
    """

    aborted = 0

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = os.dup(descriptor)
        control = mmap.mmap(self._descriptor, _control_bytes(size))
        self.bytes = memoryview(control)
        self.words = self.bytes.cast("q")
        self._size = size
        first, step = LINE // 8, _words_of_worker(size) // 8
        self.ready = [first + r * step for r in range(size)]
        self.folded = [first + r * step + 8 for r in range(size)]
        self.gathered = [first + r * step + 16 for r in range(size)]
        self._slots = LINE + size * _words_of_worker(size)
        self._rings = self._slots + size * 2 * _SLOTS
        self._regions: dict[int, tuple[int, weakref.ref[mmap.mmap]]] = {}
        lock = threading.Lock()
        lock.acquire()
        self._release, self._acquire = lock.release, lock.acquire

    # --- places -------------------------------------------------------------------------------------------------------

    def header(self, rank: int, turn: int) -> int:
        """Of the words for which sums a worker holds: how many words follow, then (lo, hi, buffer or -1) of each."""
        return self._slots + (2 * rank + turn % 2) * _SLOTS

    def note(self, rank: int, turn: int) -> int:
        """Of the words (length of the note, regroup) and the note, if it is no longer than NOTE."""
        return self.header(rank, turn) + _HEADER_SLOT

    def chunk(self, rank: int, turn: int) -> int:
        """Of the word (length of the payload) and as much of the payload as goes in a turn of a gather."""
        return self.note(rank, turn) + _NOTE_SLOT

    def ring(self, source: int, to: int) -> tuple[int, int, int]:
        """Place of the ring of bytes from one worker to another, and the words that count what went in and came out."""
        words = self.ready[0] + 24, _words_of_worker(self._size) // 8
        put = words[0] + source * words[1] + to
        taken = words[0] + to * words[1] + self._size + source
        return self._rings + (source * self._size + to) * RING, put, taken

    # --- words --------------------------------------------------------------------------------------------------------

    def fence(self) -> None:
        """Order memory before and after: by a lock's release, then its acquisition."""
        self._release()
        self._acquire()

    def publish(self, word: int, value: int) -> None:
        """Let a word of this worker have a higher value, after everything written so far."""
        if not _ORDERED:
            self.fence()
        self.words[word] = value

    def least(self, words: Iterable[int]) -> int:
        """How far all of `words` have come."""
        value = min(map(self.words.__getitem__, words))
        if not _ORDERED:
            self.fence()
        return value

    def wait(self, words: Iterable[int], value: int) -> None:
        """Wait until all of `words` have come up to `value`. What is so already is not looked at for an abort.

        Raises:
            GroupBroken: the segment was aborted before.
        """
        values = self.words
        for word in words:
            if values[word] < value:
                with span("waiting"):
                    self._wait(word, value)
        if not _ORDERED:
            self.fence()

    def _wait(self, word: int, value: int) -> None:
        values = self.words
        for _ in range(_SPINS):
            if values[word] >= value:
                return
        begin = time.perf_counter()
        while values[word] < value:
            if values[self.aborted]:
                raise GroupBroken("the group has ended: a worker was lost, or the group was aborted")
            waited = time.perf_counter() - begin
            if waited < _YIELD:
                _sched_yield()
            else:
                time.sleep(min(_NAP, waited / 16))

    # --- regions ------------------------------------------------------------------------------------------------------

    def unused(self) -> list[int]:
        """The regions that nothing in this process refers to any more."""
        return [place for place, (_, region) in self._regions.items() if region() is None]

    def map(self, size: int, free: Iterable[int]) -> mmap.mmap:
        """A new region. Every worker calls this with the same arguments, and so finds the same place for it.

        Args:
            size: in bytes.
            free: regions that are unused in every process.
        """
        for place in free:
            del self._regions[place]
        size = _whole_pages(max(size, 1))
        place = _whole_pages(_control_bytes(self._size))
        for taken in sorted(self._regions):
            if taken - place >= size:
                break
            place = taken + self._regions[taken][0]
        ends = [taken + length for taken, (length, _) in self._regions.items()]
        os.ftruncate(self._descriptor, max([*ends, place + size]))
        region = mmap.mmap(self._descriptor, size, offset=place)
        self._regions[place] = size, weakref.ref(region)
        return region

    def close(self) -> None:
        """Give the descriptor back; what is mapped stays so until nothing refers to it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def new_file(size: int) -> int:
    """The descriptor of a new file for the segment of `size` workers. It is not inherited by child processes unless
    handed to them."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dist_dp")
    else:  # a temporary file without a name; POSIX shared memory cannot grow everywhere
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    os.ftruncate(descriptor, _control_bytes(size))
    return descriptor


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit


def _whole_pages(size: int) -> int:
    return _up(size, mmap.ALLOCATIONGRANULARITY)


_HEADER_SLOT = _up(HEADER, LINE)
_NOTE_SLOT = NOTE + 16
_SLOTS = _HEADER_SLOT + _NOTE_SLOT + CHUNK + 8


def _words_of_worker(size: int) -> int:
    """Bytes: a line each for `ready`, `folded`, `gathered`, then a word for each ring out and each ring in."""
    return 3 * LINE + _up(2 * size * 8, LINE)


def _control_bytes(size: int) -> int:
    return LINE + size * (_words_of_worker(size) + 2 * _SLOTS) + size * size * RING
