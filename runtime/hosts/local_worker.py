"""The worker's side of the launcher of one machine: `LocalMember`.

One thread of the worker speaks with the launcher: it sends heartbeats and what the program has to say, and takes what
it is told. The program's own thread only leaves words for it, so an interrupt never cuts a message in two.
"""

from __future__ import annotations

import contextlib
import ctypes
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
from ..group import Group, GroupBroken
from ..member import Formation, Lost, Member, Position, current
from ..transports.solo import SoloGroup
from . import control

_HEARTBEAT = 0.5  # seconds between two
_LAST_WORDS = 2.0  # seconds to wait at most until the launcher has been told how the program ended
_WAITING = ("exchange", "")  # what a worker does that makes no progress by itself, or is not in a session
_ORPHAN = 3  # exit code of a worker whose launcher died


class LocalMember(Member):
    """This process, started by `runtime.hosts.local.LocalHost`, among the workers of its run."""

    def __init__(
        self, connection: socket.socket, worker: int, workers: int, backend: str, secret: bytes
    ) -> None:
        super().__init__()
        self.worker, self.workers, self.backend = worker, workers, backend
        self._connection, self._secret = connection, secret
        self._incoming = control.Incoming(connection)
        self._outgoing: deque[tuple[Any, threading.Event]] = deque()
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._listener: Any = None
        self._former: Group | None = None
        self._copy = False  # this process was forked from the worker

        self._count, self._doing, self._last = 0, "", (0, "")
        self._forming = False
        self._condition = threading.Condition()  # holds what follows together
        self._answer: tuple[Any, list[int]] | None = None  # to the newest ask
        self._aborted = -1  # the newest generation that is known to have ended
        self._invited = False
        self._stopped: str | None = None  # why
        self._ended = False  # the program has

    @property
    def stopped(self) -> bool:
        """Whether this worker was told to end."""
        return self._stopped is not None

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

    # --- what the program says and asks -------------------------------------------------------------------------------

    def form(self, position: Position) -> Formation:
        while True:
            told, descriptors = self._ask(position)
            agreed = Position(*told["position"])
            if told["tell"] == "past":
                self._replace_group(None)
                return Formation(SoloGroup(), agreed, past=True)
            try:
                group = self._build(told, descriptors)
            except GroupBroken:
                continue
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            with self._condition:
                if self._aborted < group.generation:
                    self._replace_group(group)
                    return Formation(group, agreed, told["donor"], frozenset(told["newcomers"]))
            group.close()

    def _replace_group(self, group: Group | None) -> None:
        # The former group may still be asked for its pending total, so it is closed when the next one goes.
        if self._former is not None:
            self._former.close()
        self._former, self.group = self.group, group

    @property
    def regroup_wanted(self) -> bool:
        return self._invited

    def progress(self, step: int, doing: str) -> None:
        self._doing = doing
        self._count += 1
        if doing:
            self._last = step, doing

    def began(self, run: str | None) -> None:
        if run is not None:
            self._say({"say": "began", "run": run})

    def failed(self, report: Mapping[str, Any]) -> None:
        step, doing = self._last
        self._end({"say": "failed", "report": {"step": step, "doing": doing, **report}})

    def leave(self) -> None:
        self._end({"say": "left"})

    def _end(self, message: Any) -> None:
        if not self._ended:
            self._ended = True
            self._say(message, wait=_LAST_WORDS)

    def _say(self, message: Any, wait: float = 0.0) -> None:
        if self._copy:
            return
        sent = threading.Event()
        self._outgoing.append((message, sent))
        with contextlib.suppress(BlockingIOError):  # full: it wakes anyway
            self._waker.send(b"\0")
        if wait:
            sent.wait(wait)

    def _ask(self, position: Position) -> tuple[Any, list[int]]:
        """Ask for the next generation; what the launcher tells, and the descriptors that came with it."""
        if self._copy:
            raise RuntimeError(
                f"this process was forked from worker {self.worker} and is none itself: "
                "call fit, steps and evaluate in the worker"
            )
        if self._listener is None and self.backend != "shm":
            from ..transports.tcp import Listener

            self._listener = Listener("127.0.0.1")
        address = None if self._listener is None else self._listener.address
        self._forming = True
        try:
            with self._condition:
                self._say({"say": "ask", "position": tuple(position), "address": address})
                self._condition.wait_for(lambda: self._answer is not None or self._stopped is not None)
                if self._answer is None:
                    raise Lost(f"the run ends: {self._stopped}; the same command resumes it")
                answer, self._answer = self._answer, None
                return answer
        finally:
            self._forming = False

    def _build(self, told: Mapping[str, Any], descriptors: Sequence[int]) -> Group:
        """The group of a generation, from what the launcher sent for it.

        Raises:
            GroupBroken: one of the others is gone already.
        """
        generation, rank, addresses, hosts = (told[n] for n in ("generation", "rank", "addresses", "hosts"))
        if told["size"] == 1:
            return SoloGroup(generation)

        def cancelled() -> bool:
            return self.stopped or self._aborted >= generation

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
                    next_beat = time.monotonic() + _HEARTBEAT
        except ConnectionError:
            with contextlib.suppress(OSError):
                os.write(2, f"worker {self.worker}: the launcher is gone, this process ends\n".encode())
            os._exit(_ORPHAN)

    def _alive(self) -> Any:
        waiting = self._forming or self._doing in _WAITING
        return {"say": "alive", "progress": self._count, "waiting": waiting}

    def _told(self, told: Any, descriptors: list[int]) -> None:
        if told["tell"] == "stop" and not self._ended:
            # First, so that the program's thread sees an interrupt rather than Lost; sent to that thread, so that
            # whatever it waits for is broken off.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        with self._condition:
            match told["tell"]:
                case "form" | "past":
                    self._answer, self._invited = (told, descriptors), False
                case "abort":
                    self._aborted = told["generation"]
                    if self.group is not None and self.group.generation <= self._aborted:
                        self.group.abort()
                    self._invited = True  # a group of one cannot break: it ends after the op in flight
                case "invite":
                    self._invited = True
                case "stop":
                    self._stopped = told["reason"]
            self._condition.notify_all()

    def _forked(self) -> None:
        """In a child: the connection is the parent's alone."""
        self._copy = True
        self._connection.close()


def attach() -> LocalMember:
    """Connect this process with the launcher that started it, before its program runs; `member.current` finds it."""
    member = current()
    assert isinstance(member, LocalMember)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # From a shell that started the launcher in the background. Here it is how the launcher asks the program to end.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return member
