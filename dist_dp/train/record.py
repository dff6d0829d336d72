"""`Record`: what a run leaves behind as it goes, and the hold of its directory. One worker at a time writes.

The worker of rank 0 writes: it holds the lock of the run directory, appends to `metrics.jsonl`, shows progress and
makes checkpoints (`saving.py`). When it is lost the next one takes over where the survivors stand; the others keep
silent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from runtime.events import Event, Lines, Sink, Tee
from runtime.member import current

from .progress import Progress
from .run_directory import RunDirectory

_log = logging.getLogger("dist_dp")


def _held() -> None:
    """The run is not lost to another process."""


class Record:
    """The files and displays of a run, seen by one worker; it writes only between `open` and `hand_on` or `close`.

    Args:
        directory: the run directory, or None for a run that leaves nothing.
        sinks: further receivers of events.
        progress: makes the progress display, or None.

    Attributes:
        writing: whether this worker writes.
        manifest: what the run is, as plain JSON, if this worker has written to the directory.
        recent: what the newest step was reported as, and those before whose lines a lost writer may not have kept yet;
            known also where it is not written.
    """

    def __init__(
        self,
        directory: RunDirectory | None,
        sinks: list[Sink],
        progress: Callable[[], Progress] | None,
    ) -> None:
        self.directory = directory
        self._sinks, self._progress = sinks, progress
        self._sink: Sink = Tee(())
        self._log: Lines | None = None
        self._check: Callable[[], None] = _held
        self._open = ExitStack()
        self.writing = False
        self.manifest: dict[str, Any] = {}
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
            self.manifest = json.loads(json.dumps(manifest))
            self._log = self.directory.lines()
            own.append(self._log)
        if self._progress is not None:
            own.append(self._progress())
        own += current().sinks("" if self.directory is None else self.directory.store.url)
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

    def go_on_from(self, step: int) -> None:
        """Events after this step are forgotten: those steps are done again.

        What is known here of the step itself is written anew: the writer before may have been lost in between.
        """
        if self._log is not None:
            self._log.go_on_from(step, self.recent)

    def flush(self) -> None:
        """Return when what was reported so far is kept.

        Raises:
            OSError: it is refused.
        """
        if self._log is not None:
            self._log.flush()

    def emit(self, kind: str, step: int, **values: Any) -> None:
        """Report something that happened at a step to every sink.

        Raises:
            RunInUse: another process has taken the run, because this one seemed lost.
        """
        self._check()
        event = Event(kind, step, values)
        if kind in ("step", "validation"):
            self._forget_before(event)
            self.recent.append(event)
        self._sink.emit(event)

    def _forget_before(self, newest: Event) -> None:
        lasting = 0.0 if self.directory is None else self.directory.seconds_to_keep
        since = newest.time - lasting
        kept = (i for i, e in enumerate(self.recent) if e.step == newest.step or e.time > since)
        del self.recent[: next(kept, len(self.recent))]

    def warn(self, message: str, step: int) -> None:
        self.emit("warning", step, message=message)
        if self._progress is None:  # else the progress display has said it
            _log.warning(message)
