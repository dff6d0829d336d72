"""What batching costs beside arithmetic: recording, scheduling, and shards of uneven trees."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

import dist_dp as dp
from dist_dp import nn
from dist_dp.batching.schedule import batches, needed
from dist_dp.data.sharding import Batches

from .batching_workloads import BATCH, functions, nodes
from .examples import example

HIDDEN = 8  # it is not computed
CALLS = 10_000
STEPS, WORKERS = 30, 2
LEAVES = 50  # of a random tree

State = tuple[dp.Tensor, dp.Tensor]


class Composer(nn.Module):
    """Something whose cells can be called."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.BinaryTreeLSTMCell(HIDDEN, HIDDEN)

    @dp.cell
    def leaf(self, x: Any) -> State:
        return self.cell(x[:, None] * np.ones(HIDDEN, np.float32))

    @dp.cell
    def compose(self, left: State, right: State) -> State:
        return self.cell(None, left, right)

    def random_tree(self, leaves: int, rng: random.Random) -> State:
        if leaves == 1:
            return self.leaf(1.0)
        left = rng.randrange(1, leaves)
        return self.compose(self.random_tree(left, rng), self.random_tree(leaves - left, rng))


def recording(rounds: int) -> Iterator[str]:
    yield "\n## Recording\n"
    yield f"Calls of a cell `compose(self, left, right)` on two states (h, c), noted and not computed: {CALLS:,} in a"
    yield "chain inside `dp.batched`, with the loop that makes them. Python's garbage collector looks at all that is"
    yield "new again and again and finds nothing; the second row is without it. Goal: 3 µs.\n"
    yield "| | µs for a call |\n|---|---|"
    model, seconds = Composer(), []

    def chain(_: int) -> float:
        state = model.leaf(1.0)
        start = time.process_time()
        for _ in range(CALLS):
            state = model.compose(state, state)
        seconds.append((time.process_time() - start) / CALLS)
        return 0.0

    for name, around in (("as it is", nullcontext), ("without garbage collection", uncollected)):
        seconds.clear()
        for _ in range(3 * rounds):
            gc.collect()
            with around():
                dp.batched(chain, [0])
        found = sorted(seconds[1:])
        low, middle, high = (found[int(len(found) * share)] * 1e6 for share in (0.25, 0.5, 0.75))
        yield f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) |"


def scheduling(rounds: int) -> Iterator[str]:
    yield "\n## Scheduling\n"
    yield f"Forests of random binary trees with {LEAVES} leaves: a call for every leaf and every inner node. The"
    yield "schedule is `needed` and `batches` without computing. Linear means that µs for a call stay as they are.\n"
    yield (
        "| calls | trees | batches | recording, a call | schedule, a call | without garbage collection: recording |"
        " schedule |\n|---|---|---|---|---|---|---|"
    )
    for calls in (1_000, 10_000, 100_000, 1_000_000):
        trees = max(1, round(calls / (2 * LEAVES - 1)))
        row = []
        for around in (nullcontext, uncollected):
            tries = []
            for _ in range(max(1, min(rounds, 300_000 // calls))):
                gc.collect()
                with around():
                    tries.append(_scheduled(trees))
            count, groups, *seconds = (statistics.median(column) for column in zip(*tries, strict=True))
            row += [f"{x / count * 1e6:.2f} µs" for x in seconds]
        yield f"| {count:,.0f} | {trees:,} | {groups:.0f} | {' | '.join(row)} |"


def _scheduled(trees: int) -> tuple[int, int, float, float]:
    """(calls, batches, seconds of recording, seconds of scheduling) of a random forest."""
    model, rng, roots = Composer(), random.Random(0), []

    def grow(_: int) -> float:
        roots.append(model.random_tree(LEAVES, rng)[0])
        return 0.0  # so that nothing is computed

    start = time.process_time()
    dp.batched(grow, range(trees))
    middle = time.process_time()
    calls = needed(roots)
    groups = sum(1 for _ in batches(calls, None))
    return len(calls), groups, middle - start, time.process_time() - middle


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def idle(repeats: int = 3) -> Iterator[str]:
    yield "\n## Two workers on uneven trees\n"
    yield f"Training steps of ast_depth, functions of at most 300 nodes, {BATCH} trees in {WORKERS} shards, {STEPS}"
    yield "steps. Each shard of a step is computed by itself in one process (forward and backward, the best of"
    yield f"{repeats}); a worker is idle while another one still computes: the share is the mean over the steps of"
    yield "(largest - mean) / largest. A step takes as long as its longest shard.\n"
    yield "| shards | idle by nodes | idle by time | longest shard ms |\n|---|---|---|---|"
    of = example("ast_depth")
    trees = functions(of)
    sizes = tuple(nodes(x.tree) for x in trees)
    model = of.Reader()

    def seconds(shard: Sequence[int]) -> float:
        times = []
        for _ in range(repeats):
            model.zero_grad()
            start = time.process_time()
            of.loss(model, [trees[i] for i in shard])[0].backward()
            times.append(time.process_time() - start)
        return min(times)

    for name, balance in (("as they come", None), ("`balance=` their nodes", sizes)):
        order = Batches(len(trees), BATCH, WORKERS, seed=0, sizes=balance)
        shards = [[order.indices(step, s).tolist() for s in range(WORKERS)] for step in range(STEPS)]
        by_nodes = [[sum(sizes[i] for i in shard) for shard in step] for step in shards]
        by_time = [[seconds(shard) for shard in step] for step in shards]
        longest = statistics.mean(max(step) for step in by_time) * 1e3
        yield f"| {name} | {_idle(by_nodes):.1%} | {_idle(by_time):.1%} | {longest:.1f} |"


def _idle(steps: Sequence[Sequence[float]]) -> float:
    return statistics.mean((max(step) - statistics.mean(step)) / max(step) for step in steps)
