"""Training on two workers: ours beside torch's DDP, then starts and recoveries: `python -m benchmarks workers`.

Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import dist_dp as dp
from runtime.fingerprint import fingerprint
from runtime.hosts import cores

from . import losses
from .tables import processor, spread
from .turns import ROOT, Programs
from .workloads import SHARDS, Workload, all_in_turn

OUTPUT = ROOT / "docs" / "benchmarks" / "workers.md"
SECONDS = 0.4  # of one turn of one program
ONE, TWO, BESIDE, TORCH, DDP = "one worker", "two workers", "another run of one worker", "torch", "DDP"


class Rates(NamedTuple):
    """Samples per second in one round; `side_by_side` is that of two runs of one worker each, added up."""

    one: float
    two: float
    side_by_side: float
    torch: float
    ddp: float


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks workers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of the training steps")
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--kills", type=int, default=12, help="of each number of workers")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    text = []
    for line in lines(args.rounds, args.starts, args.kills):
        print(line, flush=True)
        text.append(line)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(text) + "\n", encoding="utf-8")


def lines(rounds: int, starts: int, kills: int) -> Iterator[str]:
    mark = fingerprint()
    yield "# Several workers\n"
    yield f"Made by `python -m benchmarks workers --rounds {rounds} --starts {starts} --kills {kills}` with"
    yield f"dist_dp {dp.__version__}, NumPy {np.__version__} ({mark['blas']}, {mark['blas_kernels']}), torch"
    yield f"{torch.__version__}, Python {platform.python_version()}, on {cores.available()} cores ({processor()},"
    yield f"{platform.machine()}). Workers exchange over shared memory; every process uses one thread for arithmetic."
    yield "\n## Training steps\n"
    yield f"One batch of fixed size, cut into {SHARDS} shards: one worker computes both, two workers one each (strong"
    yield "scaling: what is gained is time, not batch). A step is everything from one `step` event of the loop to the"
    yield "next: loading, forward, backward, exchange, Adam. The same models in torch train on the same examples in the"
    yield "same order: one process without any wrapper, and two under DistributedDataParallel with gloo. All programs"
    yield f"are started once and stand still; in each of {rounds} rounds they take turns of about {SECONDS:g} s, all of"
    yield "them the same steps. Given are medians over the rounds, of ratios the median of the ratios of each round, in"
    yield "brackets their middle half.\n"
    yield "- *speed-up*: samples per second of two workers over one; of DDP, two processes over plain torch in one."
    yield "- *side by side*: two runs of one worker each at the same time, samples per second of both together over one"
    yield "  alone: what this machine's second core is worth when nobody waits for anybody."
    yield "- *over DDP*: samples per second of two workers over DDP with two processes: above 1, dist_dp is faster.\n"
    yield (
        "| model, batch | one worker ms | samples/s | two workers | speed-up | side by side | torch | DDP |"
        " speed-up of DDP | over DDP |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for workload, batch, found in measure(rounds):
        one, two, _, plain, ddp = (statistics.median(column) for column in zip(*found, strict=True))
        yield (
            f"| {workload.name}, {batch} | {batch / one * 1e3:.1f} | {one:,.0f} | {two:,.0f} |"
            f" {spread([r.two / r.one for r in found])} |"
            f" {statistics.median(r.side_by_side / r.one for r in found):.2f} | {plain:,.0f} | {ddp:,.0f} |"
            f" {statistics.median(r.ddp / r.torch for r in found):.2f} | {spread([r.two / r.ddp for r in found])} |"
        )
    yield from losses.lines(starts, kills)


def measure(rounds: int) -> Iterator[tuple[Workload, int, list[Rates]]]:
    """The rates of every workload, by round."""
    folder = Path(__file__).parent
    with tempfile.TemporaryDirectory() as beside:
        ours = {
            name: [
                ([sys.executable, "-m", "dist_dp.cli", "run", "-n", n, str(folder / "workers_ours.py")], {})
            ]
            for name, n in ((ONE, "1"), (TWO, "2"), (BESIDE, "1"))
        }
        theirs = {
            name: [
                (
                    [sys.executable, str(folder / "workers_torch.py")],
                    {"RANK": f"{rank}", "WORLD_SIZE": f"{size}", "STORE": f"{beside}/store"},
                )
                for rank in range(size)
            ]
            for name, size in ((TORCH, 1), (DDP, 2))
        }
        with Programs(ours | theirs, {ONE: 1, TWO: 2, BESIDE: 1, TORCH: 1, DDP: 2}) as programs:
            for workload, batch in all_in_turn():
                programs.ready()
                yield workload, batch, _rounds(programs, batch, rounds)
                programs.over()


def _rounds(programs: Programs, batch: int, rounds: int) -> list[Rates]:
    for name in (ONE, TWO, BESIDE, TORCH, DDP):
        (seconds,) = programs.seconds([name], 3)
        if name == ONE:
            steps = max(3, min(200, round(SECONDS / seconds)))
    found = []
    for _ in range(rounds):
        one, two, torch_, ddp = (programs.seconds([name], steps)[0] for name in (ONE, TWO, TORCH, DDP))
        both = programs.seconds([ONE, BESIDE], steps)
        rate = [batch / seconds for seconds in (one, two, torch_, ddp, *both)]
        found.append(Rates(rate[0], rate[1], rate[4] + rate[5], rate[2], rate[3]))
    return found
