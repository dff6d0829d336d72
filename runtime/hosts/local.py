"""The launcher of one machine: starts a process per worker, runs the coordinator, carries out what it decides.

One thread waits for all: the control sockets of the workers, their output, their deaths, and the times that the
coordinator watches. A worker's death is noticed by the end of its process, not of its sockets or pipes: a process that
it forked may hold those open.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import launch
from ..coordinator import (
    Abort,
    Action,
    Coordinator,
    End,
    Form,
    Invite,
    Limits,
    Over,
    Past,
    Start,
    Stop,
)
from ..member import Position
from .control import Incoming, send
from .interrupts import handed_to
from .logs import Stream, WorkerLogs

BACKENDS = ("shm", "tcp", "shm+tcp")

_POLLING = 0.02  # seconds between looks at the processes, where the system does not tell of their end
_LIMITS = Limits()
_READ = 1 << 16  # bytes
_STREAMS: tuple[Stream, ...] = ("stdout", "stderr")


@dataclass(eq=False)
class _Process:
    """A worker's process, and what connects it with this one."""

    worker: int
    popen: subprocess.Popen[bytes]
    control: socket.socket
    incoming: Incoming
    exit: int | None  # a descriptor that becomes readable when the process ends
    address: Any = None  # where the other workers reach it, if it told
    ended: str = ""  # why it was ended from here
    gone: bool = False
    alive: Mapping[str, Any] = field(default_factory=dict)  # its newest heartbeat
    heard: float = 0.0  # when it last gave a sign of life
    worked: int = 0  # what it had computed by then

    @property
    def status(self) -> str:
        """How it ended, in words."""
        code = self.popen.returncode
        if code >= 0:
            return f"its process ended with exit code {code}"
        if self.ended and code == -signal.SIGKILL:
            return self.ended
        names = {s.value: s.name for s in signal.Signals}
        return f"its process was ended by {names.get(-code, f'signal {-code}')}"


def _work(pid: int) -> int:
    """A number that grows as a process computes, where the system tells (Linux); 0 if it is stopped."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()  # from the third field of proc(5) on
    except OSError:
        return 0
    return (
        0 if fields[0] in "Tt" else int(fields[11]) + int(fields[12])
    )  # ticks, in user mode and in the kernel


class LocalHost:
    """Workers of one run on this machine.

    Args:
        command: what each worker executes; it calls `runtime.hosts.local_worker.run_worker` or `attach`.
        workers: how many.
        backend: what they exchange over: "shm" (shared memory), "tcp" (loopback), or "shm+tcp" (two pretended hosts:
            shared memory inside each, tcp between them).
        limits: see `runtime.coordinator.Limits`.
        environment: variables to set for the workers beside those of this process.
        logs: takes the workers' output; it is not closed here.
    """

    def __init__(
        self,
        command: Sequence[str],
        workers: int,
        *,
        backend: str = "shm",
        limits: Limits = _LIMITS,
        environment: Mapping[str, str] | None = None,
        logs: WorkerLogs,
    ) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int):
            raise TypeError(f"workers must be an int, got {workers!r:.80} ({type(workers).__name__})")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r:.80}")
        self._command, self._workers, self._backend, self._logs = list(command), workers, backend, logs
        self._coordinator, self._patience = Coordinator(workers, limits), limits.heartbeat
        self._environment = {**os.environ, **(environment or {})}
        threads = self._environment.setdefault(launch.THREADS, "1")
        self._environment |= dict.fromkeys(launch.THREAD_VARIABLES, threads)
        self._environment |= {
            launch.WORKERS: str(workers),
            launch.BACKEND: backend,
            launch.SECRET: os.urandom(32).hex(),
            launch.LAUNCH: launch.launch_id(),
        }
        self._processes: dict[int, _Process] = {}
        self._selector = selectors.DefaultSelector()
        self._actions: deque[Action] = deque()
        self._over: Over | None = None
        self._requests: deque[str] = deque()  # to stop
        self._stopping = False
        self._wake, self._waker = socket.socketpair()

    def run(self) -> Over:
        """Run until everything has ended, and tell how. Called once.

        In the main thread, SIGINT (Ctrl-C) and SIGTERM end the workers with grace, and a second one ends them at once.
        """
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._watch(self._wake, self._stop_requested)
        with handed_to(self.stop):
            try:
                self._do(self._coordinator.begin(time.monotonic()))
                while self._over is None:
                    self._wait()
                return self._over
            finally:
                for process in self._processes.values():
                    process.popen.kill()
                for process in self._processes.values():
                    self._release(process)
                self._selector.close()
                self._wake.close()
                self._waker.close()

    @property
    def generations(self) -> int:
        """How many were formed so far."""
        return self._coordinator.generation

    def stop(self, reason: str) -> None:
        """Have all workers end, as Ctrl-C does; asked again, end them at once. From any thread or signal handler."""
        self._requests.append(reason)
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: all is over
            self._waker.send(b"\0")

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _watch(self, file: Any, callback: Callable[[], object]) -> None:
        self._selector.register(file, selectors.EVENT_READ, callback)

    def _wait(self) -> None:
        wait = self._coordinator.deadline(time.monotonic())
        blind = any(process.exit is None for process in self._processes.values())
        for key, _ in self._selector.select(min(wait, _POLLING) if blind else wait):
            key.data()
        if blind:
            for process in list(self._processes.values()):
                self._look(process)
        self._vouch()
        # Last: if this process itself stood still for a while, the heartbeats of the workers have been read by now.
        self._do(self._coordinator.tick(time.monotonic()))

    def _vouch(self) -> None:
        """Take work for a sign of life: a long call into C may keep the thread that sends heartbeats from running."""
        now = time.monotonic()
        for process in list(self._processes.values()):
            if process.heard and now - process.heard > self._patience / 4:
                before, process.heard, process.worked = process.worked, now, _work(process.popen.pid)
                if process.worked > before:
                    self._do(self._alive(process, now))

    def _stop_requested(self) -> None:
        self._wake.recv(_READ)
        while self._requests:
            if self._stopping:
                for process in self._processes.values():
                    process.popen.kill()
            self._stopping = True
            self._do(self._coordinator.stop(self._requests.popleft(), time.monotonic()))

    # --- what workers say ---------------------------------------------------------------------------------------------

    def _hear(self, process: _Process) -> None:
        if process.gone:
            return
        for message, _ in process.incoming.receive():
            self._heard(process, message)
        if process.incoming.ended:  # it is about to end; if not, nobody can reach it any more
            self._selector.unregister(process.control)
            self._end(process, "it closed the connection to its launcher")

    def _heard(self, process: _Process, message: Any) -> None:
        worker, now = process.worker, time.monotonic()
        match message["say"]:
            case "alive":
                process.alive = message
                process.heard, process.worked = now, _work(process.popen.pid)
                actions = self._alive(process, now)
            case "ask":
                process.address = message["address"]
                actions = self._coordinator.ask(worker, Position(*message["position"]), now)
            case "failed":
                actions = self._coordinator.failed(worker, message["report"], now)
            case "left":
                actions = self._coordinator.left(worker, now)
            case _:  # "began"
                actions = []
                self._logs.run_directory(message["run"])
        self._do(actions)

    def _alive(self, process: _Process, now: float) -> list[Action]:
        it = process.alive
        return self._coordinator.heartbeat(process.worker, it["progress"], it["waiting"], now, it["saving"])

    def _read(self, process: _Process, stream: Stream) -> bool:
        """Hand on what a worker wrote. Whether there may be more."""
        pipe = getattr(process.popen, stream)
        data = None if process.gone else pipe.read(_READ)
        if data:
            self._logs.feed(process.worker, stream, data)
        elif data == b"":
            self._forget(pipe)
        return bool(data)

    def _look(self, process: _Process) -> None:
        """If the process has ended, report that, after all that it said."""
        if process.gone or process.popen.poll() is None:
            return
        with contextlib.suppress(BlockingIOError):
            while not process.incoming.ended:
                for message, _ in process.incoming.receive():
                    self._heard(process, message)
        for stream in _STREAMS:
            for _ in range(16):  # as much as a pipe holds; whoever else has it may write for ever
                if not self._read(process, stream):
                    break
        self._release(process)
        del self._processes[process.worker]
        self._do(self._coordinator.lost(process.worker, process.status, time.monotonic()))

    def _forget(self, file: Any) -> None:
        with contextlib.suppress(KeyError):  # it was forgotten before
            self._selector.unregister(file)

    def _release(self, process: _Process) -> None:
        process.gone = True
        process.popen.wait()
        for file in (process.control, process.popen.stdout, process.popen.stderr):
            self._forget(file)
        process.incoming.close()
        for pipe in (process.popen.stdout, process.popen.stderr):
            assert pipe is not None
            pipe.close()
        if process.exit is not None:
            self._forget(process.exit)
            os.close(process.exit)

    # --- what the coordinator decides ---------------------------------------------------------------------------------

    def _do(self, actions: Sequence[Action]) -> None:
        """Carry out actions in their order; what they cause comes after them."""
        idle = not self._actions
        self._actions.extend(actions)
        while idle and self._actions:
            self._carry_out(self._actions[0])
            self._actions.popleft()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start(worker):
                self._start(worker)
            case End(worker, reason):
                if (process := self._processes.get(worker)) is not None:
                    self._end(process, reason)
            case Form():
                self._form(action)
            case Past(worker, position):
                self._tell([worker], {"tell": "past", "position": tuple(position)})
            case Abort(generation, members, reason):
                self._tell(members, {"tell": "abort", "generation": generation, "reason": reason})
            case Invite(members):
                self._tell(members, {"tell": "invite"})
            case Stop(workers, reason):
                self._tell(workers, {"tell": "stop", "reason": reason})
            case Over():
                self._over = action

    def _start(self, worker: int) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            environment = {launch.WORKER: str(worker), launch.CONTROL: str(theirs.fileno())}
            try:
                popen = subprocess.Popen(
                    self._command,
                    env=self._environment | environment,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,  # Ctrl-C on the terminal reaches the launcher alone
                )
            except OSError as error:
                ours.close()
                self._do(
                    self._coordinator.lost(worker, f"it could not be started: {error}", time.monotonic())
                )
                return
        pidfd_open = getattr(os, "pidfd_open", None)  # Linux
        process = _Process(worker, popen, ours, Incoming(ours), pidfd_open(popen.pid) if pidfd_open else None)
        self._processes[worker] = process
        self._logs.started(worker)
        self._watch(ours, functools.partial(self._hear, process))
        for stream in _STREAMS:
            pipe = getattr(popen, stream)
            os.set_blocking(pipe.fileno(), False)
            self._watch(pipe, functools.partial(self._read, process, stream))
        if process.exit is not None:
            self._watch(process.exit, functools.partial(self._look, process))

    def _end(self, process: _Process, reason: str) -> None:
        process.ended = process.ended or reason
        process.popen.kill()  # SIGKILL ends stopped processes too

    def _form(self, form: Form) -> None:
        """Tell each member of a generation its place, with what it needs to reach the others."""
        ranks = {worker: rank for rank, worker in enumerate(form.members)}
        hosts = self._hosts(form.members)
        common = {
            "tell": "form",
            "generation": form.generation,
            "size": len(ranks),
            "position": tuple(form.position),
            "donor": None if form.donor is None else ranks[form.donor],
            "newcomers": sorted(ranks[worker] for worker in form.newcomers),
            "hosts": hosts,
            "addresses": [self._processes[worker].address for worker in form.members],
        }
        for host in hosts:
            with contextlib.ExitStack() as files:
                descriptors = []
                if len(host) > 1 and "shm" in self._backend:
                    from ..transports.shm import ShmGroup

                    descriptors.append(ShmGroup.new_file(len(host)))
                    files.callback(os.close, descriptors[0])
                for rank in host:
                    self._tell([form.members[rank]], {**common, "rank": rank}, descriptors)

    def _hosts(self, members: Sequence[int]) -> list[list[int]]:
        """The ranks that are on one host together, for each host: one, or two pretended ones."""
        count = 2 if self._backend == "shm+tcp" else 1
        hosts: list[list[int]] = [[] for _ in range(count)]
        for rank, worker in enumerate(members):
            hosts[worker * count // self._workers].append(rank)
        return [host for host in hosts if host]

    def _tell(self, workers: Sequence[int], message: Any, descriptors: Sequence[int] = ()) -> None:
        for worker in workers:
            if (process := self._processes.get(worker)) is None:
                continue
            try:
                send(process.control, message, descriptors)
            except BlockingIOError:
                self._end(process, "it does not read what its launcher tells it")
            except ConnectionError:
                pass  # its end is about to be noticed
