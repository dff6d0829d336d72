"""A program that tells what it does and when, to be killed: `dist-dp run -n N benchmarks/losses_program.py RUN STEPS`.

Every worker appends a line to a file of its own in RUN before it computes a shard: time, step, shard. The file is named
by its number and process id.
"""

from __future__ import annotations

import os
import sys
import time

import numpy as np

import dist_dp as dp
from benchmarks.examples import example
from dist_dp import optim
from runtime.member import current

SHARDS, BATCH = 4, 256


def main() -> None:
    run, steps = sys.argv[1], int(sys.argv[2])
    digits = example("digits")
    rng = np.random.default_rng(0)
    data = rng.normal(size=(2048, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, 2048)
    dp.seed(0)
    model = digits.cnn()
    optimizer = optim.Adam(model.parameters(), lr=1e-4)
    loop = dp.steps(
        model,
        optimizer,
        data,
        batch_size=BATCH,
        epochs=1 << 20,
        max_steps=steps,
        shards=SHARDS,
        checkpoint_every=0,
        run=run,
        progress=False,
    )
    with open(os.path.join(run, f"shards-{current().worker}-{os.getpid()}"), "w", buffering=1) as told:
        for shard in loop:
            told.write(f"{time.time()} {shard.step} {shard.index}\n")
            shard.backward(digits.loss(model, shard.batch)[0])


if __name__ == "__main__":
    main()
