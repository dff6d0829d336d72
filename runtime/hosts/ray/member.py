"""`RayMember`: a worker in a Ray actor, among the others of its run.

Two threads speak with the coordinator actor. One calls `say` with what the program has to say, what it printed, and
that it is alive; the other waits in `hear` for what it is told. The program itself has the main thread, as anywhere, so
that it can be interrupted and may set signal handlers (a concurrency group of its own would take that from it).
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from ...coordinator import Standing
from ...group import Group
from ...member import Position
from ...transports.rendezvous import join
from ...transports.tcp import Listener
from ..coordinated import HEARTBEAT, CoordinatedMember

if TYPE_CHECKING:
    from ...events import Sink

_CUT_OFF = (
    9.0  # seconds without a word from the coordinator or the head node: this worker is on the wrong side then
)
_ORPHAN = 3  # exit code of such a worker, if its program does not end by itself
_GRACE = 2.0
_ANSWER = 30.0  # seconds to wait for an answer of `hear`, which waits itself for 20
_PAUSE = 0.1
_MANY = 500  # workers: of more of them each is heard less often, so that one coordinator keeps up
_SLOWEST = 2.0  # seconds between two words of a worker, at most
_HELD = 1 << 20  # bytes of output kept while the coordinator cannot be reached


class RayMember(CoordinatedMember):
    """This actor among the workers of its run.

    Args:
        coordinator: the handle of its actor.
        worker, workers: its number, and how many there are at most.
        life: which of the worker's processes this is.
    """

    backend = "ray"
    last_words = 20.0  # a coordinator that was lost is back by then

    def __init__(self, coordinator: Any, worker: int, life: int, workers: int) -> None:
        super().__init__(worker, workers)
        self._coordinator, self._me = coordinator, (worker, life)
        self._listener = Listener(ray.util.get_node_ip_address())
        self._node = ray.get_runtime_context().get_node_id()
        self._term = ""
        self._standing, self._left = Standing(), False
        self._outgoing: deque[tuple[Any, threading.Event]] = deque()
        self._printed: deque[tuple[str, bytes]] = deque()
        self._held, self._printing = 0, threading.Lock()
        self._wake = threading.Event()
        self._contact = time.monotonic()
        self._asking = threading.Thread(target=self._ask_head)  # not running yet
        self._beat = min(_SLOWEST, HEARTBEAT * max(1.0, workers / _MANY))
        for work in (self._speak, self._listen):
            threading.Thread(target=work, name=f"dist_dp {work.__name__}", daemon=True).start()

    def sinks(self, run: str) -> Sequence[Sink]:
        from .metrics import RayMetrics

        return (RayMetrics(run, self.workers),)

    def printed(self, stream: str, data: bytes) -> None:
        """Let the driver show what the program printed; the oldest is dropped while it cannot be told."""
        with self._printing:
            self._printed.append((stream, data))
            self._held += len(data)
            while self._held > _HELD and len(self._printed) > 1:
                self._held -= len(self._printed.popleft()[1])
            if self._held > _HELD / 2:
                self._wake.set()

    def flushed(self, seconds: float) -> None:
        """Wait until the driver has been told all that was printed so far, for so long at most."""
        self._say(self._alive(), wait=seconds)

    def leave(self) -> None:
        self._left = True
        super().leave()

    # --- CoordinatedMember --------------------------------------------------------------------------------------------

    def _place(self) -> Mapping[str, Any]:
        return {"address": self._listener.address, "node": self._node}

    def _build(self, told: Mapping[str, Any], descriptors: Sequence[int]) -> Group:
        addresses, nodes, rank, generation, secret = (
            told[name] for name in ("addresses", "nodes", "rank", "generation", "secret")
        )
        cancelled = functools.partial(self._cancelled, generation)
        return join(self._listener, addresses, nodes, rank, generation, secret, cancelled=cancelled)

    def _say(self, message: Any, wait: float = 0.0) -> None:
        said = threading.Event()
        self._outgoing.append((message, said))
        self._wake.set()
        if wait:
            said.wait(wait)

    def _told(self, told: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        if told["tell"] == "form":
            position = Position(*told["position"])
            self._standing = Standing(told["generation"], tuple(told["members"]), position)
        super()._told(told, descriptors)

    # --- the thread that speaks ---------------------------------------------------------------------------------------

    def _speak(self) -> None:
        next_beat = 0.0
        while True:
            self._wake.wait(max(0.0, next_beat - time.monotonic()))
            self._wake.clear()
            events, messages = [], []
            with self._printing:
                outputs = [{"say": "output", "stream": name, "data": data} for name, data in self._printed]
                self._printed.clear()
                self._held = 0
            while self._outgoing:
                message, said = self._outgoing.popleft()
                messages.append(message)
                events.append(said)
            self._deliver([*outputs, *messages, self._alive()])
            for said in events:
                said.set()
            next_beat = time.monotonic() + self._beat

    def _deliver(self, messages: Sequence[Any]) -> None:
        while True:
            if self._term:
                with contextlib.suppress(RayError, GetTimeoutError):
                    ref = self._coordinator.say.remote(*self._me, self._term, messages)
                    taken = ray.get(ref, timeout=_CUT_OFF / 3)
                    if taken is None and not self._ended:
                        self._cut_off("was given up by the coordinator: it could not be reached for a while")
                    self._contact = time.monotonic()
                    if taken is not False:
                        return
            silence = time.monotonic() - self._contact
            if silence > _CUT_OFF / 2 and not self._asking.is_alive():
                self._asking = threading.Thread(target=self._ask_head, name="dist_dp ask", daemon=True)
                self._asking.start()
            if silence > _CUT_OFF:
                self._cut_off(f"has had no word from the coordinator for {_CUT_OFF:g} s")
            time.sleep(_PAUSE)

    def _ask_head(self) -> None:
        """An answer of Ray's head is contact, too: then the coordinator is being started again, and takes its time."""
        with contextlib.suppress(RayError):
            ray.nodes()
            self._contact = time.monotonic()

    def _cut_off(self, how: str) -> None:
        reason = f"worker {self.worker} {how}"
        self._told({"tell": "abort", "generation": self._standing.generation})
        self._told({"tell": "stop", "reason": f"{reason}; the others go on without it"})
        os.write(2, f"{reason}, this process ends\n".encode())
        time.sleep(_GRACE)
        os._exit(_ORPHAN)

    # --- the thread that hears ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        after = 0
        while True:
            try:
                ref = self._coordinator.hear.remote(*self._me, self._term, after)
                term, messages = ray.get(ref, timeout=_ANSWER)
                if term != self._term:
                    after = 0
                    report = *self._stand(), *self._place().values()
                    self._term = ray.get(self._coordinator.report.remote(*self._me, *report), timeout=_ANSWER)
            except (RayError, GetTimeoutError):
                time.sleep(_PAUSE)
                continue
            for number, message in messages:
                after = number
                self._told(message)

    def _stand(self) -> tuple[Standing, int]:
        """Where it stands, and the number of its asks so far."""
        with self._condition:
            standing, asked = self._standing, self._asked
            if self._answer is not None:
                asked = None  # it has been answered
            aborted = self._aborted >= standing.generation > 0
            place = replace(standing, asked=asked, aborted=aborted, invited=self._invited, left=self._left)
            return place, self._asks
