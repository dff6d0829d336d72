"""`Member`: this process's place among the workers of a run, and how a generation is agreed on.

A run is a program that every worker runs from top to bottom. Its calls that need the others (`fit`, `steps`,
`evaluate`) are *sessions*, numbered in the order of the program; inside a session each exchange that all workers agreed
on is an *op*. So (session, op) says where a worker stands. When a generation ends (a worker was lost, one comes) each
survivor says where it stands, and `agree` decides, from the positions alone, where all go on:

- at the furthest position of any survivor. A survivor that is one op behind holds the total of that op (it had said so,
  or the other could not have gone on) and applies it.
- newcomers take the state of a survivor; if nobody has any, all begin the session anew, from the newest checkpoint.
- a worker whose session is over for the others goes through it alone: the answer is the same.

Who brings the positions together differs by launcher (`runtime.hosts`): a coordinator in the parent process, or MPI's
own agreement. What is agreed on does not.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from .group import Group
from .launch import CONTROL
from .transports.solo import SoloGroup

if TYPE_CHECKING:
    from .events import Sink


SAVING = "save"  # what a worker does that writes the newest step, see `Member.progress`


class Position(NamedTuple):
    """Where a worker stands: op -1 means that it has no state of this session yet."""

    session: int
    op: int


@dataclass(frozen=True)
class Agreement:
    """Where a generation goes on. Indices are those of the positions that were given.

    Attributes:
        position: of everybody from now on; op -1 if all begin the session anew.
        members: who takes part, in the order given. The others are in sessions that are over.
        donor: who gives its state to the newcomers; None if nobody has any.
        newcomers: the members without state, if others have one.
    """

    position: Position
    members: tuple[int, ...]
    donor: int | None
    newcomers: frozenset[int]


def agree(positions: Sequence[Position]) -> Agreement:
    """Decide where workers at these positions go on together.

    Raises:
        ValueError: no positions, or two that cannot come from one run: a worker more than one op behind.

    >>> agree([Position(0, 7), Position(0, 6), Position(0, -1)])
    Agreement(position=Position(session=0, op=7), members=(0, 1, 2), donor=0, newcomers=frozenset({2}))
    """
    if not positions:
        raise ValueError("positions: there must be one at least")
    furthest = max(positions)
    members = tuple(i for i, p in enumerate(positions) if p.session == furthest.session)
    if furthest.op < 0:
        return Agreement(furthest, members, None, frozenset())
    newcomers = frozenset(i for i in members if positions[i].op < 0)
    for i in members:
        if i not in newcomers and positions[i].op < furthest.op - 1:
            raise ValueError(
                f"positions: {positions[i]} and {furthest} cannot come from one run: more than one op apart"
            )
    donor = min(i for i in members if i not in newcomers)
    return Agreement(furthest, members, donor, newcomers)


@dataclass(frozen=True)
class Formation:
    """What `Member.form` returns.

    Attributes:
        group: of the new generation; all ranks below are in it.
        position: where everybody goes on. If it is one op ahead of the position given, the total that was pending in
            the former group is agreed on.
        donor: the rank that gives its state to the newcomers; None if nobody has any: all begin the session anew.
        newcomers: the ranks that take it.
        past: the session asked for is over for the others: go through it alone, writing nothing, with this group of
            one (a total that is pending in it is agreed on).
    """

    group: Group
    position: Position
    donor: int | None = None
    newcomers: frozenset[int] = frozenset()
    past: bool = False


class Lost(RuntimeError):
    """The run cannot go on: what was left of it was ended. The same command resumes it."""


class Member(ABC):
    """This process among the workers of a run.

    Attributes:
        worker: the number of this worker, the same in all generations; its replacement takes it over.
        workers: how many workers the run was launched with.
        group: of the present generation; None before the first `form`.
        stale: the group is to be formed anew before its next use, because somebody asked for it.
        backend: what the group exchanges over, for the record: "solo", "shm", "tcp", "mpi", ...
        owed: what is still to be done together with the others, when the program goes on (`pay`).
    """

    worker: int = 0
    workers: int = 1
    group: Group | None = None
    stale: bool = False
    backend: str = "solo"

    def __init__(self) -> None:
        self._sessions = 0
        self.owed: Callable[[], None] | None = None

    def pay(self) -> None:
        """Do what is owed: before the next session begins, and when the program has come to its end."""
        owed, self.owed = self.owed, None
        if owed is not None:
            owed()

    def next_session(self) -> int:
        """The number of the session that the program begins now."""
        self.pay()
        self._sessions += 1
        return self._sessions - 1

    @abstractmethod
    def form(self, position: Position) -> Formation:
        """Leave the present generation, say where this worker stands, and wait for the next one.

        Called before the first session, after GroupBroken, and at the end of an op whose total says `regroup`.

        Raises:
            Lost: the run ends.
        """

    @property
    def regroup_wanted(self) -> bool:
        """Whether somebody waits to come in: said to the others with the next exchange."""
        return False

    def progress(self, step: int, doing: str) -> None:
        """Say what this worker is about to do: "shard 3", "exchange", "apply", ... Whoever watches for hangs counts
        these calls. A worker that is doing "exchange" waits for others, one that does "" is in no session; neither is
        held to be hung. One that does SAVING is not ended before that is done, if the run is to end."""

    def began(self, run: str | None) -> None:
        """Say which run directory this worker trains in, if any (for the logs of a launcher)."""

    def failed(self, report: Mapping[str, Any]) -> None:
        """Say that the program failed here with an error of its own: all workers are to end, with this one report.

        Args:
            report: plain data: "error" (its type's name), "message", "traceback" (text), and where known "step" and
                "doing", where the worker was last in a session, and "exit", the exit code of the launcher (else 1).
        """

    def leave(self) -> None:
        """Say that this worker's program came to its end."""

    def sinks(self, run: str) -> Sequence[Sink]:
        """Further receivers of this run's events, where this worker writes: what the launcher has for its users."""
        return ()


class SoloMember(Member):
    """One process by itself: always alone, nothing to agree on."""

    def form(self, position: Position) -> Formation:
        self.group = SoloGroup()
        return Formation(self.group, position)


class _Acting(threading.local):
    member: Member | None = None


_acting = _Acting()
_of_process: Member | None = None


def current() -> Member:
    """The member that this process is: what its launcher made it, found from the environment; else one by itself."""
    global _of_process
    if _acting.member is not None:
        return _acting.member
    if _of_process is None:
        _of_process = _from_environment()
    return _of_process


def become(member: Member) -> None:
    """Let this process be `member`, before its program runs: for launchers that are not found from the environment."""
    global _of_process
    _of_process = member


def _from_environment() -> Member:
    # Imported where needed: the hosts stand above this module.
    if CONTROL in os.environ:
        from .hosts.local_worker import LocalMember

        return LocalMember.from_environment()
    from .hosts import mpi_environment

    if mpi_environment.launched():
        from .hosts.mpi import MpiMember

        return MpiMember.from_environment()
    return SoloMember()


def in_a_body() -> bool:
    """Whether this thread acts as another member than this process is: inside a shard's body, it is one by itself."""
    return _acting.member is not None


@contextmanager
def acting_as(member: Member) -> Iterator[Member]:
    """Let this thread be `member` meanwhile: a cluster of threads, for tests."""
    before, _acting.member = _acting.member, member
    try:
        yield member
    finally:
        _acting.member = before
