"""A small program that has everything the promise must hold for: dropout, batch statistics, uneven and empty shards,
parameters that only some examples use, and weights that are not the number of examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import nn, optim


class Program(nn.Module):
    """Examples of class 0 go through one branch, the others through another, which may see none of them in a step."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(0.3)
        self.common = nn.Linear(5, 6)
        self.rare = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Any, rare: bool) -> Any:
        normal = self.norm(x) if len(x) > 1 else x  # a shard of one example has no statistics
        hidden = self.dropout(self.common(normal).tanh())
        return self.head(self.rare(hidden).tanh() if rare else hidden)


def arrays(n: int = 46) -> tuple[Any, Any]:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    return x, (x @ rng.normal(size=(5, 3))).argmax(1)


def loss(model: Program, batch: Any) -> Any:
    x, y = batch
    logits = model(x, rare=bool((y == 0).sum() > 1))
    weight = float(1 + (y > 0).sum())
    return nn.functional.cross_entropy(logits, y), weight, {"accuracy": (logits.argmax(1) == y).mean()}


def make() -> tuple[Program, optim.Optimizer]:
    dp.seed(3)
    model = Program()
    return model, optim.AdamW(model.parameters(), lr=optim.Cosine(3e-2, warmup=3), clip_norm=1.0)


Train = Callable[..., dp.Result]


@pytest.fixture
def train() -> Train:
    """Train a fresh model: 3 epochs of 5 steps (the last of each is short), 4 shards."""

    def run(run: Path | None = None, **options: Any) -> dp.Result:
        settings: dict[str, Any] = {"batch_size": 10, "epochs": 3, "shards": 4, "seed": 11, "progress": False}
        model, optimizer = make()
        return dp.fit(model, loss, optimizer, arrays(), **{**settings, "run": run, **options})

    return run


@pytest.fixture
def program() -> Any:
    """The pieces of the program, for tests that put them together in their own way."""
    return make, loss, arrays
