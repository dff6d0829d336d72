"""Starting programs under the real mpirun, with a limit in time, leaving nothing behind."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = TESTS / "faults" / "program.py"

LIMIT = 60.0  # seconds after which a job is held to hang

_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "",  # a line is one write, so those of different workers do not mix
    "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
    # Open MPI, and the launcher it comes with: as root, and more processes than processors.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str
    seconds: float

    @property
    def digests(self) -> list[str]:
        return re.findall(r"digest (\w{64})", self.out)


@functools.cache
def library() -> str:
    """The name of the MPI library that mpi4py loads."""
    code = "import mpi4py; mpi4py.rc(initialize=False); from mpi4py import MPI; print(MPI.get_vendor()[0])"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def mpirun() -> str:
    """The launcher of that library: that of this environment, else the first on the path."""
    found = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    assert found is not None, "no mpirun: pip install '.[test]', which brings MPICH"
    return found


def python(program: Path, *arguments: str, environment: dict[str, str] | None = None) -> Ended:
    """A program without a launcher."""
    return _run([sys.executable, str(program), *arguments], environment)


def mpi(
    processes: int,
    program: Path,
    *arguments: str,
    options: Sequence[str] = (),
    environment: dict[str, str] | None = None,
) -> Ended:
    command = [mpirun(), *options, "-n", str(processes), sys.executable, str(program), *arguments]
    return _run(command, environment)


def _run(command: Sequence[str], environment: dict[str, str] | None) -> Ended:
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **_ENVIRONMENT, **(environment or {})},
        start_new_session=True,
    )
    seen: set[int] = set()
    segments: set[str] = set()
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=0.1)
                return Ended(process.returncode, out, err, time.monotonic() - begin)
            seen |= _descendants(process.pid)
            segments |= _shared_memory(seen)
            assert time.monotonic() - begin < LIMIT, f"{command} hangs"
    finally:
        if process.poll() is None:
            for pid in {process.pid} | seen & _descendants(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()
        # MPI libraries leave the shared memory of killed processes behind.
        for name in segments:
            with suppress(OSError):
                os.unlink(name)


def _descendants(ancestor: int) -> set[int]:
    """The processes below this one, where the system lists them as files."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {ancestor}


def _shared_memory(pids: set[int]) -> set[str]:
    found = set()
    for pid in pids:
        with suppress(OSError):
            found |= set(re.findall(r"/dev/shm/\S+$", Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE))
    return found
