"""The engine beside torch on one CPU core: `python -m benchmarks [engine] [--rounds N]`. Needs the extra `bench`."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import dist_dp as dp
from runtime.fingerprint import fingerprint

from . import models, small_ops

TABLE = Path(__file__).parent.parent / "docs" / "benchmarks" / "engine.md"


def lines(rounds: int) -> Iterator[str]:
    mark = fingerprint()
    yield "# The engine beside torch\n"
    yield "Made by `python -m benchmarks`; one thread each, both in turn (A B A B ...), medians over"
    yield f"{rounds} rounds. A ratio is torch's time over ours in the same round: above 1, dist_dp is faster. In"
    yield "brackets the middle half of the ratios. The machine is shared and noisy: read the ratios, not the times."
    yield "Both run in one process, so torch has the allocator settings of importing dist_dp (runtime/allocator.py),"
    yield "which speed it up too.\n"
    yield f"dist_dp {dp.__version__}, NumPy {np.__version__} ({mark['blas']}, {mark['blas_kernels']}), torch"
    yield f"{torch.__version__}, Python {platform.python_version()}, {platform.machine()}.\n"
    yield "## Small operations\n"
    yield "4 × 4 float64, recorded. Overhead is our forward time less NumPy's own call; calls are the Python functions"
    yield "that are entered.\n"
    yield (
        "| operation | NumPy alone µs | forward µs | overhead µs | calls | torch µs | ratio"
        " | with backward µs | calls | torch µs | ratio |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for row in small_ops.measure(rounds):
        f, b = row.forward, row.both
        yield (
            f"| `{row.name}` | {row.bare * 1e6:.2f} | {f.ours * 1e6:.2f} | {(f.ours - row.bare) * 1e6:.2f} |"
            f" {row.forward_calls} | {f.theirs * 1e6:.2f} | {f.ratio:.2f} | {b.ours * 1e6:.2f} | {row.backward_calls} |"
            f" {b.theirs * 1e6:.2f} | {b.ratio:.2f} |"
        )
    yield "\n## Training steps\n"
    yield "Forward, backward and Adam of the examples' models, float32.\n"
    yield "| model | dist_dp ms | torch ms | ratio |\n|---|---|---|---|"
    for name, pair in models.measure(rounds):
        yield (
            f"| {name} | {pair.ours * 1e3:.2f} | {pair.theirs * 1e3:.2f} |"
            f" {pair.ratio:.2f} ({pair.low:.2f} to {pair.high:.2f}) |"
        )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks engine", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=TABLE)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    text = []
    for line in lines(args.rounds):
        print(line, flush=True)
        text.append(line)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(text) + "\n", encoding="utf-8")
