"""`ray.util.collective` over the groups of this package: collectives of NumPy arrays between actors, without torch.

A program calls `register()` in each of its processes, then uses the backend "dist_dp" as any other of Ray's:

    register()
    collective.init_collective_group(world_size, rank, backend="dist_dp", group_name="g")
    collective.allreduce(array, group_name="g")

The workers meet in a small actor that has a name of the group's, which tells each of them where the others listen and a
secret that they share; then `rendezvous.join` forms the group, and the actor ends. Every call begins with a gather in
which the workers say what they are about to do, so that all learn of it if one cannot, or does something else; small
arrays travel in it, long ones follow in exchanges of a fixed size.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import threading
import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import ray
from ray.util.collective import register_collective_backend
from ray.util.collective.collective_group.base_collective_group import BaseGroup
from ray.util.collective.types import ReduceOp

from ..array_fold import Program
from ..group import Array, Memory
from ..message import decode, encode
from . import rendezvous
from .tcp import Address, Listener

NAME = "dist_dp"
"""Of the backend, as `init_collective_group(backend=...)` and `create_collective_group(backend=...)` take it."""

_OPERATIONS = {
    ReduceOp.SUM: np.add,
    ReduceOp.PRODUCT: np.multiply,
    ReduceOp.MIN: np.minimum,
    ReduceOp.MAX: np.maximum,
}
_SMALL = 1 << 14  # bytes of an array that travels with what the workers say
_PIECE = 1 << 22  # bytes of the longest exchange: its memory is kept, and stays in the caches
_PATIENCE = (
    180.0  # seconds that the workers have to come to the meeting: actors may have to wait for their nodes
)
_RETRY = 0.05

_Place = tuple[Address, str]
"""Of a worker: where it listens, and the id of its node."""


@functools.cache
def register() -> None:
    """Make the backend known to `ray.util.collective` in this process; once is enough, more does no harm.

    Every actor and task that uses it calls this, and so does a driver that calls `create_collective_group`.

    Raises:
        ValueError: another backend has this name.
    """
    register_collective_backend(NAME, RayCollectiveGroup)


class RayCollectiveGroup(BaseGroup):  # type: ignore[misc]
    """A group of `ray.util.collective`, which makes it and calls its methods.

    Results are written into the arrays that were given, of any strides. Partial results are joined in the order of the
    tree over the ranks (`runtime.fold`), so the bits do not depend on where the workers are.

    Args:
        world_size, rank, group_name: as `init_collective_group` got them.

    Raises:
        TimeoutError: not all workers came to form the group.
        GroupBroken: a worker was lost while it was formed. Every method raises it, too: once a worker is lost, the
            group has ended, and a new one is to be made, under another name or after `destroy_collective_group`.
    """

    def __init__(self, world_size: int, rank: int, group_name: str) -> None:
        super().__init__(world_size, rank, group_name)
        self._memories: dict[tuple[np.dtype[Any], int], Memory] = {}
        self._leaves = [(r, r + 1) for r in range(world_size)]
        self._program = Program(dict.fromkeys(self._leaves, True), world_size)
        self._lock = threading.Lock()  # for actors of several threads
        with Listener(ray.util.get_node_ip_address()) as listener:
            node = ray.get_runtime_context().get_node_id()
            places, secret, meeting = _meet(group_name, world_size, rank, (listener.address, node))
            # Ranks of a node that do not follow each other count as so many nodes.
            runs = enumerate(groupby(node for _, node in places))
            nodes = [number for number, (_, run) in runs for _ in run]
            addresses = [address for address, _ in places]
            self._group = rendezvous.join(listener, addresses, nodes, rank, 0, secret)
        if rank == 0:
            ray.kill(meeting)  # the group is formed, so all know what they came for

    @classmethod
    def backend(cls) -> str:
        return NAME.upper()

    @classmethod
    def check_backend_availability(cls) -> bool:
        return True

    def destroy_group(self) -> None:
        with self._lock:
            self._memories.clear()
            self._group.close()

    # --- what ray.util.collective calls; an array comes as a list of one ---------------------------------------------

    def allreduce(self, tensor: list[Array], allreduce_options: Any = None) -> None:
        operation = (
            allreduce_options.reduceOp
        )  # at once: Ray keeps it in the class, where the next call changes it
        (array,) = tensor
        self._collect("allreduce", array, array, operation)

    def reduce(self, tensor: list[Array], reduce_options: Any = None) -> None:
        (array,), root = tensor, reduce_options.root_rank
        self._collect("reduce", array, array if self.rank == root else None, reduce_options.reduceOp, root)

    def broadcast(self, tensor: list[Array], broadcast_options: Any = None) -> None:
        (array,), root = tensor, broadcast_options.root_rank
        self._collect("broadcast", array, None if self.rank == root else array, root=root)

    def allgather(
        self, tensor_list: list[list[Array]], tensor: list[Array], allgather_options: Any = None
    ) -> None:
        (arrays,), (mine,) = tensor_list, tensor
        for root, array in enumerate(arrays):
            self._collect("allgather", mine if root == self.rank else array, array, root=root)

    def reducescatter(
        self, tensor: list[Array], tensor_list: list[list[Array]], reducescatter_options: Any = None
    ) -> None:
        (mine,), (arrays,) = tensor, tensor_list
        for root, array in enumerate(arrays):
            into = mine if root == self.rank else None
            self._collect("reducescatter", array, into, reducescatter_options.reduceOp, root)

    def send(self, tensor: list[Array], send_options: Any) -> None:
        (array,) = tensor
        if problem := _problem(array, None, None):
            raise ValueError(f"send: {problem}")
        with self._lock:
            self._group.send(send_options.dst_rank, encode(_kind(array)))
            self._group.send(send_options.dst_rank, _flat(array, np.uint8).data or b"")

    def recv(self, tensor: list[Array], recv_options: Any) -> None:
        (array,), source = tensor, recv_options.src_rank
        if problem := _problem(array, array, None):
            raise ValueError(f"recv: {problem}")
        with self._lock:
            kind, payload = decode(self._group.recv(source)), self._group.recv(source)
        if kind != _kind(array):
            raise ValueError(
                f"recv: rank {source} sent {' '.join(kind)}, the array to receive into is {' '.join(_kind(array))}"
            )
        np.copyto(array, np.frombuffer(payload, array.dtype).reshape(array.shape))

    def barrier(self, barrier_options: Any = None) -> None:
        with self._lock:
            self._agree(["barrier"])

    # --- how ----------------------------------------------------------------------------------------------------------

    def _collect(
        self, call: str, mine: Array, into: Array | None, operation: ReduceOp | None = None, root: int = -1
    ) -> None:
        """Join the arrays of all workers by an operation, or take that of the root if there is none, and write the
        result into `into`."""
        problem = _problem(mine, into, operation)
        if problem:
            with self._lock:
                self._agree([call, root], problem=problem)
        ufunc = np.add if operation is None else _OPERATIONS[operation]
        dtype = np.dtype(np.uint8) if operation is None else mine.dtype
        gives = operation is not None or self.rank == root
        flat = _flat(mine, dtype)
        # What is not contiguous gets its result from a copy at the end.
        out = None if into is None else _flat(into, dtype)
        plan = [call, root, ufunc.__name__, *_kind(mine)]
        with self._lock:
            if flat.nbytes <= _SMALL:
                parts = self._agree(plan, flat.tobytes() if gives else b"")
                arrays = [np.frombuffer(part, dtype) for part in parts]
                if out is not None and operation is None:
                    out[:] = arrays[root]
                elif out is not None:
                    values = dict(zip(self._leaves, arrays, strict=True))
                    self._program.run(values, out, ufunc)
            else:
                self._agree(plan)
                step = _PIECE // dtype.itemsize
                for lo in range(0, flat.size, step):
                    total = self._exchange(flat[lo : lo + step], ufunc, gives)
                    if out is not None:
                        out[lo : lo + step] = total
        if into is not None and out is not None and not into.flags.c_contiguous:
            into[...] = out.view(into.dtype).reshape(into.shape)

    def _agree(self, plan: Sequence[object], data: bytes = b"", problem: str = "") -> list[bytes]:
        """Say what this worker is about to do, with its array if that is small; the arrays of all.

        Raises:
            ValueError: the workers are about to do different things, or some worker has a problem; on all of them.
        """
        mine = f"{problem}\0{' '.join(map(str, plan))}\0".encode()
        said = self._group.gather_bytes(mine + data)
        if problem or not all(payload.startswith(mine) for payload in said):
            texts = [[text.decode() for text in payload.split(b"\0", 2)[:2]] for payload in said]
            problems = [f"rank {rank}: {text}" for rank, (text, _) in enumerate(texts) if text]
            if problems:
                raise ValueError(f"{plan[0]}: not done by any worker; {'; '.join(problems)}")
            plans = "; ".join(f"rank {rank}: {text}" for rank, (_, text) in enumerate(texts))
            raise ValueError(f"{plan[0]}: the workers' calls or arrays differ: {plans}")
        return [payload[len(mine) :] for payload in said]

    def _exchange(self, piece: Array, operation: np.ufunc, gives: bool) -> Array:
        """The result of a piece, until the next exchange; a worker that gives nothing gives only the length."""
        # Memories are made for powers of two, so that there are only a few. Nor is one ever folded element by element:
        # NumPy multiplies complex numbers one at a time with other bits than several.
        length = min(_PIECE // piece.itemsize, 1 << (len(piece) - 1).bit_length())
        memory = self._memories.get((piece.dtype, length))
        if memory is None:
            memory = self._group.reserve(((piece.dtype.str, length),), 1)
            self._memories[piece.dtype, length] = memory
        memory.operation = operation
        ((buffer,),) = memory.buffers
        if gives:
            buffer[: len(piece)] = piece
            buffer[len(piece) :] = 0
        values = {self._leaves[self.rank]: 0 if gives else None}
        total = self._group.start(memory, values, self.world_size).finish()
        assert total.arrays is not None
        return total.arrays[0][: len(piece)]


def _flat(array: Array, dtype: Any) -> Array:
    """One-dimensional; a view of the array, if that is contiguous."""
    flat: Array = np.asarray(array, order="C").reshape(-1).view(dtype)
    return flat


def _kind(array: Array) -> list[str]:
    return [_name(array.dtype), str(array.shape)]


_name = functools.lru_cache(str)  # NumPy takes its time over the name of a dtype


def _problem(mine: Array, into: Array | None, operation: ReduceOp | None) -> str | None:
    """What is wrong with the arrays of a call."""
    for array in (mine, mine if into is None else into):
        if not isinstance(array, np.ndarray):
            return f"takes NumPy arrays, got {type(array).__name__}; the .numpy() of a tensor in memory shares it"
    if mine.dtype.hasobject:
        return f"an array of dtype {mine.dtype} cannot be sent"
    if operation is not None and mine.dtype.kind not in "biufc":
        return f"{operation.name} takes numbers, got dtype {mine.dtype}"
    if into is None:
        return None
    if not into.flags.writeable:
        return "the array for the result is read-only, as those are that Ray passes as arguments; copy it"
    if into.dtype != mine.dtype or into.shape != mine.shape:
        return f"the array for the result must be {' '.join(_kind(mine))}, is {' '.join(_kind(into))}"
    return None


# --- the meeting ------------------------------------------------------------------------------------------------------


class _Round:
    """Those who came, and whether these are all."""

    def __init__(self, size: int) -> None:
        self.size, self.secret, self.whole = size, secrets.token_bytes(32), asyncio.Event()
        self.come: dict[int, _Place] = {}


class _Meeting:
    """The actor in which the workers of a group meet; round after round, if several groups have one name in turn."""

    def __init__(self) -> None:
        self._round: _Round | None = None

    async def meet(self, size: int, rank: int, place: _Place) -> tuple[list[_Place], bytes]:
        """Wait until all have come: where they are, by rank, and a secret."""
        here = self._round = self._round or _Round(size)
        if size != here.size:
            raise ValueError(f"world_size: rank {rank} says {size}, the others {here.size}")
        here.come[rank] = place  # in the place of one that died, if there was one
        if len(here.come) == size:
            self._round = None
            here.whole.set()
        try:
            await asyncio.wait_for(here.whole.wait(), _PATIENCE)
        except TimeoutError:
            missing = sorted(set(range(size)) - set(here.come))
            raise TimeoutError(f"ranks {missing} of {size} did not come within {_PATIENCE:g} s") from None
        if here.come[rank] != place:
            raise ValueError(f"rank {rank} came twice; each worker has a rank of its own")
        return [here.come[r] for r in range(size)], here.secret


def _meet(group_name: str, size: int, rank: int, place: _Place) -> tuple[list[_Place], bytes, Any]:
    """What `_Meeting.meet` returns, and the actor."""
    actor = ray.remote(_Meeting).options(
        name=f"{NAME}_{group_name}", get_if_exists=True, num_cpus=0, max_concurrency=size + 1
    )
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            meeting = actor.remote()
            places, secret = ray.get(meeting.meet.remote(size, rank, place), timeout=_PATIENCE + 10)
            return places, secret, meeting
        except ray.exceptions.RayActorError:
            # That of an earlier group of this name, which is being ended; or its maker died.
            if time.monotonic() > until:
                raise
            time.sleep(_RETRY)
