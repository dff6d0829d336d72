"""The sum of two workers' gradients: ours beside gloo, MPI and the bare addition: `python -m benchmarks all_reduce`.

Needs the extras `bench` and `mpi`. The two workers are started by the mpiexec of the Python that is given, so that MPI
is at its best; they run everything in turn, in one process each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from runtime.group import Group, share
from runtime.transports.message_passing import MessageGroup
from runtime.transports.shm import ShmGroup
from runtime.transports.tcp import Listener, TcpGroup

TABLE = Path(__file__).parent.parent / "docs" / "benchmarks" / "all_reduce.md"
SIZES = (4 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20)  # bytes of float32
SHARE_OF_ROUND = 0.02  # seconds that each way has in each round, but for its last call
_FILE = "DIST_DP_BENCHMARK_FILE"


class Way(NamedTuple):
    """One way to do it: put a number into this worker's gradient; add; the first and last number of the sum, where the
    whole sum is there."""

    fill: Callable[[float], None]
    add: Callable[[], Any]
    ends: Callable[[], tuple[float, float]] | None


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks all_reduce", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--python", default=sys.executable, help="of an environment with mpi4py and its MPI")
    parser.add_argument("--also", help="another one, with another MPI (and without torch, if you like)")
    parser.add_argument("--output", type=Path, default=TABLE)
    args = parser.parse_args(argv)
    text = []
    for line in lines(args.rounds, [p for p in (args.python, args.also) if p]):
        print(line, flush=True)
        text.append(line)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(text) + "\n", encoding="utf-8")


def lines(rounds: int, pythons: list[str]) -> Iterator[str]:
    yield "# All-reduce on one host\n"
    yield "Made by `python -m benchmarks all_reduce --also PYTHON`, the Python of an environment with another MPI."
    yield "Two workers, one process each and bound to a core each, add a float32 gradient each. Each writes its"
    yield "gradient anew before every call,"
    yield "so it lies in the cache of its own core, as after a backward pass; timed is from a barrier to the end of the"
    yield f"slower one. All ways run in turn (A B C ...), medians over {rounds} rounds. A ratio is the time of that"
    yield "way over the time of shm in the same round: above 1, shm is faster. In brackets the middle half of the"
    yield "ratios.\n"
    yield "- *shm*, *mpi*, *tcp*: the transports of this package.\n- *MPI*: MPI_Allreduce, from one array to another."
    yield "- *gloo*: torch.distributed's all_reduce, in place."
    yield "- *addition*: each worker adds one half of both gradients where they lie in shared memory, with one call of"
    yield "  `np.add`, and waits for nobody. No sum of two gradients can cost less."
    yield "- *copy and add*: each copies its half of the other's gradient to itself and adds that; again nobody waits."
    for python in pythons:
        found = json.loads(_launch(python, rounds))
        yield f"\n## {found['mpi']}\n"
        yield f"NumPy {np.__version__}, {found['torch']}, {os.cpu_count()} cores.\n"
        names = list(found["times"][0])
        yield "| bytes | " + " | ".join(f"{n} µs" + ("" if n == "shm" else " (ratio)") for n in names) + " |"
        yield "|---" * (1 + len(names)) + "|"
        for size, times in zip(SIZES, found["times"], strict=True):
            yield f"| {_bytes(size)} | " + " | ".join(_cell(times["shm"], times[n]) for n in names) + " |"


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >> 20 else f"{size >> 10} KiB"


def _cell(ours: list[float], theirs: list[float]) -> str:
    middle = f"{statistics.median(theirs) * 1e6:.4g}"
    if theirs is ours:
        return middle
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    quarter = len(ratios) // 4
    return f"{middle} ({statistics.median(ratios):.3g}, {ratios[quarter]:.3g} to {ratios[-1 - quarter]:.3g})"


def _launch(python: str, rounds: int) -> str:
    descriptor = ShmGroup.new_file(2)
    mpiexec = Path(python).with_name("mpiexec")
    command = [str(mpiexec), "-n", "2", python, "-m", "benchmarks.all_reduce", str(rounds)]
    # mpiexec hands no descriptors on; its children open the file through this process.
    environment = {_FILE: f"/proc/{os.getpid()}/fd/{descriptor}", "OPENBLAS_NUM_THREADS": "1"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    try:
        output = subprocess.run(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        # gloo and MPI may print lines of their own.
        return next(line for line in output.splitlines() if line.startswith("{"))
    finally:
        os.close(descriptor)


# --- in the workers ---------------------------------------------------------------------------------------------------


def work(rounds: int) -> None:
    from runtime.transports.mpi import MPI, MpiLinks

    MPI.Init_thread(MPI.THREAD_MULTIPLE)
    world = MPI.COMM_WORLD
    rank: int = world.rank
    if sys.platform == "linux":  # as Open MPI does by itself: else both may find themselves on one core
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]})
    descriptor = os.open(os.environ[_FILE], os.O_RDWR)
    shm = ShmGroup(descriptor, rank, 2)
    with Listener() as listener:
        tcp = TcpGroup(listener, shm.gather_objects(listener.address), rank, 0, b"benchmark")
    mpi = MessageGroup(MpiLinks(world.Dup(), [0, 1]), 0)
    torch_version = _start_gloo(rank, shm)

    times = []
    for size in SIZES:
        n = size // 4
        ways = {"shm": _group(shm, n), "addition": _bare(shm, n, False), "copy and add": _bare(shm, n, True)}
        ways["MPI"] = _allreduce(MPI, n)
        if torch_version:
            ways["gloo"] = _gloo(n)
        ways |= {"mpi": _group(mpi, n), "tcp": _group(tcp, n)}
        times.append(_times(shm, ways, rounds))
        del ways
    if rank == 0:
        version = MPI.Get_library_version().split(",")[0].splitlines()[0].replace("\t", " ").strip()
        print(json.dumps({"mpi": version, "torch": torch_version or "without torch", "times": times}))
    shm.barrier()
    MPI.Finalize()


def _times(shm: Group, ways: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, one number a round."""
    calls = {}
    for name, way in ways.items():
        way.fill(shm.rank + 1.0)
        shm.barrier()
        way.add()
        assert way.ends is None or way.ends() == (3.0, 3.0), name
        trial = [_time(shm, way) for _ in range(3)]
        calls[name] = max(1, min(50, round(SHARE_OF_ROUND / max(shm.gather_objects(min(trial))))))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            mine = [_time(shm, way) for _ in range(calls[name])]
            found[name].append(statistics.median(map(max, zip(*shm.gather_objects(mine), strict=True))))
    return found


def _time(shm: Group, way: Way) -> float:
    way.fill(0.0)
    shm.barrier()
    begin = time.perf_counter()
    way.add()
    return time.perf_counter() - begin


def _group(group: Group, n: int) -> Way:
    memory = group.reserve((("<f4", n),), 1)
    mine = memory.buffers[0][0]
    values = {(group.rank, group.rank + 1): 0}
    arrays: list[Any] = []

    def add() -> None:
        arrays[:] = group.start(memory, values, 2).finish().arrays or ()

    return Way(mine.fill, add, lambda: (arrays[0][0], arrays[0][-1]))


def _bare(shm: ShmGroup, n: int, copying: bool) -> Way:
    memory = shm.reserve((("<f4", n),), 1)
    lo, hi = share(0, n, shm.rank, 2)
    mine = memory.buffers[0][0]
    theirs = memory.peers[1 - shm.rank][0][0][lo:hi]  # type: ignore[attr-defined]
    out = memory.total[0][lo:hi]  # type: ignore[attr-defined]
    part, received = mine[lo:hi], np.zeros(hi - lo, "<f4")

    def add() -> None:
        np.add(part, theirs, out)

    def copy_and_add() -> None:
        np.copyto(received, theirs)
        np.add(part, received, out)

    return Way(mine.fill, copy_and_add if copying else add, None)


def _allreduce(MPI: Any, n: int) -> Way:
    mine, total = np.zeros(n, "<f4"), np.zeros(n, "<f4")
    return Way(mine.fill, lambda: MPI.COMM_WORLD.Allreduce(mine, total), lambda: (total[0], total[-1]))


def _start_gloo(rank: int, shm: Group) -> str | None:
    try:
        import torch
        import torch.distributed as dist
    except ImportError:
        return None
    torch.set_num_threads(1)
    with Listener() as free:
        port = shm.gather_objects(free.address)[0][1]
    store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    return f"torch {torch.__version__}"


def _gloo(n: int) -> Way:
    import torch
    import torch.distributed as dist

    array = np.zeros(n, "<f4")
    tensor = torch.from_numpy(array)
    return Way(array.fill, lambda: dist.all_reduce(tensor), lambda: (array[0], array[-1]))


if __name__ == "__main__":
    work(int(sys.argv[1]))
