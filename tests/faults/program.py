"""A program to be killed: trains in the directory it is given and says each shard before it computes it."""

import sys

import numpy as np

import dist_dp as dp
from dist_dp import nn, optim


def main(run: str | None = None, checkpoint_every: str = "0") -> None:
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
        run=run,
        checkpoint_every=int(checkpoint_every),
        progress=False,
    )
    for shard in steps:
        print(shard.step, shard.index, flush=True)
        inputs, targets = shard.batch
        shard.backward(nn.functional.cross_entropy(model(inputs), targets))
    print("digest", steps.digest(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
