"""What a run reports as it goes: one event type, one sink interface, and the sinks that lie in files.

Metrics, faults and progress all travel as :class:`Event`; whoever shows or keeps them is a :class:`Sink`. The
file format is JSON lines, one strict JSON object per event, so that any tool can read it and a kill can tear
at most the last line.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from runtime.store import LocalStore

_log = logging.getLogger(__name__)

Value = float | int | str

# JSON has no such numbers: they travel as these strings.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Event:
    """Something that happened at a step: its ``kind``, its named ``values``, and when (seconds since 1970).

    Raises
        TypeError: a value that is not a Python ``float``, ``int`` or ``str``, or a ``kind`` that is not a
            string.
        ValueError: a negative step.

    >>> Event("train", step=3, values={"loss": 0.5}, time=0.0)
    Event(kind='train', step=3, values={'loss': 0.5}, time=0.0)
    """

    kind: str
    step: int
    values: Mapping[str, Value] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str):
            raise TypeError(f"kind must be a string, got {self.kind!r}")
        if isinstance(self.step, bool) or not isinstance(self.step, int):
            raise TypeError(f"step must be an int, got {self.step!r}")
        if self.step < 0:
            raise ValueError(f"step must not be negative, got {self.step}")
        if not isinstance(self.values, Mapping):
            raise TypeError(f"values must be a mapping from names to values, got {self.values!r:.80}")
        for name, value in self.values.items():
            if not isinstance(name, str):
                raise TypeError(f"values: names must be strings, got {name!r}")
            if not isinstance(value, float | int | str):
                raise TypeError(
                    f"values[{name!r}] must be a float, int or str, got {type(value).__name__}; "
                    "convert it with float() or int()"
                )


class Sink(Protocol):
    """Where events go."""

    def emit(self, event: Event) -> None:
        """Take one event."""

    def close(self) -> None:
        """Release what the sink holds; it takes no event afterwards."""


class Tee:
    """A sink that hands every event to several others, in order."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def emit(self, event: Event) -> None:
        """Hand the event to every sink."""
        for sink in self._sinks:
            sink.emit(event)

    def close(self) -> None:
        """Close every sink, also when one of them fails."""
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)


class Lines(Sink, Protocol):
    """A sink that keeps one JSON object per event, in a file or in a store (`runtime.stored_events`)."""

    def go_on_from(self, step: int, recent: Sequence[Event]) -> None:
        """Begin to write where others stopped: the events of larger steps are removed, those steps are done again.

        Args:
            recent: all that happened of late, up to this step; what of it is not kept yet is added.
        """

    def flush(self) -> None:
        """Return when every event taken so far is kept.

        Raises
            OSError: the store refuses.
        """


class JsonLines:
    """A sink that appends one JSON object per event to a file, at once.

    What a full disk refuses is kept in memory and written when there is room again; the first refusal is logged.

    Opening a file that a killed process left drops its torn last line. A NaN or an infinity is written as the
    string ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``; :func:`read_events` turns these three back into
    floats.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run:
    ...     sink = JsonLines(f"{run}/metrics.jsonl")
    ...     for step in range(3):
    ...         sink.emit(Event("train", step, {"loss": 1 / (step + 1)}))
    ...     sink.truncate_after(1)
    ...     sink.close()
    ...     [event.values["loss"] for event in read_events(f"{run}/metrics.jsonl")]
    [1.0, 0.5]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if self._path.exists():
            lines = self._path.read_bytes()
            whole = lines.rfind(b"\n") + 1
            if whole < len(lines):
                os.truncate(self._path, whole)
        self._waiting, self._refused = b"", False
        self._open()

    def _open(self) -> None:
        # Without a buffer: what was written is out, and what was not is known.
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - stays open for the life of the sink

    def emit(self, event: Event) -> None:
        """Append the event and hand it to the operating system: a kill of the process does not lose it."""
        self._waiting += line_of(event)
        self._write()

    def flush(self) -> None:
        """What the disk takes at all was written at once."""

    def _write(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if not self._refused:
                _log.warning(f"{self._path} cannot be written ({error}); its lines wait until it can")
            self._refused = True
        else:
            self._refused = False

    def go_on_from(self, step: int, recent: Sequence[Event]) -> None:
        """Remove every event of a larger step, and write the recent ones of this step anew.

        Whoever wrote before may have been lost between two lines of it; those of the steps before are in the file.
        """
        recent = [event for event in recent if event.step == step]
        self.truncate_after(step - 1 if recent else step)
        for event in recent:
            self.emit(event)

    def truncate_after(self, step: int) -> None:
        """Remove every event of a larger step: a resumed run writes those again.

        A kill leaves either the old or the new file: they are the last lines and are cut off, which needs no room
        on the disk, or else the remaining lines are written beside and renamed.
        """
        lines = self._path.read_bytes().splitlines(keepends=True)
        events = read_events(self._path)
        kept = [line for line, event in zip(lines, events, strict=True) if event.step <= step]
        if kept == lines[: len(kept)]:
            os.truncate(self._path, sum(map(len, kept)))
        else:
            LocalStore(self._path.parent).write(self._path.name, kept)
        self._file.close()
        self._open()

    def close(self) -> None:
        """Close the file; what the disk still refuses is lost."""
        if not self._file.closed:
            self._write()
        self._file.close()


def read_events(path: str | os.PathLike[str]) -> Iterator[Event]:
    """The events of a file that :class:`JsonLines` wrote, one by one; a torn last line is left out.

    Raises
        FileNotFoundError: no such file.
        ValueError: a line, other than a torn last one, that is not an event; it is named by its number.
    """
    with open(path, "rb") as file:
        yield from events_in(file, os.fspath(path))


def line_of(event: Event) -> bytes:
    """The line that says an event.

    >>> line_of(Event("train", 3, {"loss": 0.5}, time=0.0))
    b'{"time": 0.0, "kind": "train", "step": 3, "values": {"loss": 0.5}}\\n'
    """
    fields = {
        "time": event.time,
        "kind": event.kind,
        "step": event.step,
        "values": {name: _to_json(value) for name, value in event.values.items()},
    }
    return json.dumps(fields, allow_nan=False).encode() + b"\n"


def events_in(lines: Iterable[bytes], name: str) -> Iterator[Event]:
    """The events that lines say, one by one; a torn last line is left out.

    Raises
        ValueError: a line, other than a torn last one, that is not an event; it is named by `name` and its number.
    """
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return
        try:
            fields = json.loads(line)
            values = {key: _from_json(value) for key, value in fields["values"].items()}
            event = Event(fields["kind"], fields["step"], values, fields["time"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{name}, line {number}: not an event: {line[:80]!r}") from error
        yield event


def _to_json(value: Value) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _from_json(value: Value) -> Value:
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
