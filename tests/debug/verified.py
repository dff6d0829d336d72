"""A program for `dist-dp verify`, right or wrong: `verified.py WRONG SHARDS`.

It trains twice, in two runs. WRONG is "" for a right program; "gradient": a shard of the second run depends on which
worker computes it; "data": so does its loss; "clock": a shard of the first depends on the time of day.
"""

import os
import sys
import time

import numpy as np

import dist_dp as dp
from dist_dp import nn, optim

WORKER = int(os.environ.get("DIST_DP_WORKER", "0"))


def train(run: int, wrong: str, shards: int | None) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    data = np.random.default_rng(run).normal(size=(24, 3)).astype(np.float32)
    steps = dp.steps(
        model, optim.SGD(model.parameters(), lr=0.1), data, batch_size=8, epochs=2, shards=shards, run=f"mine/{run}",
        progress=False,
    )  # fmt: skip
    for shard in steps:
        inputs = shard.batch
        loss = (model(inputs) ** 2).mean()
        if run == 1 and shard.step == 2 and shard.index == 1 and WORKER:
            if wrong == "gradient":
                bias = model[2].bias
                loss = loss + (bias - bias.detach()).sum()  # adds nothing, but its gradient does
            elif wrong == "data":
                loss = loss * 2
        if run == 0 and shard.step == 1 and shard.index == 0 and wrong == "clock":
            loss = loss * (1 + time.time() % 1)
        shard.backward(loss)


if __name__ == "__main__":
    dp.seed(0)
    for run in (0, 1):
        train(run, sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
