"""`CoordinatedMember`: a worker that a coordinator in another process tells who is in and where all go on.

The program's thread asks and waits; another thread of the worker hears what it is told, and says that it is alive. How
the two sides reach each other is the launcher's affair (`local_worker`, `ray.member`).
"""

from __future__ import annotations

import os
import signal
import threading
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from ..group import Group, GroupBroken
from ..member import SAVING, Formation, Lost, Member, Position
from ..transports.solo import SoloGroup

HEARTBEAT = 0.5  # seconds between two
_WAITING = ("exchange", "")  # what a worker does that makes no progress by itself, or is not in a session


class CoordinatedMember(Member):
    """A worker among those of its run, as its coordinator tells.

    Attributes:
        last_words: seconds to wait at most until the launcher has been told how the program ended.
    """

    last_words = 2.0

    def __init__(self, worker: int, workers: int) -> None:
        super().__init__()
        self.worker, self.workers = worker, workers
        self._former: Group | None = None
        self._count, self._doing, self._last = 0, "", (0, "")
        self._asked: Position | None = None
        self._asks = 0  # how often it did
        self._condition = threading.Condition()  # holds what follows together
        self._answer: tuple[Mapping[str, Any], Sequence[int]] | None = None  # to the newest ask
        self._aborted = -1  # the newest generation that is known to have ended
        self._invited = False
        self._stopped: str | None = None  # why
        self._ended = False  # the program has

    @property
    def stopped(self) -> bool:
        """Whether this worker was told to end."""
        return self._stopped is not None

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
            self._say(message, wait=self.last_words)

    def _ask(self, position: Position) -> tuple[Mapping[str, Any], Sequence[int]]:
        """Ask for the next generation; what the launcher tells, and the descriptors that came with it."""
        with self._condition:
            self._asked, self._asks = position, self._asks + 1
            try:
                self._say({"say": "ask", "position": tuple(position), "number": self._asks, **self._place()})
                self._condition.wait_for(lambda: self._answer is not None or self._stopped is not None)
                if self._answer is None:
                    raise Lost(f"the run ends: {self._stopped}; the same command resumes it")
                answer, self._answer = self._answer, None
                return answer
            finally:
                self._asked = None

    @abstractmethod
    def _place(self) -> Mapping[str, Any]:
        """What the others need to know to reach this worker."""

    @abstractmethod
    def _say(self, message: Any, wait: float = 0.0) -> None:
        """Leave word for the launcher, and wait for at most so many seconds until it has it."""

    @abstractmethod
    def _build(self, told: Mapping[str, Any], descriptors: Sequence[int]) -> Group:
        """The group of a generation, from what was told of it.

        Raises:
            GroupBroken: one of the others is gone already, or this worker is told that the generation has ended.
        """

    def _cancelled(self, generation: int) -> bool:
        """Whether a group that is being built is no longer wanted."""
        return self.stopped or self._aborted >= generation

    # --- what the other thread says and hears -------------------------------------------------------------------------

    def _alive(self) -> Any:
        waiting = self._asked is not None or self._doing in _WAITING
        saving = self._doing == SAVING
        return {"say": "alive", "progress": self._count, "waiting": waiting, "saving": saving}

    def _told(self, told: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
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
