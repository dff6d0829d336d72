"""The exchange of very many workers in one process: the groups of `runtime.transports`, over links that only count.

Every worker is a thread, and one of them runs at a time: it goes on until nothing more can come to it, then the one
does that has waited longest. So 1,000 workers need no 1,000 cores, nothing sleeps, and each run takes the same turns.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from runtime.fold import Fold, Span, balanced_ranges
from runtime.group import Group, Memory
from runtime.message import decode, encode
from runtime.transports.hierarchical import HierarchicalGroup
from runtime.transports.message_passing import Buffer, Links, MessageGroup, Transfer
from runtime.transports.solo import SoloGroup

Array = NDArray[Any]
_STACK = 1 << 18  # bytes of a worker's stack


class Stuck(RuntimeError):
    """Every worker waits for another one."""


class Turns:
    """Lets threads run one at a time, the one first that has waited longest."""

    def __init__(self, workers: int) -> None:
        self._batons = [threading.Semaphore(0) for _ in range(workers)]
        self._queue: deque[int] = deque()
        self._queued = [False] * workers
        self._left = 0
        self._failure: BaseException | None = None
        self._over = threading.Event()

    def run(self, work: Callable[[int], object]) -> None:
        """Do `work(worker)` for each worker to its end, all of them at the same time, as it looks to them.

        Raises:
            Stuck: all of those that are left wait.
        """
        self._left, self._failure = len(self._batons), None
        self._over.clear()

        def body(worker: int) -> None:
            self._batons[worker].acquire()
            try:
                if self._failure is None:
                    work(worker)
            except BaseException as error:  # the first one is raised by `run`
                self._failure = self._failure or error
            self._left -= 1
            self._next()

        before = threading.stack_size(_STACK)
        try:
            threads = [
                threading.Thread(target=body, args=(w,), daemon=True) for w in range(len(self._batons))
            ]
            for worker, thread in enumerate(threads):
                thread.start()
                self.wake(worker)
        finally:
            threading.stack_size(before)
        self._next()
        self._over.wait()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def wake(self, worker: int) -> None:
        """Something came to a worker: it has a turn, if it has none yet."""
        if not self._queued[worker]:
            self._queued[worker] = True
            self._queue.append(worker)

    def wait(self, worker: int) -> None:
        """Called by the worker that runs: let the others run until something has come to it."""
        self._next()
        self._batons[worker].acquire()
        if self._failure is not None:
            raise self._failure

    def _next(self) -> None:
        if self._left == 0:
            self._over.set()
            return
        if not self._queue or self._failure is not None:
            if self._failure is None:
                self._failure = Stuck(f"{self._left} workers wait, and nothing is under way")
            self._queue.clear()
            for baton in self._batons:  # all come to their end, one after the other as the interpreter likes
                baton.release()
            return
        worker = self._queue.popleft()
        self._queued[worker] = False
        self._batons[worker].release()


@dataclass
class Count:
    """What one worker sends and receives over some links."""

    sent: int = 0  # messages
    sent_bytes: int = 0
    gradient_bytes: int = 0  # among them: partial sums and results
    came: int = 0
    came_bytes: int = 0

    def add(self, sign: int, size: int, gradient: bool) -> None:
        """A message was sent (1) or came (-1)."""
        if sign > 0:
            self.sent += 1
            self.sent_bytes += size
            self.gradient_bytes += size * gradient
        else:
            self.came += 1
            self.came_bytes += size


_Part = tuple[memoryview, Transfer, bool]
"""A buffer, the transfer it belongs to, and whether it is the last of it."""


class CountedLinks(Links):
    """Links between workers of one process. What is sent is copied once, into the buffers of the receiver.

    Args:
        worker: who this is in `turns`.
        rank: who this is in this group.
        all_links: of the group, by rank; this is put there.
        count: where it is added up what this worker sends and receives.
    """

    def __init__(
        self, turns: Turns, worker: int, rank: int, all_links: list[CountedLinks], size: int, count: Count
    ) -> None:
        self.rank, self.size, self.lost = rank, size, set()
        self.share_bytes = None
        self._turns, self._worker, self._others, self.count = turns, worker, all_links, count
        # By the other side; an entry goes when it is empty, for there are a million of them.
        self._coming: dict[int, deque[_Part]] = {}  # sent to this worker, not taken
        self._wanted: dict[int, deque[_Part]] = {}  # places that wait for it
        self._moved = self._sleeps = False
        all_links.append(self)

    def post_send(self, to: int, buffers: Sequence[Buffer]) -> Transfer:
        transfer, other = Transfer(to), self._others[to]
        size = 0
        for part in _parts(buffers, transfer):
            size += len(part[0])
            place = _first(other._wanted, self.rank)
            if place is None:
                other._coming.setdefault(self.rank, deque()).append(part)
            else:
                _copy(part, place)
        for count, sign in ((self.count, 1), (other.count, -1)):
            count.add(sign, size, isinstance(buffers[0], np.ndarray))
        other._stir()
        return transfer

    def post_recv(self, source: int, buffers: Sequence[Buffer]) -> Transfer:
        transfer = Transfer(source)
        for place in _parts(buffers, transfer):
            part = _first(self._coming, source)
            if part is None:
                self._wanted.setdefault(source, deque()).append(place)
            else:
                _copy(part, place)
                self._moved = True
                self._others[source]._stir()  # what it sent may be done
        return transfer

    def _stir(self) -> None:
        self._moved = True
        if self._sleeps:
            self._turns.wake(self._worker)

    def progress(self, seconds: float) -> bool:
        if not self._moved and seconds > 0:
            self._sleeps = True
            self._turns.wait(self._worker)
            self._sleeps = False
        moved, self._moved = self._moved, False
        return moved

    @property
    def under_way(self) -> bool:
        return False

    def wake(self) -> None:
        self._turns.wake(self._worker)

    def abort(self) -> None:
        for other in self._others:
            if other is not self:
                other.lost.add(self.rank)
                self._turns.wake(other._worker)

    def close(self) -> None:
        pass


def _parts(buffers: Sequence[Buffer], transfer: Transfer) -> Iterator[_Part]:
    for i, buffer in enumerate(buffers):
        view = buffer.view(np.uint8).data if isinstance(buffer, np.ndarray) else memoryview(buffer)
        yield view, transfer, i == len(buffers) - 1


def _first(parts: dict[int, deque[_Part]], key: int) -> _Part | None:
    waiting = parts.get(key)
    if waiting is None:
        return None
    part = waiting.popleft()
    if not waiting:
        del parts[key]
    return part


def _copy(part: _Part, place: _Part) -> None:
    """Both sides post the same sequence of sizes, so that buffer by buffer fits."""
    place[0][:] = part[0]
    for _, transfer, last in (part, place):
        transfer.done = last


# --- groups -----------------------------------------------------------------------------------------------------------


class NotesByLeaders(Group):
    """What is small, from all to all by way of the leaders: a proposal, as far as it is needed to count.

    Inside each host the leader gathers, the leaders tell each other what they have, and each tells its host.

    Args:
        inside, between: as in `HierarchicalGroup`.
        rank, size: of this worker among all.
    """

    def __init__(self, inside: Group, between: Group | None, rank: int, size: int) -> None:
        self._inside, self._between = inside, between
        self.rank, self.size, self.generation = rank, size, inside.generation

    @property
    def broken(self) -> bool:
        return self._inside.broken or (self._between is not None and self._between.broken)

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        home = self._inside.gather_bytes(payload)
        told = b""
        if self._inside.rank == 0:
            hosts = [home] if self._between is None else self._between.gather_objects(home)
            told = encode([said for host in hosts for said in host])
        said = decode(self._inside.gather_bytes(told)[0])
        return [bytes(of) for of in said]

    def abort(self) -> None:
        """The groups below are ended by whoever made them."""

    def close(self) -> None:
        """Nothing is held."""

    def reserve(self, *_: Any) -> NoReturn:
        raise NotImplementedError("only what is small goes this way")

    start = pending = send = recv = reserve


@dataclass
class Worker:
    """One worker: its group, and what it did over the network and inside its host."""

    group: Group
    links: list[CountedLinks]
    network: Count
    inside: Count

    @property
    def connections(self) -> int:
        """Sockets, also to workers of the same host where the transport makes one; not what stands for memory."""
        return sum(links.size - 1 for links in self.links if links.count is self.network)


class Shape(NamedTuple):
    """How workers are put together. Each level groups so many of the one below; none: all talk to all.

    Attributes:
        levels: workers of a host, hosts of a rack, ...
        by_leaders: whether what is small goes by way of the leaders.
    """

    levels: tuple[int, ...] = ()
    by_leaders: bool = False

    def __str__(self) -> str:
        if not self.levels:
            return "direct"
        names = " × ".join(map(str, self.levels))
        return f"levels of {names}" + (", notes by leaders" if self.by_leaders else "")


def workers(size: int, shape: Shape, turns: Turns, share_bytes: int | None = None) -> list[Worker]:
    """Connected workers, by rank. Inside a host messages stand for shared memory, and are counted apart."""
    made = [Worker(SoloGroup(1), [], Count(), Count()) for _ in range(size)]

    def connect(ranks: Sequence[int], network: bool) -> list[Group]:
        if len(ranks) == 1:
            return [SoloGroup(1)]
        all_links: list[CountedLinks] = []
        for place, rank in enumerate(ranks):
            count = made[rank].network if network else made[rank].inside
            links = CountedLinks(turns, rank, place, all_links, len(ranks), count)
            links.share_bytes = share_bytes
            made[rank].links.append(links)
        return [MessageGroup(links, 1) for links in all_links]

    def level(ranks: Sequence[int], levels: Sequence[int], network: bool) -> list[Group]:
        if not levels or len(ranks) <= levels[0]:
            return connect(ranks, network)
        count = len(ranks)
        hosts = [range(lo, min(lo + levels[0], count)) for lo in range(0, count, levels[0])]
        inside = [group for host in hosts for group in connect([ranks[i] for i in host], network)]
        leaders = level([ranks[host[0]] for host in hosts], levels[1:], True)
        between = {host[0]: group for host, group in zip(hosts, leaders, strict=True)}
        everyone: list[Group]
        if shape.by_leaders:
            everyone = [NotesByLeaders(inside[i], between.get(i), i, count) for i in range(count)]
        else:
            everyone = connect(ranks, True)
        return [HierarchicalGroup(inside[i], between.get(i), everyone[i], hosts) for i in range(count)]

    for worker, group in zip(made, level(range(size), shape.levels, not shape.levels), strict=True):
        worker.group = group
    return made


# --- one exchange -----------------------------------------------------------------------------------------------------


class Result(NamedTuple):
    """What came out of an exchange.

    Attributes:
        digest: SHA-256 of the sum, the same on all workers.
        workers: with their counts of this exchange alone.
        seconds: of this process's CPU, for all workers together.
    """

    digest: str
    workers: list[Worker]
    seconds: float


def gradient(shard: int, elements: int) -> Array:
    """Numbers of very different size, so that adding them in any other order has other bits."""
    rng = np.random.default_rng(shard)
    numbers = rng.standard_normal(elements, np.float32)
    numbers *= np.float32(10.0) ** rng.integers(-4, 5, elements).astype(np.float32)
    return numbers


def partials(lo: int, hi: int, shards: int, elements: int) -> dict[Span, Array]:
    """The sums of the maximal subtrees of a range of shards."""
    fold: Fold[Array] = Fold(shards, lambda left, right: np.add(left, right, left), lo, hi)
    for shard in range(lo, hi):
        fold.push(gradient(shard, elements))
    return fold.partials()


def digest(array: Array) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def exchange(
    size: int,
    shape: Shape,
    *,
    shards: int | None = None,
    elements: int = 16_000,
    note: int = 200,
    share_bytes: int | None = None,
) -> Result:
    """The first exchange of `size` workers, a shard each unless `shards` says otherwise.

    In a hierarchy the leaders make room in it for the partial sums of a host, by one small message from each to each:
    later ones are without.

    Args:
        elements: float32, of the gradient.
        note: bytes that each worker has to say beside it.
        share_bytes: see `Links`.
    """
    shards = size if shards is None else shards
    ranges = balanced_ranges(shards, size)
    turns = Turns(size)
    made = workers(size, shape, turns, share_bytes)
    memories: dict[int, tuple[Memory, dict[Span, int | None]]] = {}
    found: set[str] = set()

    def reserve(rank: int) -> None:
        values = partials(*ranges[rank], shards, elements)
        memory = made[rank].group.reserve((("<f4", elements),), len(values))
        for buffer, array in zip(memory.buffers, values.values(), strict=True):
            buffer[0][:] = array
        memories[rank] = memory, {span: i for i, span in enumerate(values)}

    def step(rank: int) -> None:
        memory, values = memories[rank]
        total = made[rank].group.start(memory, values, shards).finish(bytes(note))
        assert total.arrays is not None and total.notes == [bytes(note)] * size
        found.add(digest(total.arrays[0]))

    turns.run(reserve)
    for count in [c for worker in made for c in (worker.network, worker.inside)]:
        count.__init__()  # type: ignore[misc]
    begin = time.process_time()
    turns.run(step)
    seconds = time.process_time() - begin
    (common,) = found
    return Result(common, made, seconds)


# --- one worker among very many ---------------------------------------------------------------------------------------


class _Echo(Links):
    """What is sent to a worker comes back from it, as if it had done the same call; so many messages at a time."""

    def __init__(self, size: int, at_once: int) -> None:
        self.rank, self.size, self.lost, self._at_once = 0, size, set(), at_once
        self._sent: deque[_Part] = deque()
        self._wanted: dict[int, _Part] = {}

    def post_send(self, to: int, buffers: Sequence[Buffer]) -> Transfer:
        transfer = Transfer(to, done=True)
        self._sent.extend(_parts(buffers, transfer))
        return transfer

    def post_recv(self, source: int, buffers: Sequence[Buffer]) -> Transfer:
        transfer = Transfer(source)
        (self._wanted[source],) = _parts(buffers, transfer)
        return transfer

    def progress(self, seconds: float) -> bool:
        for _ in range(min(self._at_once, len(self._sent))):
            part = self._sent.popleft()
            _copy(part, self._wanted.pop(part[1].peer))
        return True

    under_way = False

    def wake(self) -> None:
        """Nobody sleeps."""

    abort = close = wake


def barrier_seconds(size: int, at_once: int) -> float:
    """CPU of one worker for a barrier of so many, if so many messages come before it looks."""
    group = MessageGroup(_Echo(size, at_once), 1)
    group.barrier()
    begin = time.thread_time()
    group.barrier()
    return time.thread_time() - begin
