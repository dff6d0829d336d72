"""The exchange and the messages of a group over links between pairs of workers: what sockets and MPI have in common.

A transport gives `Links`; `MessageGroup` does the rest. Each pair of workers has one ordered link, so that what is
sent needs no tags: both sides know what comes next. In one exchange a link carries

    opening     which partial sums this worker holds (spans, and whether anything was added to them)
    partials    of piece 0, 1, ...: my sums of the elements that the other folds
    results     of piece 0, 1, ...: the elements that I fold, folded
    closing     the note
    agreement   "I hold all of it"; who has that of everybody knows that all hold the total

A piece is a stretch of a bucket, of which each worker folds the same part. Partials run WINDOW pieces ahead of results:
receiving, adding and sending overlap. Every partial and every result travels once: 2 (N-1) / N of the vector in and out
of each of N workers that hold one partial sum each.

The deadline. Waiting for a worker to begin (to open an exchange, to call `recv`, to have its next bucket ready) has no
limit but `abort`, for it may be computing. Once it has begun, something must move: where a message is under way, or all
workers are known to be in `finish`, `timeout` seconds without a byte moving end the group. More than EAGER bytes are
sent only to a worker that has begun, so that a link that does not take them is a fault.
"""

from __future__ import annotations

import struct
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..array_fold import fold_arrays
from ..fold import Span
from ..group import Array, Bucket, Exchange, Group, GroupBroken, Layout, Memory, Total, cut, share

Buffer = bytes | bytearray | memoryview | NDArray[Any]
"""Contiguous memory; one that is received into can be written."""

WINDOW = 3  # pieces of partials that run ahead of the results
EAGER = (
    1 << 15
)  # bytes that may be sent to a worker that has not begun: they fit into any transport's buffers
_CHUNK = 1 << 22  # a long payload goes in messages of at most so many bytes
_SLICE = 1.0  # seconds after which a wait looks at the clock


class Transfer:
    """A message being sent or received, to or from `peer`; `done` once its buffers may be used again."""

    __slots__ = ("done", "peer")

    def __init__(self, peer: int, done: bool = False) -> None:
        self.peer, self.done = peer, done


class Links(ABC):
    """One ordered link to each other worker; used by one thread at a time, but for `wake` and `abort`.

    Messages on a link arrive in the order in which they were posted, and in that order each side's transfers of one
    direction are done. Both sides post the same sequence of sizes of buffers (never empty ones), so a link needs no
    framing. Posting never waits; `progress` moves things.

    Attributes:
        rank, size: this worker's place, and how many there are.
        lost: the workers whose links have ended; transfers with them will not be done.
        share_bytes: how much one worker folds of a piece; None: what PIECE_BYTES and SHARE_BYTES say.
    """

    rank: int
    size: int
    lost: set[int]
    share_bytes: int | None = None

    @abstractmethod
    def post_send(self, to: int, buffers: Sequence[Buffer]) -> Transfer:
        """Send the buffers, one after another; they are not copied and must stay as they are until it is done."""

    @abstractmethod
    def post_recv(self, source: int, buffers: Sequence[Buffer]) -> Transfer:
        """Receive what `source` sends next into the buffers."""

    @abstractmethod
    def progress(self, seconds: float) -> bool:
        """Move what can be moved, and say whether anything was. If nothing can, wait until something can, a link is
        lost, `wake` or `abort` is called, or so many seconds have passed. Never raises for a lost link."""

    @property
    @abstractmethod
    def under_way(self) -> bool:
        """Whether some message is in the midst of being sent or received, as far as can be told."""

    @abstractmethod
    def wake(self) -> None:
        """From any thread: let a `progress` that waits return soon."""

    @abstractmethod
    def abort(self) -> None:
        """From any thread: end all links, so that the others notice; a `progress` that waits returns soon."""

    @abstractmethod
    def close(self) -> None:
        """Release the links; nothing is under way."""


# A frame: what is sent where the other side cannot know the size. Always FRAME bytes, of which a head says the kind,
# a flag and the size of the payload; the payload's first bytes follow inside, the rest is a message of its own.
_HEAD = struct.Struct("<BBxxxxxxQ")
_FRAME = 256
_INSIDE = _FRAME - _HEAD.size
# A long message is announced by a call and sent when the other side has answered: it reads now.
_OPENING, _CLOSING, _AGREEMENT, _GATHER, _MESSAGE, _CALL, _GO = range(1, 8)
_NAMES = ("", "an exchange", "the end of an exchange", "an agreement", "gather_bytes", "send", "send", "recv")


@dataclass(frozen=True)
class _Frame:
    flag: int
    payload: bytearray
    rest: Transfer  # the payload is whole when this is done


class MessageGroup(Group):
    """A group over links.

    Args:
        links: to all other workers.
        generation: of this group.
        timeout: seconds without a byte moving, where one should, after which the group is ended.
    """

    def __init__(self, links: Links, generation: int, timeout: float = 30.0) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, got {timeout!r}")
        self.rank, self.size, self.generation = links.rank, links.size, generation
        self._links, self._timeout = links, timeout
        self._peers = [r for r in range(self.size) if r != self.rank]
        self._ended: str | None = None  # why
        self._pending: Total | None = None
        self._flight: threading.Thread | None = None  # that of an exchange in flight
        self._heads: dict[int, tuple[bytearray, Transfer]] = {}  # posted, and come but not looked at
        self._called: set[int] = set()  # workers that were told to send their long message
        self._inbox: list[deque[_Frame]] = [deque() for _ in range(self.size)]
        self._scratch = np.empty(0, np.uint8)
        self._memories = 0

    # --- what Group asks for ------------------------------------------------------------------------------------------

    @property
    def broken(self) -> bool:
        if self._ended is None and self._flight is None:
            self._links.progress(0)
        return self._ended is not None or bool(self._links.lost)

    def reserve(self, layout: Layout, count: int, bucket_bytes: int | None = None) -> Memory:
        asked = self.gather_objects(([list(part) for part in layout], bucket_bytes))
        if any(other != asked[0] for other in asked):
            raise ValueError(f"reserve: the workers ask for different layouts or buckets: {asked}")
        buffers = [[np.empty(size, dtype) for dtype, size in layout] for _ in range(count)]
        self._memories += 1
        return _Memory(layout, cut(layout, bucket_bytes), buffers, self._memories)

    def start(self, memory: Memory, values: Mapping[Span, int | None], shards: int) -> Exchange:
        assert isinstance(memory, _Memory), "memory: of another group; reserve it here"
        self._check_free("start")
        self._pending = None
        return _Exchange(self, memory, values, shards)

    def pending(self) -> Total | None:
        return self._pending

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        self._check_free("gather_bytes")
        view = memoryview(payload).cast("B")
        late = len(view) > EAGER
        sends = [self._post_frame(p, _GATHER, view, whole=not late) for p in self._peers]
        frames = self._frames(_GATHER, patient=True)
        if late:
            sends = [self._links.post_send(p, list(_chunks(view))) for p in self._peers]
        self._wait([*sends, *(f.rest for f in frames.values())])
        return [bytes(frames[r].payload) if r in frames else bytes(payload) for r in range(self.size)]

    def send(self, to: int, payload: bytes | memoryview) -> None:
        self._check_rank("to", to)
        self._check_free("send")
        view = memoryview(payload).cast("B")
        if to == self.rank:
            self._inbox[to].append(_Frame(0, bytearray(view), Transfer(to, done=True)))
            return
        calls = len(view) > EAGER
        if calls:
            self._post_frame(to, _CALL, b"")
            self._until(lambda: () if self._come() and self._peek(to) else (to,), patient=True)
            self._take(to, _GO)
        sent = self._post_frame(to, _MESSAGE, view)

        # What others send meanwhile is taken in, and what was begun is taken in to its end: workers that all send first
        # and receive then do not wait in a ring.
        def waiting() -> Iterable[int]:
            self._come()
            coming = [frame.rest.peer for inbox in self._inbox for frame in inbox if not frame.rest.done]
            return [*self._called, *coming, *(() if sent.done else (to,))]

        self._until(waiting, patient=not calls)

    def recv(self, source: int) -> bytes:
        self._check_rank("source", source)
        self._check_free("recv")
        inbox = self._inbox[source]
        if source == self.rank and not inbox:
            raise RuntimeError("recv from this worker itself, and nothing was sent; send first")

        def waiting() -> Iterable[int]:
            if not inbox and self._peek(source) is not None and not inbox:  # a message may have come before
                self._take(source, _MESSAGE)  # something else has come: says so
            return () if inbox else (source,)

        self._until(waiting, patient=True)
        frame = inbox.popleft()
        self._wait([frame.rest])
        return bytes(frame.payload)

    def abort(self) -> None:
        self._end("the group was aborted")

    def close(self) -> None:
        if self._flight is not None:
            self.abort()
            self._flight.join()
        self._end("the group is closed")
        self._links.close()

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _end(self, reason: str) -> None:
        if self._ended is None:
            self._ended = reason
            self._links.abort()

    def _break(self, reason: str) -> GroupBroken:
        """End the group, so that everybody notices; returns the error to raise."""
        self._end(reason)
        return GroupBroken(
            f"generation {self.generation} has ended at worker {self.rank} of {self.size}: {self._ended}"
        )

    def _until(
        self, waiting: Callable[[], Iterable[int]], patient: bool = False, strict: bool = False
    ) -> None:
        """Move things until `waiting` names no worker any more.

        Args:
            patient: those named need not have begun: no deadline while nothing is under way.
            strict: the loss of any worker ends the group, not only of those named.
        """
        moved = time.monotonic()
        while names := list(waiting()):
            if self._ended is not None:
                raise self._break(self._ended)
            lost = self._links.lost
            if lost and (strict or not lost.isdisjoint(names)):
                raise self._break(f"the link to worker {min(lost)} has ended")
            if self._links.progress(min(_SLICE, self._timeout / 4)):
                moved = time.monotonic()
            elif time.monotonic() - moved > self._timeout and (self._links.under_way or not patient):
                raise self._break(
                    f"nothing moved for {self._timeout:g} s; waited for workers {sorted(set(names))}"
                )

    def _wait(self, transfers: Iterable[Transfer], patient: bool = False, strict: bool = False) -> None:
        left = list(transfers)

        def waiting() -> Iterable[int]:
            left[:] = [t for t in left if not t.done]
            return [t.peer for t in left]

        self._until(waiting, patient, strict)

    def _check_free(self, name: str) -> None:
        if self._flight is not None:
            raise RuntimeError(f"{name}: an exchange is in flight; finish it first")
        if self._ended is not None:
            raise self._break(self._ended)

    # --- frames -------------------------------------------------------------------------------------------------------

    def _post_frame(
        self, to: int, kind: int, payload: bytes | memoryview, flag: int = 0, whole: bool = True
    ) -> Transfer:
        """Send a frame and, if `whole`, the rest of its payload at once."""
        view = memoryview(payload)
        frame = (_HEAD.pack(kind, flag, len(view)) + view[:_INSIDE]).ljust(_FRAME, b"\0")
        return self._links.post_send(to, [frame, *(_chunks(view) if whole else ())])

    def _peek(self, source: int) -> int | None:
        """The kind of the frame that has come next from a worker, None if none has; messages go into the inbox, and
        calls are answered."""
        while True:
            if source not in self._heads:
                frame = bytearray(_FRAME)
                self._heads[source] = frame, self._links.post_recv(source, [frame])
            frame, transfer = self._heads[source]
            if not transfer.done:
                return None
            kind: int = frame[0]
            if kind == _MESSAGE:
                self._inbox[source].append(self._take(source, _MESSAGE))
                self._called.discard(source)
            elif kind == _CALL:
                self._take(source, _CALL)
                self._called.add(source)
                self._post_frame(source, _GO, b"")
            else:
                return kind

    def _come(self) -> bool:
        for peer in self._peers:
            self._peek(peer)
        return True

    def _take(self, source: int, kind: int) -> _Frame:
        """The frame that has come from a worker, and the receiving of the rest of its payload begun."""
        frame, _ = self._heads.pop(source)
        came, flag, size = _HEAD.unpack_from(frame)
        if came != kind:
            name = _NAMES[came] if 0 < came < len(_NAMES) else f"something unknown ({came})"
            raise RuntimeError(
                f"the workers of a group must make the same calls in the same order; worker {self.rank} "
                f"waits for {_NAMES[kind]} of worker {source}, which is at {name}"
            ) from self._break("the workers' calls differ")
        payload = bytearray(size)
        payload[:_INSIDE] = frame[_HEAD.size : _HEAD.size + min(size, _INSIDE)]
        chunks = list(_chunks(memoryview(payload)))
        return _Frame(
            flag, payload, self._links.post_recv(source, chunks) if chunks else Transfer(source, done=True)
        )

    def _frames(self, kind: int, patient: bool = False, strict: bool = False) -> dict[int, _Frame]:
        """The next frame of every other worker; their payloads may still be on the way."""
        found: dict[int, _Frame] = {}

        def waiting() -> Iterable[int]:
            for peer in self._peers:
                if peer not in found and self._peek(peer) is not None:
                    found[peer] = self._take(peer, kind)
            return [p for p in self._peers if p not in found]

        self._until(waiting, patient, strict)
        return found


def _chunks(payload: memoryview) -> Iterator[memoryview]:
    """What does not go inside the frame, in parts."""
    for lo in range(_INSIDE, len(payload), _CHUNK):
        yield payload[lo : lo + _CHUNK]


# --- the exchange -----------------------------------------------------------------------------------------------------

# What one worker folds of a piece: large, for fewer turns; but scratch grows with the number of workers.
PIECE_BYTES, SHARE_BYTES = 1 << 22, 1 << 18
SMALL_BYTES = 1 << 16  # up to which buckets are put together into a piece


class _Memory(Memory):
    """Buffers, and beside them where totals are put together."""

    def __init__(
        self, layout: Layout, buckets: Sequence[Bucket], buffers: Sequence[Sequence[Array]], number: int
    ) -> None:
        super().__init__(layout, buckets, buffers)
        self.totals = [np.empty(size, dtype) for dtype, size in layout]
        self.number = number  # the same on every worker

    def pieces(self, workers: int, share_bytes: int) -> list[tuple[int, Bucket]]:
        """Each piece, and the number of buckets that must be ready for it."""
        found: list[tuple[int, Bucket]] = []
        for index, (array, lo, hi) in enumerate(self.buckets):
            item = np.dtype(self.layout[array][0]).itemsize
            if found and found[-1][1][:2] == (array, hi) and (found[-1][1][2] - lo) * item <= SMALL_BYTES:
                hi = found.pop()[1][2]  # neighbours that are not worth a message each
            most = workers * max(1, share_bytes // item)
            found += [(index + 1, (array, a, min(a + most, hi))) for a in range(lo, hi, most)]
        return found


class _Exchange(Exchange):
    """Runs in `finish`; or, if some buckets are ready before, in a thread of its own from then on."""

    def __init__(
        self, group: MessageGroup, memory: _Memory, values: Mapping[Span, int | None], shards: int
    ) -> None:
        self._group, self._memory, self._shards = group, memory, shards
        self._mine = {s: None if i is None else memory.buffers[i] for s, i in values.items()}
        share_bytes = group._links.share_bytes or max(SHARE_BYTES, PIECE_BYTES // group.size)
        self._pieces = memory.pieces(group.size, share_bytes)
        self._ready = 0
        self._closing: tuple[bytes, bool] | None = None  # note and regroup, once `finish` is called
        self._spans: list[list[Span]] = []  # of each worker: those that something was added to
        self._absent: dict[Span, None] = {}
        self._sent: dict[int, Transfer] = {}  # the last to each worker
        self._results: dict[int, Transfer] = {}  # the last from each worker
        self._came: dict[int, list[Transfer]] = {}  # the partials of a piece
        self._result: Total | BaseException | None = None

    def ready(self, buckets: int) -> None:
        self._ready = max(self._ready, buckets)
        group = self._group
        if group._flight is not None:
            group._links.wake()
        elif 0 < buckets < len(self._memory.buckets) and group.size > 1:
            name = f"exchange of worker {group.rank}"
            group._flight = threading.Thread(target=self._fly, name=name, daemon=True)
            group._flight.start()

    def finish(self, note: bytes = b"", regroup: bool = False) -> Total:
        self._ready, self._closing = len(self._memory.buckets), (note, regroup)
        group = self._group
        if group._flight is None:
            return self._run()
        group._links.wake()
        group._flight.join()
        group._flight = None
        assert self._result is not None
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result

    def _fly(self) -> None:
        try:
            self._result = self._run()
        except BaseException as error:  # raised in `finish`
            self._result = error

    def _run(self) -> Total:
        group, pieces = self._group, self._pieces
        whole = self._closing is not None
        first = range(min(WINDOW, len(pieces)))
        eager = whole and self._outgoing(first) <= EAGER
        self._open(whole)
        if eager:
            for k in first:
                self._send_partials(k)
        patient = not self._opened(whole)
        arrays = self._memory.totals if any(self._spans) else None
        if arrays is not None:
            for k in first:
                self._receive_partials(k)
            for k in first:
                if not eager:
                    self._send_partials(k)
            for k in range(len(pieces)):
                group._wait(self._came.pop(k), patient, strict=True)
                self._fold(k)
                self._pass_result(k)
                if k + WINDOW < len(pieces):
                    self._receive_partials(k + WINDOW)
                    self._send_partials(k + WINDOW)
        group._until(lambda: () if self._closing is not None else (group.rank,), patient=True, strict=True)
        assert self._closing is not None
        return self._agree(arrays, *self._closing, patient)

    # --- the parts of an exchange, in the order of a link -------------------------------------------------------------

    def _open(self, whole: bool) -> None:
        spans = [(lo, hi, arrays is not None) for (lo, hi), arrays in self._mine.items()]
        numbers = (self._shards, self._memory.number, *(n for span in spans for n in span))
        payload = struct.pack(f"<{len(numbers)}q", *numbers)
        for peer in self._group._peers:
            self._group._post_frame(peer, _OPENING, payload, flag=whole)

    def _opened(self, whole: bool) -> bool:
        """Wait for the others to open; returns whether all of them are in `finish`."""
        group = self._group
        frames = group._frames(_OPENING, patient=True, strict=True)
        group._wait([f.rest for f in frames.values()], strict=True)
        self._spans = [
            [s for s, arrays in self._mine.items() if arrays is not None] for _ in range(group.size)
        ]
        self._absent = {s: None for s, arrays in self._mine.items() if arrays is None}
        for peer, frame in frames.items():
            shards, memory, *numbers = struct.unpack(f"<{len(frame.payload) // 8}q", frame.payload)
            if (shards, memory) != (self._shards, self._memory.number):
                raise RuntimeError(
                    "the workers of an exchange must name the same memory and number of shards; "
                    f"worker {group.rank} has memory {self._memory.number} and {self._shards} shards, "
                    f"worker {peer} has memory {memory} and {shards} shards"
                ) from group._break("the workers' exchanges differ")
            spans = list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
            self._spans[peer] = [(lo, hi) for lo, hi, present in spans if present]
            self._absent |= {(lo, hi): None for lo, hi, present in spans if not present}
        self._reserve_scratch()
        return whole and all(f.flag for f in frames.values())

    def _reserve_scratch(self) -> None:
        """Room for the partials of WINDOW pieces, as many of each as other workers hold."""
        group = self._group
        sizes = [0]
        for k in range(len(self._pieces)):
            array, lo, hi = self._part(k, group.rank)
            sizes.append((hi - lo) * np.dtype(self._memory.layout[array][0]).itemsize)
        self._room = -(-max(sizes) // 64) * 64
        held = sum(len(self._spans[p]) for p in group._peers)
        if group._scratch.size < WINDOW * held * self._room:
            group._scratch = np.empty(WINDOW * held * self._room, np.uint8)

    def _part(self, k: int, rank: int) -> tuple[int, int, int]:
        """The array, and the stretch of it, that a worker folds of piece k."""
        _, (array, lo, hi) = self._pieces[k]
        return (array, *share(lo, hi, rank, self._group.size))

    def _outgoing(self, pieces: range) -> int:
        """The most bytes of partials that go to one worker."""
        held = sum(arrays is not None for arrays in self._mine.values())
        total = 0
        for k in pieces:
            _, (array, lo, hi) = self._pieces[k]
            total += (
                held
                * (-(-(hi - lo) // self._group.size) + 16)
                * np.dtype(self._memory.layout[array][0]).itemsize
            )
        return total

    def _send_partials(self, k: int) -> None:
        group = self._group
        needed = self._pieces[k][0]
        group._until(lambda: () if self._ready >= needed else (group.rank,), patient=True, strict=True)
        for peer in group._peers:
            array, lo, hi = self._part(k, peer)
            buffers = [arrays[array][lo:hi] for arrays in self._mine.values() if arrays is not None]
            if lo < hi and buffers:
                self._sent[peer] = group._links.post_send(peer, buffers)

    def _slots(self, k: int) -> Iterator[tuple[int, Span, Array]]:
        """Where the partials of piece k are received: (worker, span, its elements of my share)."""
        array, lo, hi = self._part(k, self._group.rank)
        dtype = np.dtype(self._memory.layout[array][0])
        held = [(peer, span) for peer in self._group._peers for span in self._spans[peer]]
        at = (k % WINDOW) * len(held) * self._room
        for i, (peer, span) in enumerate(held):
            begin = at + i * self._room
            yield peer, span, self._group._scratch[begin : begin + (hi - lo) * dtype.itemsize].view(dtype)

    def _receive_partials(self, k: int) -> None:
        into: dict[int, list[Array]] = {}
        for peer, _, elements in self._slots(k):
            if elements.size:
                into.setdefault(peer, []).append(elements)
        self._came[k] = [self._group._links.post_recv(peer, buffers) for peer, buffers in into.items()]

    def _fold(self, k: int) -> None:
        array, lo, hi = self._part(k, self._group.rank)
        if lo == hi:
            return
        values: dict[Span, Array | None] = dict(self._absent)
        values |= {s: arrays[array][lo:hi] for s, arrays in self._mine.items() if arrays is not None}
        values |= {span: elements for _, span, elements in self._slots(k)}
        fold_arrays(values, self._shards, self._memory.totals[array][lo:hi], self._memory.operation)

    def _pass_result(self, k: int) -> None:
        """Send my share of the total to all, and receive theirs."""
        group, totals = self._group, self._memory.totals
        array, lo, hi = self._part(k, group.rank)
        for peer in group._peers:
            if lo < hi:
                self._sent[peer] = group._links.post_send(peer, [totals[array][lo:hi]])
            _, a, b = self._part(k, peer)
            if a < b:
                self._results[peer] = group._links.post_recv(peer, [totals[array][a:b]])

    def _agree(self, arrays: list[Array] | None, note: bytes, regroup: bool, patient: bool) -> Total:
        group = self._group
        for peer in group._peers:
            self._sent[peer] = group._post_frame(peer, _CLOSING, note, flag=regroup)
        group._wait(self._results.values(), patient, strict=True)
        frames = group._frames(_CLOSING, patient, strict=True)
        group._wait([*(f.rest for f in frames.values()), *self._sent.values()], strict=True)
        notes = [bytes(frames[r].payload) if r in frames else bytes(note) for r in range(group.size)]
        # From here on another worker may learn that this one holds the total.
        group._pending = Total(arrays, notes, True)
        sends = [group._post_frame(p, _AGREEMENT, b"") for p in group._peers]
        group._frames(_AGREEMENT)
        group._wait(sends)
        group._pending = None
        return Total(arrays, notes, regroup or any(f.flag for f in frames.values()))
