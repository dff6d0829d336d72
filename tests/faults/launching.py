"""Launching the program of these tests under faults, and what is left when it has ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from runtime.coordinator import Limits, Over
from runtime.faults import FAULTS, Fault, FaultPlan
from runtime.hosts.local import LocalHost
from runtime.hosts.logs import WorkerLogs

PROGRAM = str(Path(__file__).with_name("program.py"))
COMMAND = [sys.executable, "-m", "dist_dp.cli", "run"]
LAST_STEP = 48  # 8 epochs of 6 steps


@dataclass
class Ended:
    """How a launch ended: `landed` are the faults that struck, `generations` how many there were."""

    over: Over
    landed: list[Fault]
    generations: int
    output: str

    @property
    def digest(self) -> str:
        assert self.over.code == 0, (self.over, self.output)
        (digest,) = set(re.findall(r"^\[\d\] digest (\w+)$", self.output, re.MULTILINE))
        return digest


def launch(
    place: Path,
    faults: Sequence[Fault] = (),
    *arguments: str,
    workers: int = 3,
    backend: str = "shm",
    script: str = PROGRAM,
    **limits: Any,
) -> Ended:
    """Run the program in several workers, for a minute at most."""
    place.mkdir(exist_ok=True)
    plan = FaultPlan.order(place / "plan.json", faults)
    with open(place / "output", "w", encoding="utf-8") as output:
        logs = WorkerLogs(workers, output, output, "all")
        host = LocalHost(
            [*COMMAND, "--threads", "1", script, *arguments],
            workers,
            backend=backend,
            limits=Limits(**{"losses": 3 + len(faults), **limits}),
            environment={FAULTS: str(plan.path)},
            logs=logs,
        )
        too_late = [threading.Timer(60.0, host.stop, ["the test took too long"]) for _ in range(2)]
        for timer in too_late:
            timer.start()
        try:
            over = host.run()
        finally:
            logs.close()
            for timer in too_late:
                timer.cancel()
    text = (place / "output").read_text(encoding="utf-8")
    assert "too long" not in over.reason, text
    return Ended(over, plan.landed(), host.generations, text)


class Command:
    """`dist-dp run` in a process of its own, to be signalled; its output goes into a file."""

    def __init__(self, place: Path, *arguments: str, faults: Sequence[Fault] = ()) -> None:
        place.mkdir(exist_ok=True)
        self.plan = FaultPlan.order(place / "plan.json", faults)
        self._path = place / f"output-{time.monotonic_ns()}"
        self._file: TextIO = open(self._path, "w", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
            env={**os.environ, FAULTS: str(self.plan.path)},
        )

    @property
    def output(self) -> str:
        return self._path.read_text(encoding="utf-8")

    def until(self, step: int) -> None:
        """Wait until worker 0 is at this step."""
        self._wait(lambda: any(line.startswith(f"{step} ") for line in self.output.splitlines()), 40.0)

    def workers(self) -> list[int]:
        """The process ids of the workers that are there."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, timeout: float = 60.0) -> int:
        """Wait until the command has ended; its exit code."""
        try:
            return self.process.wait(timeout)
        finally:
            self.process.kill()
            self._file.close()

    def _wait(self, met: Any, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < until and self.process.poll() is None, self.output
            time.sleep(0.01)


def all_gone(pids: Sequence[int], seconds: float) -> bool:
    """Whether these processes end within so many seconds; what is left then is killed."""
    until = time.monotonic() + seconds
    while True:
        left = [pid for pid in pids if not _ended(pid)]
        if not left:
            return True
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return False
        time.sleep(0.01)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
