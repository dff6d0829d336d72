"""The worker's side of the launcher of one machine: `LocalMember`.

One thread of the worker speaks with the launcher: it sends heartbeats and what the program has to say, and takes what
it is told. The program's own thread only leaves words for it, so an interrupt never cuts a message in two.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from .. import launch
from ..group import Group
from ..member import current
from ..transports.solo import SoloGroup
from . import control
from .coordinated import HEARTBEAT, CoordinatedMember
from .interrupts import hear_interrupts

_ORPHAN = 3  # exit code of a worker whose launcher died


class LocalMember(CoordinatedMember):
    """This process, started by `runtime.hosts.local.LocalHost`, among the workers of its run."""

    def __init__(
        self, connection: socket.socket, worker: int, workers: int, backend: str, secret: bytes
    ) -> None:
        super().__init__(worker, workers)
        self.backend = backend
        self._connection, self._secret = connection, secret
        self._incoming = control.Incoming(connection)
        self._outgoing: deque[tuple[Any, threading.Event]] = deque()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._listener: Any = None
        self._copy = False  # this process was forked from the worker

    @classmethod
    def from_environment(cls) -> LocalMember:
        """Connect with the launcher that started this process; heartbeats begin.

        The connection is taken out of the environment: processes that this one starts are no workers.
        """
        connection = socket.socket(fileno=int(os.environ.pop(launch.CONTROL)))
        connection.set_inheritable(False)
        worker, workers = (int(os.environ[name]) for name in (launch.WORKER, launch.WORKERS))
        secret = bytes.fromhex(os.environ.pop(launch.SECRET))
        member = cls(connection, worker, workers, os.environ[launch.BACKEND], secret)
        if sys.platform == "linux":
            # If the launcher is killed, this process ends, stopped or not. Had it died before this call, the thread
            # would find the connection closed.
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.register_at_fork(after_in_child=member._forked)
        threading.Thread(target=member._converse, name="dist_dp control", daemon=True).start()
        return member

    def _say(self, message: Any, wait: float = 0.0) -> None:
        if self._copy:
            return
        sent = threading.Event()
        self._outgoing.append((message, sent))
        with contextlib.suppress(BlockingIOError):  # full: it wakes anyway
            self._waker.send(b"\0")
        if wait:
            sent.wait(wait)

    def _place(self) -> Mapping[str, Any]:
        if self._copy:
            raise RuntimeError(
                f"this process was forked from worker {self.worker} and is none itself: "
                "call fit, steps and evaluate in the worker"
            )
        if self._listener is None and self.backend != "shm":
            from ..transports.tcp import Listener

            self._listener = Listener("127.0.0.1")
        return {"address": None if self._listener is None else self._listener.address}

    def _build(self, told: Mapping[str, Any], descriptors: Sequence[int]) -> Group:
        generation, rank, addresses, hosts = (told[n] for n in ("generation", "rank", "addresses", "hosts"))
        if told["size"] == 1:
            return SoloGroup(generation)

        cancelled = functools.partial(self._cancelled, generation)
        if self.backend == "tcp":
            from ..transports.tcp import TcpGroup

            return TcpGroup(self._listener, addresses, rank, generation, self._secret, cancelled=cancelled)
        inside: Group = SoloGroup(generation)
        if descriptors:
            from ..transports.shm import ShmGroup

            host = next(host for host in hosts if rank in host)
            inside = ShmGroup(descriptors[0], host.index(rank), len(host), generation)
        if self.backend == "shm":
            return inside
        from ..transports.hierarchical import HierarchicalGroup

        try:
            return HierarchicalGroup.over_tcp(
                inside, hosts, self._listener, addresses, rank, generation, self._secret, cancelled=cancelled
            )
        except BaseException:
            inside.close()
            raise

    # --- the thread that speaks with the launcher ---------------------------------------------------------------------

    def _converse(self) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._connection, selectors.EVENT_READ)
        selector.register(self._wake, selectors.EVENT_READ)
        next_beat = time.monotonic()
        try:
            while True:
                for key, _ in selector.select(max(0.0, next_beat - time.monotonic())):
                    if key.fileobj is self._wake:
                        self._wake.recv(1 << 12)
                        continue
                    for told, descriptors in self._incoming.receive():
                        self._told(told, descriptors)
                    if self._incoming.ended:
                        raise ConnectionError("closed")
                while self._outgoing:
                    message, sent = self._outgoing.popleft()
                    control.send(self._connection, message)
                    sent.set()
                if time.monotonic() >= next_beat:
                    control.send(self._connection, self._alive())
                    next_beat = time.monotonic() + HEARTBEAT
        except ConnectionError:
            with contextlib.suppress(OSError):
                os.write(2, f"worker {self.worker}: the launcher is gone, this process ends\n".encode())
            os._exit(_ORPHAN)

    def _forked(self) -> None:
        """In a child: the connection is the parent's alone."""
        self._copy = True
        self._connection.close()


def attach() -> LocalMember:
    """Connect this process with the launcher that started it, before its program runs; `member.current` finds it."""
    member = current()
    assert isinstance(member, LocalMember)
    hear_interrupts()
    return member
