"""A cluster in one thread: the real coordinator, and workers that are generators. Nothing sleeps, and a seed decides
everything.

Between any two places of a worker (`simulated_worker`) others move, messages are on their way in both directions (in
order for each worker), and faults strike. What is recorded of a worker is the list of the ops that it applied, which
must be the program's in the end.

The coordinator itself may be lost: messages to the workers that are on their way vanish, those to it are said again,
each worker reports where it stands when it comes to it, and a new one takes over (`runtime.hosts.ray`).

The cluster checks each action of the coordinator against what that was told until then.
"""

from __future__ import annotations

import functools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

from coordinator.simulated_worker import PHASES, Fault, Group, Process, Turn

from runtime.coordinator import (
    Abort,
    Action,
    Coordinator,
    End,
    Form,
    Invite,
    Limits,
    Over,
    Past,
    Standing,
    Start,
    Stop,
)
from runtime.member import Position

__all__ = ["PHASES", "Cluster", "Fault", "Process", "Turn"]


class Cluster:
    """Workers of a program (the number of ops of each session), their coordinator, and the faults that strike them.

    Args:
        infectious: a worker that gives its group up lets the others know at once (shared memory), else only the
            coordinator does.
        delays: how long, in seconds, each process takes to begin, in the order of starts; then 0.
        least: workers that must have room.
        turns: what else happens.
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
        least: int = 1,
        turns: Iterable[Turn] = (),
    ) -> None:
        faults, delays, turns = list(faults), list(delays), list(turns)
        times = f"{delays=}, {least=}, {turns=}"
        self.made_with = f"{workers}, {program}, {seed=}, {faults=}, {limits=}, {infectious=}, {times}"
        self.size = workers
        self.program, self.infectious = list(program), infectious
        self.undisturbed = [(s, step) for s, ops in enumerate(program) for step in range(ops)]
        self.random, self.now, self.ops = random.Random(seed), 0.0, 0
        self.faults, self.landed = faults, list[Fault]()
        self.delays, self.all_delays = deque(delays), delays
        self.limits = limits or Limits(losses=10**6)
        self.least, self.turns, self.turned = least, turns, 0
        self.coordinator = Coordinator(workers, self.limits, least)
        self.there = True  # the coordinator is
        self.lost_at = 0.0
        self.standings: dict[int, Standing] = {}  # that were reported to the next one
        self.restored = 0
        self.roomless: set[int] = set()
        self.drained: set[int] = set()
        self.asked_to_stop = False
        self.redone = 0  # ops whose generation ended before they were agreed on
        self.processes: dict[int, Process] = {}
        self.finished: dict[int, list[tuple[int, int]]] = {}
        self.deaths = 0  # processes that ended without having left
        self.moved = 0  # of these, drained ones and those that went with their room
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

    def choices(self) -> list[tuple[Callable[[], None], float]]:
        """Everything that could happen now, time apart, and how likely."""
        found: list[tuple[Callable[[], None], float]] = []
        if self.over is not None:
            return found
        for process in self.processes.values():
            if process.up and ((self.there and process.heard) or process.up[0][0] == "lost"):
                found.append((functools.partial(self.deliver, process), process.pace))
            if process.can_report:
                found.append((functools.partial(self.report, process), process.pace))
            if process.down and process.steps is not None and not process.silent:
                found.append((process.receive, process.pace))
            if process.can_step:
                found.append((process.step, process.pace))
        found += [(functools.partial(self.room, worker), 0.02) for worker in self.roomless if self.there]
        if not self.there and all(
            process.worker in self.standings for process in self.processes.values() if process.steps
        ):
            found.append((self.restore, 0.3))
        return found

    def turn(self) -> None:
        """One thing happens; time passes when nothing else can."""
        self.turned += 1
        for turn in [turn for turn in self.turns if turn.at <= self.turned]:
            self.turns.remove(turn)
            {"room": self.take_room, "drained": self.drain, "coordinator": self.lose}[turn.kind](turn.worker)
        if choices := self.choices():
            ((happen, _),) = self.random.choices(choices, [weight for _, weight in choices])
            happen()
        else:
            self.pass_time()

    def pass_time(self) -> None:
        """All that was said arrives before, as long as there is something to say it to."""
        if not self.there:
            self.now += 1.0
            for process in self.processes.values():
                if process.can_report:
                    self.report(process)
            if self.now > self.lost_at + 20.0:
                self.restore()
            return
        for worker in self.drained & self.processes.keys():
            self.carry_out(self.coordinator.drain(worker, "drained", self.now))
        for process in list(self.processes.values()):
            while process.up and self.over is None:
                self.deliver(process)
        if self.over is not None:
            return
        self.now += self.coordinator.deadline(self.now) + 1e-3
        for worker, process in self.processes.items():
            if (
                process.steps is not None
                and process.born <= self.now
                and process.heard
                and not process.silent
            ):
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
        assert not self.processes, "nothing is left over"
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
            room = worker not in self.drained
            if not room:
                self.drained.discard(worker)
                self.roomless.add(worker)
            if not self.there:
                return
            self.carry_out(self.coordinator.lost(worker, what[0], self.now, room))
        elif kind == "ask" and what.pop() <= process.known:
            return  # it said so when it reported
        elif worker in self.known:
            if kind == "ask":
                self.asked[worker] = what[0]
            if kind in ("ask", "left"):
                self.inside.discard(worker)
        if kind != "lost":
            self.carry_out(getattr(self.coordinator, kind)(worker, *what, self.now))
        if ends and self.inside and generation == self.coordinator.generation:
            assert self.aborts[generation], "the survivors are told at once"

    def stop(self) -> None:
        self.asked_to_stop = True
        if self.there:
            self.carry_out(self.coordinator.stop("interrupted", self.now))

    def room(self, worker: int) -> None:
        self.roomless.remove(worker)
        self.carry_out(self.coordinator.room(worker, self.now))

    def take_room(self, worker: int) -> None:
        """The room of this worker goes, with what is in it."""
        process = self.processes.get(worker)
        if process is not None and process.steps is not None and not process.done:
            self.drained.add(worker)
            self.moved += 1
            self.die(process, "its node is gone")

    def drain(self, worker: int) -> None:
        """The node of this worker is to go: it has no room any more when it is lost."""
        if worker in self.processes and worker not in self.drained:
            self.drained.add(worker)
            if self.there:
                self.carry_out(self.coordinator.drain(worker, "drained", self.now))

    def lose(self, worker: int = 0) -> None:
        """The coordinator is lost."""
        self.there, self.lost_at = False, self.now
        self.standings.clear()
        for process in self.processes.values():
            process.down.clear()
            process.heard = False

    def report(self, process: Process) -> None:
        standing = process.standing()
        if not self.there:
            self.standings[process.worker] = standing

    def restore(self) -> None:
        """A new coordinator takes over."""
        for process in list(self.processes.values()):
            if process.steps is None:  # who starts processes knows which have ended
                process.up = deque([process.up[-1]])
                self.deliver(process)
        there = {worker: self.standings.get(worker) for worker in self.processes}
        complete = bool(self.finished.keys() - self.processes.keys())
        self.coordinator, actions = Coordinator.restored(
            self.size, self.limits, self.least, there, self.now, complete
        )
        self.there, self.restored, self.stopping = True, self.restored + 1, False
        self.known = set(there)
        ended = {action.worker for action in actions if isinstance(action, End)}
        assert ended == {worker for worker, its in there.items() if its is None}
        self.asked = {w: its.asked for w, its in there.items() if its is not None and its.asked is not None}
        newest = max((its.generation for its in there.values() if its is not None), default=0)
        assert self.coordinator.generation in (newest, newest + 1)
        formed = any(isinstance(action, Form) for action in actions)
        self.inside = set() if formed else set(self.coordinator.members) - self.asked.keys()
        self.aborts.clear()
        self.invites.clear()
        self.carry_out(actions)
        if self.asked_to_stop:
            self.carry_out(self.coordinator.stop("interrupted", self.now))
        for worker in range(self.size):
            if worker not in self.roomless and self.over is None:
                self.carry_out(self.coordinator.room(worker, self.now))

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
                    self.drained.discard(worker)
                    self.starts[worker] += 1
                    self.known.add(worker)
                case End(worker, reason):
                    assert worker in self.known
                    process = self.processes[worker]
                    if "before it came in" in reason:
                        self.needless += process.steps is not None and process.stuck < float("inf")
                    elif worker in self.drained:
                        self.moved += process.steps is not None
                    self.known.discard(worker)
                    self.asked.pop(worker, None)
                    self.die(process, "ended")
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
            self.restored
            or form.generation
            == (self.forms[-1].generation if self.forms else 0) + 1
            == self.coordinator.generation
        )
        assert len(self.known) >= self.least, "fewer than the least have room"
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
