"""The group over several hosts with several workers each: one exchange inside each host, one between the hosts.

    gather      which partial sums every worker holds, and the notes; all to all, small
    inside      the workers of a host fold, for each maximal subtree of the host's shards, what they hold of it
    between     the first worker of each host, its leader, exchanges these partial sums with the other leaders
    inside      the leader passes the total on
    agreement   "I hold all of it", all to all

A subtree of the tree is the tree over as many leaves, so folding inside a host has the bits of folding anywhere. What
crosses the borders of a host is the least possible: 2 (H-1) / H of the vector in and out of each of H hosts that hold
one partial sum each, however many workers they have. That one worker of a host does it is the simplest way, and no
more bytes than dividing it among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from ..fold import Span, subtrees
from ..group import Array, Exchange, Group, GroupBroken, Layout, Memory, Total
from .tcp import Address, Listener, TcpGroup


class HierarchicalGroup(Group):
    """A group made of smaller ones.

    Args:
        inside: the workers of this host, in the order of ranks.
        between: the leaders of all hosts, in the order of hosts; None for who is no leader, or with one host.
        everyone: all workers; for what is small, and for `send` and `recv`.
        hosts: the ranks on each host; together 0, 1, ..., in this order.
    """

    def __init__(
        self, inside: Group, between: Group | None, everyone: Group, hosts: Sequence[Sequence[int]]
    ) -> None:
        self.rank, self.size, self.generation = everyone.rank, everyone.size, everyone.generation
        if [rank for host in hosts for rank in host] != list(range(self.size)) or not all(hosts):
            raise ValueError(
                f"hosts must hold the ranks 0, ..., {self.size - 1} in order, some each, got {hosts}"
            )
        self._hosts, self._inside, self._between, self._everyone = hosts, inside, between, everyone
        self._home = next(host for host in hosts if self.rank in host)
        self._leads = self.rank == self._home[0]
        place = (self._home.index(self.rank), len(self._home))
        if (inside.rank, inside.size) != place:
            raise ValueError(
                f"inside: worker {self.rank} must be (rank, size) {place}, is {inside.rank, inside.size}"
            )
        if (between is not None) != (self._leads and len(hosts) > 1):
            raise ValueError(
                "between must be the group of the leaders, and None for who is none or with one host"
            )
        self._pending: Total | None = None

    @classmethod
    def over_tcp(
        cls,
        inside: Group,
        hosts: Sequence[Sequence[int]],
        listener: Listener,
        addresses: Sequence[Address],
        rank: int,
        generation: int,
        secret: bytes,
        timeout: float = 30.0,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> HierarchicalGroup:
        """Connect the workers, and the leaders; arguments are as in `TcpGroup`.

        Raises:
            GroupBroken: the workers were not all there in time, or `cancelled`.
        """
        everyone = TcpGroup(listener, addresses, rank, generation, secret, timeout, "everyone", cancelled)
        leaders = [host[0] for host in hosts]
        between = None
        if len(hosts) > 1 and rank in leaders:
            theirs = [addresses[leader] for leader in leaders]
            place = leaders.index(rank)
            try:
                between = TcpGroup(listener, theirs, place, generation, secret, timeout, "leaders", cancelled)
            except BaseException:
                everyone.close()
                raise
        return cls(inside, between, everyone, hosts)

    @property
    def broken(self) -> bool:
        return any(group.broken for group in self._groups())

    def reserve(self, layout: Layout, count: int, bucket_bytes: int | None = None) -> Memory:
        with self._as_one():
            asked = self.gather_objects(([list(part) for part in layout], bucket_bytes))
            if any(other != asked[0] for other in asked):
                raise ValueError(f"reserve: the workers ask for different layouts or buckets: {asked}")
            return _Memory(self._inside.reserve(layout, count + self._leads, bucket_bytes), count)

    def start(self, memory: Memory, values: Mapping[Span, int | None], shards: int) -> Exchange:
        assert isinstance(memory, _Memory), "memory: of another group; reserve it here"
        self._pending = None
        return _Exchange(self, memory, values, shards)

    def pending(self) -> Total | None:
        return self._pending

    def gather_bytes(self, payload: bytes) -> list[bytes]:
        with self._as_one():
            return self._everyone.gather_bytes(payload)

    def send(self, to: int, payload: bytes | memoryview) -> None:
        with self._as_one():
            self._everyone.send(to, payload)

    def recv(self, source: int) -> bytes:
        with self._as_one():
            return self._everyone.recv(source)

    def abort(self) -> None:
        for group in self._groups():
            group.abort()

    def close(self) -> None:
        for group in self._groups():
            group.close()

    def _groups(self) -> list[Group]:
        return [g for g in (self._everyone, self._between, self._inside) if g is not None]

    @contextmanager
    def _as_one(self) -> Iterator[None]:
        """When one of the groups ends, so do the others: that is how the workers in them get to know."""
        try:
            yield
        except GroupBroken:
            self.abort()
            raise


class _Memory(Memory):
    """Buffers inside the host; those of a leader have one more, for the total, and a memory between the hosts."""

    def __init__(self, inside: Memory, count: int) -> None:
        super().__init__(inside.layout, inside.buckets, inside.buffers[:count])
        self.inside = inside
        self.between: Memory | None = None
        self.room = 0  # partial sums of a host that `between` has room for


class _Exchange(Exchange):
    """Runs in `finish`: it begins with what all workers must say."""

    def __init__(
        self, group: HierarchicalGroup, memory: _Memory, values: Mapping[Span, int | None], shards: int
    ) -> None:
        self._group, self._memory, self._values, self._shards = group, memory, dict(values), shards

    def ready(self, buckets: int) -> None:
        """Nobody reads ahead."""

    def finish(self, note: bytes = b"", regroup: bool = False) -> Total:
        with self._group._as_one():
            return self._run(note, regroup)

    def _run(self, note: bytes, regroup: bool) -> Total:
        group = self._group
        mine = [(lo, hi, index is not None) for (lo, hi), index in self._values.items()]
        said = group._everyone.gather_objects((self._shards, mine, note, regroup))
        if any(shards != self._shards for shards, *_ in said):
            raise RuntimeError(
                f"start: the workers name different numbers of shards: {[s for s, *_ in said]}"
            )
        # For each host, its maximal subtrees, and whether anything was added to them.
        partials = [
            _partials([part for rank in host for part in said[rank][1]], self._shards)
            for host in group._hosts
        ]
        arrays = self._exchange(partials) if any(any(of.values()) for of in partials) else None
        notes = [note for _, _, note, _ in said]
        # From here on another worker may learn that this one holds the total.
        group._pending = Total(arrays, notes, True)
        group._everyone.barrier()
        group._pending = None
        return Total(arrays, notes, any(regroup for *_, regroup in said))

    def _exchange(self, partials: list[dict[Span, bool]]) -> list[Array]:
        group, memory, inside = self._group, self._memory, self._group._inside
        home = partials[group._hosts.index(group._home)]
        memory.inside.operation = memory.operation
        held = [span for span, present in home.items() if present]
        if len(group._hosts) == 1:
            return self._inside(held[0])
        if group._between is not None:
            room = max(sum(of.values()) for of in partials)
            if memory.between is None or memory.room < room:
                memory.between = group._between.reserve(memory.layout, room)
                memory.room = room
            memory.between.operation = memory.operation
        for index, span in enumerate(held):
            arrays = self._inside(span)
            if memory.between is not None:
                _copy(arrays, memory.between.buffers[index])
        values: dict[Span, int | None] = {}
        if group._between is not None:
            assert memory.between is not None
            numbers = {span: held.index(span) if present else None for span, present in home.items()}
            total = group._between.start(memory.between, numbers, self._shards).finish()
            assert total.arrays is not None
            values[0, 1] = len(memory.buffers)
            _copy(total.arrays, memory.inside.buffers[-1])
        total = inside.start(memory.inside, values, 1).finish()
        assert total.arrays is not None
        return total.arrays

    def _inside(self, span: Span) -> list[Array]:
        """The sum of a subtree of the host's shards: by itself, it is the tree over as many."""
        lo, hi = span
        values = {(a - lo, b - lo): index for (a, b), index in self._values.items() if lo <= a and b <= hi}
        total = self._group._inside.start(self._memory.inside, values, hi - lo).finish()
        assert total.arrays is not None
        return total.arrays


def _partials(parts: Sequence[tuple[int, int, bool]], shards: int) -> dict[Span, bool]:
    """The maximal subtrees of the shards of some workers, and whether anything was added to each.

    >>> _partials([(2, 3, True), (3, 4, False), (4, 5, False)], 8)
    {(2, 4): True, (4, 5): False}
    """
    if not parts:
        return {}
    found = subtrees(min(lo for lo, _, _ in parts), max(hi for _, hi, _ in parts), shards)
    return {(lo, hi): any(p for a, b, p in parts if lo <= a and b <= hi) for lo, hi in found}


def _copy(arrays: Sequence[Array], into: Sequence[Array]) -> None:
    for array, target in zip(arrays, into, strict=True):
        np.copyto(target, array)
