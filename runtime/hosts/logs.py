"""`WorkerLogs`: what the workers of a run print, on the terminal of their launcher and in a file for each.

Bytes go in as they come out of the pipes, cut anywhere; lines come out whole. Worker 0 stands for the run: a program
prints its result once, not once for each worker. What it prints goes to the terminal as it is, at once. The lines of
others get a prefix, and wait for the end of a line that worker 0 has begun.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Literal, TextIO, get_args

Stream = Literal["stdout", "stderr"]
Show = Literal["errors", "all", "first"]

_LINE = 1 << 20  # bytes of a line; a longer one is cut
_HELD = (
    1 << 18
)  # bytes kept of each worker until the run directory is known, and of lines that wait for worker 0
_COLOURS = (36, 33, 35, 32, 34, 31)


class WorkerLogs:
    """Shows and keeps the output of workers. To be called from one thread.

    The log of a worker, `logs/worker-<n>.log` in the run directory, holds the lines of both streams in the order in
    which they ended. What came before the run directory was known is held back, the newest 256 KiB of each worker;
    without a run directory it is dropped. A log that cannot be written is told of once, and the run goes on.

    Args:
        workers: how many there are.
        stdout, stderr: where to show the two streams; text streams, written by their `buffer` where they have one.
        show: "errors": worker 0's output as it is, and what others write to stderr, with prefixes; "all": every line
            of every worker, with prefixes; "first": worker 0 alone.

    Raises:
        ValueError: `show` is none of these.

    >>> import sys
    >>> logs = WorkerLogs(2, sys.stdout, sys.stdout)
    >>> for worker in (0, 1):
    ...     logs.feed(worker, "stdout", b"ended with 0ff1ce\\n")
    ...     logs.feed(worker, "stderr", b"a warning\\n")
    ended with 0ff1ce
    a warning
    [1] a warning
    """

    def __init__(self, workers: int, stdout: TextIO, stderr: TextIO, show: Show = "errors") -> None:
        if show not in get_args(Show):
            raise ValueError(f"show must be one of {', '.join(get_args(Show))}; got {show!r}")
        self._workers, self._show = workers, show
        shared = _Screen() if stdout is stderr or (stdout.isatty() and stderr.isatty()) else None
        self._places = {
            stream: _Place(file, shared or _Screen())
            for stream, file in zip(get_args(Stream), (stdout, stderr), strict=True)
        }
        self._partial = {(w, s): bytearray() for w in range(workers) for s in self._places}
        self._held: dict[int, bytearray] = {}
        self._running: set[int] = set()
        self._directory: Path | None = None
        self._files: dict[int, BinaryIO] = {}

    def started(self, worker: int) -> None:
        """A process begins to be this worker: its output follows that of the one before, with a mark between."""
        if worker in self._running:
            self._flush(worker)
            self._keep(worker, f"--- worker {worker} started again\n".encode())
        self._running.add(worker)

    def feed(self, worker: int, stream: Stream, data: bytes) -> None:
        """Take what a worker wrote, cut anywhere."""
        if self._is_raw(worker):
            self._places[stream].write(data)
        partial = self._partial[worker, stream]
        newest = data.rfind(b"\n") + 1
        ended = len(partial) + newest if newest else 0
        partial += data
        if len(partial) - ended > _LINE:
            partial += b"\n"
            ended = len(partial)
        if ended:
            lines = bytes(partial[:ended])
            del partial[:ended]
            self._lines(worker, stream, lines)

    def say(self, line: str) -> None:
        """Show a line of the launcher's own on stderr."""
        self._places["stderr"].write_line(line.encode())

    def run_directory(self, path: str | os.PathLike[str]) -> None:
        """From now on the logs are kept in this run directory, as soon as it is there."""
        directory = Path(path) / "logs"
        if directory != self._directory:
            self._close_files()
            self._directory = directory
            self._write_held()

    def close(self) -> None:
        """Show and keep the lines that were not ended, and close the logs."""
        for worker in range(self._workers):
            self._flush(worker)
        for place in self._places.values():
            place.screen.release()
        self._write_held()
        self._close_files()

    def _is_raw(self, worker: int) -> bool:
        return worker == 0 and self._show != "all"

    def _flush(self, worker: int) -> None:
        for stream, place in self._places.items():
            partial = self._partial[worker, stream]
            if partial:
                self._lines(worker, stream, bytes(partial) + b"\n")
                partial.clear()
            if self._is_raw(worker):
                place.end_line()

    def _lines(self, worker: int, stream: Stream, lines: bytes) -> None:
        self._keep(worker, lines)
        shown = self._show == "all" or (self._show == "errors" and worker > 0 and stream == "stderr")
        if shown:
            place = self._places[stream]
            for line in lines[:-1].split(b"\n"):
                # Of a line that was drawn over, what a terminal would show in the end.
                place.write_line(line.rstrip(b"\r").rpartition(b"\r")[2], worker)

    def _keep(self, worker: int, lines: bytes) -> None:
        held = self._held.setdefault(worker, bytearray())
        held += lines
        self._write_held()
        if len(held) > _HELD:
            left_out = b"--- more was printed before\n"
            del held[: held.index(b"\n", len(held) - _HELD + len(left_out) - 1) + 1]
            held[:0] = left_out

    def _write_held(self) -> None:
        # The directory is made by the run itself, which may have been refused there.
        if self._directory is None or not self._directory.parent.is_dir():
            return
        try:
            self._directory.mkdir(exist_ok=True)
            for worker, lines in self._held.items():
                self._file(worker).write(lines)
                lines.clear()
            self._held.clear()
        except OSError as error:
            self.say(f"dist-dp: the logs of the workers are not kept ({error}); the run goes on")
            self._close_files()
            self._directory = None

    def _file(self, worker: int) -> BinaryIO:
        if worker not in self._files:
            assert self._directory is not None
            # Unbuffered: it is read while the run goes, and is whole if the launcher is killed.
            file = open(self._directory / f"worker-{worker}.log", "ab", buffering=0)  # noqa: SIM115
            if file.tell():
                file.write(b"--- continued\n")
            self._files[worker] = file
        return self._files[worker]

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


class _Screen:
    """Where the cursor of a terminal stands: both streams may lead to it."""

    def __init__(self) -> None:
        self.open = False  # behind a line that has begun
        self.drawn_over = False  # ... and is drawn again and again: it has no end to wait for
        self.waiting: list[tuple[_Place, bytes]] = []
        self.waiting_bytes = 0

    def release(self) -> None:
        """Write the lines that waited."""
        waiting, self.waiting, self.waiting_bytes = self.waiting, [], 0
        for place, line in waiting:
            if self.open:
                place.put(b"\n")
                self.open = self.drawn_over = False
            place.put(line)


class _Place:
    """A stream of the launcher, and the screen that it leads to."""

    def __init__(self, file: TextIO, screen: _Screen) -> None:
        self._file, self.screen = file, screen
        self._colour = file.isatty() and "NO_COLOR" not in os.environ
        self.put = _writer(file)

    def write(self, data: bytes) -> None:
        """Write what worker 0 wrote, as it is."""
        screen = self.screen
        ended = data.rfind(b"\n") + 1
        if ended:
            self.put(data[:ended])
            screen.open = screen.drawn_over = False
            screen.release()
        if rest := data[ended:]:
            self.put(rest)
            screen.open = True
            screen.drawn_over |= b"\r" in rest

    def write_line(self, text: bytes, worker: int | None = None) -> None:
        """Write a line of somebody else, now or when that of worker 0 has ended."""
        screen = self.screen
        prefix = b"" if worker is None else self._prefix(worker)
        line = prefix + text + b"\n"
        screen.waiting.append((self, line))
        screen.waiting_bytes += len(line)
        if not screen.open or screen.drawn_over or screen.waiting_bytes > _HELD:
            screen.release()

    def end_line(self) -> None:
        if self.screen.open:
            self.write(b"\n")

    def _prefix(self, worker: int) -> bytes:
        text = f"[{worker}]"
        return (
            f"\x1b[{_COLOURS[worker % len(_COLOURS)]}m{text}\x1b[0m " if self._colour else f"{text} "
        ).encode()


def _writer(file: TextIO) -> Callable[[bytes], None]:
    """Writes bytes to a text stream. Nobody reads it any more: what comes then is dropped, the run goes on."""
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    gone = False

    def write(data: bytes) -> None:
        nonlocal gone
        if gone:
            return
        try:
            if hasattr(file, "buffer"):
                file.flush()
                file.buffer.write(data)
            else:  # a notebook's
                file.write(decode(data))
            file.flush()
        except OSError:
            gone = True

    return write
