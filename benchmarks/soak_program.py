"""The program that the soak breaks: `soak_program.py RUN PACE MODE`; some seconds of training at most.

MODE says how gradients and moments travel: "plain", "overlap" or "spread" (the optimizer's state over the workers). The
answer is the same.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

import dist_dp as dp
from dist_dp import nn, optim


class Gated(nn.Module):
    """Which of its parts a shard touches depends on the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2))
        self.left, self.right = nn.Linear(24, 2), nn.Linear(24, 2)

    def forward(self, x: dp.Tensor) -> dp.Tensor:
        part = self.left if float(x.data.sum()) > 0 else self.right
        return part(self.first(x))


def main(run: str, pace: str, mode: str) -> None:
    dp.seed(5)
    model = Gated()
    rng = np.random.default_rng(2)
    x = rng.normal(size=(90, 6)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)

    def loss(model: Any, batch: Any) -> Any:
        time.sleep(float(pace))
        inputs, targets = batch
        return nn.functional.cross_entropy(model(dp.tensor(inputs)), targets)

    result = dp.fit(
        model,
        loss,
        optim.Adam(model.parameters(), lr=optim.Cosine(1e-2)),
        (x, y),
        validation=(x[:31], y[:31]),
        batch_size=15,
        epochs=15,
        shards=4,
        seed=1,
        run=run,
        checkpoint_every=9,
        overlap=mode == "overlap",
        shard_optimizer=mode == "spread",
        progress=False,
    )
    print("digest", result.digest, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
