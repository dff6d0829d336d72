"""The coordinator of very many workers: the real one, driven by a clock that its own CPU time moves.

Workers here do nothing but say what workers say, when they would: they ask, send heartbeats, notice that a link has
ended, are lost and start again. Each call of the coordinator is timed as it runs, and so is the encoding of what the
workers are told; that time passes before anything else is heard, so that a coordinator that is too slow shows as one.
"""

from __future__ import annotations

import heapq
import math
import pickle
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from runtime.coordinator import Abort, Action, Coordinator, End, Form, Invite, Limits, Past, Start
from runtime.member import Position
from runtime.message import encode

LATENCY = 250e-6  # seconds of a message, one way
NOTICED = 0.011  # from the death of a process to the report of it
STARTING = (0.9, 1.1)  # from Start to the first call of `ask`, the first and the last of many
STEP = 1.0  # of a training step
_PATIENCE = 120.0  # until a generation that was not formed is given up


class Host(NamedTuple):
    """How a launcher serves the coordinator.

    Attributes:
        looks: seconds at most between two looks at the time (`tick`, `deadline`); None: whenever something has come.
        many: of more workers each sends its heartbeats less often, so that they are no more together.
        encode: makes bytes of what a worker is told.
    """

    name: str
    looks: float | None
    many: int | None
    encode: Callable[[object], bytes]

    def beat(self, size: int) -> float:
        """Seconds between two heartbeats of a worker."""
        return 0.5 * max(1.0, size / (self.many or size))


LOCAL = Host("local", None, None, encode)  # runtime.hosts.local
RAY = Host("ray", 0.5, 500, pickle.dumps)  # runtime.hosts.ray, without Ray's own part in it


@dataclass(eq=False)
class _Worker:
    number: int
    process: int = 0  # how many it has had
    alive: bool = False
    group: _Group | None = None
    op: int = -1
    asked: bool = False
    told: float = 0.0  # when it last heard of a generation it is in


@dataclass(eq=False)
class _Group:
    form: Form
    missing: set[int]  # members that have not been told of it yet
    broken: bool = False
    invited: bool = False


@dataclass
class Spent:
    """What the coordinator's process did, from one moment on."""

    calls: int = 0  # events
    told: int = 0  # messages to workers
    deciding: float = 0.0  # seconds of CPU in `Coordinator`
    encoding: float = 0.0  # seconds of CPU for what is told
    looks: int = 0  # at the time
    looking: float = 0.0  # seconds in `tick` and `deadline`, of those in `deciding`
    longest: float = 0.0  # seconds that something which had come waited
    forms: list[tuple[float, int]] = field(default_factory=list)  # generations: when, and of how many


class Simulation:
    """A run of `size` workers.

    Args:
        host: who serves the coordinator.
        waiting: what the heartbeats say: the workers wait for one another (True) or compute.
    """

    def __init__(self, size: int, host: Host = RAY, waiting: bool = True) -> None:
        self.host = host
        self.now = self._free = 0.0
        self.spent = Spent()
        self.needless = 0  # workers that were ended though they were sound
        self._random, self._waiting, self._beats = random.Random(size), waiting, host.beat(size)
        self._workers = [_Worker(number) for number in range(size)]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._inbox: list[tuple[float, int, Callable[[float], list[Action]]]] = []
        self._number = 0
        self._coordinator = Coordinator(size, Limits(losses=10**6))
        self._tick_at = 0.0
        self._formed_now = False  # a generation was told to the last of its members
        self.asked = 0.0  # when a worker asked last
        self._act(self._coordinator.begin(0.0), 0.0)

    @property
    def inside(self) -> int:
        """Workers that were told of the newest generation, and it goes on."""
        return sum(w.alive and w.group is not None and not (w.group.broken or w.asked) for w in self._workers)

    @property
    def told(self) -> float:
        """When the last of them was told."""
        return max(w.told for w in self._workers if w.alive)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let time pass, until something is so, which is asked whenever a generation has been told to all."""
        end, self._formed_now = self.now + seconds, True
        while self.now < end:
            if self._formed_now and until():
                return
            self._formed_now = False
            events = self._events[0][0] if self._events else end
            came = self._inbox[0][0] if self._inbox else end
            serve = max(self._free, min(came, self._tick_at))
            if events <= serve:
                self.now, _, happen = heapq.heappop(self._events)
                happen()
            else:
                self.now = serve
                self._serve()

    def kill(self, count: int) -> None:
        """Neighbours die at once, the first of them too."""
        for worker in self._workers[:count]:
            self._die(worker)

    # --- the coordinator's process ------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """What has come, and a look at the time if that is due; `_free` is when all is done."""
        self._free = self.now
        while self._inbox and self._inbox[0][0] <= self.now:
            came, _, call = heapq.heappop(self._inbox)
            self.spent.calls += 1
            self.spent.longest = max(self.spent.longest, self._free - came)
            self._decide(call)
        if self.host.looks is not None and self._tick_at > self._free:
            return
        before = self.spent.deciding
        self.spent.looks += 1
        self._decide(self._coordinator.tick)
        begin = time.thread_time()
        sleep = self._coordinator.deadline(self._free)
        self._pass(time.thread_time() - begin)
        self.spent.looking += self.spent.deciding - before
        self._tick_at = self._free + (sleep if self.host.looks is None else min(sleep, self.host.looks))

    def _decide(self, call: Callable[[float], list[Action]]) -> None:
        begin = time.thread_time()
        actions = call(self._free)
        if self.host is RAY:
            _ = self._coordinator.lacking  # it is asked after each event
        self._pass(time.thread_time() - begin)
        self._act(actions, self._free)

    def _pass(self, seconds: float) -> None:
        self.spent.deciding += seconds
        self._free += seconds

    def _act(self, actions: list[Action], now: float) -> None:
        for action in actions:
            match action:
                case Start(number):
                    self._start(self._workers[number], now)
                case End(number):
                    worker = self._workers[number]
                    self.needless += worker.alive
                    self._die(worker)
                case Form(members=members):
                    self.spent.forms.append((now, len(members)))
                    group = _Group(action, set(members))
                    seconds, _ = cost_of_form(len(members), self.host)
                    for number in members:
                        self._free += seconds
                        self.spent.encoding += seconds
                        self._tell(number, lambda w, g=group: self._formed(w, g))
                case Past(number):
                    self._tell(number, self._ask)
                case Abort(members=members):
                    for number in members:
                        self._tell(number, self._broke)
                case Invite(members=members):
                    for number in members:
                        self._tell(number, self._invited)

    def _tell(self, number: int, receive: Callable[[_Worker], None]) -> None:
        self.spent.told += 1
        worker = self._workers[number]
        process = worker.process

        def arrive() -> None:
            if worker.alive and worker.process == process:
                receive(worker)

        self._at(self._free + LATENCY, arrive)

    # --- the workers --------------------------------------------------------------------------------------------------

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, happen))

    def _say(self, after: float, call: Callable[[float], list[Action]]) -> None:
        self._number += 1
        heapq.heappush(self._inbox, (self.now + after, self._number, call))

    def _start(self, worker: _Worker, now: float) -> None:
        worker.process += 1
        worker.alive, worker.group, worker.op, worker.asked = True, None, -1, False
        process = worker.process
        self._at(now + self._random.uniform(*STARTING), lambda: self._if(worker, process, self._ask))
        self._at(now + self._random.uniform(0, self._beats), lambda: self._if(worker, process, self._beat))

    def _if(self, worker: _Worker, process: int, do: Callable[[_Worker], None]) -> None:
        if worker.alive and worker.process == process:
            do(worker)

    def _beat(self, worker: _Worker) -> None:
        progress = 0 if self._waiting else int(self.now / self._beats)
        number, waiting = worker.number, self._waiting and worker.group is not None
        self._say(LATENCY, lambda now: self._coordinator.heartbeat(number, progress, waiting, now))
        process = worker.process
        self._at(self.now + self._beats, lambda: self._if(worker, process, self._beat))

    def _ask(self, worker: _Worker) -> None:
        worker.asked, self.asked = True, self.now
        position = Position(0, worker.op)
        self._say(LATENCY, lambda now: self._coordinator.ask(worker.number, position, now))

    def _formed(self, worker: _Worker, group: _Group) -> None:
        worker.group, worker.asked, worker.told = group, False, self.now
        worker.op = max(0, group.form.position.op)
        group.missing.discard(worker.number)
        if group.broken:
            self._broke(worker)
        elif not group.missing:
            self._formed_now = True
            self._at(self.now + STEP, lambda: self._stepped(group))

    def _stepped(self, group: _Group) -> None:
        if group.broken:
            return
        members = [self._workers[number] for number in group.form.members]
        for worker in members:
            worker.op += 1
            if group.invited:
                self._ask(worker)
        group.broken = group.invited
        if not group.broken:
            self._at(self.now + STEP, lambda: self._stepped(group))

    def _invited(self, worker: _Worker) -> None:
        if worker.group is not None:
            worker.group.invited = True

    def _broke(self, worker: _Worker) -> None:
        if worker.group is not None and not worker.asked:
            self._ask(worker)

    def _die(self, worker: _Worker) -> None:
        if not worker.alive:
            return
        worker.alive = False
        number, group = worker.number, worker.group
        self._say(NOTICED, lambda now: self._coordinator.lost(number, "killed", now))
        if group is None or group.broken:
            return
        group.broken = True  # its links end: the others see it, unless the coordinator tells them before
        for other in group.form.members:
            survivor = self._workers[other]
            if survivor.group is group:
                process = survivor.process
                self._at(self.now + LATENCY, lambda w=survivor, p=process: self._if(w, p, self._broke))


@cache
def cost_of_form(size: int, host: Host) -> tuple[float, int]:
    """Seconds of CPU and bytes of what one member of a new generation is told, with hosts of 32: the addresses of all,
    and where each is."""
    told = {
        "tell": "form",
        "generation": 7,
        "members": tuple(range(size)),
        "position": (0, 12),
        "donor": 0,
        "newcomers": [1],
        "addresses": [("10.20.30.40", 40_000 + rank % 20_000) for rank in range(size)],
        "nodes": [rank // 32 for rank in range(size)],
        "rank": 0,
    }
    times = []
    for _ in range(9):
        begin = time.thread_time()
        text = host.encode(told)
        times.append(time.thread_time() - begin)
    return min(times), len(text)


# --- what is measured -------------------------------------------------------------------------------------------------


class Recovery(NamedTuple):
    """What followed on a loss (or on the beginning).

    Attributes:
        survivors: seconds until the last of those left was told of the next generation; infinite if that never was.
        everybody: seconds until all workers were in one again, replacements among them.
        generations: formed until then.
        spent: by the coordinator's process until then.
        needless: workers that were ended though they were sound.
    """

    survivors: float
    everybody: float
    generations: int
    spent: Spent
    needless: int


def begin(size: int, host: Host = RAY) -> tuple[Simulation, Recovery]:
    """Let a run form its first generation; seconds count from the moment when the last worker asks."""
    simulation = Simulation(size, host)
    simulation.run(_PATIENCE, lambda: simulation.inside == size)
    seconds = simulation.told - simulation.asked if simulation.inside == size else math.inf
    spent, simulation.spent = simulation.spent, Spent()
    return simulation, Recovery(seconds, seconds, len(spent.forms), spent, simulation.needless)


def lose(size: int, count: int, host: Host = RAY) -> Recovery:
    """Kill some of the workers of a run that goes on, at once, in the middle of a step."""
    simulation, _ = begin(size, host)
    simulation.run(2.5 * STEP)
    simulation.spent, simulation.needless = Spent(), 0
    at = simulation.now
    simulation.kill(count)
    simulation.run(_PATIENCE, lambda: simulation.inside >= size - count and bool(simulation.spent.forms))
    survivors = simulation.told - at if simulation.inside >= size - count else math.inf
    simulation.run(_PATIENCE, lambda: simulation.inside == size)
    everybody = simulation.told - at if simulation.inside == size else math.inf
    spent = simulation.spent
    return Recovery(survivors, everybody, len(spent.forms), spent, simulation.needless)


class Load(NamedTuple):
    """What a run costs its coordinator in which nothing happens, for each second.

    Attributes:
        heartbeats: that came.
        looks: at the time.
        heartbeat: seconds of CPU in `Coordinator.heartbeat`, each.
        look: seconds of CPU in `tick` and `deadline`, each look.
        busy: the part of a core.
        longest: seconds that a message waited until it was heard.
    """

    heartbeats: float
    looks: float
    heartbeat: float
    look: float
    busy: float
    longest: float


def steady(size: int, host: Host, waiting: bool, seconds: float = 3.0) -> Load:
    simulation = Simulation(size, host, waiting)
    simulation.run(_PATIENCE, lambda: simulation.inside == size)
    simulation.run(host.beat(size))
    simulation.spent = Spent()
    at = simulation.now
    simulation.run(seconds)
    spent, took = simulation.spent, simulation.now - at
    return Load(
        spent.calls / took,
        spent.looks / took,
        (spent.deciding - spent.looking) / max(1, spent.calls),
        spent.looking / max(1, spent.looks),
        spent.deciding / took,
        spent.longest,
    )
