"""Forming the best group for workers that were started apart from each other, on one node or several.

`join` takes what all of them know of each other, the addresses and the nodes, and gives each its place in

    one worker                  a `SoloGroup`
    all on one node             a group in shared memory
    each on a node of its own   a `TcpGroup`
    anything else               a `HierarchicalGroup`: shared memory in each node, TCP between them

The workers of a node have no common parent that could hand them a file to share, so the first of them makes one, and
tells the others over TCP where they find it: among its open files, `/proc/PID/fd/N`. A random token in the file proves
that it is this one. Where somebody cannot open it (another PID namespace, another user, macOS), the workers of that
node agree to use TCP among themselves, too; nothing else changes, least of all the bits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import groupby

from ..group import Group, GroupBroken
from .hierarchical import HierarchicalGroup
from .shm import ShmGroup
from .solo import SoloGroup
from .tcp import Address, Listener, TcpGroup

_TOKEN = 32  # bytes
_SLICE = 0.05  # seconds between looks at the clock and at `cancelled`


def join(
    listener: Listener,
    addresses: Sequence[Address],
    nodes: Sequence[Hashable],
    rank: int,
    generation: int,
    secret: bytes,
    timeout: float = 30.0,
    cancelled: Callable[[], bool] = lambda: False,
) -> Group:
    """Form the group of a generation; every worker calls this, with the same arguments but for its own.

    In the group, the end of a worker is noticed by itself, without anybody who aborts: every wait raises GroupBroken.

    Args:
        listener: of this worker.
        addresses: of all workers' listeners, by rank.
        nodes: of all workers, by rank: a name that those who share a node have in common. The ranks of a node must
            follow each other.
        rank, generation, secret: as in `TcpGroup`.
        timeout: seconds for each step of forming; then as in `MessageGroup`.
        cancelled: asked while forming whether to give up.

    Raises:
        GroupBroken: the workers were not all there in time, one was lost meanwhile, or `cancelled`.
        ValueError: the ranks of a node do not follow each other.

    >>> with Listener() as listener:
    ...     join(listener, [listener.address], ["here"], 0, 1, b"secret").size
    1
    """
    hosts = _hosts(nodes)
    if len(nodes) != len(addresses):
        raise ValueError(f"nodes: one for each of the {len(addresses)} addresses, got {len(nodes)}")
    if len(addresses) == 1:
        return SoloGroup(generation)
    if len(hosts) == len(addresses):
        return TcpGroup(listener, addresses, rank, generation, secret, timeout, cancelled=cancelled)
    host = next(host for host in hosts if rank in host)
    inside: Group = SoloGroup(generation)
    if len(host) > 1:
        theirs, place = [addresses[r] for r in host], host.index(rank)
        links = TcpGroup(listener, theirs, place, generation, secret, timeout, "node", cancelled)
        inside = _inside(links, timeout, cancelled)
    if len(hosts) == 1:
        return inside
    try:
        return HierarchicalGroup.over_tcp(
            inside, hosts, listener, addresses, rank, generation, secret, timeout, cancelled
        )
    except BaseException:
        inside.abort()
        inside.close()
        raise


def _hosts(nodes: Sequence[Hashable]) -> list[list[int]]:
    """The ranks on each node.

    >>> _hosts(["a", "a", "b"])
    [[0, 1], [2]]
    """
    hosts = [[rank for rank, _ in run] for _, run in groupby(enumerate(nodes), key=lambda pair: pair[1])]
    if len(hosts) != len(set(nodes)):
        raise ValueError(
            f"nodes: the ranks of a node must follow each other, got {list(nodes)}; number the workers node by node"
        )
    return hosts


def _inside(links: TcpGroup, timeout: float, cancelled: Callable[[], bool]) -> Group:
    """The group of the workers of one node, given their links: in shared memory, if all of them can open a file of the
    first; else over the links."""
    with contextlib.ExitStack() as stack:
        descriptor: int | None = None
        try:
            with _until(links, timeout, cancelled):
                place, token = b"", b""
                if links.rank == 0:
                    descriptor, token = ShmGroup.new_file(links.size), secrets.token_bytes(_TOKEN)
                    stack.callback(os.close, descriptor)
                    # The end of the file belongs to a ring of messages, of which nothing is read before it is written.
                    os.pwrite(descriptor, token, os.fstat(descriptor).st_size - _TOKEN)
                    place = f"/proc/{os.getpid()}/fd/{descriptor}".encode()
                said = links.gather_bytes(token + place)[0]
                token, path = said[:_TOKEN], said[_TOKEN:].decode()
                if links.rank != 0:
                    descriptor = _open(path, token)
                    if descriptor is not None:
                        stack.callback(os.close, descriptor)
                if not all(links.gather_objects(descriptor is not None)):
                    return links
        except BaseException:
            links.close()
            raise
        assert descriptor is not None
        return _NodeGroup(descriptor, links)


def _open(path: str, token: bytes) -> int | None:
    """The file at this place, if it is there and holds the token. Nothing else is opened: a process of another
    namespace may have that number."""
    try:
        if not os.readlink(path).startswith("/memfd:"):
            return None
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.pread(descriptor, _TOKEN, max(0, os.fstat(descriptor).st_size - _TOKEN))
    except OSError:
        found = b""
    if not secrets.compare_digest(found, token):
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def _until(links: TcpGroup, timeout: float, cancelled: Callable[[], bool]) -> Iterator[None]:
    """End the links if what is done here takes too long or is cancelled: a worker may stand still in its midst."""
    done, deadline = threading.Event(), time.monotonic() + timeout

    def watch() -> None:
        while not done.wait(_SLICE):
            if cancelled() or time.monotonic() > deadline:
                links.abort()
                return

    thread = threading.Thread(target=watch, name="dist_dp rendezvous", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class _NodeGroup(ShmGroup):
    """A group in shared memory that nobody stands beside: when a process ends, its link does, which the worker one rank
    below notices, and aborts the group for all.

    Args:
        descriptor: as in `ShmGroup`.
        links: between these workers; they become the group's.
    """

    def __init__(self, descriptor: int, links: TcpGroup) -> None:
        super().__init__(descriptor, links.rank, links.size, links.generation)
        self._links = links
        self._watching = threading.Thread(target=self._watch, name="dist_dp neighbour", daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        with contextlib.suppress(GroupBroken):
            self._links.recv((self.rank + 1) % self.size)  # nothing is ever sent
        self.abort()

    def close(self) -> None:
        self._links.abort()
        self._watching.join()
        self._links.close()
        super().close()
