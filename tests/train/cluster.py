"""A cluster of threads: every worker is a thread with a model of its own; the coordinator is the real one, and the
groups are those of shared memory. Only processes are missing: a death is an exception, a hundred runs take seconds."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from runtime import coordinator, faults
from runtime.coordinator import Coordinator, Limits
from runtime.member import Formation, Lost, Member, Position, acting_as, current
from runtime.transports.shm import ShmGroup
from runtime.transports.solo import SoloGroup


class Killed(BaseException):
    """The death of a worker, at a place where a fault was ordered."""


@dataclass(frozen=True)
class Death:
    """`worker` dies when it comes to `phase` of `step` for the first time; `together` die so at one moment."""

    worker: int
    phase: str
    step: int
    together: int = 1


class ThreadMember(Member):
    backend = "shm"

    def __init__(self, cluster: Cluster, worker: int) -> None:
        super().__init__()
        self.cluster, self.worker, self.workers = cluster, worker, cluster.size
        self.answers: queue.Queue[Any] = queue.Queue()
        self.wanted = False
        self.told: ShmGroup | None = None  # the newest group it was told of, if it took notice or not

    def form(self, position: Position) -> Formation:
        if self.group is not None:
            self.group.abort()
        self.cluster.event("ask", self.worker, position, sender=self)
        answer = self.answers.get(timeout=30)
        if isinstance(answer, Exception):
            raise answer
        self.group = answer.group if not answer.past else None
        return answer

    @property
    def regroup_wanted(self) -> bool:
        return self.wanted


class Cluster:
    """Run `program()` in `size` threads; `landed` are the deaths that happened, `results` what each worker returned."""

    def __init__(self, size: int, program: Callable[[], Any], deaths: Iterable[Death] = ()) -> None:
        self.size, self.program = size, program
        self.deaths, self.landed = list(deaths), list[Death]()
        self.results: dict[int, Any] = {}
        self.errors: list[BaseException] = []
        self.over: coordinator.Over | None = None
        self.forms: list[coordinator.Form] = []
        self._coordinator = Coordinator(size, Limits(heartbeat=1e9, hang=None, losses=50))
        self._members: dict[int, ThreadMember] = {}
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._dying = threading.Condition()
        self._threads: list[threading.Thread] = []

    def run(self, timeout: float = 60) -> Cluster:
        here = faults.here
        faults.here = self._here  # type: ignore[assignment]
        try:
            with self._lock:
                self._carry_out(self._coordinator.begin(time.monotonic()))
            assert self._ended.wait(timeout), f"the cluster hangs: {self._members}, {self.errors}"
            for thread in self._threads:
                thread.join(timeout)
                assert not thread.is_alive()
        finally:
            faults.here = here
            for member in self._members.values():
                if member.group is not None:
                    member.group.abort()
        return self

    def event(self, name: str, *arguments: Any, sender: ThreadMember) -> None:
        with self._lock:
            if self._members.get(sender.worker) is sender:
                self._carry_out(getattr(self._coordinator, name)(*arguments, time.monotonic()))

    def _here(self, phase: str, step: int, shard: int | None = None) -> None:
        member = current()
        for death in self.deaths:
            if (death.worker, death.phase, death.step) == (member.worker, phase, step):
                with self._dying:
                    self.deaths.remove(death)
                    self.landed.append(death)
                    self._dying.notify_all()
                    while len(self.landed) < death.together:
                        assert self._dying.wait(30)
                raise Killed(str(death))

    def _worker(self, member: ThreadMember) -> None:
        with acting_as(member):
            try:
                result = self.program()
                member.pay()
                self.results[member.worker] = result
            except Killed:
                self.event("lost", member.worker, "killed", sender=member)
            except Lost:
                self.event("lost", member.worker, "ended", sender=member)
            except BaseException as error:
                self.errors.append(error)
                self.event("failed", member.worker, {"message": repr(error)}, sender=member)
                self.event("lost", member.worker, "failed", sender=member)
            else:
                self.event("left", member.worker, sender=member)
                self.event("lost", member.worker, "exited", sender=member)

    def _carry_out(self, actions: list[coordinator.Action]) -> None:
        for action in actions:
            match action:
                case coordinator.Start(worker):
                    member = self._members[worker] = ThreadMember(self, worker)
                    thread = threading.Thread(target=self._worker, args=(member,), daemon=True)
                    self._threads.append(thread)
                    thread.start()
                case coordinator.Form(generation, members, position, donor, newcomers):
                    self.forms.append(action)
                    file = ShmGroup.new_file(len(members))
                    rank_of = {worker: rank for rank, worker in enumerate(members)}
                    for worker in members:
                        group = ShmGroup(file, rank_of[worker], len(members), generation)
                        formation = Formation(
                            group,
                            position,
                            None if donor is None else rank_of[donor],
                            frozenset(rank_of[w] for w in newcomers),
                        )
                        self._members[worker].wanted, self._members[worker].told = False, group
                        self._members[worker].answers.put(formation)
                    os.close(file)
                case coordinator.Past(worker, position):
                    self._members[worker].answers.put(Formation(SoloGroup(), position, past=True))
                case coordinator.Abort(_, members):
                    for worker in members:
                        if (told := self._members[worker].told) is not None:
                            told.abort()
                case coordinator.Invite(members):
                    for worker in members:
                        self._members[worker].wanted = True
                case coordinator.End(worker):
                    self._members[worker].answers.put(Lost("ended"))
                case coordinator.Stop(workers):
                    for worker in workers:
                        self._members[worker].answers.put(Lost("stopped"))
                case coordinator.Over():
                    self.over = action
                    self._ended.set()
