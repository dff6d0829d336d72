"""Links over MPI: messages between pairs of processes of one communicator, never a collective that adds.

Loading this module loads mpi4py but does not start MPI; `runtime.hosts.mpi` does.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import mpi4py

mpi4py.rc(initialize=False, finalize=False)  # when MPI ends is decided by the member: see runtime.hosts.mpi

from mpi4py import MPI as MPI  # noqa: E402

from ..timeline import span  # noqa: E402
from .message_passing import Buffer, Links, Transfer  # noqa: E402

_DATA, _ABORT = 1, 2  # tags
# How a wait looks for what has come (MPI moves things only while it is called), in seconds from its beginning.
_SPINNING = 1e-4  # without a pause; then other processes may run in between
_YIELDING = 2e-3  # then this one sleeps
_SLEEP = 5e-4  # so long at a time

_sched_yield = getattr(os, "sched_yield", lambda: time.sleep(0))  # 2 µs; a sleep of 0 s takes 60

# What MPI still holds of a generation that ended: sends that nobody will take, with their buffers.
_abandoned: list[MPI.Request] = []


class MpiLinks(Links):
    """Links between some processes of a communicator that nothing else uses.

    Args:
        comm: of this generation alone; MPI was started with MPI_THREAD_MULTIPLE.
        ranks: the ranks in `comm` of the workers, by their rank in the group; this process is one of them.
        revoke: end the links by revoking the communicator (ULFM), so that those who wait in it for a process that died
            notice; else by telling each of them, which suffices where a death ends the job.
    """

    share_bytes = 1 << 20  # 64 MiB take 1.4 times as long with pieces of a quarter

    def __init__(self, comm: MPI.Comm, ranks: Sequence[int], revoke: bool = False) -> None:
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._comm, self._ranks, self._revoke = comm, list(ranks), revoke
        self.rank, self.size = self._ranks.index(comm.rank), len(self._ranks)
        self.lost: set[int] = set()
        self._peers = set(range(self.size)) - {self.rank}
        # Messages of a pair and tag are matched in the order in which they were posted, so the first of each queue is
        # the one to look at. A transfer stands with its last message.
        self._queues: dict[tuple[bool, int], deque[tuple[MPI.Request, Transfer | None]]] = {}
        self._awake = False
        self._told = comm.Irecv(bytearray(1), MPI.ANY_SOURCE, _ABORT)

    def post_send(self, to: int, buffers: Sequence[Buffer]) -> Transfer:
        return self._post(True, to, buffers)

    def post_recv(self, source: int, buffers: Sequence[Buffer]) -> Transfer:
        return self._post(False, source, buffers)

    def _post(self, sending: bool, peer: int, buffers: Sequence[Buffer]) -> Transfer:
        transfer = Transfer(peer)
        queue = self._queues.setdefault((sending, peer), deque())
        post = self._comm.Isend if sending else self._comm.Irecv
        try:
            for left, buffer in zip(range(len(buffers) - 1, -1, -1), buffers, strict=True):
                request = post([buffer, MPI.BYTE], self._ranks[peer], _DATA)
                queue.append((request, None if left else transfer))
        except MPI.Exception:
            self.lost |= self._peers
        return transfer

    def progress(self, seconds: float) -> bool:
        if self._moved():
            return True
        begin = time.perf_counter()
        with span("waiting"):
            while not self._moved():
                waited = time.perf_counter() - begin
                if self.lost or self._awake or waited >= seconds:
                    self._awake = False
                    return False
                if waited > _YIELDING:
                    time.sleep(_SLEEP)
                elif waited > _SPINNING:
                    _sched_yield()
        return True

    def _moved(self) -> bool:
        moved = False
        if self.lost:
            return False
        try:
            for queue in self._queues.values():
                while queue and queue[0][0].Test():
                    moved = True
                    _, transfer = queue.popleft()
                    if transfer is not None:
                        transfer.done = True
            if not moved and self._told.Test():
                self.lost |= self._peers
        except (
            MPI.Exception
        ):  # a process died, or somebody revoked the communicator: the generation ends as a whole
            self.lost |= self._peers
        return moved

    @property
    def under_way(self) -> bool:
        return False  # MPI does not tell

    def wake(self) -> None:
        self._awake = True

    def abort(self) -> None:
        self._awake = True
        with suppress(MPI.Exception):
            if self._revoke:
                self._comm.Revoke()
            else:
                for peer in self._peers:
                    _abandoned.append(self._comm.Isend(b"\0", self._ranks[peer], _ABORT))

    def close(self) -> None:
        self.lost |= self._peers
        for (sending, _), queue in self._queues.items():
            for request, _ in queue:
                _abandon(request) if sending else _cancel(request)
            queue.clear()
        _cancel(self._told)


def _cancel(receive: MPI.Request) -> None:
    if receive:
        with suppress(MPI.Exception):
            receive.Cancel()
            receive.Wait()


def _abandon(send: MPI.Request) -> None:
    with suppress(MPI.Exception):
        if not send.Test():
            _abandoned.append(send)
