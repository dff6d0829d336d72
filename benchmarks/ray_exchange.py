"""The backend "dist_dp" of ray.util.collective beside the transports under it: `python -m benchmarks ray_exchange`.

Needs the extra `ray`. It starts a Ray of its own with two nodes on this machine, and ends it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .all_reduce import Way, _bytes, _cell, _group, _times

TABLE = Path(__file__).parent.parent / "docs" / "benchmarks" / "ray_exchange.md"
SIZES = (4 << 10, 1 << 20, 64 << 20)  # bytes of float32


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ray_exchange", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--output", type=Path, default=TABLE)
    args = parser.parse_args(argv)
    text = []
    for line in lines(args.rounds):
        print(line, flush=True)
        text.append(line)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(text) + "\n", encoding="utf-8")


def lines(rounds: int) -> Iterator[str]:
    # Ray reads these when it is imported.
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    import ray
    from ray.cluster_utils import Cluster

    yield "# All-reduce between Ray actors\n"
    yield "Made by `python -m benchmarks ray_exchange`. Two actors, bound to a core each, add a float32 array each: on"
    yield "one node of a Ray cluster, and on two nodes (both on this machine, so TCP goes over its loopback)."
    yield "Measured as in [all_reduce.md](all_reduce.md), all ways in turn in the same actors, medians over"
    yield f"{rounds} rounds. In brackets the time over that of the plain transport in the same round, and the middle"
    yield "half of these ratios.\n"
    yield "- *shm*, *tcp*: the plain transport; the array lies in its memory, where the sum appears, too."
    yield "- *ray*: `ray.util.collective.allreduce(array)` with the backend dist_dp: any array, summed in place. It"
    yield "  asks whether all workers call the same, and copies the array in and the sum out.\n"
    yield f"Ray {ray.__version__}, NumPy {np.__version__}, {os.cpu_count()} cores; load of the machine"
    yield f"before {os.getloadavg()[0]:.1f}.\n"
    options = {"num_cpus": 2, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "resources": {"here": 2}})
    try:
        cluster.add_node(**options, resources={"there": 1})
        ray.init(cluster.address, log_to_driver=False)
        actor = ray.remote(Worker)
        a, b, c = [
            actor.options(num_cpus=0, resources={place: 1}).remote() for place in ("here", "here", "there")
        ]
        for title, plain, pair in (("One node", "shm", (a, b)), ("Two nodes", "tcp", (a, c))):
            found = ray.get([worker.measure.remote(rank, plain, rounds) for rank, worker in enumerate(pair)])[
                0
            ]
            yield f"\n## {title}\n"
            yield f"| bytes | {plain} µs | ray µs (ratio) |\n|---|---|---|"
            for size, times in zip(SIZES, found, strict=True):
                yield f"| {_bytes(size)} | {_cell(times[plain], times[plain])} | {_cell(times[plain], times['ray'])} |"
    finally:
        ray.shutdown()
        cluster.shutdown()


class Worker:
    """An actor of this benchmark."""

    def measure(self, rank: int, plain: str, rounds: int) -> list[dict[str, list[float]]]:
        from ray.util import collective

        from runtime.transports.ray_collective import register

        if sys.platform == "linux":
            cores = sorted(os.sched_getaffinity(os.getppid()))
            os.sched_setaffinity(0, {cores[rank % len(cores)]})
        register()
        collective.init_collective_group(2, rank, backend="dist_dp", group_name=plain)
        group: Any = collective.get_group_handle(plain)._group
        times = []
        for size in SIZES:
            array = np.zeros(size // 4, "<f4")
            ways = {plain: _group(group, size // 4), "ray": _ray(array, plain)}
            times.append(_times(group, ways, rounds))
        collective.destroy_collective_group(plain)
        return times


def _ray(array: Any, name: str) -> Way:
    from ray.util import collective

    return Way(array.fill, lambda: collective.allreduce(array, name), lambda: (array[0], array[-1]))
