"""Laws of computing in pieces: every row once, in order, and the same bits for every size of piece."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dp.ops import blocked
from dist_dp.ops.blocked import as_rows, column_sums, elementwise, from_rows, in_blocks, row_sums


def _logistic(x: Any, out: Any, scratch: Any) -> None:
    np.multiply(x, -1, scratch)
    np.exp(scratch, scratch)
    np.add(scratch, 1, scratch)
    np.divide(1, scratch, out)


@given(rows=st.integers(0, 40), width=st.integers(0, 5), block=st.integers(1, 64), seed=st.integers(0, 99))
def test_pieces_are_whole_rows_that_cover_the_arrays_once(
    rows: int, width: int, block: int, seed: int
) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, width))
    out, sums = np.zeros_like(x), np.zeros(rows)

    def kernel(x: Any, out: Any, sums: Any, scratch: Any) -> None:
        assert len(x) == 1 or x.size <= block
        assert scratch.shape == x.shape and scratch.dtype == x.dtype
        np.add(out, x, out)
        np.add.reduce(x, 1, None, sums)

    with patch.object(blocked, "BLOCK", block):
        in_blocks(kernel, [x, out, sums], scratch=1)
    assert np.array_equal(out, x)
    assert np.array_equal(sums, x.sum(1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(shape=st.lists(st.integers(0, 9), max_size=3), block=st.integers(1, 50), transposed=st.booleans())
def test_an_elementwise_kernel_gives_the_same_bits_for_every_block(
    dtype: Any, shape: list[int], block: int, transposed: bool
) -> None:
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    x = x.T if transposed else x
    whole = elementwise(_logistic, x, scratch=1)
    with patch.object(blocked, "BLOCK", block):
        cut = elementwise(_logistic, x, scratch=1)
    assert cut.dtype == dtype and cut.shape == x.shape
    assert np.array_equal(cut, whole)


def test_several_outputs_come_as_a_tuple() -> None:
    def kernel(x: Any, double: Any, half: Any) -> None:
        np.multiply(x, 2, double)
        np.multiply(x, 0.5, half)

    for x in (np.ones(3), np.ones((300, 300))):
        double, half = elementwise(kernel, x, outputs=2)
        assert np.array_equal(double, x * 2) and np.array_equal(half, x / 2)


@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    axis=st.integers(-4, 3),
    transposed=st.booleans(),
)
def test_rows_run_along_the_axis_and_turn_back(shape: list[int], axis: int, transposed: bool) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    x = x.T if transposed else x
    axis = axis % x.ndim
    rows = as_rows(x, axis)
    assert rows.flags.c_contiguous and rows.shape == (
        np.prod(x.shape) / max(x.shape[axis], 1) or len(rows),
        x.shape[axis],
    )
    assert np.array_equal(from_rows(rows, x.shape, axis), x)
    assert np.allclose(from_rows(rows, x.shape, axis).sum(axis).ravel(), rows.sum(1))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (5, 7), (1000, 3), (3, 5000)])
def test_sums_of_rows_and_columns(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_allclose(row_sums(x), x.sum(1), atol=1e-12)
    np.testing.assert_allclose(column_sums(x), x.sum(0), atol=1e-12)
