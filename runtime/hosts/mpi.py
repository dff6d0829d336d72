"""`MpiMember`: this process, started by an MPI launcher, among the workers of its run.

There is no parent of ours that keeps the membership: the workers agree among themselves. A round of all processes that
live brings their positions together; each decides from them, by `runtime.member.agree`, what all others decide too.

    Open MPI under `mpirun --with-ft ulfm`   a death is an error in the survivors; the communicator of the world is
                                             shrunk to those who live, and they go on
    every other MPI                          a death ends the job; the same command resumes the run

A program that came to its end stays for the rounds of the others, until all have come to theirs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..group import Group
from ..member import Formation, Member, Position, agree
from ..transports.message_passing import MessageGroup
from ..transports.solo import SoloGroup
from . import mpi_environment

if TYPE_CHECKING:
    from mpi4py import MPI

TIMEOUT = "DIST_DP_MPI_TIMEOUT"
_ULFM = "OMPI_MCA_mpi_ft_enable"  # set by `mpirun --with-ft ulfm`

# Exit codes: the program failed; the run was lost; interrupted.
_FAILED, _LOST, _INTERRUPTED = 1, 3, 130

# Seconds that a launcher has to pass on what was written: what is on the way when it ends the job may be dropped.
_FORWARDING = 0.2

_LOOK = 1e-3  # seconds between two looks at whether the others have come to a round


class MpiMember(Member):
    """This process among those of MPI_COMM_WORLD.

    Args:
        survives: the library goes on when a process dies (ULFM).
        timeout: seconds after which a worker that waits for others ends the job; 0: it waits for ever.
    """

    backend = "mpi"

    def __init__(self, world: MPI.Intracomm, survives: bool, timeout: float) -> None:
        super().__init__()
        self.worker, self.workers = world.rank, world.size
        self._world, self._survives, self._timeout = world, survives, timeout
        self._generation = 0
        self._former: Group | None = None
        self._step, self._doing, self._since = 0, "", time.monotonic()
        self._ended = False

    @classmethod
    def from_environment(cls) -> MpiMember:
        """Start MPI, unless the program did, and join the processes that were started with this one.

        Raises:
            RuntimeError: mpi4py is missing, the library is not the launcher's, or it cannot be used from threads.
            ValueError: DIST_DP_MPI_TIMEOUT is no number of seconds.
        """
        timeout = _timeout(os.environ.get(TIMEOUT, "600"))
        launcher = mpi_environment.launcher(os.environ)
        assert launcher is not None, "mpi_environment.launched() comes first"
        by, expected = launcher
        try:
            from ..transports.mpi import MPI
        except (ImportError, RuntimeError) as error:
            raise RuntimeError(
                f"{by} started {expected} processes, but MPI cannot be loaded here ({error}); install "
                "'dist-dp[mpi]' and an MPI library, that of the launcher; for one process start it without the launcher"
            ) from error
        ours = not MPI.Is_initialized()
        if ours:
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
        world = MPI.COMM_WORLD
        if world.size != expected:
            name, version = MPI.get_vendor()
            raise RuntimeError(
                f"{by} started {expected} processes, but mpi4py uses {name} {'.'.join(map(str, version))}, which "
                f"sees {world.size}: launcher and library are not of one MPI; use the mpirun of the library (or srun "
                "with the --mpi= that it needs), or let mpi4py load another library with MPI4PY_LIBMPI"
            )
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE:
            raise RuntimeError(
                "dist_dp calls MPI from threads, but it was started without MPI_THREAD_MULTIPLE; let dist_dp start it, "
                "or ask for it with MPI.Init_thread(MPI.THREAD_MULTIPLE)"
            )
        world.Set_errhandler(MPI.ERRORS_RETURN)
        # Elsewhere a death ends the job, and the calls of ULFM are of no use.
        fault_tolerant = os.environ.get(_ULFM, "0").lower() in ("1", "true", "yes")
        member = cls(world, fault_tolerant and MPI.get_vendor()[0] == "Open MPI", timeout)
        member._watch_the_end(finalize=ours)
        if timeout:
            threading.Thread(target=member._watch_the_time, name="dist_dp deadline", daemon=True).start()
        return member

    # --- membership ---------------------------------------------------------------------------------------------------

    def form(self, position: Position) -> Formation:
        # The former group may still be asked for its pending total: it is closed when the next one has come and gone.
        if self._former is not None:
            self._former.close()
        self._former = self.group
        if self.group is not None:
            self.group.abort()
        while True:
            comm, positions, ended = self._round(position, ended=False)
            agreement = agree(positions)
            if comm.rank not in agreement.members:
                self.group = None
                return Formation(SoloGroup(), agreement.position, past=True)
            if all(i in agreement.members or ended[i] for i in range(comm.size)):
                break
            # Some have yet to come through a session that is over: they are in the next round.
        members = [i for i in agreement.members if not ended[i]]
        if len(members) == 1:
            self.group = SoloGroup(self._generation)
        else:
            from ..transports.mpi import MpiLinks

            links = MpiLinks(comm, members, self._survives)
            self.group = MessageGroup(links, self._generation)
        donor = None if agreement.donor is None else members.index(agreement.donor)
        newcomers = frozenset(members.index(i) for i in agreement.newcomers if not ended[i])
        return Formation(self.group, agreement.position, donor, newcomers)

    def leave(self) -> None:
        """Say that this program came to its end, and wait until all have: the others may need another round."""
        if self._ended:
            return
        self._ended = True
        ended = [False]
        while not all(ended):
            _, _, ended = self._round(Position(self._sessions, -1), ended=True)
        for group in (self._former, self.group):
            if group is not None:
                group.close()

    def _round(self, position: Position, ended: bool) -> tuple[MPI.Comm, list[Position], list[bool]]:
        """Meet all processes that live: a communicator of theirs, and by its ranks where each stands and whether its
        program has ended."""
        from mpi4py import MPI

        mine = np.array([*position, ended, self._generation], np.int64)
        while True:
            comm = self._living()
            table: NDArray[np.int64] = np.empty((comm.size, len(mine)), np.int64)
            whole = True
            try:
                comm.Allgather(mine, table)
            except MPI.Exception:
                if not self._survives:
                    raise
                whole = False
                comm.Revoke()  # lets go those who wait for somebody that has failed already
            if self._survives:
                try:
                    whole = bool(comm.Agree(int(whole)))  # the same on all of them, the error too
                except MPI.Exception:
                    whole = False
            if whole:
                self._generation = int(table[:, 3].max()) + 1
                positions = [Position(int(session), int(op)) for session, op, *_ in table]
                return comm, positions, [bool(row[2]) for row in table]

    def _living(self) -> MPI.Comm:
        """A new communicator of all processes that live, once all of them ask for it."""
        from mpi4py import MPI

        if not self._survives:
            copy, request = self._world.Idup()
            _come(request)
            return copy
        # Shrink would keep a processor busy while it waits for those who still compute.
        with contextlib.suppress(MPI.Exception):  # it tells of the deaths, to all alike
            _come(self._world.Iagree(np.ones(1, np.intc)))
        comm = self._world.Shrink()
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        return comm

    # --- the end ------------------------------------------------------------------------------------------------------

    def progress(self, step: int, doing: str) -> None:
        self._step, self._doing, self._since = step, doing, time.monotonic()

    def failed(self, report: Mapping[str, Any]) -> None:
        words = f"worker {self.worker} of {self.workers} failed:\n{report['traceback']}"
        self._end_job(report.get("exit", _FAILED), words)

    def _end_job(self, code: int, words: str) -> None:
        """End all processes, with these words. What happens to all is told by the first of them alone."""
        self._ended = True
        time.sleep(2 * _FORWARDING * min(self.worker, 4))
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.write(words.rstrip() + "\n")
            sys.stderr.flush()
        time.sleep(_FORWARDING)
        self._world.Abort(code)

    def _watch_the_end(self, finalize: bool) -> None:
        """From now on an exception that ends the program ends the job, and its normal end is told to the others."""
        from mpi4py import MPI

        shown = sys.excepthook

        def failed(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
            if self._ended:
                shown(kind, error, frames)
            elif issubclass(kind, KeyboardInterrupt):
                self._end_job(_INTERRUPTED, "interrupted")
            else:
                words = "".join(traceback.format_exception(kind, error, frames))
                self.failed({"error": kind.__name__, "message": str(error), "traceback": words})

        def end() -> None:
            try:
                self.pay()
            except Exception as error:  # no hook is asked at this time
                failed(type(error), error, error.__traceback__)
            self.leave()
            # Open MPI's Finalize may wait for the dead (seen in 2 of 40 runs). Without it the exit code is the same.
            if finalize and not self._survives:
                MPI.Finalize()

        sys.excepthook = failed
        atexit.register(end)

    def _watch_the_time(self) -> None:
        """End the job when this worker has waited too long: MPI does not tell of a process that is stopped or hangs."""
        while not self._ended:
            time.sleep(min(1.0, self._timeout / 4))
            waited = time.monotonic() - self._since
            if self._doing == "exchange" and waited > self._timeout and not self._ended:
                self._end_job(
                    _LOST,
                    f"worker {self.worker} of {self.workers} has waited {waited:.0f} s for others at step {self._step} "
                    f"and ends the job ({TIMEOUT} is {self._timeout:g}); the same command resumes the run",
                )


def _come(request: MPI.Request) -> None:
    """Wait for a request, leaving the processor to others."""
    while not request.Test():
        time.sleep(_LOOK)


def _timeout(text: str) -> float:
    with contextlib.suppress(ValueError):
        if (seconds := float(text)) >= 0:
            return seconds
    raise ValueError(f"{TIMEOUT} must be a number of seconds, 0 for no limit, got {text!r}")
