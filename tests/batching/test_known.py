"""What is known not to hold yet. Each of these fails; one that passes belongs elsewhere."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from batching.cells import ONE

import dist_dp as dp
from dist_dp import ops
from dist_dp.nn import functional as F


@pytest.mark.xfail(
    strict=True, raises=ValueError, reason="a body is tried on zeros, which it may refuse as values"
)
def test_a_body_that_refuses_zeros() -> None:
    @dp.cell
    def loss(x: Any, label: Any) -> Any:
        return F.cross_entropy(x, label - 1, reduction="none")

    dp.batched(lambda label: loss(ONE, label), [1, 2])


@pytest.mark.xfail(
    strict=True, reason="a recorded backward sweep makes the gradient of a block anew for every gather"
)
def test_memory_of_second_order_grows_with_the_calls() -> None:
    """Not with their square, as it does where `create_graph=True`."""

    def peak(n: int) -> int:
        def total(x: Any) -> Any:
            def program(k: float) -> Any:
                h = x * k
                for _ in range(n):
                    h = step(h)
                return h

            return dp.batched(program, [1.0, 2.0]).sum()

        tracemalloc.start()
        try:
            dp.hvp(total, (np.ones(50),), (np.ones(50),))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    @dp.cell
    def step(h: Any) -> Any:
        return ops.tanh(h) * 1.001

    assert peak(200) < 3 * peak(100)
