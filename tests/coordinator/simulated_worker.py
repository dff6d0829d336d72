"""The worker of a simulated cluster: a generator that stops wherever others may move (`simulated.Cluster`).

A worker goes through a program of sessions with ops as `dist_dp.train.session` does. An exchange has two phases: it
waits until all members have contributed (now it holds the total, and says so), then until all hold it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runtime.coordinator import (
    Abort,
    Form,
    Invite,
    Past,
    Standing,
)
from runtime.member import Position

if TYPE_CHECKING:
    from coordinator.simulated import Cluster

PHASES = ("join", "settle", "compute", "exchange", "held", "agreed", "applied", "between")
Waits = Generator[Callable[[], bool] | None, None, Any]


class Broken(Exception):
    pass


class Stopped(Exception):
    pass


@dataclass(frozen=True)
class Fault:
    """`kind` happens to the worker when it first comes to this place: "die", "stall" (it says nothing any more), "hang"
    (it is alive but does not move), "raise", "slow" (it moves on after 40 s), "break" (its group breaks and nobody is
    lost)."""

    kind: str
    worker: int
    session: int
    op: int
    phase: str


@dataclass(frozen=True)
class Turn:
    """`kind` happens at this turn: the "room" of the worker goes, and its process with it; its node is to be "drained";
    or the "coordinator" is lost."""

    kind: str
    at: int
    worker: int


class Group:
    """What the members of one generation share."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.contributed: dict[int, dict[int, tuple[Any, bool]]] = {}
        self.held: dict[int, set[int]] = {}
        self.state: list[tuple[int, int]] | None = None
        self.aborted = False  # by one of its members, if that reaches the others

    @property
    def size(self) -> int:
        return len(self.form.members)


@dataclass(eq=False)
class Process:
    worker: int
    born: float
    cluster: Cluster
    pace: float  # how often it is its turn
    up: deque[tuple[Any, ...]] = field(default_factory=deque)
    down: deque[Any] = field(default_factory=deque)
    steps: Waits | None = None
    ready: Callable[[], bool] | None = None
    group: Group | None = None
    broken: bool = False  # this worker was told so, or found out
    aborted: int = 0  # the generation of the latest Abort
    stale: bool = False
    wanted: bool = False
    answer: Any = None
    asked: Position | None = None  # unanswered
    asks: int = 0
    known: int = 0  # of these, how many the coordinator was told of when this worker reported to it
    newest: Form | None = None
    heard: bool = True  # it speaks with the present coordinator
    done: bool = False  # its program came to its end
    applied: list[tuple[int, int]] = field(default_factory=list)
    progress: int = 0
    waiting: bool = False
    silent: bool = False
    stuck: float = 0.0  # until then it does not move
    stubborn: bool = False  # does not end when it is told to stop

    # --- the worker's program -----------------------------------------------------------------------------------------

    def main(self) -> Waits:
        try:
            for session, ops in enumerate(self.cluster.program):
                yield from self.session(session, ops)
                yield from self.at(session, ops, "between")
        except Stopped:
            self.exit("it was stopped")
        else:
            self.done = True
            self.up.append(("left",))
            self.cluster.finished[self.worker] = self.applied
            yield None
            self.exit("it has left")

    def session(self, session: int, ops: int) -> Waits:
        position, base = Position(session, -1), len(self.applied)
        past, pending, joined = False, False, False
        while True:
            try:
                yield from self.at(session, position.op, "join")
                formation: Form | Past | None = None
                if past:
                    pass
                elif self.group is None or self.broken or self.stale:
                    formation = yield from self.form(position)
                elif not joined:
                    formation = Form(0, (), position, None, frozenset())
                joined = True
                while formation is not None:  # settle
                    past = past or isinstance(formation, Past)
                    yield from self.at(session, position.op, "settle")
                    if isinstance(formation, Form):
                        yield from self.settle(formation, base)
                        assert position.op in (-1, formation.position.op)
                        position = formation.position
                    position = position._replace(op=max(position.op, 0))
                    formation = None
                step = len(self.applied) - base
                if step == ops:
                    return
                yield from self.at(session, position.op, "compute")
                if past:
                    self.applied.append((session, step))
                    position = position._replace(op=position.op + 1)
                    continue
                before, group = position, self.group
                assert group is not None
                try:
                    regroup = yield from self.exchange(group, (session, step), position.op)
                except Broken as broken:
                    pending = broken.args[0]
                    self.cluster.redone += not pending
                    formation = yield from self.form(position)
                    past = isinstance(formation, Past)
                    if not past and formation.position <= before:
                        assert formation.position == before
                        yield from self.settled(formation, base)
                        continue
                    if not pending:
                        assert past and before.op <= 0, "the total between two positions is nowhere"
                        continue
                    regroup = False
                self.applied.append((session, step))
                position = position._replace(op=position.op + 1)
                self.cluster.ops += 1
                self.stale = self.stale or regroup
                yield from self.at(session, position.op, "applied")
                if formation is not None and not past:
                    assert formation.position == position
                    yield from self.settled(formation, base)
            except Broken:
                continue

    def settled(self, formation: Form, base: int) -> Waits:
        yield from self.at(formation.position.session, formation.position.op, "settle")
        yield from self.settle(formation, base)

    def settle(self, form: Form, base: int) -> Waits:
        """Newcomers take the donor's state."""
        group = self.group
        assert group is not None
        if form.donor == self.worker and form.newcomers:
            group.state = list(self.applied)
        elif self.worker in form.newcomers:
            yield from self.wait(group, lambda: group.state is not None)
            assert group.state is not None and group.state[:base] == self.applied[:base]
            self.applied[:] = group.state

    def exchange(self, group: Group, what: Any, op: int) -> Waits:
        """Whether somebody wishes to regroup. Raises Broken(whether the total is pending)."""
        session = what[0]
        key = (session, op)
        contributed = group.contributed.setdefault(key, {})  # type: ignore[call-overload]
        held = group.held.setdefault(key, set())  # type: ignore[call-overload]
        if self.broken:
            raise Broken(False)
        contributed[self.worker] = (what, self.wanted)
        yield from self.at(session, op, "exchange")
        yield from self.wait(group, lambda: len(contributed) == group.size)
        assert {w for w, _ in contributed.values()} == {what}, f"different ops in one exchange: {contributed}"
        held.add(self.worker)
        try:
            yield from self.at(session, op, "held")
            yield from self.wait(group, lambda: len(held) == group.size)
        except Broken:
            raise Broken(True) from None
        yield from self.at(session, op, "agreed")
        return any(wanted for _, wanted in contributed.values())

    def wait(self, group: Group, done: Callable[[], bool]) -> Waits:
        self.waiting = True
        yield lambda: done() or self.broken or group.aborted
        self.waiting = False
        if (self.broken or group.aborted) and not (done() and self.cluster.random.random() < 0.5):
            self.broken = True
            raise Broken(False)

    def form(self, position: Position) -> Waits:
        if self.group is not None and self.cluster.infectious:
            self.group.aborted = True
        self.answer, self.asked = None, position
        self.asks += 1
        self.up.append(("ask", position, self.asks))
        yield lambda: self.answer is not None
        answer, self.answer = self.answer, None
        self.stale = False
        self.group = answer if isinstance(answer, Group) else None
        self.broken = self.group is not None and self.aborted == self.group.form.generation
        return answer.form if isinstance(answer, Group) else answer

    def at(self, session: int, op: int, phase: str) -> Waits:
        self.progress += 1
        self.cluster.strike(self, session, op, phase)
        yield None
        if self.stuck > self.cluster.now:
            yield lambda: self.stuck <= self.cluster.now

    def exit(self, reason: str) -> None:
        self.up.append(("lost", reason))
        self.steps = None

    # --- being scheduled ----------------------------------------------------------------------------------------------

    @property
    def can_step(self) -> bool:
        return (
            self.steps is not None and self.born <= self.cluster.now and (self.ready is None or self.ready())
        )

    @property
    def can_report(self) -> bool:
        """It has not spoken yet with the coordinator that took over."""
        return not self.heard and self.steps is not None and self.born <= self.cluster.now and not self.silent

    def step(self) -> None:
        assert self.steps is not None
        try:
            self.ready = next(self.steps)
        except StopIteration:
            self.steps = None

    def receive(self) -> None:
        message = self.down.popleft()
        if isinstance(message, Group | Past):
            assert self.asked is not None, "nobody is told what was not asked"
            self.answer, self.wanted, self.asked = message, False, None
            if isinstance(message, Group):
                assert self.newest is None or self.newest.generation < message.form.generation
                self.newest = message.form
        elif isinstance(message, Abort):  # maybe of the generation that waits in `answer`
            self.aborted = message.generation
            if self.group is not None and self.group.form.generation == message.generation:
                self.broken = True
        elif isinstance(message, Invite):
            self.wanted = True
        elif not self.stubborn and self.steps is not None:  # Stop
            self.exit("it was stopped")

    def standing(self) -> Standing:
        """What it reports to a coordinator that has taken over."""
        form = self.newest or Form(0, (), Position(0, -1), None, frozenset())
        aborted = self.aborted >= form.generation > 0
        self.heard, self.known = True, self.asks
        return Standing(
            form.generation, form.members, form.position, self.asked, aborted, self.wanted, self.done
        )
