"""A cluster in one thread: the real coordinator, and workers that are generators. Nothing sleeps, and a seed decides
everything.

A worker goes through a program of sessions with ops as `dist_dp.train.session` does. An exchange has two phases: it
waits until all members have contributed (now it holds the total, and says so), then until all hold it. Between any two
of its places others move, messages are on their way in both directions (in order for each worker), and faults strike.
What is recorded of a worker is the list of the ops that it applied, which must be the program's in the end.

The cluster checks each action of the coordinator against what that was told until then.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.coordinator import Abort, Action, Coordinator, End, Form, Invite, Limits, Over, Past, Start, Stop
from runtime.member import Position

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
        self.answer = None
        self.up.append(("ask", position))
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

    def step(self) -> None:
        assert self.steps is not None
        try:
            self.ready = next(self.steps)
        except StopIteration:
            self.steps = None

    def receive(self) -> None:
        message = self.down.popleft()
        if isinstance(message, Group | Past):
            self.answer, self.wanted = message, False
        elif isinstance(message, Abort):  # maybe of the generation that waits in `answer`
            self.aborted = message.generation
            if self.group is not None and self.group.form.generation == message.generation:
                self.broken = True
        elif isinstance(message, Invite):
            self.wanted = True
        elif not self.stubborn and self.steps is not None:  # Stop
            self.exit("it was stopped")


class Cluster:
    """Workers of a program (the number of ops of each session), their coordinator, and the faults that strike them.

    Args:
        infectious: a worker that gives its group up lets the others know at once (shared memory), else only the
            coordinator does.
        delays: how long, in seconds, each process takes to begin, in the order of starts; then 0.
    """

    def __init__(
        self,
        workers: int,
        program: Sequence[int],
        *,
        seed: int = 0,
        faults: Iterable[Fault] = (),
        limits: Limits | None = None,
        infectious: bool = False,
        delays: Iterable[float] = (),
    ) -> None:
        faults, delays = list(faults), list(delays)
        self.made_with = f"{workers}, {program}, {seed=}, {faults=}, {limits=}, {infectious=}, {delays=}"
        self.size = workers
        self.program, self.infectious = list(program), infectious
        self.undisturbed = [(s, step) for s, ops in enumerate(program) for step in range(ops)]
        self.random, self.now, self.ops = random.Random(seed), 0.0, 0
        self.faults, self.landed = faults, list[Fault]()
        self.delays, self.all_delays = deque(delays), delays
        self.limits = limits or Limits(losses=10**6)
        self.coordinator = Coordinator(workers, self.limits)
        self.processes: dict[int, Process] = {}
        self.finished: dict[int, list[tuple[int, int]]] = {}
        self.deaths = 0  # processes that ended without having left
        self.needless = 0  # of these, sound ones that were ended because the program had come to its end
        self.over: Over | None = None
        self.stopping = False
        self.forms: list[Form] = []
        self.apart = 0  # of these, with survivors that stood one op apart
        self.past = 0
        self.starts: Counter[int] = Counter()
        # What the coordinator was told.
        self.asked: dict[int, Position] = {}
        self.inside: set[int] = set()  # members of the newest generation that have not come back from it
        self.known: set[int] = set()  # processes that are there and not ended
        self.aborts: Counter[int] = Counter()
        self.invites: Counter[int] = Counter()
        self.carry_out(self.coordinator.begin(self.now))

    def __repr__(self) -> str:
        return f"Cluster({self.made_with})"

    # --- faults -------------------------------------------------------------------------------------------------------

    def strike(self, process: Process, session: int, op: int, phase: str) -> None:
        for fault in self.faults:
            if (fault.worker, fault.session, fault.op, fault.phase) == (process.worker, session, op, phase):
                self.faults.remove(fault)
                self.landed.append(fault)
                self.inflict(process, fault.kind)
                return

    def inflict(self, process: Process, kind: str) -> None:
        if kind == "die":
            self.die(process, "killed")
        elif kind == "stall":
            process.silent, process.stuck = True, float("inf")
        elif kind == "hang":
            process.stuck = float("inf")
        elif kind == "break":
            process.broken = process.group is not None
        elif kind == "slow":
            process.stuck = self.now + 40
        else:
            process.up.append(("failed", {"error": "ValueError", "message": f"of worker {process.worker}"}))
            process.exit("it raised")

    def die(self, process: Process, reason: str) -> None:
        if process.steps is not None:
            process.steps = None
            process.up.append(("lost", reason))

    # --- what happens next --------------------------------------------------------------------------------------------

    def choices(self) -> list[tuple[Callable[[], None], Process]]:
        """Everything that could happen now, time apart."""
        found: list[tuple[Callable[[], None], Process]] = []
        for process in self.processes.values():
            if process.up:
                found.append((lambda p=process: self.deliver(p), process))  # type: ignore[misc]
            if process.down and process.steps is not None and not process.silent:
                found.append((process.receive, process))
            if process.can_step:
                found.append((process.step, process))
        return found

    def turn(self) -> None:
        """One thing happens; time passes when nothing else can."""
        if choices := self.choices():
            ((happen, _),) = self.random.choices(choices, [process.pace for _, process in choices])
            happen()
        else:
            self.pass_time()

    def pass_time(self) -> None:
        """All that was said arrives before, as long as there is something to say it to."""
        for process in list(self.processes.values()):
            while process.up and self.over is None:
                self.deliver(process)
        if self.over is not None:
            return
        self.now += self.coordinator.deadline(self.now) + 1e-3
        for worker, process in self.processes.items():
            if process.steps is not None and process.born <= self.now and not process.silent:
                self.carry_out(
                    self.coordinator.heartbeat(worker, process.progress, process.waiting, self.now)
                )
        self.carry_out(self.coordinator.tick(self.now))

    def run(self, turns: int = 400_000) -> Over:
        """Until it is over. A fair schedule: everything that can happen does so in the end."""
        idle = 0
        while self.over is None:
            turns -= 1
            assert turns > 0, "it goes on for ever"
            idle = 0 if self.choices() else idle + 1
            assert idle < 2000, f"it hangs: {vars(self.coordinator)}"
            self.turn()
        assert not self.choices(), "nothing is left over"
        for applied in self.finished.values():
            assert applied == self.undisturbed
        return self.over

    # --- the coordinator's side ---------------------------------------------------------------------------------------

    def deliver(self, process: Process) -> None:
        kind, *what = process.up.popleft()
        worker = process.worker
        assert self.processes[worker] is process
        generation, ends = self.coordinator.generation, kind == "lost" and worker in self.inside
        if kind == "lost":
            del self.processes[worker]
            if worker not in self.finished:
                self.deaths += 1
            self.asked.pop(worker, None)
            self.inside.discard(worker)
            self.known.discard(worker)
        elif worker in self.known:
            if kind == "ask":
                self.asked[worker] = what[0]
            if kind in ("ask", "left"):
                self.inside.discard(worker)
        self.carry_out(getattr(self.coordinator, kind)(worker, *what, self.now))
        if ends and self.inside and generation == self.coordinator.generation:
            assert self.aborts[generation], "the survivors are told at once"

    def stop(self) -> None:
        self.carry_out(self.coordinator.stop("interrupted", self.now))

    def carry_out(self, actions: list[Action]) -> None:
        self.inside -= {action.worker for action in actions if isinstance(action, End)}
        for action in actions:
            assert self.over is None, f"{action} after the end"
            match action:
                case Start(worker):
                    assert worker not in self.processes and not self.stopping
                    born = self.now + (self.delays.popleft() if self.delays else 0.0)
                    process = self.processes[worker] = Process(
                        worker, born, self, self.random.choice((1, 0.3, 0.05))
                    )
                    process.steps = process.main()
                    self.starts[worker] += 1
                    self.known.add(worker)
                case End(worker, reason):
                    assert worker in self.known
                    if "before it came in" in reason:
                        process = self.processes[worker]
                        self.needless += process.steps is not None and process.stuck < float("inf")
                    self.known.discard(worker)
                    self.asked.pop(worker, None)
                    self.die(self.processes[worker], "ended")
                case Form():
                    self.formed(action)
                case Past(worker, position):
                    assert self.asked.pop(worker).session < position.session or self.finished
                    self.past += 1
                    self.processes[worker].down.append(action)
                case Abort(generation, members):
                    assert generation == self.coordinator.generation and members
                    self.aborts[generation] += 1
                    assert self.aborts[generation] == 1
                    assert set(members) == self.inside, "those that are inside are told, nobody else"
                    for worker in members:
                        self.processes[worker].down.append(action)
                case Invite(members):
                    self.invites[self.coordinator.generation] += 1
                    assert self.invites[self.coordinator.generation] == 1
                    assert set(members) == self.inside
                    for worker in members:
                        self.processes[worker].down.append(action)
                case Stop(workers):
                    assert not self.stopping and set(workers) == self.known
                    self.stopping = True
                    for worker in workers:
                        self.processes[worker].down.append(action)
                case Over():
                    assert not self.processes
                    self.over = action

    def formed(self, form: Form) -> None:
        assert not self.inside, "one live generation at most"
        assert not self.stopping
        assert (
            form.generation
            == (self.forms[-1].generation if self.forms else 0) + 1
            == self.coordinator.generation
        )
        assert form.members == tuple(sorted(set(form.members))) == self.coordinator.members
        assert set(form.members) <= self.asked.keys() & self.known
        asked = {worker: self.asked.pop(worker) for worker in form.members}
        self.apart += len({position.op for position in asked.values() if position.op >= 0}) > 1
        for worker, (session, op) in asked.items():
            assert session == form.position.session
            if worker in form.newcomers:
                assert op < 0 <= form.position.op and worker != form.donor
            else:
                assert form.position.op - 1 <= op <= form.position.op
        assert (form.donor is None) == (form.position.op < 0)
        assert form.donor is None or form.donor in form.members
        self.forms.append(form)
        self.inside = set(form.members)
        group = Group(form)
        for worker in form.members:
            self.processes[worker].down.append(group)
