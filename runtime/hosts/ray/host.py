"""`RayHost`: the driver of a run on Ray, as `runtime.hosts.local.LocalHost` is on one machine.

It has no mind of its own: the coordinator actor decides, the driver starts and ends actors, watches them, and shows
what they print. One thread waits for all: for news from the coordinator, and for a pending call of each worker, which
ends when the worker does, however that is. Everything belongs to the driver, so nothing outlives it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...coordinator import Limits, Over
from ..interrupts import handed_to
from ..logs import WorkerLogs
from .cluster import ClusterError
from .coordinator_actor import CoordinatorActor
from .rooms import Rooms, draining
from .worker_actor import WorkerActor

_LOOK = 0.2  # seconds between looks at what nobody tells: room, drained nodes, requests to stop
_SELDOM = 1.0  # the same, when no room is needed
_STARTING = 300.0  # seconds that an actor may take to be there: its node may install packages
_ENDING = 2.0  # seconds that an actor may take to be gone; then its node is taken for lost
_NOTICE = 5.0  # seconds before a drained node goes, when its workers leave in any case
_SAY_SHORT = 2.0  # seconds of waiting for room before that is said

Program = Callable[[], Any]
Report = Callable[[BaseException], Mapping[str, Any]]


@dataclass(eq=False)
class _Worker:
    """An actor, and what is known of it here."""

    worker: int
    life: int
    handle: Any
    node: str
    begun: float = field(default_factory=time.monotonic)
    there: bool = False  # it has answered
    ended: float = 0.0  # when it was ended from here
    reason: str = ""  # and why
    result: tuple[int, Any] | None = None


class RayHost:
    """Workers of one run on the cluster that this process is connected with.

    Args:
        program, report: what each worker runs, and how it tells of a failure (`runtime.hosts.program.run_program`);
            pickled.
        least, most: how many workers there are to be.
        bundle: the resources of each.
        strategy: see `Rooms`.
        directory: where they run; None: where Ray puts what was sent.
        limits, environment, logs: see `LocalHost`.
        wait: wait for room for `least` workers; else ClusterError is raised if there is none within a few seconds.
        say: what to do with a line about the state of things.

    Attributes:
        generations: how many were formed so far.
        results: what the program returned, of each worker that came to its end.
    """

    def __init__(
        self,
        program: Program,
        report: Report,
        *,
        least: int,
        most: int,
        bundle: Mapping[str, float],
        strategy: str = "pack",
        directory: str | None,
        limits: Limits,
        environment: Mapping[str, str],
        logs: WorkerLogs,
        wait: bool = True,
        say: Callable[[str], None],
    ) -> None:
        self._program, self._report, self._directory = program, report, directory
        self._least, self._most, self._bundle, self._strategy = least, most, dict(bundle), strategy
        self._limits, self._environment, self._logs = limits, dict(environment), logs
        self._waits, self._say = wait, say
        self.generations = 0
        self.results: dict[int, Any] = {}
        self._workers: dict[int, _Worker] = {}
        self._life = 0
        self._roomless = set(range(most))
        self._drained: set[int] = set()  # they are to move
        self._watched: dict[Any, Callable[[Any], None]] = {}
        self._term, self._heard = "", 0
        self._begun = False  # the coordinator has
        self._to_tell: list[tuple[Any, ...]] = []
        self._batch: list[tuple[Any, ...]] = []  # what it is being told, and the number of that
        self._batches, self._telling = 0, 0
        self._over: Over | None = None
        self._why_stop: str | None = None
        self._requests: list[str] = []
        self._short, self._short_since, self._said_short = least, time.monotonic(), False
        self._reason = ""  # why the newest generation ended
        self._looked = 0.0

    def run(self) -> Over:
        """Run until everything has ended, and tell how. Called once.

        In the main thread, SIGINT (Ctrl-C) and SIGTERM end the workers with grace, and a second one ends them at once.

        Raises:
            ClusterError: there is no room, and `wait` is False.
        """
        self._rooms = Rooms(self._bundle, self._least, self._most, self._strategy)
        try:
            with handed_to(self.stop):
                self._make_coordinator()
                while self._over is None:
                    self._turn()
            return self._over
        finally:
            for it in list(self._workers.values()):
                ray.kill(it.handle)
            if hasattr(self, "_coordinator"):
                ray.kill(self._coordinator)
            self._rooms.close()

    def stop(self, reason: str) -> None:
        """Have all workers end, as Ctrl-C does; asked again, end them at once. From any thread or signal handler."""
        self._requests.append(reason)

    # --- the coordinator ----------------------------------------------------------------------------------------------

    def _make_coordinator(self) -> None:
        # With the driver, and nowhere else (which soft=True does not keep to): cut off from it, it would be of no use.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(CoordinatorActor)
        self._coordinator = actor.options(
            name=f"dist_dp-{os.urandom(6).hex()}",
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=10 * self._most + 100,
            scheduling_strategy=here,
        ).remote(self._most, self._least, self._limits)
        self._restore()

    def _restore(self) -> None:
        """Tell a coordinator that has just begun how things stand."""
        live = {worker: it.life for worker, it in self._workers.items()}
        rooms = [worker for worker in range(self._most) if not (worker in live or worker in self._roomless)]
        self._begun, self._to_tell, self._batch, self._telling = False, [], [], 0
        ref = self._coordinator.restore.remote(live, self._life, rooms, self._why_stop, bool(self.results))
        self._watch(ref, self._restored)

    def _restored(self, ref: Any) -> None:
        if term := self._answer(ref):
            self._term, self._heard, self._begun = term, 0, True
            self._ask_for_news()
        else:
            time.sleep(_LOOK / 2)  # workers have still to report, or it starts again
            self._restore()

    def _answer(self, ref: Any) -> Any:
        """What the coordinator answered; None if it was lost meanwhile, and is being started again."""
        try:
            return ray.get(ref)
        except RayTaskError:  # of its own code: an error of dist_dp
            raise
        except ActorDiedError as error:
            self._over = Over(3, f"the coordinator cannot be started again: {error}")
        except RayError:
            pass
        return None

    def _tell(self, *message: Any) -> None:
        """Let the coordinator know something. Of calls that are under way together Ray keeps no order, so there is one
        at a time."""
        self._to_tell.append(message)

    def _tell_now(self) -> None:
        if not self._begun or self._telling:
            return
        if not self._batch and self._to_tell:
            self._batch, self._to_tell, self._batches = self._to_tell, [], self._batches + 1
        if self._batch:
            number = self._telling = self._batches
            ref = self._coordinator.told.remote(self._term, number, self._batch)
            self._watch(ref, lambda ref: self._was_told(ref, number))

    def _was_told(self, ref: Any, number: int) -> None:
        told = self._answer(ref)
        if number == self._telling:  # else there is another coordinator since
            self._telling = 0
            if told:
                self._batch = []

    def _ask_for_news(self) -> None:
        self._watch(self._coordinator.news.remote(self._term, self._heard), self._told)

    def _told(self, ref: Any) -> None:
        if (answer := self._answer(ref)) is None:
            time.sleep(_LOOK / 2)
            self._ask_for_news()
            return
        term, news = answer
        if term != self._term:
            if self._term:
                self._say("the coordinator was lost and has been started again; the workers went on")
            self._restore()
            return
        for number, item in news:
            self._heard = number
            self._carry_out(*item)
        self._ask_for_news()

    def _carry_out(self, kind: str, *rest: Any) -> None:
        match kind:
            case "start":
                self._start(rest[0])
            case "end":
                it = self._workers.get(rest[0])
                if it is not None and it.life == rest[1]:
                    self._end(it, rest[2])
                elif rest[1] is not None:
                    self._tell("gone", rest[0], rest[1], rest[2], rest[0] not in self._roomless)
            case "output":
                self._logs.feed(*rest)
            case "run directory":
                if "://" not in rest[0] and os.path.isdir(rest[0]):
                    self._logs.run_directory(rest[0])
            case "formed":
                self._formed(*rest)
            case "ended":
                self._reason = self._reason or rest[0]
            case "short":
                if rest[0] and self._reason:
                    self._say(self._reason)
                    self._reason = ""
                self._short, self._short_since, self._said_short = rest[0], time.monotonic(), False
            case "over":
                self._over = rest[0]

    def _formed(self, generation: int, size: int, nodes: int, newcomers: int) -> None:
        self.generations = generation
        if generation > 1 or size < self._most:
            why = f"{self._reason}; " if self._reason else ""
            came = f", {newcomers} of them new" if newcomers else ""
            where = f" on {nodes} nodes" if nodes > 1 else ""
            self._say(f"{why}generation {generation}: {size} worker{'s' * (size > 1)}{where}{came}")
        self._reason = ""

    # --- workers ------------------------------------------------------------------------------------------------------

    def _start(self, worker: int) -> None:
        if worker in self._workers:
            return
        node = self._rooms.look([worker]).get(worker)
        self._life += 1
        self._tell("started", worker, self._life)
        if node is None:
            self._no_room(worker, self._life, "its room is gone")
            return
        resources = {name: amount for name, amount in self._bundle.items() if name != "CPU"}
        actor = ray.remote(WorkerActor)
        handle = actor.options(
            num_cpus=self._bundle["CPU"],
            resources=resources,
            max_restarts=0,
            scheduling_strategy=self._rooms.strategy(worker),
        ).remote(self._environment, self._directory, self._coordinator, worker, self._life, self._most)
        it = _Worker(worker, self._life, handle, node)
        self._workers[worker] = it
        self._logs.started(worker)
        self._watch(handle.ready.remote(), lambda ref: self._is_there(it, ref))
        # The pending call: it ends when the program does, or the process, or the node.
        self._watch(handle.run.remote(self._program, self._report), lambda ref: self._has_ended(it, ref))

    def _is_there(self, it: _Worker, ref: Any) -> None:
        with contextlib.suppress(RayError):  # the other call tells
            it.node, it.there = ray.get(ref), True

    def _has_ended(self, it: _Worker, ref: Any) -> None:
        if self._workers.get(it.worker) is not it:
            return
        try:
            it.result = ray.get(ref)
        except ActorUnavailableError:
            self._lost_with_node(it, "its node cannot be reached")
            return
        except RayError as error:
            self._gone(it, it.reason or _cause(error))
            return
        code, value = it.result
        if code == 0:
            self.results[it.worker] = value
        it.handle.__ray_terminate__.remote()
        self._gone(it, f"its program ended with exit code {code}", code == 0)

    def _end(self, it: _Worker, reason: str) -> None:
        it.reason, it.ended = reason, time.monotonic()
        ray.kill(it.handle)

    def _gone(self, it: _Worker, reason: str, complete: bool = False) -> None:
        """Its process is gone; in its room, if there still is one, is place for the next."""
        del self._workers[it.worker]
        if it.result is None:
            self._note(it, reason)
        if self._moved(it) or not self._rooms.look([it.worker]):
            self._no_room(it.worker, it.life, reason, complete)
        else:
            self._tell("gone", it.worker, it.life, reason, True, complete)

    def _note(self, it: _Worker, reason: str) -> None:
        """Who was lost is known here better than to those who were first to miss it."""
        others = f"{self._reason}; " if " was lost: " in self._reason else ""
        self._reason = f"{others}worker {it.worker} was lost: {reason}"

    def _moved(self, it: _Worker) -> bool:
        """Whether it was to move; then it is gone from its former room now."""
        moves = it.worker in self._drained
        if moves:
            self._drained.discard(it.worker)
            self._rooms.moved(it.worker)
        return moves

    def _lost_with_node(self, it: _Worker, reason: str) -> None:
        del self._workers[it.worker]
        self._note(it, reason)
        self._moved(it)
        self._rooms.suspect(it.node)
        ray.kill(it.handle)
        self._no_room(it.worker, it.life, reason)

    def _no_room(self, worker: int, life: int, reason: str, complete: bool = False) -> None:
        self._roomless.add(worker)
        self._tell("gone", worker, life, reason, False, complete)

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _watch(self, ref: Any, handler: Callable[[Any], None]) -> None:
        self._watched[ref] = handler

    def _turn(self) -> None:
        self._tell_now()
        done, _ = ray.wait(list(self._watched), num_returns=1, timeout=_LOOK, fetch_local=False)
        for ref in done:
            self._watched.pop(ref)(ref)
        now = time.monotonic()
        if now > self._looked + (_LOOK if self._short else _SELDOM):
            self._looked = now
            self._look_for_room(now)
            self._look_at_drains()
            self._look_at_workers(now)
        while self._requests:
            self._stop_requested(self._requests.pop(0))

    def _look_at_workers(self, now: float) -> None:
        for it in list(self._workers.values()):
            if it.ended and now > it.ended + _ENDING:
                self._lost_with_node(it, it.reason)
            elif not it.there:
                if now > it.begun + _STARTING:
                    self._lost_with_node(it, f"its actor was not there after {_STARTING:g} s")
                else:
                    self._tell("pending", it.worker, it.life)

    def _look_for_room(self, now: float) -> None:
        if self._why_stop is not None:
            return
        for worker in self._rooms.look(self._roomless):
            self._roomless.discard(worker)
            self._tell("room", worker)
        if self._short and not self._said_short and now > self._short_since + _SAY_SHORT:
            self._said_short = True
            text = self._missing()
            if not self._waits:
                raise ClusterError(f"{text}; without --no-wait the run begins when there is")
            self._say(f"waiting: {text}")

    def _missing(self) -> str:
        have, free = ray.cluster_resources(), ray.available_resources()
        asked = ", ".join(f"{amount:g} {name}" for name, amount in self._bundle.items())
        there = ", ".join(f"{free.get(n, 0):g} of {have.get(n, 0):g} {n} free" for n in self._bundle)
        what = f"{asked} each; the cluster has {there}"
        return f"there is no room for {self._short} of at least {self._least} workers ({what})"

    def _look_at_drains(self) -> None:
        nodes = draining()
        for it in list(self._workers.values()):
            if it.node not in nodes:
                continue
            if it.worker not in self._drained:
                self._drained.add(it.worker)
                self._rooms.move(it.worker)
                self._say(f"the node of worker {it.worker} is being drained: it is to move")
            deadline = nodes[it.node]
            others = sum(other.worker not in self._drained for other in self._workers.values())
            soon = deadline is not None and time.time() > deadline - _NOTICE
            if others >= self._least or soon or self._rooms.look([it.worker]):
                self._tell("drain", it.worker, "its node is being drained")

    def _stop_requested(self, reason: str) -> None:
        if self._why_stop is not None:
            for it in self._workers.values():
                self._end(it, reason)
        self._why_stop = reason
        self._tell("stop", reason)


def _cause(error: RayError) -> str:
    """Ray's reason in a line."""
    if "died unexpectedly before finishing this task" in str(error):
        return "its process was killed, or crashed"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("The actor died", "The actor is dead", "The node"))]
    return (told or lines or ["unknown"])[-1 if not told else 0]
