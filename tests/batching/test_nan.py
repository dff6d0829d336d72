"""Where a NaN came from: anomaly detection around batches names the cell, the example and the line."""

from __future__ import annotations

import linecache
import re
from typing import Any

import numpy as np
import pytest
from batching.cells import ONE, double, lines, notes

import dist_dp as dp
from dist_dp import ops


def test_anomaly_around_batched_names_cell_example_and_line() -> None:
    @dp.cell
    def logarithm(x: Any) -> Any:
        return ops.log(x)  # the line inside

    def program(n: int) -> Any:
        return logarithm(ONE * (-1.0 if n == 3 else 1.0))  # this line

    with pytest.raises(dp.debug.AnomalyError, match="log made nan") as caught, dp.debug.anomaly():
        dp.batched(program, range(5))
    assert "called by example 3 " in notes(caught.value) and "logarithm" in notes(caught.value)
    assert any(line.endswith("# this line") for line in lines(caught.value, __file__)), notes(caught.value)
    with np.errstate(all="ignore"):
        assert np.isnan(dp.batched(program, range(5)).data).sum() == 2


def test_anomaly_names_an_operation_outside_cells() -> None:
    def program(n: int) -> Any:
        return ops.sqrt(double(ONE) - (9.0 if n == 1 else 0.0))  # this line

    with pytest.raises(dp.debug.AnomalyError, match="sqrt made nan") as caught, dp.debug.anomaly():
        dp.batched(program, range(3))
    assert re.fullmatch("in sqrt, called by example 1 at .*, in a batch of 3 calls", notes(caught.value))
    assert all(line.endswith("# this line") for line in lines(caught.value, __file__)[-1:]), notes(
        caught.value
    )
    assert linecache.getline(__file__, site_of(caught.value)).strip().endswith("# this line")


def test_anomaly_is_not_worried_by_the_run_on_zeros() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    @dp.cell
    def inverse(x: Any) -> Any:
        return ops.log(x) / x

    with dp.debug.anomaly():
        loss = dp.batched(lambda n: inverse(w * n) / double(w), [1.0, 2.0]).sum()
        loss.backward()
    assert np.isfinite(w.grad.data).all()


def test_anomaly_in_backward() -> None:
    w = dp.tensor([0.0, 2.0], requires_grad=True)

    @dp.cell
    def root(x: Any) -> Any:
        return ops.sqrt(x)  # the line inside

    with (
        pytest.raises(dp.debug.AnomalyError, match="derivative of sqrt") as caught,
        dp.debug.anomaly(),
        np.errstate(all="ignore"),
    ):
        dp.batched(lambda n: root(w * n), [1.0, 2.0]).sum().backward()
    assert linecache.getline(__file__, site_of(caught.value)).strip().endswith("# the line inside")


@pytest.mark.parametrize("max_batch", [None, 1, 2])
@pytest.mark.parametrize("at", [0, 2, 4])
@pytest.mark.parametrize("root", [dp.cell(lambda x: ops.sqrt(x)), ops.sqrt])
def test_anomaly_in_backward_names_the_example(root: Any, at: int, max_batch: int | None) -> None:
    w = dp.tensor([0.0, 2.0], requires_grad=True)

    def program(n: int) -> Any:
        if n == at:
            return root(double(w * n))  # this line
        return root(double(w * n) + 1.0)  # another

    with pytest.raises(dp.debug.AnomalyError, match="derivative of sqrt") as caught, dp.debug.anomaly():
        dp.batched(program, range(5), max_batch=max_batch).sum().backward()
    found = re.search(r"is a call of example (\d+) of dp\.batched at (.*):(\d+)$", str(caught.value))
    assert found and int(found[1]) == at and found[2] == __file__
    assert linecache.getline(__file__, int(found[3])).strip().endswith("# this line")


def test_anomaly_inside_an_example() -> None:
    def program(n: int) -> Any:
        with dp.debug.anomaly():
            return ops.log(double(ONE * (-1.0 if n == 1 else 1.0)))  # this line

    with pytest.raises(dp.debug.AnomalyError, match="log made nan") as caught:
        dp.batched(program, range(3))
    assert notes(caught.value).endswith("in example 1 of dp.batched")
    assert linecache.getline(__file__, site_of(caught.value)).strip().endswith("# this line")


def site_of(error: dp.debug.AnomalyError) -> int:
    return int((error.site or "").rpartition(":")[2])
