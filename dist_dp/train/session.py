"""`Session`: a call of the program that all workers make together, and where this worker stands in it.

A session takes part in the present generation of the run's group, counts the ops agreed on, and when a generation ends
finds out from the others where all go on (`runtime.member`). The loop over it has one form:

    while not done:
        try:
            if (formation := session.join()) is not None:
                ... let everybody hold the same state, then session.settle()
            total = session.fold(...)
        except GroupBroken:
            continue
        ... apply the total
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from runtime import faults
from runtime.fold import Span, balanced_ranges
from runtime.group import Exchange, Group, GroupBroken, Layout, Memory, Total
from runtime.member import Formation, Lost, Member, Position, SoloMember, current, in_a_body
from runtime.message import decode, encode
from runtime.timeline import span

from ..tape import Array
from .contribution import Contribution, different_ways, note, total_of


class Folded(NamedTuple):
    """What all workers added up.

    Attributes:
        kind: what the op was, in the words of those that said it.
        sum: over all contributions, without its gradients.
        arrays: the gradients' flat arrays in the group's memory, until the next exchange; None if there are none.
        touched: which parameters have a gradient.
        words: what each worker had to say to all, by rank.
    """

    kind: str
    sum: Contribution
    arrays: list[Array] | None
    touched: Any
    words: list[str]


class Session:
    """One `fit`, `steps` or `evaluate`, as seen by one worker.

    Args:
        stateless: nothing is carried from op to op, so whoever comes later needs no state (an evaluation).

    Attributes:
        member: this worker.
        position: (number of the session, ops agreed on); op -1 before this worker has any state.
        step: of the training run, for reports and faults.
        past: the others are through with this session; this worker goes through it alone, and writes nothing.
        exchange_seconds: how long the newest op waited in its exchange; what overlap hid is not in it.
        exchange_bytes: the gradients that it added up over the workers; none in a group of one.
        left: when (`time.perf_counter`) this worker began to wait for the newest generation.
    """

    def __init__(self, stateless: bool = False) -> None:
        self.member: Member = current()
        self.position = Position(self.member.next_session(), 0 if stateless else -1)
        self.step = 0
        self.past = False
        self.exchange_seconds, self.exchange_bytes, self.left = 0.0, 0, time.perf_counter()
        self._alone: Group | None = None  # the group of a past session
        self._formation: Formation | None = None  # the newest one, until everybody is settled in it
        self._joined = False

    @property
    def group(self) -> Group:
        """The workers of the present generation."""
        group = self._alone or self.member.group
        assert group is not None, "join comes first"
        return group

    def join(self) -> Formation | None:
        """Take part in the newest generation. Returns it if everybody has to settle in it first, else None."""
        if not self.past:
            group = self.member.group
            if group is None or group.broken or self.member.stale:
                self._form()
            elif not self._joined:  # the group of the session before is intact
                self._formation = Formation(group, self.position)
            self._joined = True
        return self._formation

    @property
    def settled(self) -> bool:
        """Whether everybody holds the state of the newest formation; while not, the group is not that of the state."""
        return self._formation is None

    def settle(self) -> None:
        """Everybody holds the state of the formation's position now."""
        assert self._formation is not None
        reached = 0 if self.past else max(0, self._formation.position.op)
        self.position = self.position._replace(op=max(self.position.op, reached))
        self._formation = None

    def end(self) -> None:
        """This worker is through with the session: what the program does next may take as long as it likes."""
        self.member.progress(self.step, "")

    def forget(self) -> None:
        """The state of this session is lost, on all workers: begin it anew in the next generation."""
        self.position = self.position._replace(op=-1)
        self.group.abort()

    def range(self, count: int) -> Span:
        """Which of `count` leaves (shards, batches) this worker computes."""
        return balanced_ranges(count, self.group.size)[self.group.rank]

    def gather(self, value: Any) -> list[Any]:
        """The value of every worker, by rank. It is no op: if the generation ends in it, nothing was agreed on."""
        self.member.progress(self.step, "exchange")
        told = self.group.gather_objects(value)
        self.member.progress(self.step, "apply")
        return told

    def fold(
        self,
        kind: str | None,
        partials: Mapping[Span, Contribution],
        leaves: int,
        memory: Memory | None = None,
        values: Mapping[Span, int | None] | None = None,
        begun: Exchange | None = None,
        word: str = "",
    ) -> Folded:
        """Add the contributions of all workers in the order of the tree. Returns when all of them hold the total.

        Args:
            kind: what the op is, in words; it must be the same on every worker. None: what the others say.
            partials: by subtree of this worker's range.
            memory, values: where their gradients lie (`runtime.group.Group.start`); None: there are none.
            begun: the exchange, if it was started already.
            word: goes to all with the op.

        Raises:
            GroupBroken: the generation ended and nothing was agreed on: join again, and compute again.
            RuntimeError: the workers' programs went different ways.
        """
        group, step, mine = self.group, self.step, note(kind, partials, word)
        self.member.progress(step, "exchange")
        started = time.perf_counter()
        try:
            with span("exchange"):
                faults.here("exchange", step)
                if memory is None:
                    memory = group.reserve((), 0)
                exchange = begun or group.start(memory, values or dict.fromkeys(partials), leaves)
                faults.here("exchange-started", step)
                text = encode(mine) if group.size > 1 else b""
                total = exchange.finish(text, self.member.regroup_wanted)
                faults.here("agreed", step)
        except ValueError as error:  # what they hold does not make one tree
            raise different_ways(f"this one is {kind}, another is not ({error})") from error
        except GroupBroken:
            if self.past:
                raise
            total = self._resolve(group)
        self.exchange_seconds = time.perf_counter() - started
        self.exchange_bytes = sum(a.nbytes for a in total.arrays or ()) if group.size > 1 else 0
        self.position = self.position._replace(op=self.position.op + 1)
        if total.regroup and self._formation is None:
            self.member.stale = True
        self.member.progress(step, "apply")
        told = [decode(text) for text in total.notes] if group.size > 1 else [mine]
        agreed, summed, touched = total_of(told, leaves)
        return Folded(agreed, summed, total.arrays, touched, [word for *_, word in told])

    def _resolve(self, broken: Group) -> Total:
        """The generation ended in the middle of an op: the total, if others are known to have it; else GroupBroken."""
        before = self.position
        self._form()
        assert self._formation is not None
        if self._formation.position <= before and not self.past:
            raise GroupBroken("the generation ended before this op was agreed on")
        total = broken.pending()
        if total is None:
            if self.past and before.op <= 0:
                raise GroupBroken("the session is over for the others")
            raise RuntimeError(
                f"worker {self.member.worker} stands at {before}, the others at {self._formation.position}, but the "
                "total between is not here; this is an error of dist_dp"
            )
        return total

    def _form(self) -> None:
        self.member.progress(self.step, "exchange")  # waits for the others
        self.left = time.perf_counter()
        self._formation = formation = self.member.form(self.position)
        self.member.stale = False
        if formation.past:
            self.past, self._alone = True, formation.group


def group() -> Group:
    """The workers of this run, for exchanges of your own: `all_reduce`, `all_gather`, `broadcast`, `barrier`, ...

    Every worker must call it, and what it then does with the group, at the same places of the program. `rank` and
    `size` may be read anywhere. In a process by itself it is a group of one. What you compute with it may depend on the
    number of workers; what `fit`, `steps` and `evaluate` compute does not.

    A worker that came in the place of one that was lost, after the others had passed here, gets a group that knows its
    rank and size, but cannot repeat the exchanges: they raise `Lost`, and the run ends and is to be resumed.

    Raises:
        RuntimeError: called in the body of a training loop, which is one shard and not a worker's.

    >>> import dist_dp as dp
    >>> dp.group().all_reduce([1.0, 2.0])
    array([1., 2.])
    """
    if in_a_body() and isinstance(current(), SoloMember):
        raise RuntimeError(
            "dist_dp.group() cannot be called in the body of a training loop, which is one shard; report numbers with "
            "shard.log, or take `group = dist_dp.group()` before the loop"
        )
    session = Session(stateless=True)
    formation = session.join()
    if session.past:
        return _PassedGroup(session.member)
    if formation is not None:
        session.settle()
    return session.group


class _PassedGroup(Group):
    """The group at a place of the program that the others have passed: it is known who was there, and that is all."""

    def __init__(self, member: Member) -> None:
        self.rank, self.size, self.generation = member.worker, member.workers, 0

    @property
    def broken(self) -> bool:
        return True

    def reserve(self, layout: Layout, count: int, bucket_bytes: int | None = None) -> NoReturn:
        raise _not_repeated()

    def start(self, memory: Memory, values: Mapping[Span, int | None], shards: int) -> NoReturn:
        raise _not_repeated()

    def gather_bytes(self, payload: bytes) -> NoReturn:
        raise _not_repeated()

    def send(self, to: int, payload: bytes | memoryview) -> NoReturn:
        raise _not_repeated()

    def recv(self, source: int) -> NoReturn:
        raise _not_repeated()

    def pending(self) -> None:
        """Nothing is."""

    def abort(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""


def _not_repeated() -> Lost:
    return Lost(
        "a worker was replaced, and the program's own exchanges (dist_dp.group) cannot be repeated for the new one"
    )
