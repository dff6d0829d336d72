"""The coordinator of a run as a Ray actor: `runtime.coordinator`, fed by calls; whom a decision concerns, fetches it.

    driver   -> news      what to start and to end, what workers print, how it ended      (waits for the next)
    worker   -> hear      form, past, abort, invite, stop                                 (waits for the next)
    worker   -> say       ask, alive, left, failed, output, ...
    driver   -> told      room, started, pending, gone, drain, stop                       (one call at a time)

All methods run in one event loop, so nothing here needs a lock. If the actor dies Ray starts it again, empty: it has
another `term` then. Who calls with the former one is asked to `report`, and the driver to `restore`; from that the
state is built anew (`Coordinator.restored`), while the workers go on stepping.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ...coordinator import (
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
from ...member import Position

_TICK = 0.5  # seconds between looks at the clock, at most
_MOST_NEWS = 10_000  # messages that wait for the driver, when what workers print is no longer kept
_PATIENCE = 20.0  # seconds that a caller is kept waiting when there is nothing to tell
_REPORTS = 15.0  # seconds to wait for the reports of workers that the driver says are there

Numbered = list[tuple[int, Any]]


class _Mailbox:
    """Messages for one reader, kept until it asks for those behind them."""

    def __init__(self) -> None:
        self._messages: deque[tuple[int, Any]] = deque()
        self._last = 0
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Any) -> None:
        self._last += 1
        self._messages.append((self._last, message))
        self._arrived.set()

    async def after(self, number: int) -> Numbered:
        """The messages behind this one; the former ones have been read. Waits for a while if there are none."""
        while self._messages and self._messages[0][0] <= number:
            self._messages.popleft()
        if not self._messages:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), _PATIENCE)
        return [message for message in self._messages if message[0] > number]


class CoordinatorActor:
    """To be made an actor of (`runtime.hosts.ray.host`).

    Args:
        workers, least: see `Coordinator`.
        limits: see `Limits`.
    """

    def __init__(self, workers: int, least: int, limits: Limits) -> None:
        self._workers, self._least, self._limits = workers, least, limits
        self._term = secrets.token_hex(8)
        self._coordinator: Coordinator | None = None
        self._news = _Mailbox()
        self._live: dict[int, int] = {}  # of each worker whose process is there, which of its lives it is
        self._boxes: dict[tuple[int, int], _Mailbox] = {}
        self._reports: dict[tuple[int, int], Standing] = {}
        self._called = 0.0  # when the driver first asked to restore
        self._places: dict[tuple[int, int], tuple[Any, str]] = {}  # their addresses and nodes
        self._asks: dict[tuple[int, int], int] = {}  # how many of their asks are known: one may be said twice
        self._newest = 0  # the newest life that was started
        self._batches = 0  # how many the driver has told
        self._clock: asyncio.Task[None] | None = None
        self._short = 0  # workers without room, as told last

    # --- the driver ---------------------------------------------------------------------------------------------------

    async def restore(
        self, live: Mapping[int, int], newest: int, rooms: Sequence[int], stop: str | None, complete: bool
    ) -> str:
        """Begin: from nothing, or from what a former coordinator left. Returns the term, or "" if workers have still to
        report: then it is to be called again.

        Args:
            live: the workers that are there, and which of its lives each lives.
            newest: the newest of all lives.
            rooms: the workers that are not, and have room.
            stop: why everything is to end, if that was asked for.
            complete: a worker has come to the end of the program.
        """
        now = time.monotonic()
        self._called = self._called or now
        there = {worker: self._reports.get((worker, life)) for worker, life in live.items()}
        if self._coordinator is None and None in there.values() and now < self._called + _REPORTS:
            return ""
        if self._coordinator is None:
            self._live, self._newest = dict(live), newest
            for key in live.items():
                self._boxes.setdefault(key, _Mailbox())
            self._coordinator, actions = Coordinator.restored(
                self._workers, self._limits, self._least, there, now, complete
            )
            self._do(actions)
            if stop is not None:
                self._do(self._coordinator.stop(stop, now))
            for worker in rooms:
                self._do(self._coordinator.room(worker, now))
            self._clock = asyncio.create_task(self._tick())
        return self._term

    async def news(self, term: str, after: int) -> tuple[str, Numbered]:
        """What the driver is to do or to know; of another term: nothing, it is to `restore` first."""
        if term != self._term:
            return self._term, []
        return self._term, await self._news.after(after)

    async def told(self, term: str, batch: int, messages: Sequence[Any]) -> bool:
        """Take what the driver says, in its order: the name of one of the methods below, and its arguments. What it
        says again, because it had no answer, is known by the number of the batch."""
        if term == self._term and batch > self._batches:
            self._batches = batch
            for name, *arguments in messages:
                getattr(self, name)(*arguments)
        return True

    def room(self, worker: int) -> None:
        self._do(self._begun.room(worker, time.monotonic()))

    def started(self, worker: int, life: int) -> None:
        """A process was started for this worker."""
        self._live[worker] = self._newest = life
        self._boxes[worker, life] = _Mailbox()

    def pending(self, worker: int, life: int) -> None:
        """This worker's process takes its time to be there, and the driver knows why."""
        if self._live.get(worker) == life:
            self._do(self._begun.pending(worker, time.monotonic()))

    def gone(self, worker: int, life: int, reason: str, room: bool, complete: bool = False) -> None:
        """This worker's process has ended, or will never be heard again.

        Args:
            room: for another in its place.
            complete: it had come to the end of the program.
        """
        if self._live.get(worker) == life:
            if complete:
                self._do(self._begun.left(worker, time.monotonic()))
            del self._live[worker]
            for kept in (self._boxes, self._reports, self._places, self._asks):
                kept.pop((worker, life), None)
            self._do(self._begun.lost(worker, reason, time.monotonic(), room))

    def drain(self, worker: int, reason: str) -> None:
        self._do(self._begun.drain(worker, reason, time.monotonic()))

    def stop(self, reason: str) -> None:
        self._do(self._begun.stop(reason, time.monotonic()))

    # --- workers ------------------------------------------------------------------------------------------------------

    async def report(
        self, worker: int, life: int, standing: Standing, asks: int, address: Any, node: str
    ) -> str:
        """What a worker knows of its place among the others, how often it has asked, and where it is; returns the
        term."""
        self._reports[worker, life] = standing
        self._asks[worker, life] = asks
        self._places[worker, life] = address, node
        return self._term

    async def hear(self, worker: int, life: int, term: str, after: int) -> tuple[str, Numbered]:
        """What this worker is told; of another term: nothing, it is to `report` first."""
        box = self._boxes.get((worker, life))
        if term != self._term:
            return self._term, []
        if box is None:  # the driver says later that it is there, or never again
            await asyncio.sleep(_TICK / 10)
            return self._term, []
        return self._term, await box.after(after)

    async def say(self, worker: int, life: int, term: str, messages: Sequence[Any]) -> bool | None:
        """Take what a worker says, in its order. Whether it was taken: not before this coordinator has begun and knows
        of it; None: the worker has been given up (it could not be reached for a while, say), and what it says does not
        count."""
        if term != self._term or self._coordinator is None or life > self._newest:
            return False
        for message in messages:
            if message["say"] == "output":
                self._printed(worker, message)
            elif self._live.get(worker) == life and (actions := self._heard(worker, life, message)):
                self._do(actions)
        return True if self._live.get(worker) == life else None

    def _printed(self, worker: int, message: Any) -> None:
        if len(self._news) < _MOST_NEWS:  # the driver's terminal may have been stopped
            self._news.put(("output", worker, message["stream"], message["data"]))

    def _heard(self, worker: int, life: int, message: Any) -> list[Action]:
        coordinator, now = self._begun, time.monotonic()
        match message["say"]:
            case "alive":
                told = message["progress"], message["waiting"], now, message["saving"]
                return coordinator.heartbeat(worker, *told)
            case "ask":
                if message["number"] <= self._asks.get((worker, life), 0):
                    return []  # it is known
                self._asks[worker, life] = message["number"]
                return coordinator.ask(worker, Position(*message["position"]), now)
            case "failed":
                return coordinator.failed(worker, message["report"], now)
            case "left":
                return coordinator.left(worker, now)
            case _:  # "began"
                self._news.put(("run directory", message["run"]))
                return []

    # --- what the coordinator decides ---------------------------------------------------------------------------------

    @property
    def _begun(self) -> Coordinator:
        assert self._coordinator is not None, "restore comes first"
        return self._coordinator

    async def _tick(self) -> None:
        try:
            while True:
                await asyncio.sleep(min(_TICK, self._begun.deadline(time.monotonic())))
                self._do(self._begun.tick(time.monotonic()))
        except Exception:
            traceback.print_exc()
            os._exit(1)  # without its clock it would judge nobody any more; Ray starts it again

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            self._carry_out(action)
        if (short := self._begun.lacking) != self._short:
            self._short = short
            self._news.put(("short", short))

    def _carry_out(self, action: Action) -> None:
        match action:
            case Start(worker):
                self._news.put(("start", worker))
            case End(worker, reason):
                self._news.put(("end", worker, self._live.get(worker), reason))
            case Form():
                self._form(action)
            case Past(worker, position):
                self._tell([worker], {"tell": "past", "position": tuple(position)})
            case Abort(generation, members, reason):
                self._news.put(("ended", reason))
                self._tell(members, {"tell": "abort", "generation": generation, "reason": reason})
            case Invite(members):
                self._tell(members, {"tell": "invite"})
            case Stop(workers, reason):
                self._tell(workers, {"tell": "stop", "reason": reason})
            case Over():
                self._news.put(("over", action))

    def _form(self, form: Form) -> None:
        """Tell each member of a generation its place. Ranks are contiguous on every node: so the exchange is nested."""
        places = {worker: self._places[worker, self._live[worker]] for worker in form.members}
        names = dict.fromkeys(node for _, node in places.values())
        nodes = {name: number for number, name in enumerate(names)}
        order = sorted(form.members, key=lambda worker: (nodes[places[worker][1]], worker))
        ranks = {worker: rank for rank, worker in enumerate(order)}
        self._news.put(("formed", form.generation, len(order), len(nodes), len(form.newcomers)))
        common = {
            "tell": "form",
            "generation": form.generation,
            "members": form.members,
            "position": tuple(form.position),
            "donor": None if form.donor is None else ranks[form.donor],
            "newcomers": sorted(ranks[worker] for worker in form.newcomers),
            "addresses": [places[worker][0] for worker in order],
            "nodes": [nodes[places[worker][1]] for worker in order],
            "secret": secrets.token_bytes(32),
        }
        for worker, rank in ranks.items():
            self._tell([worker], {**common, "rank": rank})

    def _tell(self, workers: Sequence[int], message: Any) -> None:
        for worker in workers:
            if (life := self._live.get(worker)) is not None:
                self._boxes[worker, life].put(message)
