"""`Saving`: when a run is saved, and what each worker does for it.

Every worker holds the whole state, so each writes its part of a checkpoint, meanwhile, in the background
(`runtime.checkpoint.Saver`). Whether a step is saved the worker of rank 0 decides, by its clock and by whether the one
before is written; it says so in the exchange of that step, with a name for the attempt, so that all take the same step
without another message. Where the workers do not see one directory, and where a generation ended meanwhile, the worker
of rank 0 writes the whole checkpoint. So it does with the newest step of a run that ends, in whatever way, if that is
not saved yet.
"""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from runtime import faults
from runtime.checkpoint import Checkpoint, CheckpointNotSaved, Part, Saver
from runtime.group import Group
from runtime.member import SAVING, Formation, current

from .record import Record
from .run_directory import damaged_message
from .session import Session
from .state import TrainState

# Without checkpoint_every, at most about this much work is lost when everything dies.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0

# The order to save that is for the worker of rank 0 by itself; any other is the name of an attempt to save in parts.
_ALONE = "alone"


class Saving:
    """The checkpoints of a run, seen by one worker.

    Args:
        record: what the run leaves behind.
        state: what is saved.
        every: steps between checkpoints; 0 for one at the end only; None: after an epoch and every 30 s.
        keep_last, keep_every: which checkpoints stay.
        steps_per_epoch, total_steps: of the run.

    """

    def __init__(
        self,
        record: Record,
        state: TrainState,
        *,
        every: int | None,
        keep_last: int,
        keep_every: int | None,
        steps_per_epoch: int,
        total_steps: int,
    ) -> None:
        self._record, self._directory, self._state = record, record.directory, state
        self._every, self._keep_last, self._keep_every = every, keep_last, keep_every
        self._steps_per_epoch, self._total_steps = steps_per_epoch, total_steps
        self._saver = Saver()
        self._saved = -1  # the newest step that this worker knows to be saved
        self._begun_at = time.monotonic()
        self._rank, self._size = 0, 1
        self._shared = False  # all workers see the run directory
        self._skipped = False  # it was said that checkpoints are skipped
        self._order = ""  # whether, and how, the step that the newest exchange led to is saved
        self._attempt = ""  # the order that is carried out, or was last
        self._refusal = (
            ""  # an order that this worker could not carry out, and why: said in the next exchange
        )

    # --- when ---------------------------------------------------------------------------------------------------------

    def word_for(self, step: int) -> str:
        """What this worker says in the exchange that leads to `step`.

        That of rank 0 says how the step is to be saved, if it is; the others which part of theirs will not come.
        """
        if not self._record.writing or self._directory is None:
            refusal, self._refusal = self._refusal, ""
            return refusal
        if step < self._total_steps:  # the last step is always saved
            if self._every is not None:
                due = self._every > 0 and step % self._every == 0
            else:
                waited, epoch_ends = time.monotonic() - self._begun_at, step % self._steps_per_epoch == 0
                due = waited > _SECONDS_BETWEEN_CHECKPOINTS or (epoch_ends and waited > 1.0)
            if not due or self._one_is_written(step):
                return ""
        return secrets.token_hex(4) if self._shared else _ALONE

    def hear(self, words: Sequence[str]) -> None:
        """Take note of what all workers said."""
        self._order = words[0]
        if self._record.writing:
            for word in words[1:]:
                attempt, _, why = word.partition(" ")
                if word and attempt == self._attempt:
                    self._saver.give_up(why)

    def _one_is_written(self, step: int) -> bool:
        """Whether the checkpoint of `step` has to be left out, because the one before is still being written."""
        if self._saver.busy and self._every is not None and not self._skipped:
            self._skipped = True
            self._record.warn(
                f"step {step} is not saved, the checkpoint before is still being written (said once); checkpoint_every="
                f"{self._every} asks for more than the disk or store can take",
                step,
            )
        return self._saver.busy

    def gather_is_due(self, step: int) -> bool:
        """Whether the state that lies with several workers is put together to be saved: by steps alone, for all must
        think the same."""
        if self._directory is None or step == 0:
            return False
        every = self._steps_per_epoch if self._every is None else self._every
        return step == self._total_steps or (every > 0 and step % every == 0)

    # --- saving -------------------------------------------------------------------------------------------------------

    def step_done(self, step: int, metrics: Mapping[str, float], settled: bool) -> None:
        """The state is that after `step` whole steps: save it, if that was said, and report what is saved meanwhile.

        Args:
            settled: the workers are those among whom it was said.
        """
        self._report()
        if step == self._total_steps and self._saver.busy:
            return  # then it is begun when that is written (`last`)
        order, self._order = self._order, ""
        if order and settled and order != _ALONE:
            if self._saver.busy:
                self._refusal = f"{order} it still writes the one before"
            else:
                self._attempt = order
                self._begin(step, metrics, Part(self._rank, self._size, order))
        elif order and self._record.writing:
            self._begin(step, metrics, None)

    def gathered(self, step: int, metrics: Mapping[str, float]) -> None:
        """The state after `step` steps was put together on this worker, to be saved."""
        if self._saved == step or (step < self._total_steps and self._one_is_written(step)):
            return
        self._drain()
        self._begin(step, metrics, None)

    def last(
        self, step: int, metrics: Mapping[str, float], whole: bool, session: Session | None = None
    ) -> None:
        """The loop ends: wait until what was begun is written, and have the newest step saved.

        A Ctrl-C meanwhile is heard when it is saved.

        Args:
            whole: the state here is that after `step` whole steps.
            session: the others come here too, and their parts can be waited for.
        """
        with _interrupted_later():
            current().progress(step, SAVING)
            self._drain(None if session is None else session.group)
            if session is not None:
                self._last_together(step, metrics, session)
            if whole and self._record.writing and self._directory is not None and self._saved != step > 0:
                self._begin(step, metrics, None)
                self._drain()

    def _last_together(self, step: int, metrics: Mapping[str, float], session: Session) -> None:
        """Begin the last step's checkpoint, if one was being written before; wait for all parts of it."""
        if self._order:
            self.step_done(step, metrics, settled=True)
        if self._directory is not None:  # whether it is shared, one may not have heard
            if not self._record.writing:
                self._drain()
            told, self._refusal = session.gather(self._refusal), ""
            self.hear(["", *told[1:]])
        self._drain(session.group)

    def _begin(self, step: int, metrics: Mapping[str, float], part: Part | None) -> None:
        assert self._directory is not None
        directory = self._directory
        faults.here("checkpoint", step)
        arrays, optimizer = self._state.saved()
        written = {name: repr(value) for name, value in metrics.items()}  # NaN is no JSON
        meta = {"run": self._record.manifest, "optimizer": optimizer, "metrics": written}
        with _interrupted_later():
            self._saver.save(
                directory.checkpoints,
                step,
                arrays,
                meta,
                part=part,
                digested="model/",
                keep_last=self._keep_last,
                keep_every=self._keep_every,
                first=self._record.flush,
                then=lambda digest: directory.record_digest(digest, step),
            )
        self._begun_at = time.monotonic()

    def _report(self) -> None:
        for outcome in self._saver.finished():
            if isinstance(outcome.error, (CheckpointNotSaved, OSError)):
                if not self._record.writing:
                    self._refusal = f"{self._attempt} {outcome.error}"
                self._record.warn(
                    f"step {outcome.step}: {outcome.error}; training goes on, the last good checkpoint is kept",
                    outcome.step,
                )
            elif outcome.error is not None:
                raise outcome.error
            elif outcome.digest is not None:  # not only a part
                self._saved = outcome.step
                self._record.emit(
                    "checkpoint",
                    outcome.step,
                    digest=outcome.digest,
                    seconds=round(outcome.seconds, 6),
                    bytes=outcome.bytes,
                )

    def _drain(self, group: Group | None = None) -> None:
        """Wait until nothing is being written; for the parts of others only while `group` is intact."""
        while True:
            if group is None or group.broken:
                self._saver.give_up()
            if self._saver.drain(0.1):
                break
        self._report()

    # --- the other workers --------------------------------------------------------------------------------------------

    def hand_on(self) -> None:
        """Another worker writes from now on."""
        if self._record.writing:
            self._drain()
        self._record.hand_on()

    def newest(self, step: int) -> Checkpoint | None:
        """The newest checkpoint that verifies, if there is a directory; damaged ones are reported at `step`."""
        if self._directory is None:
            return None
        self._drain()
        found = self._directory.newest(lambda error: self._record.warn(damaged_message(error), step))
        self._saved = -1 if found is None else found.step
        return found

    def settle(self, formation: Formation, begins: bool, step: int) -> None:
        """A new generation at `step`: find out whether all workers see the run directory, which rank 0 has open."""
        group, newcomers = formation.group, len(formation.newcomers)
        if group.size - newcomers < self._size:
            self._saver.give_up()  # the parts of those that were lost will not come
        if self._order:
            self._order = _ALONE
        self._refusal = ""
        self._rank, self._size = group.rank, group.size
        if begins or newcomers or group.size == 1:
            self._shared = False  # until it is known: the generation may end before
            if self._directory is not None and group.size > 1:
                self._look(group, step)

    def _look(self, group: Group, step: int) -> None:
        assert self._directory is not None
        store, token = self._directory.store, f"seen-{secrets.token_hex(4)}"
        if group.rank == 0:
            try:
                store.write(token, [b""])
            except OSError:
                token = ""
        token, seen = group.gather_objects(token)[0], False
        with suppress(OSError):
            seen = bool(token) and token in store.names()
        told = group.gather_objects(seen)
        self._shared = all(told)
        if group.rank == 0 and token:
            with suppress(OSError):
                store.remove(token)
            if not self._shared:
                blind = ", ".join(str(rank) for rank, sees in enumerate(told) if not sees)
                self._record.warn(
                    f"the workers of rank {blind} do not see the run directory {store.url} of rank 0, which writes "
                    "whole checkpoints by itself; give run= a directory that all machines share, or a URL (s3://...), "
                    "and they write together",
                    step,
                )


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Let a Ctrl-C wait until what is begun here is done. It comes to the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if came:
            signal.raise_signal(signal.SIGINT)
