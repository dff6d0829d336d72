"""Where a batched program is not yet what it is one by one. Each of these is to be repaired, and then moved."""

from __future__ import annotations

from typing import Any

import numpy as np
from batching.agreement import agree, known

import dist_dp as dp

ONE = np.ones(2, np.float32)


@dp.cell
def double(x: Any) -> Any:
    return x * 2.0


@known(
    "the beginning of a value and the value share memory one by one; here a write makes a new value of the one alone"
)
def test_a_view_sees_a_write() -> None:
    def program(n: float) -> Any:
        h = double(ONE * np.float32(n))
        first = h[:1]
        h += 1.0
        return h * first

    agree(program, [1.0, 2.0])


@known(
    "arrays of more than recorder.SMALL bytes are not copied when a call takes them: a write changes what it reads"
)
def test_a_large_array_is_written_after_a_call_with_it() -> None:
    def program(n: float) -> Any:
        buffer = np.ones(5000) * n
        h = double(buffer)
        buffer += 1.0
        return h * buffer

    agree(program, [1.0, 2.0])


@known("a signature holds id(x.node) and not the node, whose address another tensor has later", RuntimeError)
def test_leaves_that_come_and_go_for_long() -> None:
    def program(n: float) -> Any:
        one, total = double(ONE[:1]), 0.0
        for k in range(3000):
            leaf = dp.tensor(np.full(1 + k % 5, n, np.float32), requires_grad=True)
            total += (leaf * one).sum().item()
        return total

    with dp.no_grad():
        agree(program, [1.0])
