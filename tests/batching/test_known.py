"""Where a batched program is not yet what it is one by one. Each of these is to be repaired, and then moved."""

from __future__ import annotations

from typing import Any

import numpy as np
from batching.agreement import known

import dist_dp as dp
from dist_dp import ops

ONE = np.ones(2, np.float32)
TABLE = dp.tensor(np.arange(3.0))


@dp.cell
def double(x: Any) -> Any:
    return x * 2.0


@dp.cell
def look(i: Any) -> Any:
    return ops.take(TABLE, i)


@dp.cell
def add(x: Any, y: Any) -> Any:
    return x + y


# --- writes -----------------------------------------------------------------------------------------------------------


# --- gradients --------------------------------------------------------------------------------------------------------


# --- signatures -------------------------------------------------------------------------------------------------------


# --- memory -----------------------------------------------------------------------------------------------------------


@known(
    "the result is a view of the block, which it keeps alive: megabytes for the predictions of an evaluation"
)
def test_a_small_result_does_not_hold_the_block() -> None:
    def chain(n: float) -> Any:
        h = np.ones(1000) * n
        for _ in range(50):
            h = double(h)
        return h

    out = dp.batched(chain, [1.0, 2.0]).data
    assert (out if out.base is None else out.base).nbytes <= 8 * out.nbytes


@known("the same: the row of the result and the value that was kept are one memory")
def test_a_write_into_the_result_does_not_change_what_was_kept() -> None:
    kept: list[Any] = []

    def program(n: float) -> Any:
        kept.append(double(ONE * np.float32(n)))
        return kept[-1]

    out = dp.batched(program, [1.0, 2.0])
    out += 10.0
    assert [h.tolist() for h in kept] == [[2, 2], [4, 4]]
