"""A model of ten million parameters, trained in turns: `dist-dp run -n N .../checkpoint_program.py RUN EVERY`."""

from __future__ import annotations

import itertools
import sys

import numpy as np

import dist_dp as dp
from benchmarks.turns import Turn
from benchmarks.workers_ours import Clock
from dist_dp import nn, optim
from runtime.member import current

BATCH, SHARDS = 128, 2


def main(run: str, every: str) -> None:
    turn = Turn(current().worker)
    dp.seed(0)
    widths = (1024, 2048, 2048, 1792, 10)
    layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    rng = np.random.default_rng(0)
    data = rng.normal(size=(16 * BATCH, widths[0])).astype(np.float32), rng.integers(0, 10, 16 * BATCH)
    turn.begin()
    loop = dp.steps(
        model,
        optim.Adam(model.parameters(), lr=1e-4),
        data,
        batch_size=BATCH,
        epochs=1 << 20,
        shards=SHARDS,
        run=run,
        checkpoint_every=int(every),
        progress=False,
        sinks=[Clock(turn)],
    )
    for shard in loop:
        if not turn.may(shard.step):
            break
        inputs, targets = shard.batch
        shard.backward(nn.functional.cross_entropy(model(inputs), targets))


if __name__ == "__main__":
    main(*sys.argv[1:])
