"""What runs in the actors of `test_ray_collective.py`; the collectives are called as any program of Ray calls them."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from typing import Any

import numpy as np

from runtime.array_fold import fold_arrays

UFUNCS = {"SUM": np.add, "PRODUCT": np.multiply, "MIN": np.minimum, "MAX": np.maximum}
SHAPES: tuple[tuple[int, ...], ...] = ((), (7,), (300, 40), (0,), (3, 5), (1_100_000,))


class NoTorch(MetaPathFinder):
    """A machine without torch."""

    def __init__(self) -> None:
        self.refused = 0

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] in ("torch", "cupy"):
            self.refused += 1
            raise ModuleNotFoundError(name)


class Worker:
    def __init__(self) -> None:
        self.torch = NoTorch()
        sys.meta_path.insert(0, self.torch)
        from runtime.transports.ray_collective import register

        register()
        register()  # no harm

    def join(self, size: int, rank: int, name: str) -> None:
        from ray.util import collective

        collective.init_collective_group(size, rank, backend="dist_dp", group_name=name)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def torch_refused(self) -> int:
        assert not [name for name in sys.modules if name.partition(".")[0] in ("torch", "cupy")]
        return self.torch.refused


def kind_of(name: str) -> str:
    """The class of the group below."""
    from ray.util import collective

    return type(collective.get_group_handle(name)._group).__name__


def destroy(name: str) -> None:
    from ray.util import collective

    collective.destroy_collective_group(name)
    assert not collective.is_group_initialized(name)


def laws(name: str) -> str:
    """Every operation against NumPy; the digest of all results, of which each must have the bits of the fixed tree."""
    from ray.util import collective

    rank, size = collective.get_rank(name), collective.get_collective_group_size(name)
    digest = hashlib.sha256()

    def equal(found: Any, expected: Any) -> None:
        assert found.dtype == expected.dtype and found.tobytes() == expected.tobytes(), (found, expected)
        digest.update(found.tobytes())

    for dtype in ("f4", "f8", "f2", ">f4", "i8", "u1", "c8", "?"):
        for shape in SHAPES if dtype == "f4" else SHAPES[:3]:
            arrays = [values(dtype, shape, r) for r in range(size)]
            for op, ufunc in UFUNCS.items():
                with np.errstate(all="ignore"):
                    total = folded(arrays, ufunc)
                equal_to = (
                    {"op": collective.types.ReduceOp[op]} if op != "SUM" else {}
                )  # the default comes back
                mine = arrays[rank].copy()
                collective.allreduce(mine, name, **equal_to)
                equal(mine, total)

                mine = spread(arrays[rank])
                collective.allreduce(mine, name, **equal_to)
                equal(mine, total)

                mine, root = arrays[rank].copy(), size - 1
                collective.reduce(mine, root, name, **equal_to)
                equal(mine, total if rank == root else arrays[rank])

                lists = [[values(dtype, shape, 10 + size * r + s) for s in range(size)] for r in range(size)]
                with np.errstate(all="ignore"):
                    expected = folded([of[rank] for of in lists], ufunc)
                mine = spread(np.zeros(shape, dtype))
                collective.reducescatter(mine, lists[rank], name, **equal_to)
                assert mine.tobytes() == expected.tobytes()
    for dtype in ("f4", "f8", "c16", "?", "U3", "S5", "M8[s]", [("a", "i4"), ("b", "f8")]):
        for shape in SHAPES if dtype == "f4" else SHAPES[:3]:
            arrays = [values(dtype, shape, r) for r in range(size)]
            for root in range(size):
                mine = spread(arrays[rank])
                collective.broadcast(mine, root, name)
                equal(mine, arrays[root])
            found = [spread(np.zeros_like(array)) for array in arrays]
            collective.allgather(found, arrays[rank], name)
            for r in range(size):
                equal(found[r], arrays[r])
            for source in range(size - 1):
                if rank == source:
                    collective.send(spread(arrays[rank]), size - 1, name)
                elif rank == size - 1:
                    mine = spread(np.zeros(shape, dtype))
                    collective.recv(mine, source, name)
                    assert mine.tobytes() == arrays[source].tobytes()
            collective.barrier(name)
    return digest.hexdigest()


def values(dtype: Any, shape: tuple[int, ...], seed: int) -> Any:
    """Numbers, texts, dates or records of the dtype, drawn."""
    rng = np.random.default_rng([seed, *shape])
    dtype = np.dtype(dtype)
    if dtype.kind in "fc":
        return np.asarray(rng.standard_normal(shape) * 3 + (1j if dtype.kind == "c" else 0)).astype(dtype)
    if dtype.kind == "b":
        return np.asarray(rng.random(shape) < 0.5)
    numbers = np.asarray(rng.integers(0, 100, shape))
    if dtype.names:
        array = np.zeros(shape, dtype)
        array["a"], array["b"] = numbers, -numbers
        return array
    return numbers.astype(dtype)


def folded(arrays: list[Any], ufunc: np.ufunc) -> Any:
    """In the order of the tree."""
    total = np.empty(arrays[0].size, arrays[0].dtype)
    fold_arrays({(r, r + 1): array.reshape(-1) for r, array in enumerate(arrays)}, len(arrays), total, ufunc)
    return total.reshape(arrays[0].shape)


def spread(array: Any) -> Any:
    """A copy with gaps between its elements and its axes turned round."""
    if array.ndim == 0:
        return array.copy()
    room = np.zeros([2 * n for n in reversed(array.shape)], array.dtype)
    view = room[tuple(slice(None, None, 2) for _ in array.shape)].T
    view[...] = array
    return view


def refusals(name: str) -> int:
    """What one worker cannot do, or does otherwise, is told to all, and the group goes on; how often it was told."""
    from ray.util import collective

    rank = collective.get_rank(name)
    told = 0

    def refused(text: str, call: Callable[..., Any], *arguments: Any) -> None:
        nonlocal told
        try:
            call(*arguments)
        except ValueError as error:
            assert text in str(error), error
            told += 1

    read_only = np.zeros(3)
    read_only.flags.writeable = rank != 1
    refused(
        "not done by any worker; rank 1: the array for the result is read-only",
        collective.allreduce,
        read_only,
        name,
    )
    refused("takes numbers, got dtype <U1", collective.allreduce, np.array(["a"]), name)
    refused("dtype object cannot be sent", collective.broadcast, np.array([None]), 0, name)
    refused("arrays differ: rank 0: allreduce", collective.allreduce, np.zeros(3 + rank), name)
    refused("differ", collective.broadcast, np.zeros(3), rank, name)
    refused(
        "calls or arrays differ",
        *((collective.barrier,) if rank else (collective.allreduce, np.zeros(3))),
        name,
    )
    refused(
        "must be float64 (3,), is float64 (4,)",
        collective.allgather,
        [np.zeros(3), np.zeros(4)],
        np.zeros(3),
        name,
    )
    if rank == 0:
        collective.send(np.zeros((2, 2), "f4"), 1, name)
    else:
        refused(
            "rank 0 sent float32 (2, 2), the array to receive into is float32 (4,)",
            collective.recv,
            np.zeros(4, "f4"),
            0,
            name,
        )
    mine = np.ones(3)
    collective.allreduce(mine, name)
    assert (mine == 2).all()
    return told


def until_broken(name: str, dies: bool) -> float:
    """Reduce for ever; one of the workers kills itself. How long the others waited for their error."""
    from ray.util import collective

    from runtime.group import GroupBroken

    array = np.ones(100_000)
    for _ in range(20):
        collective.allreduce(array, name)
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    begin = time.monotonic()
    try:
        collective.allreduce(array, name)
    except GroupBroken:
        try:
            collective.barrier(name)  # and so does what follows
        except GroupBroken:
            return time.monotonic() - begin
    raise AssertionError("nobody noticed")


def in_a_task(size: int, rank: int, name: str) -> list[float]:
    from ray.util import collective

    from runtime.transports.ray_collective import register

    register()
    collective.init_collective_group(size, rank, backend="dist_dp", group_name=name)
    array = np.array([rank + 1.0, 2.0])
    collective.allreduce(array, name, collective.types.ReduceOp.PRODUCT)
    collective.destroy_collective_group(name)
    return array.tolist()
