"""`Progress`: what a user sees of a run while it goes: a live bar on a terminal, plain lines in a log.

It is a sink of events (`runtime.events`) and knows nothing else of the training. Its clock is the time that the
events carry, so that everything here can be tried on a made-up run. rich is imported when the first bar is
drawn: a run that is watched by nobody does not pay for it.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, TextIO

from runtime.events import Event, Value

from .shard import RESERVED

if TYPE_CHECKING:
    import rich.progress

VARIABLE = "DIST_DP_PROGRESS"
STYLES = ("auto", "bar", "plain", "off")

# Steps so long ago (in seconds of work) weigh 1/e of the newest in the rate.
_MEMORY = 20.0
# An epoch may be a single quick step: its end is a line of its own at most this often (seconds).
_BETWEEN_EPOCHS = 0.5
# Values of a step's event that are no metrics.


class Pace:
    """How fast a run goes and how long it will take.

    The rate is that of the newest seconds of work. The time left counts, beside the steps, what happened between
    them so far (validation, checkpoints), spread evenly.

    >>> pace = Pace()
    >>> for step in range(1, 11):
    ...     pace.add(examples=32, seconds=0.5, time=0.6 * step)
    >>> round(pace.examples_per_second, 6), round(pace.seconds_left(100), 6)
    (64.0, 60.0)
    """

    def __init__(self) -> None:
        self._examples = self._seconds = self._steps = 0.0
        self._between = 0.0
        self._counted = 0
        self._last: float | None = None

    def add(self, examples: float, seconds: float, time: float) -> None:
        """Count a step of so many examples, that took `seconds` and ended at `time`."""
        fading = math.exp(-seconds / _MEMORY)
        self._examples = self._examples * fading + examples
        self._seconds = self._seconds * fading + seconds
        self._steps = self._steps * fading + 1
        if self._last is not None:
            self._between += max(0.0, time - self._last - seconds)
            self._counted += 1
        self._last = time

    @property
    def examples_per_second(self) -> float:
        """The rate of the newest steps; NaN before the first."""
        return self._examples / self._seconds if self._seconds else math.nan

    def seconds_left(self, steps: int) -> float:
        """How long so many more steps will take; NaN before the first."""
        if not self._steps:
            return math.nan
        return steps * (self._seconds / self._steps + self._between / max(1, self._counted))


class _Display(Protocol):
    """Where progress appears; `interval` is the least time between two updates that nobody asked for."""

    interval: float

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def update(self, step: int, line: str) -> None:
        """Show where the run is now."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class _Lines:
    """Plain lines, for a log."""

    interval = 5.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def update(self, step: int, line: str) -> None:
        self.say(line)

    def close(self) -> None:
        pass


class _Bar:
    """A live bar, for a terminal. It is drawn by the training thread itself, at most ten times a second."""

    interval = 0.1

    def __init__(self, stream: TextIO, total_steps: int) -> None:
        self._stream, self._total = stream, total_steps
        self._live: rich.progress.Progress | None = None

    def _started(self) -> rich.progress.Progress:
        if self._live is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn
            from rich.table import Column

            one_line = Column(no_wrap=True, overflow="ellipsis")
            self._live = Progress(
                BarColumn(bar_width=20),
                TextColumn("{task.description}", markup=False, table_column=one_line),
                console=Console(file=self._stream, force_terminal=True),
                auto_refresh=False,
                transient=True,  # what stays of it are the lines
                # What the program prints appears above the bar, unless it goes to a file or a pipe.
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=True,
            )
            self._live.add_task("", total=self._total)
            self._live.start()
        return self._live

    def say(self, line: str) -> None:
        self._started().console.print(line, markup=False, highlight=False, soft_wrap=True)

    def update(self, step: int, line: str) -> None:
        live = self._started()
        live.update(live.task_ids[0], completed=step, description=line, refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()


class Progress:
    """Shows the events of a run on standard error.

    A live bar on a terminal; in a log the first step at once, then a line every 5 seconds at most, and a line for
    the end of each epoch, each validation, each warning and the end with the digest. The environment variable
    DIST_DP_PROGRESS says which: `auto` (the default), `bar`, `plain`, or `off`, which leaves only warnings.

    Args:
        total_steps: steps of the whole run.
        steps_per_epoch: steps of one epoch.
        stream: where to write; standard error by default.

    Raises:
        ValueError: DIST_DP_PROGRESS is none of these words.

    >>> progress = Progress(total_steps=4, steps_per_epoch=2, stream=sys.stdout)
    >>> progress.emit(Event("start", 0, time=0.0))
    4 steps, 2 an epoch
    >>> for step in range(1, 5):
    ...     values = {"epoch": (step - 1) // 2, "examples": 80, "seconds": 1.0, "loss": 1 / step}
    ...     progress.emit(Event("step", step, values, time=float(step)))
    step 1/4  epoch 1/2  loss 1  80 samples/s  0:03 left
    step 2/4  epoch 1/2  loss 0.5  80 samples/s  0:02 left
    step 4/4  epoch 2/2  loss 0.25  80 samples/s
    >>> progress.emit(Event("end", 4, {"digest": "0ff1ce", "loss": 0.25}, time=4.0))
    done: 4 steps in 0:04  loss 0.25
    digest 0ff1ce
    """

    def __init__(self, total_steps: int, steps_per_epoch: int, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        style = os.environ.get(VARIABLE, "auto")
        if style not in STYLES:
            raise ValueError(f"{VARIABLE} must be one of {', '.join(STYLES)}; got {style!r}")
        if style == "auto":
            style = (
                "bar" if stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown") else "plain"
            )
        self._display: _Display = _Bar(stream, total_steps) if style == "bar" else _Lines(stream)
        self._off = style == "off"
        self._total, self._per_epoch = total_steps, steps_per_epoch
        self._pace = Pace()
        self._began: Event | None = None
        self._newest: Event | None = None  # of the steps
        self._saved: int | None = None
        self._ended = False
        self._said_at = -math.inf  # an update
        self._epoch_said_at = -math.inf
        self._epoch_said = True

    def emit(self, event: Event) -> None:
        """Show the event, if it is due."""
        if event.kind == "warning":
            self._display.say(f"warning: {event.values['message']}")
        elif not self._off and (show := getattr(self, f"_on_{event.kind}", None)):
            show(event)

    def close(self) -> None:
        """Release the terminal; a run that has not come to its end says where it stands and what is saved."""
        if self._began and not self._ended:
            step = (self._newest or self._began).step
            saved = f"; the checkpoint of step {self._saved} is kept, the same command goes on from it"
            self._display.say(f"stopped at step {step} of {self._total}{saved if self._saved else ''}")
        self._display.close()

    def _on_start(self, event: Event) -> None:
        self._began = event
        if event.step:
            self._saved = event.step
            self._display.say(f"resumed at step {event.step} of {self._total}")
        else:
            self._display.say(f"{_plural(self._total, 'step')}, {self._per_epoch} an epoch")

    def _on_step(self, event: Event) -> None:
        values = event.values
        self._pace.add(float(values["examples"]), float(values["seconds"]), event.time)
        ends_epoch = event.step % self._per_epoch == 0
        self._newest = event
        last = event.step == self._total
        if ends_epoch:
            self._epoch_said = last or _passed(self._epoch_said_at, event.time, _BETWEEN_EPOCHS)
            if self._epoch_said:
                self._epoch_said_at = event.time
        if (ends_epoch and self._epoch_said) or _passed(self._said_at, event.time, self._display.interval):
            self._said_at = event.time
            self._display.update(event.step, self._line(event))

    def _line(self, event: Event) -> str:
        epoch, epochs = int(event.values["epoch"]) + 1, -(-self._total // self._per_epoch)
        metrics = {name: value for name, value in event.values.items() if name not in RESERVED}
        parts = [f"step {event.step}/{self._total}", f"epoch {epoch}/{epochs}", *_metrics(metrics)]
        rate, left = self._pace.examples_per_second, self._pace.seconds_left(self._total - event.step)
        if math.isfinite(rate):
            parts.append(f"{rate:,.0f} samples/s" if rate >= 10 else f"{rate:.2g} samples/s")
        if event.step < self._total:
            parts.append(f"{duration(left)} left")
        return "  ".join(parts)

    def _on_validation(self, event: Event) -> None:
        if self._epoch_said:
            epoch = -(-event.step // self._per_epoch)
            self._display.say("  ".join([f"validation after epoch {epoch}", *_metrics(event.values)]))

    def _on_generation(self, event: Event) -> None:
        """Workers were lost, or came."""
        number, workers, new = (int(event.values[name]) for name in ("number", "workers", "newcomers"))
        came = f", {new} of them new" if new else ""
        self._display.say(
            f"step {event.step}/{self._total}  generation {number}: {_plural(workers, 'worker')}{came}"
        )

    def _on_checkpoint(self, event: Event) -> None:
        self._saved = event.step

    def _on_end(self, event: Event) -> None:
        self._ended = True
        values = dict(event.values)
        digest = values.pop("digest", None)
        took = f" in {duration(event.time - self._began.time)}" if self._began else ""
        self._display.say("  ".join([f"done: {_plural(event.step, 'step')}{took}", *_metrics(values)]))
        if digest is not None:
            self._display.say(f"digest {digest}")


def _metrics(values: Mapping[str, Value]) -> list[str]:
    return [f"{n} {v:.4g}" if isinstance(v, float) else f"{n} {v}" for n, v in values.items()]


def _passed(since: float, now: float, interval: float) -> bool:
    return not 0 <= now - since < interval  # a clock that was set back must not silence the run


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds.

    >>> duration(5.4), duration(83), duration(7384)
    ('0:05', '1:23', '2:03:04')
    """
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
