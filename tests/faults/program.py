"""A program to be broken: trains in the directory it is given and says each shard before it computes it."""

import os
import sys
import time
from pathlib import Path

import numpy as np

import dist_dp as dp
from dist_dp import nn, optim
from runtime import faults


def main(run: str = "", checkpoint_every: str = "0", pace: str = "0", wrong: str = "raises") -> None:
    """Args:
    run: the run directory; "" for none.
    pace: seconds that each shard takes at least, or a file that holds them and may change meanwhile.
    wrong: what comes of an exception that was ordered in the body: it "raises", or makes the loss "nan".
    """
    dp.seed(5)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
    rng = np.random.default_rng(2)
    x = rng.normal(size=(90, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    steps = dp.steps(
        model,
        optim.Adam(model.parameters(), lr=optim.Cosine(1e-2)),
        (x, y),
        batch_size=16,
        epochs=8,
        shards=3,
        seed=1,
        run=run or None,
        checkpoint_every=int(checkpoint_every),
        progress=False,
    )
    for shard in steps:
        print(shard.step, shard.index, flush=True)
        time.sleep(float(Path(pace).read_text() if os.path.isabs(pace) else pace))
        inputs, targets = shard.batch
        loss = nn.functional.cross_entropy(model(inputs), targets)
        try:
            faults.here("body", shard.step, shard.index)
        except faults.Ordered:
            if wrong == "raises":
                raise
            loss = loss * float("nan")
        shard.backward(loss)
    print("digest", steps.digest(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
