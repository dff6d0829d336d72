"""Running a script several ways and comparing the digests: what the command `dist-dp verify` does.

Every way is a run of its own from the beginning, in run directories of its own (`dist_dp.train.directions`). The first,
one plain process, is what all others must equal.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime import launch
from runtime.coordinator import Limits
from runtime.events import read_events
from runtime.faults import FAULTS, Fault, FaultPlan
from runtime.hosts.local import BACKENDS as LOCAL
from runtime.hosts.local import LocalHost
from runtime.hosts.logs import WorkerLogs

from ..train.directions import RUN, SHARDS, TRACE
from .trace import first_difference

BACKENDS = (*LOCAL, "mpi")

_HEARTBEAT = 2.0  # seconds; a stopped worker is to be noticed soon
_REFUSED, _INTERRUPTED = 2, 130
_SHOWN = 30  # lines of the output of a script that failed


@dataclass(frozen=True)
class Way:
    """How to run the script: so many workers, exchanging over a backend; None: as one plain process."""

    workers: int
    backend: str | None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        digests: of the script's runs, in their order.
        steps: of each run.
        shards: the fewest that any run had.
        landed: how many faults struck.
        generations: how many there were, one without any loss; 0 where that is not known.
        code: the exit code.
        output: the end of what the script wrote, if it failed.
    """

    way: Way
    seconds: float
    digests: tuple[str, ...]
    steps: tuple[int, ...]
    shards: int
    landed: int
    generations: int
    code: int
    output: str


def missing(backend: str) -> str | None:
    """Why a backend cannot be used here; None if it can."""
    if backend != "mpi":
        return None
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is not installed"
    return None if _mpirun().exists() else f"there is no {_mpirun()}"


class Verifier:
    """Runs a script in several ways.

    Args:
        script, arguments: what to run.
        root: a directory for all that the runs leave.
        shards: of runs that give none.
        threads: BLAS threads of each worker.
    """

    def __init__(
        self, script: str, arguments: Sequence[str], root: Path, shards: int, threads: int = 1
    ) -> None:
        self._script, self._arguments, self._root = script, list(arguments), root
        self._threads = str(threads)
        self._shards = str(shards)
        self._count = 0

    def run(self, way: Way, traced: bool = False) -> Outcome:
        """Run the script one way, from the beginning.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        return self._run(way, self._new_place(), traced)

    def explain(self, way: Way) -> str:
        """Where a way first differs from one plain process, found by running both once more, traced."""
        places = self._new_place(), self._new_place()
        outcomes = [self._run(w, place, True) for w, place in zip((Way(1, None), way), places, strict=True)]
        for number in range(len(outcomes[0].digests)):
            expected, found = (_runs(place) / str(number) for place in places)
            try:
                difference = first_difference(expected, found)
            except ValueError as error:
                return str(error)
            if difference is not None:
                return difference if len(outcomes[0].digests) == 1 else f"run {number}, {difference}"
        return "none in a second pair of runs, which were traced: it does not differ every time"

    def _new_place(self) -> Path:
        self._count += 1
        place = self._root / str(self._count)
        place.mkdir()
        return place

    def _run(self, way: Way, place: Path, traced: bool) -> Outcome:
        environment = {
            RUN: str(_runs(place)),
            SHARDS: self._shards,
            launch.THREADS: self._threads,
            **dict.fromkeys(launch.THREAD_VARIABLES, self._threads),
            "DIST_DP_PROGRESS": "off",
        }
        if traced:
            environment[TRACE] = "1"
        plan = None
        if way.faults:
            plan = FaultPlan.order(place / "plan.json", way.faults)
            environment[FAULTS] = str(plan.path)
        begun = time.monotonic()
        generations = 0
        if way.backend in LOCAL:
            code, generations, said = self._locally(way, place, environment)
        else:
            code, said = self._by_itself(way, place, environment)
        seconds = time.monotonic() - begun
        runs = sorted(_runs(place).glob("[0-9]*"), key=lambda run: int(run.name))
        ends = [_end(run) for run in runs]
        return Outcome(
            way,
            seconds,
            tuple(digest for digest, _, _ in ends),
            tuple(step for _, step, _ in ends),
            min((shards for _, _, shards in ends), default=0),
            len(plan.landed()) if plan else 0,
            generations,
            code,
            said if code else "",
        )

    def _command(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "dist_dp.cli",
            "run",
            "--threads",
            self._threads,
            self._script,
            *self._arguments,
        ]

    def _locally(self, way: Way, place: Path, environment: dict[str, str]) -> tuple[int, int, str]:
        """(exit code, generations, end of the output)."""
        assert way.backend is not None
        limits = Limits(heartbeat=_HEARTBEAT, losses=Limits.losses + len(way.faults))
        with open(place / "output", "w", encoding="utf-8") as output:
            logs = WorkerLogs(way.workers, output, output)
            host = LocalHost(
                self._command(),
                way.workers,
                backend=way.backend,
                limits=limits,
                environment=environment,
                logs=logs,
            )
            try:
                over = host.run()
            finally:
                logs.close()
        if over.code == _INTERRUPTED:
            raise KeyboardInterrupt
        said = over.report.get("traceback") or f"{_tail(place / 'output')}{over.reason}\n"
        return over.report.get("exit", over.code), host.generations, said

    def _by_itself(self, way: Way, place: Path, environment: dict[str, str]) -> tuple[int, str]:
        """One plain process, or those that MPI starts."""
        command = self._command()
        if way.backend == "mpi":
            command = [str(_mpirun()), "-n", str(way.workers), *command]
        with open(place / "output", "wb") as output:
            process = subprocess.run(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if process.returncode == _INTERRUPTED:
            raise KeyboardInterrupt
        return process.returncode, _tail(place / "output")


def _mpirun() -> Path:
    return Path(sys.executable).with_name("mpirun")


def _runs(place: Path) -> Path:
    return place / "runs"


def _end(run: Path) -> tuple[str, int, int]:
    """(digest, steps, shards) of a run directory; the digest is empty if the run did not come to its end."""
    shards, steps, digest = 0, 0, ""
    if (run / "metrics.jsonl").exists():
        for event in read_events(run / "metrics.jsonl"):
            if event.kind == "start":
                shards = int(event.values["shards"])
            elif event.kind == "end":
                digest, steps = str(event.values["digest"]), event.step
    if not digest and (run / "digest").exists():  # the program broke off its loop
        digest, _, step = (run / "digest").read_text().split()
        steps = int(step)
    return digest, steps, shards


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return "".join(lines[-_SHOWN:])
