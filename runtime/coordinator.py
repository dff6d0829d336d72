"""The coordinator: membership and generations of a run, as a state machine without I/O, clock or thread.

Whoever runs it (`runtime.hosts`) feeds it events, each with the time, and carries out the actions that it returns, in
order. It decides who is in, who is lost, when a generation ends and the next is formed, who is to be ended or started,
and when the run is over. Where a generation goes on is `runtime.member.agree`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .member import Position, agree


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
        saving: how long, if they say that they save the newest step.
        losses: the run is lost after so many generations in a row that ended before an op was agreed on, or when one
            worker was lost so often before the next generation was formed. Workers that die together count once.
        joining: how long the first generation waits for workers that neither joined nor ended. None: for ever.
    """

    heartbeat: float = 5.0
    hang: float | None = 600.0
    grace: float = 1.5
    saving: float = 60.0
    losses: int = 3
    joining: float | None = None


NOWHERE = Position(0, -1)  # before the first generation

_SILENT = 30.0  # seconds that an interpreter may say nothing while it starts, and while it exits


@dataclass(frozen=True)
class Standing:
    """What a worker knows of its place, for a coordinator that takes over from one that was lost.

    Attributes:
        generation: the newest that it was told of; 0: none.
        members, position: of that generation, as in `Form`.
        asked: where it stands, if it waits for the next one.
        aborted: it knows that the generation has ended.
        invited: it was told that somebody waits to come in.
        left: its program came to its end.
    """

    generation: int = 0
    members: tuple[int, ...] = ()
    position: Position = NOWHERE
    asked: Position | None = None
    aborted: bool = False
    invited: bool = False
    left: bool = False


@dataclass
class _Worker:
    """A process that is there, from Start until it is reported lost."""

    seen: float  # when it last said something
    moved: float  # when its progress last changed
    heard: bool = False  # it has said something
    ended: bool = False  # it was told to end: nothing that it says counts any more
    left: bool = False  # its program came to its end
    met: bool = False  # it has asked for a generation
    joined: bool = False  # it has been in one
    asked: Position | None = None  # it waits for the next one
    drained: str = ""  # why it is to go when the op in flight is done
    progress: int = 0
    waiting: bool = False
    saving: bool = False


class Coordinator:
    """Membership of a run of `workers` workers, numbered from 0. Every event returns the actions to carry out.

    - The first generation waits for every worker that is there. Later ones wait for the members of the one before: as
      soon as each of them has asked, left or been lost, those that ask are the next, newcomers that have come by then
      among them. If no member is left over, all that are there are waited for, as at first, those that go through a
      session alone too: so nobody is ever ahead of the members, and what `Past` says is true.
    - A worker that asks for a session which is over for the others is told so (`Past`) and comes back with the next.
    - A lost worker is replaced, until one has come to the end of the program (`left` after having asked): then every
      session is over and nobody can come in. Replacements that were never in a generation are ended at that moment;
      members finish by themselves. A loss counts no longer: what the worker would have computed is computed.
    - Where room for workers comes and goes, `room` says for whom there is some, instead of `begin`; a worker lost with
      its room comes back with the next. A generation is formed only while `least` workers have room. A drained worker
      goes when the op in flight is agreed on, unless nobody else holds the state.
    - The run is over when no process is there. The exit code is 0 if the program came to its end on one worker at
      least; a failure, a request to stop or too many losses, whichever comes first, decide otherwise.

    Whoever feeds it reports everything that a worker said before it reports it lost, and tells workers what they are
    told in the same order: a worker forgets Abort and Invite when the next Form or Past comes.

    Args:
        workers: how many there are at most.
        least: workers that must have room for the run to go on.

    Attributes:
        generation: the newest that was formed; 0 before the first.
        members: its workers in the order of ranks, without those that left, were lost or go on alone since.

    >>> coordinator = Coordinator(1)
    >>> coordinator.begin(now=0.0)
    [Start(worker=0)]
    >>> coordinator.ask(0, Position(0, -1), now=0.2)  # doctest: +NORMALIZE_WHITESPACE
    [Form(generation=1, members=(0,), position=Position(session=0, op=-1), donor=None, newcomers=frozenset())]
    """

    def __init__(self, workers: int, limits: Limits = Limits(), least: int = 1) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise ValueError(f"workers must be a whole number above 0, got {workers!r}")
        if isinstance(least, bool) or not isinstance(least, int) or not 1 <= least <= workers:
            raise ValueError(f"least must be a whole number from 1 to {workers}, got {least!r}")
        self.generation = 0
        self.members: tuple[int, ...] = ()
        self._count, self._limits, self._least = workers, limits, least
        self._workers: dict[int, _Worker] = {}
        self._position = NOWHERE  # where the newest generation was formed
        self._aborted = False  # the newest generation has been told that it is over
        self._excused = False  # if it has, that is no loss: room went, or a coordinator
        self._invited = False  # its members have been told that somebody waits
        self._somebody_left = False
        self._complete = False  # a worker came to the end of the program: all sessions are over
        self._losses = 0  # in a row without an op agreed on, as known when the newest generation was formed
        self._recent: Counter[int] = Counter()  # of each worker since then
        self._why = ""  # the latest of these, in words
        self._begun = self._latest = self._ending = 0.0  # times: of begin, of the latest event, of Stop
        self._outcome: Over | None = None  # how it will end, once Stop was said

    @classmethod
    def restored(
        cls,
        workers: int,
        limits: Limits,
        least: int,
        there: Mapping[int, Standing | None],
        now: float,
        complete: bool = False,
    ) -> tuple[Coordinator, list[Action]]:
        """The successor of a coordinator that was lost, from what the workers that are there know.

        What the former one told some workers and not others is put right by ending that generation. Counts of losses
        begin anew.

        Args:
            there: the workers whose processes are there; None for one that does not answer: it is ended.
            complete: a worker that is gone came to the end of the program.
        """
        self = cls(workers, limits, least)
        self._begun = self._latest = now
        told = {worker: standing for worker, standing in there.items() if standing is not None}
        newest = max(told.values(), key=lambda its: its.generation, default=Standing())
        self.generation, self._position = newest.generation, newest.position
        for worker in there:
            its = told.get(worker, Standing())
            joined = its.generation > 0
            self._workers[worker] = _Worker(
                seen=now,
                moved=now,
                heard=worker in told,
                left=its.left,
                met=joined or its.asked is not None,
                joined=joined,
                asked=its.asked,
            )
        self._complete = complete or any(its.left and its.generation > 0 for its in told.values())
        self._somebody_left = self._complete or any(its.left for its in told.values())
        inside = [w for w in newest.members if w in told and told[w].generation == self.generation]
        self.members = tuple(worker for worker in inside if not told[worker].left)
        self._invited = any(told[worker].invited for worker in self.members)
        actions: list[Action] = []
        ended = len(inside) < len(newest.members) or any(told[worker].aborted for worker in inside)
        if ended or (not self._invited and any(told[worker].asked for worker in self.members)):
            self._excused = True
            actions = self._abort("its coordinator was lost while it changed", now)
        actions += self._end({worker: "it does not answer" for worker in there if worker not in told}, now)
        outside = {w: its.asked for w, its in told.items() if its.asked is not None and w not in self.members}
        if self.members:
            behind = [worker for worker, asked in outside.items() if asked.session < self._position.session]
            actions += self._past(behind, self._position)
            if len(behind) < len(outside) and not (self._aborted or self._invited):
                self._invited = True
                actions.append(Invite(self.members))
        actions += self._form(now)
        if self._complete and not there:
            self._outcome = Over(0, "the program came to its end")
            actions.append(self._outcome)
        return self, actions

    # --- events -------------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> list[Action]:
        """Start the workers: there is room for all."""
        self._begun = now
        return [action for worker in range(self._count) for action in self.room(worker, now)]

    def room(self, worker: int, now: float) -> list[Action]:
        """There is room for this worker: start it, if it is not there."""
        self._wake(now)
        if worker in self._workers or self._outcome is not None or self._complete:
            return []
        return [self._start(worker, now), *self._form(now)]

    def drain(self, worker: int, reason: str, now: float) -> list[Action]:
        """The room of this worker is about to go: it goes when the op in flight is agreed on."""
        self._wake(now)
        it = self._workers.get(worker)
        if it is None or it.ended or it.left or self._outcome is not None:
            return []
        it.drained = reason
        if worker not in self.members:
            return self._end({worker: reason}, now) + self._form(now) if it.asked is None else self._form(now)
        if self._aborted or self._invited:
            return []
        self._invited = True
        return [Invite(self.members)]

    def ask(self, worker: int, position: Position, now: float) -> list[Action]:
        """A worker asks for the next generation and waits for it (`Member.form`)."""
        it = self._hear(worker, now)
        if it is None or it.left:
            return []
        it.asked, it.met = position, True
        actions: list[Action] = []
        if worker in self.members:
            # Invited members regroup by themselves. Otherwise its group broke: maybe before we hear of a loss, maybe
            # without one.
            if not self._invited:
                actions += self._abort(f"worker {worker} could not go on in it", now)
        elif self.members and position.session < self._position.session:
            return self._past([worker], self._position)
        elif self.members and not (self._aborted or self._invited):
            self._invited = True
            actions.append(Invite(self.members))
        return actions + self._form(now)

    def heartbeat(
        self, worker: int, progress: int, waiting: bool, now: float, saving: bool = False
    ) -> list[Action]:
        """A worker is alive. `progress` counts its calls of `Member.progress`; `waiting`: it waits for others;
        `saving`: it saves the newest step, which it may do to the end."""
        if worker in self._workers:
            self._workers[worker].saving = saving
        it = self._hear(worker, now)
        if it is not None and (it.progress, it.waiting) != (progress, waiting):
            it.progress, it.waiting, it.moved = progress, waiting, now
        return []

    def pending(self, worker: int, now: float) -> list[Action]:
        """A worker that has said nothing yet takes its time to start, and whoever starts it knows."""
        self._wake(now)
        it = self._workers.get(worker)
        if it is not None and not it.heard:
            it.seen = now
        return []

    def left(self, worker: int, now: float) -> list[Action]:
        """A worker's program came to its end (`Member.leave`); its process is about to exit."""
        it = self._hear(worker, now)
        if it is None:
            return []
        it.left, it.asked, it.moved, self._somebody_left = True, None, now, True
        self._take_out([worker])
        actions: list[Action] = []
        if it.met and not self._complete:
            self._complete = True
            needless = [other for other, its in self._workers.items() if not (its.joined or its.left)]
            actions += self._end(dict.fromkeys(needless, "the program ended before it came in"), now)
        return actions + self._form(now)

    def failed(self, worker: int, report: Mapping[str, Any], now: float) -> list[Action]:
        """A worker's program raised (`Member.failed`): everybody ends, with this report; exit code 1."""
        if self._hear(worker, now) is None:
            return []
        error = f"{report.get('error', 'an error')}: {report.get('message', '')}"
        return self._stop(Over(1, f"worker {worker} failed with {error}", report), now)

    def lost(self, worker: int, reason: str, now: float, room: bool = True) -> list[Action]:
        """A worker's process is gone, without having left or failed: or with, which is then its expected end.

        Args:
            room: another process can take its place. Otherwise `room` says when.
        """
        self._wake(now)
        it = self._workers.pop(worker, None)
        if it is None:
            return []
        self._excused |= not room and worker in self.members
        actions = self._drop({worker: f"was lost: {reason}"}, now)
        if self._outcome is None and not it.left:
            self._why = f"worker {worker} was lost: {reason}"
            others_done = self._somebody_left and all(its.left for its in self._workers.values())
            if room and not (self._complete or others_done):
                self._recent[worker] += 1
                if self._recent[worker] >= self._limits.losses:
                    return actions + self._give_up(self._recent[worker], now)
                actions.append(self._start(worker, now))
        actions += self._form(now)
        if not self._workers and (self._outcome is not None or self._somebody_left):
            self._outcome = self._outcome or Over(0, "the program came to its end")
            actions.append(self._outcome)
        return actions

    def stop(self, reason: str, now: float) -> list[Action]:
        """Ctrl-C or a request to end: everybody ends and leaves a run that can be resumed; exit code 130."""
        self._wake(now)
        return self._stop(Over(130, reason), now) if self._outcome is None else []

    def tick(self, now: float) -> list[Action]:
        """Time has passed: look for workers that have stopped, hang, or have not ended within the grace time.

        If nothing at all was called for twice the heartbeat, it was the caller that slept (it was stopped, or its
        machine was): that time is not held against the workers.
        """
        self._wake(now)
        actions: list[Action] = []
        ends: dict[int, str] = {}
        for due, worker, reason in list(self._judgements()):
            if due <= now and worker is None:
                actions += self._abort(reason, now)
            elif due <= now and worker is not None:
                ends.setdefault(worker, reason)
        return actions + self._end(ends, now) + self._form(now)

    def deadline(self, now: float) -> float:
        """Seconds until `tick` should be called next."""
        dues = [due for due, _, _ in self._judgements()]
        if self._joining(self._latest) and self._limits.joining is not None:
            dues.append(self._begun + self._limits.joining)
        return max(0.0, min([now + self._limits.heartbeat / 2, *dues]) - now)

    @property
    def lacking(self) -> int:
        """How many workers need room before a generation can be formed; it waits meanwhile."""
        return max(0, self._least - sum(not it.ended for it in self._workers.values()))

    # --- who is there -------------------------------------------------------------------------------------------------

    def _start(self, worker: int, now: float) -> Start:
        self._workers[worker] = _Worker(seen=now, moved=now)
        return Start(worker)

    def _joining(self, now: float) -> bool:
        """Whether the first generation still waits for workers that may come."""
        joining = self._limits.joining
        return self.generation == 0 and (joining is None or now < self._begun + joining)

    def _wake(self, now: float) -> None:
        asleep = now - self._latest
        if asleep > 2 * self._limits.heartbeat:
            for it in self._workers.values():
                it.seen, it.moved = it.seen + asleep, it.moved + asleep
        self._latest = now

    def _hear(self, worker: int, now: float) -> _Worker | None:
        """The worker that says something; None if what it says does not count any more."""
        self._wake(now)
        it = self._workers.get(worker)
        if it is None or it.ended or self._outcome is not None:
            return None
        it.seen, it.heard = now, True
        return it

    def _judgements(self) -> Iterator[tuple[float, int | None, str]]:
        """When each worker is to be ended unless something happens before, and why; None: the generation."""
        limits, members = self._limits, frozenset(self.members)
        for worker, it in self._workers.items():
            if it.ended:
                continue
            if self._outcome is not None:
                grace = limits.saving if it.saving else limits.grace
                yield self._ending + grace, worker, f"it did not end within {grace:g} s"
                continue
            silence = limits.heartbeat if it.heard and not it.left else max(limits.heartbeat, _SILENT)
            yield it.seen + silence, worker, f"it said nothing for {silence:g} s"
            # After Abort nobody has to wait.
            waits = it.asked is not None or (it.waiting and worker in members and not self._aborted)
            if limits.hang is not None and it.heard and not waits:
                yield it.moved + limits.hang, worker, f"it made no progress for {limits.hang:g} s"
        inside = [self._workers[worker] for worker in self.members if self._workers[worker].asked is None]
        if limits.hang is not None and not self._aborted and inside and all(it.waiting for it in inside):
            due = max(it.moved for it in inside) + limits.hang
            yield due, None, f"all its workers waited for one another for {limits.hang:g} s"

    # --- generations --------------------------------------------------------------------------------------------------

    def _take_out(self, workers: Collection[int]) -> None:
        self.members = tuple(member for member in self.members if member not in workers)

    def _drop(self, workers: Mapping[int, str], now: float) -> list[Action]:
        """Workers are gone, and how; the newest generation has ended if one of them was in it."""
        inside = [f"worker {member} {workers[member]}" for member in self.members if member in workers]
        self._take_out(workers)
        return self._abort("; ".join(inside), now) if inside else []

    def _abort(self, reason: str, now: float) -> list[Action]:
        if self._aborted:
            return []
        self._aborted, self._why = True, reason
        inside = tuple(worker for worker in self.members if self._workers[worker].asked is None)
        for worker in inside:
            self._workers[worker].moved = now
        return [Abort(self.generation, inside, reason)] if inside else []

    def _form(self, now: float) -> list[Action]:
        """Answer those that ask, if nobody has to be waited for."""
        awaited = map(self._workers.__getitem__, self.members or self._workers)
        waits = (self.generation > 0 or self._joining(now)) and not self._complete
        if self._outcome is not None or (
            waits and any(it.asked is None and not (it.left or it.ended) for it in awaited)
        ):
            return []  # so it is for nearly all who ask: the first that has not is found soon
        there = {worker: it for worker, it in sorted(self._workers.items()) if not (it.left or it.ended)}
        asking = {worker: it.asked for worker, it in there.items() if it.asked is not None}
        if not asking:
            return []
        if self._complete:
            return self._past(asking, max(self._position, *asking.values()))
        staying = {w: position for w, position in asking.items() if not self._workers[w].drained}
        if max(staying.values(), default=Position(-1, -1)).op >= 0 or max(asking.values()).op < 0:
            going = {w: self._workers[w].drained for w in asking if w not in staying}
            if going:  # a worker that goes is told nothing more: its process is ended
                self._excused = True
                return self._end(going, now) + self._form(now)
        if self.lacking:
            return []
        try:
            agreed = agree(list(asking.values()))
        except ValueError as error:
            return self._stop(Over(3, f"the workers cannot go on together: {error}"), now)
        struck = max(int(self._aborted and not self._excused), *self._recent.values(), 0)
        self._losses = struck if _further(agreed.position, self._position) else self._losses + struck
        self._recent.clear()
        if self._losses >= self._limits.losses:
            return self._give_up(self._losses, now)
        workers = list(asking)
        self.generation += 1
        self.members = tuple(workers[i] for i in agreed.members)
        self._position, self._aborted, self._invited = agreed.position, False, False
        self._excused = False
        for worker in self.members:
            it = self._workers[worker]
            it.joined, it.asked, it.moved, it.waiting = True, None, now, False
        donor = None if agreed.donor is None else workers[agreed.donor]
        newcomers = frozenset(workers[i] for i in agreed.newcomers)
        form = Form(self.generation, self.members, agreed.position, donor, newcomers)
        behind = [worker for worker in workers if worker not in self.members]
        actions: list[Action] = [form, *self._past(behind, agreed.position)]
        drained = [worker for worker in self.members if self._workers[worker].drained]
        if 0 < len(drained) < len(self.members):  # those that stay have the state after the next op
            self._invited = True
            actions.append(Invite(self.members))
        return actions

    def _past(self, workers: Collection[int], position: Position) -> list[Action]:
        self._take_out(workers)
        for worker in workers:
            self._workers[worker].asked = None
        return [Past(worker, position) for worker in workers]

    # --- the end ------------------------------------------------------------------------------------------------------

    def _end(self, workers: Mapping[int, str], now: float) -> list[Action]:
        """End workers, and why; the others need not wait until they are gone."""
        workers = {worker: reason for worker, reason in workers.items() if not self._workers[worker].ended}
        for worker in workers:
            self._workers[worker].ended = True
        actions = self._drop({worker: f"is ended: {reason}" for worker, reason in workers.items()}, now)
        return [*actions, *(End(worker, reason) for worker, reason in workers.items())]

    def _stop(self, outcome: Over, now: float) -> list[Action]:
        self._outcome, self._ending = outcome, now
        actions = self._abort(outcome.reason, now)
        live = tuple(worker for worker, it in self._workers.items() if not it.ended)
        if live:
            actions.append(Stop(live, outcome.reason))
        return actions if self._workers else [*actions, outcome]

    def _give_up(self, times: int, now: float) -> list[Action]:
        text = f"workers were lost {times} times in a row and no op was agreed on in between; the last time {self._why}"
        return self._stop(Over(3, f"{text}; the same command resumes the run"), now)


def _further(position: Position, than: Position) -> bool:
    """Whether an op was agreed on between two positions; taking a state is none."""
    return (position.session, max(position.op, 0)) > (than.session, max(than.op, 0))
