"""Events as JSON lines in a store that cannot append: objects of lines, one after the other.

Below `metrics/` lie `0000000000.jsonl`, `0000000001.jsonl`, ...: together the lines of a `metrics.jsonl`. Only the last
is ever written again, whole, every 15 s by a thread: no step waits for the store, and no write grows with the run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Sequence

from .events import Event, events_in, line_of
from .store import Store

_log = logging.getLogger(__name__)

FOLDER = "metrics"
EVERY = 15.0
_PART = 1 << 20  # bytes from which on another object is begun


class StoredLines:
    """A sink that keeps its lines in a store; events must come in the order of their steps.

    What the store refuses is kept in memory and written when it takes it; the first refusal is logged.

    Args:
        store: of the run.
        every: seconds between writes.

    Raises:
        OSError: the store cannot be reached.
    """

    def __init__(self, store: Store, every: float | None = None) -> None:
        self._store, self._every = store, EVERY if every is None else every
        numbers = _numbers(store)
        self._number = numbers[-1] + 1 if numbers else 0
        self._lines: list[bytes] = []  # of the last object
        self._written = 0  # how many of them are in the store
        self._state, self._writing = threading.Lock(), threading.Lock()
        self._refused = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="metrics", daemon=True)
        self._thread.start()

    def emit(self, event: Event) -> None:
        """Take an event; it is in the store some seconds later, or when `flush` returns."""
        line = line_of(event)
        with self._state:
            self._lines.append(line)

    def flush(self) -> None:
        """Return when every event taken so far is in the store.

        Raises:
            OSError: the store refuses; the lines wait.
        """
        with self._writing:
            with self._state:
                lines, written = list(self._lines), self._written
            if len(lines) == written:
                return
            content = b"".join(lines)
            self._store.write(_name(self._number), [content])
            with self._state:
                if len(content) < _PART:
                    self._written = len(lines)
                else:
                    self._number += 1
                    self._written = 0
                    del self._lines[: len(lines)]

    def truncate_after(self, step: int) -> None:
        """Remove every event of a larger step: a resumed run writes those again.

        It goes from the last object to the first, so a kill leaves what is to be kept, and the first of the others.

        Raises:
            OSError: the store cannot be reached, or refuses.
        """
        with self._writing, self._state:
            if self._written:  # one of those in the store, from now on
                self._number, self._written, self._lines = self._number + 1, 0, self._lines[self._written :]
            self._lines = _up_to(step, self._lines, "")
            for number in reversed(_numbers(self._store)):
                name = _name(number)
                lines = self._store.read(name).splitlines(keepends=True)
                kept = _up_to(step, lines, f"{self._store.url}/{name}")
                if len(kept) == len(lines) > 0:
                    break
                if kept:
                    self._store.write(name, kept)
                else:
                    self._store.remove(name)

    def go_on_from(self, step: int, recent: Sequence[Event]) -> None:
        """Remove every event of a larger step, and write the recent ones from the last that is kept on.

        Whoever wrote before may have been lost before its newest lines came into the store.
        """
        self.truncate_after(step)
        kept = self._last_step({event.kind for event in recent})
        if any(event.step == kept for event in recent):  # only some of its lines may be there
            self.truncate_after(kept - 1)
        for event in recent:
            if kept <= event.step <= step:
                self.emit(event)

    def _last_step(self, kinds: Collection[str]) -> int:
        """The step of the last line of these kinds that is kept; -1 if there is none.

        Others come late: that a checkpoint was saved is known some steps after its own.
        """
        for number in reversed(_numbers(self._store)) if kinds else ():
            if found := [event.step for event in _events_of(self._store, number) if event.kind in kinds]:
                return found[-1]
        return -1

    def close(self) -> None:
        """Write what is left; what the store still refuses is lost, and said."""
        self._ended.set()
        self._thread.join()
        try:
            self.flush()
        except OSError as error:
            _log.warning(f"the newest lines of {self._store.url}/{FOLDER} are lost ({error})")

    def _keep(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self.flush()
            except OSError as error:
                if not self._refused:
                    _log.warning(
                        f"{self._store.url}/{FOLDER} cannot be written ({error}); its lines wait until it can"
                    )
                self._refused = True
            else:
                self._refused = False


def read_stored_events(store: Store) -> Iterator[Event]:
    """The events that `StoredLines` wrote, one by one; none if there are none.

    Raises:
        OSError: the store cannot be reached.
        ValueError: a line that is not an event; it is named.
    """
    for number in _numbers(store):
        yield from _events_of(store, number)


def _events_of(store: Store, number: int) -> Iterator[Event]:
    name = _name(number)
    return events_in(store.read(name).splitlines(keepends=True), f"{store.url}/{name}")


def _up_to(step: int, lines: list[bytes], name: str) -> list[bytes]:
    return [line for line, event in zip(lines, events_in(lines, name), strict=True) if event.step <= step]


def _numbers(store: Store) -> list[int]:
    stems = (name.removesuffix(".jsonl") for name in store.names(FOLDER))
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def _name(number: int) -> str:
    return f"{FOLDER}/{number:010d}.jsonl"
