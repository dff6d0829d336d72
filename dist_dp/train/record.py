"""`Record`: what a run leaves behind as it goes: events, checkpoints, digests. One worker at a time writes it.

The worker of rank 0 writes: it holds the lock of the run directory, appends to `metrics.jsonl`, shows progress and
saves checkpoints. When it is lost the next one takes over where the survivors stand; the others keep silent.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from runtime import checkpoint
from runtime.checkpoint import Checkpoint, CheckpointNotSaved
from runtime.events import Event, Lines, Sink, Tee

from .progress import Progress
from .run_directory import RunDirectory, damaged_message

_log = logging.getLogger("dist_dp")

# Without checkpoint_every, at most about this much work is lost when everything dies.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


def _held() -> None:
    """The run is not lost to another process."""


class Record:
    """The files and displays of a run, seen by one worker; it writes only between `open` and `hand_on` or `close`.

    Args:
        directory: the run directory, or None for a run that leaves nothing.
        every: steps between checkpoints; 0 for one at the end only; None: after an epoch and every 30 s.
        keep_last, keep_every: which checkpoints stay.
        sinks: further receivers of events.
        progress: makes the progress display, or None.

    Attributes:
        writing: whether this worker writes.
        recent: what the newest step was reported as; known also where it is not written.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        every: int | None,
        keep_last: int,
        keep_every: int | None,
        sinks: list[Sink],
        progress: Callable[[], Progress] | None,
    ) -> None:
        self.directory = directory
        self._every, self._keep_last, self._keep_every = every, keep_last, keep_every
        self._sinks, self._progress = sinks, progress
        self._sink: Sink = Tee(())
        self._log: Lines | None = None
        self._check: Callable[[], None] = _held
        self._open = ExitStack()
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self.writing = False
        self.recent: list[Event] = []

    def open(self, manifest: dict[str, Any], takeover: bool = False) -> None:
        """Begin to write: take the run directory, check that it is this run, open the sinks.

        Args:
            takeover: the writer before was lost, and its lock may be free only in a moment.

        Raises:
            RunInUse: another process trains in the directory.
            RunMismatch: it holds another run.
        """
        if self.writing:
            return
        own: list[Sink] = []
        if self.directory is not None:
            self.directory.create()
            self._check = self._open.enter_context(self.directory.held(takeover))
            self.directory.agree(manifest)
            self._log = self.directory.lines()
            own.append(self._log)
        if self._progress is not None:
            own.append(self._progress())
        self._sink = Tee([*self._sinks, *own])
        self._open.callback(Tee(own).close)
        self.writing = True

    def hand_on(self) -> None:
        """Write no more, for the time being; the directory is free for another worker."""
        self.writing = False
        self._open.close()
        self._sink, self._log, self._check = Tee(()), None, _held

    def close(self) -> None:
        """Write no more."""
        self.hand_on()
        sinks, self._sinks = self._sinks, []
        Tee(sinks).close()

    def newest(self, step: int) -> Checkpoint | None:
        """The newest checkpoint that verifies, if there is a directory; damaged ones are reported at `step`."""
        if self.directory is None:
            return None
        found = self.directory.newest(lambda error: self.warn(damaged_message(error), step))
        if found is not None:
            self._saved_step = found.step
        return found

    def go_on_from(self, step: int) -> None:
        """Events after this step are forgotten: those steps are done again.

        What is known here of the step itself is written anew: the writer before may have been lost in between.
        """
        if self._log is not None:
            self._log.truncate_after(step - 1 if self.recent else step)
            for event in self.recent:
                self._log.emit(event)

    def emit(self, kind: str, step: int, **values: Any) -> None:
        """Report something that happened at a step to every sink.

        Raises:
            RunInUse: another process has taken the run, because this one seemed lost.
        """
        self._check()
        event = Event(kind, step, values)
        if kind in ("step", "validation"):
            self.recent = [e for e in self.recent if e.step == step] + [event]
        self._sink.emit(event)

    def warn(self, message: str, step: int) -> None:
        self.emit("warning", step, message=message)
        if self._progress is None:  # else the progress display has said it
            _log.warning(message)

    def due(self, step: int, epoch_ends: bool, last: bool) -> bool:
        """Whether a checkpoint of this step is to be saved now."""
        if not self.writing or self.directory is None or self._saved_step == step or (last and step == 0):
            return False
        if last:
            return True
        if self._every is not None:
            return self._every > 0 and step % self._every == 0
        waited = time.monotonic() - self._saved_at
        return waited > _SECONDS_BETWEEN_CHECKPOINTS or (epoch_ends and waited > 1.0)

    def save(self, step: int, arrays: dict[str, Any], meta: dict[str, Any], digest: str) -> None:
        """Save a checkpoint; if that fails, say so and go on. A Ctrl-C meanwhile is heard when it is saved."""
        assert self.directory is not None
        try:
            with _interrupted_later():
                checkpoint.save(
                    self.directory.checkpoints,
                    step,
                    arrays,
                    meta,
                    digest=digest,
                    keep_last=self._keep_last,
                    keep_every=self._keep_every,
                )
                self.directory.record_digest(digest, step)
                self._saved_step = step
        except (CheckpointNotSaved, OSError) as error:
            self.warn(
                f"step {step} was not saved ({error}); training goes on, the last good checkpoint is kept",
                step,
            )
        else:
            self.emit("checkpoint", step, digest=digest)
        self._saved_at = time.monotonic()


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
