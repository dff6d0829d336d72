"""Programs whose graphs differ, in batches: `python -m benchmarks batching`.

Beside torch and DyNet, and what recording, scheduling and uneven trees cost. Needs the extras `bench` and `data`;
what is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import dist_dp as dp
from runtime.fingerprint import fingerprint

from . import batching_costs as costs
from .batching_torch import levels_of
from .batching_workloads import BATCH, WORKLOADS, Program, Workload, one_by_one
from .tables import spread
from .turns import ROOT

OUTPUT = ROOT / "docs" / "benchmarks" / "batching.md"
TABLES = (
    *[workload.key for workload in WORKLOADS],
    "reading",
    "levels",
    "dynet",
    "recording",
    "scheduling",
    "idle",
)
PUBLISHED = {
    "trees": 7.1,
    "tags": 8.4,
    "parses": 3.6,
}  # Neubig, Goldberg and Dyer 2017: batched over unbatched
SECONDS = 0.3  # that one side of a round takes at least

Times = dict[str, list[float]]  # of each side, by round


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks batching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--only", nargs="+", choices=TABLES, default=TABLES, help="these parts, printed and not written"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    text = []
    for line in lines(args.rounds, args.only):
        print(line, flush=True)
        text.append(line)
    if args.only == TABLES:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text("\n".join(text) + "\n", encoding="utf-8")


def lines(rounds: int, only: Sequence[str]) -> Iterator[str]:
    mark = fingerprint()
    yield "# Programs whose graphs differ\n"
    yield f"Made by `python -m benchmarks batching --rounds {rounds}` with dist_dp {dp.__version__}, NumPy"
    yield f"{np.__version__} ({mark['blas']}, {mark['blas_kernels']}), torch {torch.__version__}, Python"
    yield f"{platform.python_version()}, {platform.machine()}. One thread each, {BATCH} examples per batch. All sides"
    yield "run in one process and in turn (A B C A B C ...); every round has another batch, the same for all sides."
    yield "Given are medians over the rounds of the processor's time; a ratio is the median of the ratios of each"
    yield "round, in brackets their middle half: above 1, dist_dp batched is faster. The machine is shared and noisy:"
    yield "read the ratios, not the times. Before each table all sides are held against each other with the same"
    yield "weights: losses agree within 1e-5, gradients (of torch's) within 1e-3 of the largest."
    parts: dict[str, Callable[[], Iterator[str]]] = {
        "reading": partial(reading, rounds),
        "levels": partial(levels, rounds),
        "dynet": partial(dynet, rounds),
        "recording": partial(costs.recording, rounds),
        "scheduling": partial(costs.scheduling, rounds),
        "idle": costs.idle,
    }
    chosen = [workload for workload in WORKLOADS if workload.key in only]
    if chosen:
        yield from beside_torch(chosen, rounds)
    for name, part in parts.items():
        if name in only:
            yield from part()


def beside_torch(chosen: Sequence[Workload], rounds: int) -> Iterator[str]:
    yield "\n## Beside torch, one example at a time\n"
    yield "Forward and backward of the programs in `examples/`, with their own losses and data, in µs for a unit."
    yield "*batched* is what users run; *one by one* is `dp.batched(..., enabled=False)`. *torch* is the same program,"
    yield "step by step, one example after another and one backward of the mean loss; *torch, whole* computes at once"
    yield "what torch can for one sentence: an LSTM is one call (`torch.lstm`), and so are all its classifications.\n"
    yield (
        "| program | units | batched µs | one by one µs | torch µs | torch / batched | goal |"
        " one by one / batched | torch, whole µs | whole / batched |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for workload in chosen:
        program = _program(workload)
        if isinstance(program, str):
            yield program
            continue
        sides = {"ours": program.ours, "alone": program.alone, "torch": program.theirs}
        if hasattr(program.twin, "whole"):
            sides["whole"] = partial(program.theirs, way="whole")
        times = in_turn(program, sides, rounds)
        whole = f"{micro(times['whole'])} | {ratio(times, 'whole', 'ours')}" if "whole" in times else "| "
        units = program.units(next(program.batches()))
        yield (
            f"| {workload.name} | {units:,} {workload.unit}s | {micro(times['ours'])} | {micro(times['alone'])} |"
            f" {micro(times['torch'])} | {ratio(times, 'torch', 'ours')} | {workload.goal:g} |"
            f" {ratio(times, 'alone', 'ours')} | {whole} |"
        )
    yield "\nThe units are those of the first batch."


def reading(rounds: int) -> Iterator[str]:
    yield "\n## Reading values: the parser follows its own choices\n"
    yield "Without gradients; every transition reads the best legal action before the next one. Weights as they are at"
    yield "the start, with which all sides attach the same words but for ties.\n"
    yield "| program | µs for a transition | over ours |\n|---|---|---|"
    program = _program(_workload("parses"))
    if isinstance(program, str):
        yield program
        return
    of = program.of
    batched = partial(of.attached, program.model)

    def alone(batch: Any) -> float:
        with one_by_one():
            return batched(batch)

    sides: dict[str, Any] = {"batched": batched, "one by one": alone, "torch": program.twin.attached}
    if (module := _dynet()) is not None:
        theirs = module.Parses(program.model, of)
        sides["DyNet, batching"] = partial(theirs.attached, batched=True)
        sides["DyNet"] = partial(theirs.attached, batched=False)
    batch = next(program.batches())
    for name, side in sides.items():
        assert abs(side(batch) - batched(batch)) < 0.01, name
    times = in_turn(program, sides, rounds)
    for name, its in times.items():
        yield f"| {name} | {micro(its)} | {ratio(times, name, 'batched')} |"


def levels(rounds: int) -> Iterator[str]:
    yield "\n## Beside torch, batched by hand\n"
    yield "The Tree-LSTM again. By hand all nodes at one depth below the root are one matrix product, the deepest"
    yield "first, and the inputs of all nodes are one as well; children lie in the order of their parents, so that"
    yield "nothing is gathered but the rows that have a child. *found before* leaves out finding the levels."
    yield "Goal: 0.9.\n"
    program = _program(_workload("trees"))
    assert not isinstance(program, str)
    made: dict[int, Any] = {}  # the levels of the batch at hand

    def found_before(batch: Any) -> None:
        if id(batch) not in made:
            made.clear()
            made[id(batch)] = levels_of([x.tree for x in batch])
        program.twin.zero_grad()
        program.twin.by_level(batch, made[id(batch)]).backward()

    sides = {
        "dist_dp, batched": program.ours,
        "torch by hand": partial(program.theirs, way="by_level"),
        "torch by hand, levels found before": found_before,
    }
    times = in_turn(program, sides, rounds)
    yield "| | µs for a node | over ours |\n|---|---|---|"
    for name, its in times.items():
        yield f"| {name} | {micro(its)} | {ratio(times, name, 'dist_dp, batched')} |"


def dynet(rounds: int) -> Iterator[str]:
    yield "\n## Beside DyNet\n"
    module = _dynet()
    if module is None:
        yield "DyNet is not installed here (`pip install --no-deps dyNET38==2.2`: wheels for Linux on x86_64,"
        yield "Python 3.8 to 3.11), so that what stands here is our gain beside what its authors published of theirs.\n"
    else:
        yield "DyNet 2.1 as the package dyNET38 2.2 has it, with its autobatching and without (*off*), and the"
        yield "weights of ours. *published* is what its authors gained on their machine and data.\n"
    yield (
        "| program | dist_dp µs | one by one µs | gain | DyNet µs | off µs | gain | published | DyNet / dist_dp |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    for key, published in PUBLISHED.items():
        program = _program(_workload(key))
        if isinstance(program, str):
            yield program
            continue
        sides: dict[str, Any] = {"ours": program.ours, "alone": program.alone}
        if module is not None:
            theirs = {"trees": module.Trees, "tags": module.Tags, "parses": module.Parses}[key](
                program.model, program.of
            )
            sides |= {"auto": partial(theirs.step, batched=True), "off": partial(theirs.step, batched=False)}
            batch = next(program.batches())
            assert np.allclose(
                program.loss(batch).item(), [sides[x](batch) for x in ("auto", "off")], rtol=1e-5
            ), key
        times = in_turn(program, sides, rounds)
        cells = ["", "", "", f"{published:g}", ""]
        if module is not None:
            cells = [micro(times["auto"]), micro(times["off"]), ratio(times, "off", "auto"), f"{published:g}"]
            cells.append(ratio(times, "auto", "ours"))
        yield (
            f"| {program.workload.name} | {micro(times['ours'])} | {micro(times['alone'])} |"
            f" {ratio(times, 'alone', 'ours')} | {' | '.join(cells)} |"
        )


def in_turn(program: Program, sides: Mapping[str, Callable[[Any], Any]], rounds: int) -> Times:
    """Seconds for a unit of every side in every round."""
    times: Times = {name: [] for name in sides}
    batches = program.batches()
    first = next(batches)
    for work in sides.values():
        work(first)
    for batch, _ in zip(batches, range(rounds), strict=False):
        units = program.units(batch)
        for name, work in sides.items():
            gc.collect()  # nobody pays for what another one left
            done, start = 0, time.process_time()
            while (seconds := time.process_time() - start) < SECONDS or not done:
                work(batch)
                done += 1
            times[name].append(seconds / done / units)
    return times


def micro(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds) * 1e6:,.1f}"


def ratio(times: Times, above: str, below: str) -> str:
    return spread(a / b for a, b in zip(times[above], times[below], strict=True))


def _workload(key: str) -> Workload:
    return next(workload for workload in WORKLOADS if workload.key == key)


def _program(workload: Workload) -> Program | str:
    """The program; the row that says why there is none."""
    try:
        return Program(workload)
    except SystemExit as missing:
        return f"| {workload.name} | left out: {missing} |"


def _dynet() -> Any:
    """The programs in DyNet; None where it is not installed."""
    try:
        from . import batching_dynet
    except ModuleNotFoundError as error:
        if error.name not in ("dynet", "dynet_config", "_dynet"):
            raise
        return None
    return batching_dynet
