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
    "Tensor._become takes the data of a Lazy: that computes it, and is a view of a block, which the next write refuses",
    RuntimeError,
)
def test_a_value_of_parameters_alone_is_written_twice() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    def program(n: float) -> Any:
        y = w * 1.0
        y[0] = double(w)[1] * n
        y += double(w)
        return y

    agree(program, [1.0, 2.0], w)


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
