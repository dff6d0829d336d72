"""What a training step allocates once its buffers are there."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from dist_dp import nn, optim


@pytest.mark.parametrize(
    "rule", [optim.AdamW, lambda p: optim.SGD(p, lr=0.1, momentum=0.9)], ids=["adamw", "sgd"]
)
def test_a_step_makes_no_array_of_the_size_of_a_weight(rule: Any) -> None:
    """Weights of 4 MB and a batch of 8: activations are small, so 1 MB of new memory means that one was made."""
    model = nn.Sequential(
        nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )
    optimizer = rule(model.parameters())
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 784)).astype(np.float32), rng.integers(0, 10, 8)

    def step() -> None:
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    tracemalloc.start()
    try:
        step()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(3):
            step()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 1e6
    assert abs(after - before) < 1e4  # nothing is kept from step to step
