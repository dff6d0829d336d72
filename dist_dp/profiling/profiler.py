"""`profile`: measures every operation of a block, forward and backward, and what the training loop does around them."""

from __future__ import annotations

import itertools
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from runtime import timeline
from runtime.member import current

from ..ops.core import Op, apply
from ..random import integer_argument
from ..tape import Interpreter, Node, applying, mode
from .profiles import Profile, Row

_numbers = itertools.count()

# What other threads than the one that is measured do, by the name of their spans.
_THREADS = {
    "data, loading": "loading ahead",
    "checkpoint, write": "writing checkpoints",
    "waiting": "exchanging",
}


def local_folder(folder: str | os.PathLike[str], name: str = "folder") -> Path:
    """The argument `name`: a folder on this machine into which files can be written; it is made if it is not there.

    Raises:
        TypeError: it is no path.
        ValueError: it is empty, or a URL.
        OSError: it cannot be made, or nothing can be written into it.
    """
    import tempfile  # only here: it loads much

    if not isinstance(folder, str | os.PathLike):
        raise TypeError(
            f"{name} must be the path of a local folder, got {folder!r:.80} ({type(folder).__name__})"
        )
    path = os.fspath(folder)
    if not path or re.match(r"[a-z][a-z0-9+]+:/", str(path)):  # of `Path("s3://bucket")` one slash is left
        raise ValueError(f"{name} must be the path of a local folder, got {path!r}; give one on this machine")
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return Path(path)
    except OSError as error:
        raise type(error)(
            f"{name} must be a local folder that can be written into, got {path!r} ({error.strerror}); give another one"
        ) from None


@contextmanager
def profile(folder: str | os.PathLike[str] | None = None, *, spans: int = 500_000) -> Iterator[Profile]:
    """Measure what this thread computes inside the block: every operation forward and backward, and in a training loop
    the update, the exchange with the other workers, waiting for them, for data and for checkpoints.

    Every operation takes a few microseconds more while it is measured, so small ones look slower than they are. Nothing
    else changes: the results have the same bits.

    Args:
        folder: if given, the profile is saved in it at the end as `worker-RANK-PID-NUMBER.json`, which Perfetto
            opens. Each worker of a run writes its own; `dist-dp profile FOLDER` puts them together. If it cannot be
            written at the end, a line on stderr says so, and nothing else fails.
        spans: how many spans are kept one by one, for the trace; the table counts all.

    >>> import dist_dp as dp
    >>> w = dp.tensor([1.0, 2.0], requires_grad=True)
    >>> with dp.profile() as profile:
    ...     (w * w).sum().backward()
    >>> sorted(row.name for row in profile.rows[0])
    ['multiply', 'multiply, backward', 'sum', 'sum, backward']
    """
    integer_argument("spans", spans, least=0)
    place = None if folder is None else local_folder(folder)  # now, and not when all is done, if it cannot be
    found, kept = Profile(), _Kept(spans)
    before, mode.watch = mode.watch, _Backward
    try:
        # Inside another one, spans are made already: this one keeps them too.
        with timeline.keeping(kept), applying(_Forward()) if before is None else nullcontext():
            yield found
    finally:
        mode.watch = before
        worker = current().worker
        kept.into(found, worker)
        if place is not None:
            _save(found, place / f"worker-{worker}-{os.getpid()}-{next(_numbers)}.json")


def _save(found: Profile, path: Path) -> None:
    """Write a profile, or warn that it is lost: what was measured has done its work."""
    try:
        found.save(path)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # a part of it
        print(f"warning: the profile is lost, {path} cannot be written: {error.strerror}", file=sys.stderr)


class _Kept:
    """The spans of a block: counted by name, and one by one."""

    def __init__(self, most: int) -> None:
        self._most, self._thread = most, threading.get_ident()
        self._rows: dict[str, Row] = {}
        self._spans: list[timeline.Span] = []
        self._left_out = 0
        self._begin = time.perf_counter_ns()
        # From this process's clock to the one of all, so that the traces of several workers fit together.
        self._offset = time.time_ns() - self._begin

    def keep(self, span: timeline.Span) -> None:
        if len(self._spans) < self._most:
            self._spans.append(span)
        else:
            self._left_out += 1
        if span.thread == self._thread:
            row = self._rows.get(span.name)
            if row is None:
                row = self._rows[span.name] = Row(span.name)
            row.calls += 1
            row.seconds += (span.end - span.begin - span.inside) / 1e9
            row.bytes += span.bytes

    def into(self, profile: Profile, worker: int) -> None:
        """Fill the profile of this worker."""
        profile.seconds[worker] = (time.perf_counter_ns() - self._begin) / 1e9
        profile.rows[worker] = sorted(self._rows.values(), key=lambda row: -row.seconds)
        profile.left_out = self._left_out
        events: list[dict[str, Any]] = []
        # A thread that begins when another one has ended may be given its ident.
        threads = {(self._thread, "main thread"): 0}
        for span in self._spans:
            own = span.thread == self._thread
            thread = span.thread, "main thread" if own else _THREADS.get(span.name, "another thread")
            event: dict[str, Any] = {
                "name": span.name,
                "ph": "X",
                "ts": (span.begin + self._offset) / 1e3,
                "dur": (span.end - span.begin) / 1e3,
                "pid": worker,
                "tid": threads.setdefault(thread, len(threads)),
            }
            if span.bytes:
                event["args"] = {"bytes": span.bytes}
            events.append(event)

        def named(what: str, tid: int, name: str) -> dict[str, Any]:
            return {"name": what, "ph": "M", "pid": worker, "tid": tid, "args": {"name": name}}

        profile.events.append(named("process_name", 0, f"worker {worker}"))
        profile.events += [named("thread_name", tid, name) for (_, name), tid in threads.items()]
        profile.events += events


class _Forward(Interpreter):
    """Applies operations as they would be, each in a span."""

    def __call__(self, op: Op, inputs: tuple[Any, ...], params: tuple[Any, ...]) -> Any:
        with timeline.Measured(op.name) as span:
            with applying(self.outer):
                out = apply(op, inputs, params)
            outs = out if isinstance(out, tuple) else (out,)
            span.bytes = sum([getattr(x, "nbytes", 0) for x in (*inputs, *outs)])
        return out


class _Backward:
    """The spans of one sweep: each node's lasts until the next one comes."""

    def __init__(self) -> None:
        self._span: timeline.Measured | None = None

    def __call__(self, node: Node | None, gradient: Any) -> None:
        """Begin the span of this node, given the gradient of its output; None: the sweep has ended."""
        if self._span is not None:
            self._span.__exit__()
            self._span = None
        if node is not None:
            self._span = timeline.Measured(f"{node.op.name}, backward")
            given = gradient if isinstance(gradient, list) else [gradient]
            self._span.bytes = sum([getattr(g, "nbytes", 0) for g in given])
            self._span.__enter__()
