"""Links over connected sockets: sending and receiving progress together, in one thread, without a copy in between.

A message is received straight into its buffers; what follows it in the same call lands in a spare buffer of the link,
so that many small messages cost one system call.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from ..timeline import span
from .message_passing import Buffer, Links, Transfer

_SPARE = 1 << 16
_AT_ONCE = 64  # buffers of one system call; far below any platform's limit


class SocketLinks(Links):
    """Links over one connected socket to each other worker. They are closed with the links.

    Args:
        rank: of this worker.
        sockets: by the rank of the other side.
    """

    def __init__(self, rank: int, sockets: Mapping[int, socket.socket]) -> None:
        self.rank, self.size = rank, len(sockets) + 1
        self.lost: set[int] = set()
        self._links = {peer: _Link(peer, s) for peer, s in sockets.items()}
        self._by_number = {link.socket.fileno(): link for link in self._links.values()}
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker, *sockets.values()):
            end.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)

    def post_send(self, to: int, buffers: Sequence[Buffer]) -> Transfer:
        transfer = Transfer(to)
        self._links[to].outgoing.extend(_parts(buffers, transfer))
        return transfer

    def post_recv(self, source: int, buffers: Sequence[Buffer]) -> Transfer:
        transfer, link = Transfer(source), self._links[source]
        link.incoming.extend(_parts(buffers, transfer))
        link.take_spare()
        return transfer

    def progress(self, seconds: float) -> bool:
        moved = False
        for link in self._links.values():
            if link.outgoing and link.peer not in self.lost:
                moved |= self._move(link, select.POLLOUT)
            self._watch(link)
        with span("waiting"):
            ready = self._poll.poll(0 if moved else seconds * 1000)
        for number, events in ready:
            if number in self._by_number:
                moved |= self._move(self._by_number[number], events)
            else:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(1 << 10)
        return moved

    @property
    def under_way(self) -> bool:
        return any(link.begun or link.outgoing for p, link in self._links.items() if p not in self.lost)

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes anyway
            self._waker.send(b"\0")

    def abort(self) -> None:
        for link in self._links.values():
            with contextlib.suppress(OSError):  # gone already
                link.socket.shutdown(socket.SHUT_RDWR)
        self.wake()

    def close(self) -> None:
        for link in self._links.values():
            link.socket.close()
        self._woken.close()
        self._waker.close()

    def _watch(self, link: _Link) -> None:
        """Let the poll look for what this link can use."""
        wanted = 0
        if link.peer not in self.lost:
            wanted = select.POLLOUT if link.outgoing else 0
            if link.incoming or not link.spare:  # with nothing to receive, the end of the link is still seen
                wanted |= select.POLLIN
        if wanted == link.watched:
            return
        link.watched = wanted
        if wanted:
            self._poll.register(link.socket, wanted)
        else:
            self._poll.unregister(link.socket)

    def _move(self, link: _Link, events: int) -> bool:
        """Receive if that is among the events (an ended link is one to receive from), else send."""
        try:
            if events & ~select.POLLOUT:
                link.receive()
            else:
                link.send()
            return True
        except BlockingIOError:
            return False
        except OSError:
            with contextlib.suppress(OSError):  # what it sent before it ended counts
                while link.incoming:
                    link.receive()
            self.lost.add(link.peer)
            return False


Part = tuple[memoryview, Transfer, bool]
"""A buffer, the transfer it belongs to, and whether it is the last of it."""


class _Link:
    def __init__(self, peer: int, connected: socket.socket) -> None:
        self.peer, self.socket = peer, connected
        self.outgoing: deque[Part] = deque()
        self.incoming: deque[Part] = deque()
        self.begun = False  # the first message of `incoming` has come in part
        self.spare = memoryview(b"")  # received before it was asked for; empty if `incoming` is not
        self._room = memoryview(bytearray(_SPARE))
        self.watched = 0

    def send(self) -> None:
        _advance(self.outgoing, self.socket.sendmsg([view for view, _, _ in islice(self.outgoing, _AT_ONCE)]))

    def receive(self) -> None:
        if self.spare:  # only asked to when the link has ended and nobody wants what came before
            raise ConnectionError("the other side has ended the link")
        views = [view for view, _, _ in islice(self.incoming, _AT_ONCE)]
        size = self.socket.recvmsg_into([*views, self._room])[0]
        if size == 0:
            raise ConnectionError("the other side has ended the link")
        wanted = sum(map(len, views))
        self._took(min(size, wanted))
        self.spare = self._room[: max(0, size - wanted)]
        self.take_spare()

    def take_spare(self) -> None:
        """Move what was received ahead into the buffers that ask for it now."""
        at = 0
        for view, _, _ in self.incoming:
            if at == len(self.spare):
                break
            part = self.spare[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
        self._took(at)
        self.spare = self.spare[at:]

    def _took(self, size: int) -> None:
        if size:
            self.begun = _advance(self.incoming, size)


def _parts(buffers: Sequence[Buffer], transfer: Transfer) -> Iterator[Part]:
    for i, buffer in enumerate(buffers):
        view = buffer.view(np.uint8).data if isinstance(buffer, np.ndarray) else memoryview(buffer)
        yield view, transfer, i == len(buffers) - 1


def _advance(parts: deque[Part], size: int) -> bool:
    """Take so many bytes off the front; returns whether the message in front is left in part."""
    within = False
    while parts and size >= len(parts[0][0]):
        view, transfer, last = parts.popleft()
        size -= len(view)
        transfer.done = last
        within = not last
    if size:
        view, transfer, last = parts[0]
        parts[0] = view[size:], transfer, last
    return within or size > 0
