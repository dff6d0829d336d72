"""How long a run of several workers takes to start, and to go on after one of them was killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from runtime.events import Event, read_events

from .losses_program import BATCH, SHARDS
from .turns import program_environment

_ENDLESS = 1 << 30
_PATIENCE = 60.0  # seconds for a worker to come (back)


class Recovery(NamedTuple):
    """After one kill: seconds until the survivors had done a step, and until all workers had; steps begun twice."""

    survivors: float
    replacement: float
    again: int


def lines(starts: int, kills: int) -> Iterator[str]:
    yield "\n## Starting\n"
    yield f"From the command `dist-dp run -n N` to the end of the first step, in seconds, of {starts} starts each. The"
    yield f"program trains the digits CNN on random images, batch {BATCH} in {SHARDS} shards, with a run directory.\n"
    yield "| workers | median | worst |\n|---|---|---|"
    for workers in (1, 2, 4):
        seconds = [start(workers) for _ in range(starts)]
        yield f"| {workers} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |"
    yield "\n## A worker is killed\n"
    yield f"The same program; one worker after the other gets SIGKILL at a random moment, {kills} in all, each when the"
    yield "one before is back. *survivors*: until the workers that are left have finished a step among themselves;"
    yield "*replacement*: until all workers, the new one among them, have finished one; both from just before the kill,"
    yield "by the events in `metrics.jsonl`. *again*: steps of which some shard was begun twice, by the programs' own"
    yield "account.\n"
    yield (
        "| workers | kills | survivors ms | worst | replacement s | worst | steps again per kill | most |"
        "\n|---|---|---|---|---|---|---|---|"
    )
    for workers in (2, 4):
        yield row(workers, recoveries(workers, kills))


def row(workers: int, found: Sequence[Recovery]) -> str:
    """Of the table above: what these recoveries took."""
    survivors, replacement, again = zip(*found, strict=True)
    return (
        f"| {workers} | {len(found)} | {statistics.median(survivors) * 1e3:.0f} | {max(survivors) * 1e3:.0f} |"
        f" {statistics.median(replacement):.2f} | {max(replacement):.2f} |"
        f" {statistics.mean(again):.2f} | {max(again)} |"
    )


def start(workers: int) -> float:
    """Seconds from the command to the end of the first step."""
    with tempfile.TemporaryDirectory() as run:
        begin = time.time()
        with _program(workers, run, steps=1):
            pass
        return next(e.time for e in _events(run) if e.kind == "step") - begin


def recoveries(workers: int, kills: int, *options: str) -> list[Recovery]:
    """Kill one worker after another, each when the one before has come back; `options` are those of `dist-dp run`."""
    draw = random.Random(0)
    killed: list[float] = []
    pids: set[int] = set()
    with tempfile.TemporaryDirectory() as run:
        with _program(workers, run, _ENDLESS, *options) as process:
            for number in range(kills):
                victim = _working(run, process, number % workers, pids)
                time.sleep(draw.uniform(0.5, 1.0))
                pids.add(victim)
                killed.append(time.time())
                os.kill(victim, signal.SIGKILL)
                _working(run, process, number % workers, pids)  # its replacement
            time.sleep(1.0)
            process.send_signal(signal.SIGTERM)
        events, begun = _events(run), _begun(run)
    return [
        _recovery(at, end, events, begun) for at, end in zip(killed, [*killed[1:], time.time()], strict=True)
    ]


def _recovery(
    at: float, end: float, events: Sequence[Event], begun: Sequence[tuple[float, int, int]]
) -> Recovery:
    after = [e for e in events if at < e.time < end]
    without, whole = (
        next(i for i, e in enumerate(after) if e.kind == "generation" and (e.values["newcomers"] > 0) == new)
        for new in (False, True)
    )
    steps = [next(e.time for e in after[place:] if e.kind == "step") - at for place in (without, whole)]
    counts = Counter((step, shard) for when, step, shard in begun if when < end)
    again = {step for when, step, shard in begun if at < when < end and counts[step, shard] > 1}
    return Recovery(steps[0], steps[1], len(again))


@contextlib.contextmanager
def _program(workers: int, run: str, steps: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The program, running; it is waited for at the end, or killed if something went wrong."""
    program = Path(__file__).parent / "losses_program.py"
    start = [sys.executable, "-m", "dist_dp.cli", "run", "-n", f"{workers}", *options]
    command = [*start, str(program), run, f"{steps}"]
    process = subprocess.Popen(command, env=program_environment(), stderr=subprocess.DEVNULL)
    try:
        yield process
        process.wait(_PATIENCE)
    finally:
        process.kill()
        process.wait()


def _working(run: str, process: subprocess.Popen[bytes], worker: int, gone: set[int]) -> int:
    """Wait until this worker computes in a process that is not gone; its process id."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        for path in Path(run).glob(f"shards-{worker}-*"):
            pid = int(path.name.rpartition("-")[2])
            if pid not in gone and path.stat().st_size:
                return pid
        time.sleep(0.02)
    raise RuntimeError(f"worker {worker} did not come (back) to work within {_PATIENCE:g} s")


def _events(run: str) -> list[Event]:
    return list(read_events(Path(run) / "metrics.jsonl"))


def _begun(run: str) -> list[tuple[float, int, int]]:
    """(time, step, shard) of all that any worker has begun, the torn last lines of killed ones left out."""
    texts = [path.read_text() for path in Path(run).glob("shards-*")]
    rows = [line.split() for text in texts for line in text[: text.rfind("\n") + 1].splitlines()]
    return sorted((float(when), int(step), int(shard)) for when, step, shard in rows)
