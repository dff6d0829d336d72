"""Taking turns: several programs that stand still until it is their turn to do some steps, and say how long these took.

Starting a program takes longer than what is measured in it, and a machine that is shared has good and bad moments. So
all programs are started once and measured in turn; a program whose turn it is not waits for a word on a socket.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path

ROOT = Path(__file__).parent.parent
_ADDRESS, _PROGRAM = "DIST_DP_BENCHMARK_ADDRESS", "DIST_DP_BENCHMARK_PROGRAM"
_PATIENCE = 120.0  # seconds for anything that a program does


class Turn:
    """The side of one process of a program. Only the process of rank 0 is asked for times.

    Args:
        rank: of this process in its program.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.environ[_ADDRESS])
        self._file = _lines(connection)
        self._file.write(f"{rank} {os.environ[_PROGRAM]}\n")

    def begin(self) -> None:
        """A workload begins: no step was done."""
        self._first = self._last = 0

    def may(self, step: int) -> bool:
        """Called before work on a step (from 0), by every process: waits for the turn. False: the workload is over."""
        if step < self._last:
            return True
        self._file.write("ready\n")
        steps = int(self._file.readline() or 0)
        # The first step of a turn is not timed: it finds cold caches.
        self._first, self._last = step + 1, step + 1 + steps
        return steps > 0

    def did(self, steps: int) -> None:
        """Called when so many steps are done."""
        if self._rank == 0 and steps == self._first:
            self._started = time.perf_counter()
        if self._rank == 0 and steps == self._last:
            self._file.write(f"{time.perf_counter() - self._started}\n")


class Programs:
    """The side that decides. A context: leaving it ends every program.

    Args:
        commands: of each program, by name: one command for each process that is to be started.
        sizes: of each program, how many processes will take turns.
        environment: of all, beside that of this process.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[tuple[Sequence[str], Mapping[str, str]]]],
        sizes: Mapping[str, int],
    ) -> None:
        self._commands, self._sizes = commands, sizes
        self._processes: list[subprocess.Popen[bytes]] = []
        self._files: dict[str, dict[int, TextIOWrapper]] = {name: {} for name in sizes}

    def __enter__(self) -> Programs:
        self._folder = tempfile.TemporaryDirectory()
        try:
            self._start(Path(self._folder.name))
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def _start(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "turns"))
            server.listen(64)
            server.settimeout(_PATIENCE)
            for name, commands in self._commands.items():
                for command, variables in commands:
                    own = {_ADDRESS: str(folder / "turns"), _PROGRAM: name, **variables}
                    environment = program_environment() | own
                    self._processes.append(subprocess.Popen(command, cwd=folder, env=environment))
            for _ in range(sum(self._sizes.values())):
                connection, _ = server.accept()
                connection.settimeout(_PATIENCE)
                file = _lines(connection)
                rank, _, name = file.readline().rstrip("\n").partition(" ")
                self._files[name][int(rank)] = file

    def __exit__(self, kind: object, *_: object) -> None:
        for process in self._processes:
            if kind is not None:  # else they have come to their end
                process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def ready(self) -> None:
        """Wait until all processes have come to their first step of the next workload."""
        for name in self._files:
            self._answer(name)

    def seconds(self, names: Sequence[str], steps: int) -> list[float]:
        """Let programs do their next steps, those named at the same time: seconds per step of each."""
        for name in names:
            self._tell(name, steps)
        return [self._answer(name) / steps for name in names]

    def over(self) -> None:
        """The workload is over, for all."""
        for name in self._files:
            self._tell(name, 0)

    def _tell(self, name: str, steps: int) -> None:
        for file in self._files[name].values():
            file.write(f"{steps}\n")

    def _answer(self, name: str) -> float:
        """What a program says until all of its processes are ready for their next turn."""
        seconds = 0.0
        for rank, file in self._files[name].items():
            while (said := file.readline()) != "ready\n":
                if not said:
                    raise RuntimeError(f"process {rank} of {name} has ended; see what it wrote above")
                seconds = float(said)
        return seconds


def _lines(connection: socket.socket) -> TextIOWrapper:
    """A connection as a file of lines, each sent at once."""
    file = connection.makefile("rw")
    file.reconfigure(line_buffering=True)
    return file


def program_environment() -> dict[str, str]:
    """The environment of a program that imports this package."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "DIST_DP_PROGRESS": "off"}
