"""The coordinator: membership and generations of a run, as a state machine without I/O, clock or thread.

Whoever runs it (`runtime.hosts`) feeds it events, each with the time, and carries out the actions that it returns, in
order. It decides who is in, who is lost, when a generation ends and the next is formed, who is to be ended or started,
and when the run is over. Where a generation goes on is `runtime.member.agree`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .member import Position


@dataclass(frozen=True)
class Start:
    """Start a process for this worker (at the beginning, or in the place of one that was lost)."""

    worker: int


@dataclass(frozen=True)
class End:
    """End this worker's process at once, stopped or not; report `lost` when it is gone."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Form:
    """Tell these workers that they are a generation; `members` are in the order of ranks."""

    generation: int
    members: tuple[int, ...]
    position: Position
    donor: int | None  # a worker, not a rank
    newcomers: frozenset[int]  # workers


@dataclass(frozen=True)
class Past:
    """Tell this worker that the session it asked for is over for the others."""

    worker: int
    position: Position


@dataclass(frozen=True)
class Abort:
    """Tell the members of a generation that it has ended: their waits break off, and each asks for the next."""

    generation: int
    members: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Invite:
    """Tell the members that somebody waits to come in: they regroup after the op in flight."""

    members: tuple[int, ...]


@dataclass(frozen=True)
class Stop:
    """Tell these workers to end by themselves (as Ctrl-C would), then end those that have not within the grace time."""

    workers: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Over:
    """Everything has ended. `code` is the exit code of the launcher."""

    code: int
    reason: str
    report: Mapping[str, Any] = field(default_factory=dict)


Action = Start | End | Form | Past | Abort | Invite | Stop | Over


@dataclass(frozen=True)
class Limits:
    """Times in seconds, counts without unit.

    Attributes:
        heartbeat: a worker that has sent none for so long is taken for stopped, and ended.
        hang: a worker that made no progress for so long while it was not waiting for others is ended. None: never.
        grace: how long workers may take to end by themselves after Stop.
        losses: the run is lost after so many losses of workers in a row without an op agreed on in between.
        joining: how long the first generation waits for workers that neither joined nor ended. None: for ever.
    """

    heartbeat: float = 5.0
    hang: float | None = 600.0
    grace: float = 1.5
    losses: int = 3
    joining: float | None = None


class Coordinator:
    """Membership of a run of `workers` workers, numbered from 0. Every event returns the actions to carry out.

    Attributes:
        generation: the newest that was formed; 0 before the first.
        members: its workers in the order of ranks, without those lost since.
    """

    def __init__(self, workers: int, limits: Limits = Limits()) -> None: ...

    def begin(self, now: float) -> list[Action]:
        """Start the workers."""

    def ask(self, worker: int, position: Position, now: float) -> list[Action]:
        """A worker asks for the next generation and waits for it (`Member.form`)."""

    def heartbeat(self, worker: int, progress: int, waiting: bool, now: float) -> list[Action]:
        """A worker is alive. `progress` counts its calls of `Member.progress`; `waiting`: it waits for others."""

    def left(self, worker: int, now: float) -> list[Action]:
        """A worker's program came to its end (`Member.leave`); its process is about to exit."""

    def failed(self, worker: int, report: Mapping[str, Any], now: float) -> list[Action]:
        """A worker's program raised (`Member.failed`): everybody ends, with this report; exit code 1."""

    def lost(self, worker: int, reason: str, now: float) -> list[Action]:
        """A worker's process is gone, without having left or failed: or with, which is then its expected end."""

    def stop(self, reason: str, now: float) -> list[Action]:
        """Ctrl-C or a request to end: everybody ends and leaves a run that can be resumed; exit code 130."""

    def tick(self, now: float) -> list[Action]:
        """Time has passed: look for workers that have stopped, hang, or have not ended within the grace time."""

    def deadline(self, now: float) -> float:
        """Seconds until `tick` should be called next."""
