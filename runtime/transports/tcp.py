"""The group over TCP: how the workers of a generation find each other and prove that they belong together.

Each worker listens, for the whole run, on the interface it was given. Of each pair the lower rank dials the higher.
Before anything else is read, both prove that they know the run's secret and mean the same generation, name and ranks:

    dialer   -> listener   hello: version, generation, name, both ranks, a nonce
    listener -> dialer     its nonce, and HMAC-SHA256(secret, "listener", hello, nonce)
    dialer   -> listener   HMAC-SHA256(secret, "dialer", hello, nonce)
    listener -> dialer     a byte: welcome

Messages have these fixed sizes, so nothing that a stranger says makes a worker wait for or keep more; nonces make every
proof good for one connection. Who fails is refused (closed), and the forming goes on: strangers, and workers of
another generation, do not disturb it. What follows is not encrypted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import selectors
import socket
import struct
import time
from collections.abc import Callable, Generator, Sequence

from ..group import GroupBroken
from .message_passing import MessageGroup
from .socket_links import SocketLinks

Address = tuple[str, int]

_HELLO = struct.Struct("<16sQ32sII32s")  # version, generation, digest of the name, dialer, listener, nonce
_VERSION = b"dist_dp tcp 1".ljust(16, b"\0")
_NONCE = _PROOF = 32
_WELCOME = b"\1"
_PATIENCE = 5.0  # seconds that a handshake may take once it is connected
_STRANGERS = 64  # handshakes at once beside those of the workers
_RETRY = 0.02
_SLICE = 0.05  # seconds between looks at the clock and at `cancelled`


class Listener:
    """A listening socket that serves all generations of a run.

    Args:
        interface: the address of the interface to listen on, and on no other.

    Attributes:
        address: host and port, to be told to the other workers.

    >>> with Listener() as listener:
    ...     listener.address[0]
    '127.0.0.1'
    """

    def __init__(self, interface: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.socket.bind((interface, 0))
            self.socket.listen(1024)
        except OSError as error:
            self.socket.close()
            raise OSError(
                error.errno,
                f"interface: cannot listen on {interface!r}, give an address of this host: {error.strerror}",
            ) from error
        self.socket.setblocking(False)
        host, port = self.socket.getsockname()[:2]
        self.address: Address = (host, port)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TcpGroup(MessageGroup):
    """A group over TCP. Making it connects all pairs, and returns when this worker is connected to all others.

    Args:
        listener: of this worker.
        addresses: of all workers' listeners, by rank.
        rank: of this worker.
        generation: of the group; connections of another one are refused.
        secret: of the run.
        timeout: seconds for connecting; then as in `MessageGroup`.
        name: tells groups apart that are formed over the same listeners in one generation.
        cancelled: asked while connecting whether to give up.

    Raises:
        GroupBroken: the workers were not all there in time, or `cancelled`.
    """

    def __init__(
        self,
        listener: Listener,
        addresses: Sequence[Address],
        rank: int,
        generation: int,
        secret: bytes,
        timeout: float = 30.0,
        name: str = "",
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        if not secret:
            raise ValueError(
                "secret: must not be empty; all workers of a run share one that nobody else knows"
            )
        if not 0 <= rank < len(addresses):
            raise ValueError(
                f"rank must be in 0, ..., {len(addresses) - 1}, one for each address, got {rank}"
            )
        forming = _Forming(listener, addresses, rank, generation, secret, name)
        sockets = forming.run(time.monotonic() + timeout, cancelled)
        for connected in sockets.values():
            _tune(connected, timeout)
        super().__init__(SocketLinks(rank, sockets), generation, timeout)


def _tune(connected: socket.socket, timeout: float) -> None:
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A link that was cut while nothing is on it is noticed by probes, after about `timeout`; one on which sent bytes
    # are not confirmed, by the limit on that, where there is one. More than fits into the buffers is never sent to a
    # worker that does not receive, so that limit does not strike one that is only busy.
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # the latter on macOS
    step = max(1, round(timeout / 6))
    for option, value in (
        (idle, 2 * step),
        (getattr(socket, "TCP_KEEPINTVL", None), step),
        (getattr(socket, "TCP_KEEPCNT", None), 4),
        (getattr(socket, "TCP_USER_TIMEOUT", None), round(timeout * 1000)),
    ):
        if option is not None:
            connected.setsockopt(socket.IPPROTO_TCP, option, value)


# --- forming ----------------------------------------------------------------------------------------------------------

_Steps = Generator[int, bytes, int]
"""A handshake: yields how many bytes it wants to read next, is sent them, and returns the rank of the other side."""


class _Refused(Exception):
    pass


class _Handshake:
    """A connection on which one is under way."""

    def __init__(self, connection: socket.socket, dialled: int | None) -> None:
        self.connection, self.dialled = connection, dialled  # the rank that was dialled; None if accepted
        self.until = time.monotonic() + _PATIENCE
        self.steps: _Steps | None = None  # None while it connects
        self.wanted, self.read = 0, b""


class _Forming:
    def __init__(
        self,
        listener: Listener,
        addresses: Sequence[Address],
        rank: int,
        generation: int,
        secret: bytes,
        name: str,
    ) -> None:
        self._listener, self._addresses, self._rank = listener, addresses, rank
        self._generation, self._secret = generation, secret
        self._name = hashlib.sha256(name.encode()).digest()
        self._selector = selectors.DefaultSelector()
        self._running: list[_Handshake] = []
        self._connected: dict[int, socket.socket] = {}
        self._dial_at = dict.fromkeys(range(rank + 1, len(addresses)), 0.0)  # those to dial, and when

    def run(self, deadline: float, cancelled: Callable[[], bool]) -> dict[int, socket.socket]:
        self._selector.register(self._listener.socket, selectors.EVENT_READ)
        try:
            while len(self._connected) < len(self._addresses) - 1:
                now = time.monotonic()
                if cancelled() or now > deadline:
                    missing = sorted(set(range(len(self._addresses))) - set(self._connected) - {self._rank})
                    raise GroupBroken(
                        f"generation {self._generation} was not formed at worker {self._rank}: workers {missing} are "
                        + ("missing when it was given up" if now <= deadline else "not connected in time")
                    )
                self._turn(now)
        except BaseException:
            for connected in self._connected.values():
                connected.close()
            raise
        finally:
            for handshake in list(self._running):
                self._drop(handshake)
            self._selector.close()
        return self._connected

    def _turn(self, now: float) -> None:
        for peer, at in list(self._dial_at.items()):
            if now >= at:
                del self._dial_at[peer]
                self._dial(peer)
        for handshake in [h for h in self._running if now > h.until]:
            self._drop(handshake)
        for key, _ in self._selector.select(_SLICE):
            if key.data is None:
                self._accept()
            elif key.data in self._running:  # not dropped by what came before it
                self._advance(key.data)

    def _dial(self, peer: int) -> None:
        host, port = self._addresses[peer]
        connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        handshake = _Handshake(connection, peer)
        self._running.append(handshake)
        self._selector.register(connection, selectors.EVENT_WRITE, handshake)
        connection.connect_ex((host, port))  # an error shows when it becomes writable

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # gone again
            connection, _ = self._listener.socket.accept()
            connection.setblocking(False)
            accepted = [h for h in self._running if h.dialled is None]
            if len(accepted) >= _STRANGERS + len(self._addresses):
                self._drop(accepted[0])
            handshake = _Handshake(connection, None)
            handshake.steps = self._listen(connection)
            handshake.wanted = next(handshake.steps)
            self._running.append(handshake)
            self._selector.register(connection, selectors.EVENT_READ, handshake)

    def _advance(self, handshake: _Handshake) -> None:
        connection = handshake.connection
        try:
            if handshake.steps is None:
                assert handshake.dialled is not None
                if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise _Refused
                handshake.steps = self._speak(connection, handshake.dialled)
                handshake.wanted = next(handshake.steps)
                self._selector.modify(connection, selectors.EVENT_READ, handshake)
                return
            part = connection.recv(handshake.wanted - len(handshake.read))
            if not part:
                raise _Refused
            handshake.read += part
            if len(handshake.read) == handshake.wanted:
                read, handshake.read = handshake.read, b""
                handshake.wanted = handshake.steps.send(read)
        except BlockingIOError:
            return
        except (OSError, _Refused):
            self._drop(handshake)
        except StopIteration as end:
            self._running.remove(handshake)
            self._selector.unregister(connection)
            former = self._connected.pop(end.value, None)
            if former is not None:  # the other side gave it up and dialled again
                former.close()
            self._connected[end.value] = connection

    def _drop(self, handshake: _Handshake) -> None:
        self._running.remove(handshake)
        self._selector.unregister(handshake.connection)
        handshake.connection.close()
        if handshake.dialled is not None:
            self._dial_at[handshake.dialled] = time.monotonic() + _RETRY

    def _speak(self, connection: socket.socket, peer: int) -> _Steps:
        nonce = secrets.token_bytes(_NONCE)
        hello = _HELLO.pack(_VERSION, self._generation, self._name, self._rank, peer, nonce)
        connection.sendall(hello)
        answer = yield _NONCE + _PROOF
        theirs, proof = answer[:_NONCE], answer[_NONCE:]
        self._check(proof, b"listener", hello, theirs)
        connection.sendall(self._prove(b"dialer", hello, theirs))
        self._same((yield len(_WELCOME)), _WELCOME)
        return peer

    def _listen(self, connection: socket.socket) -> _Steps:
        hello = yield _HELLO.size
        version, generation, name, peer, rank, _ = _HELLO.unpack(hello)
        self._same((version, generation, name, rank), (_VERSION, self._generation, self._name, self._rank))
        if peer >= self._rank:
            raise _Refused
        nonce = secrets.token_bytes(_NONCE)
        connection.sendall(nonce + self._prove(b"listener", hello, nonce))
        self._check((yield _PROOF), b"dialer", hello, nonce)
        connection.sendall(_WELCOME)
        return int(peer)

    def _prove(self, role: bytes, hello: bytes, nonce: bytes) -> bytes:
        return hmac.digest(self._secret, role.ljust(16, b"\0") + hello + nonce, hashlib.sha256)

    def _check(self, proof: bytes, role: bytes, hello: bytes, nonce: bytes) -> None:
        if not hmac.compare_digest(proof, self._prove(role, hello, nonce)):
            raise _Refused

    def _same(self, came: object, expected: object) -> None:
        if came != expected:
            raise _Refused
