"""Where a batched program is not yet what it is one by one. Each of these is to be repaired, and then moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from batching.agreement import agree

import dist_dp as dp
from dist_dp import ops

ONE = np.ones(2, np.float32)


def known(reason: str, raises: Any = AssertionError) -> Any:
    return pytest.mark.xfail(strict=True, reason=reason, raises=raises)


@dp.cell
def double(x: Any) -> Any:
    return x * 2.0


@dp.cell
def add(x: Any, y: Any) -> Any:
    return x + y


# --- writes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: np.ones(2, np.float32), lambda: dp.tensor(ONE.copy())])
@pytest.mark.parametrize(
    "call", [lambda x: add(x, ONE), lambda x: double(ONE) * x], ids=["cell", "operation"]
)
@known(
    "a call keeps the array of the user and reads it when it is computed; it must keep a copy or see the write"
)
def test_an_array_is_written_after_a_call_with_it(make: Any, call: Any) -> None:
    def program(n: float) -> Any:
        buffer = make()
        y = call(buffer)
        buffer += 5.0
        return add(y, buffer)

    agree(program, [1.0, 2.0])


@known("Recorder._at_once hands out one Tensor for all examples, and one of them writes into it")
def test_one_example_writes_into_what_it_computed_of_a_parameter() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    def program(n: int) -> Any:
        y = w * 2
        if n == 0:
            y[0] = 100.0
        return y + n

    agree(program, [0, 1])


# --- gradients --------------------------------------------------------------------------------------------------------


# --- signatures -------------------------------------------------------------------------------------------------------


@known("parameters of an operation are compared by == and type: 0.0 and -0.0 are one")
def test_zeros_of_both_signs_as_a_parameter() -> None:
    def program(low: float) -> Any:
        return ops.copysign(1.0, ops.clip(double(ONE) * -1, low, 5.0))

    agree(program, [0.0, -0.0])


@known("a cell is tried with 2 rows: a result that lost the batch and has 2 for its first axis passes")
def test_a_result_without_the_batch_that_happens_to_fit() -> None:
    @dp.cell
    def summed(x: Any) -> Any:
        return x.sum(0)

    with pytest.raises(ValueError, match="batch on their first axis"):
        dp.batched(lambda _: summed(ONE), range(2))
        raise AssertionError("passed")


# --- errors -----------------------------------------------------------------------------------------------------------


@known(
    "_Examples.run throws into self.waiting, which is empty while values are computed and examples resumed"
)
def test_what_suspended_examples_have_open_is_closed_when_a_batch_fails() -> None:
    closed = []

    @dp.cell
    def look(i: Any) -> Any:
        return ops.take(dp.tensor(np.arange(3.0)), i)

    def program(n: int) -> Any:
        try:
            return look(n) if look(n).item() > 1 else look(n + 1)
        finally:
            closed.append(n)

    with pytest.raises(IndexError):
        dp.batched(program, [0, 1, 7, 2])
    assert sorted(closed) == [0, 1, 2, 7]


@known("list(examples) speaks for itself", AssertionError)
def test_examples_that_are_no_sequence() -> None:
    with pytest.raises(TypeError) as caught:
        dp.batched(double, 3)  # type: ignore[arg-type]
    assert "examples" in str(caught.value)


@known("_form says the number of leaves only: a dict of 1 leaves and a dict of 1 leaves")
def test_results_with_different_keys() -> None:
    with pytest.raises(ValueError) as caught:
        dp.batched(lambda n: {n: ONE}, ["apple", "pear"])
    assert "apple" in str(caught.value) and "pear" in str(caught.value)
