"""Products of matrices by the compiled kernel: right, and each entry from its own row and column alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dp import grad, kernels
from dist_dp.kernels.product import Packed, dot
from runtime.fingerprint import pin_blas_threads

needed = pytest.mark.skipif(
    kernels.compiled is None or not kernels.compiled.fuses,
    reason="no compiled kernels, or a processor without fused multiply-add",
)
NOTHING = np.empty(0, np.float32)

# Around the sides of tiles, panels and blocks: 12 and 32; 96 rows, 256 terms, 1,024 columns are taken at a time.
rows = st.sampled_from([1, 2, 3, 5, 7, 11, 12, 13, 24, 95, 96, 97, 200])
terms = st.sampled_from([1, 2, 3, 4, 5, 31, 255, 256, 257, 513])
columns = st.sampled_from([1, 7, 16, 31, 32, 33, 64, 100, 1023, 1025])


def matrix(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def product(x: Any, y: Any, bias: Any = NOTHING) -> Any:
    """By the kernel whatever the sizes; what lies column by column is given as transposed."""
    (m, k), n = x.shape, y.shape[1]
    out = np.full((m, n), np.nan, np.float32)
    left, right = x.flags.c_contiguous, y.flags.c_contiguous
    given_ = x if left else x.T, y if right else y.T
    kernels.compiled.product(*given_, bias, out, m, k, n, not left, not right)
    return out


@needed
@given(rows, terms, columns, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99))
def test_it_is_the_product_of_the_matrices(
    m: int, k: int, n: int, left: bool, right: bool, with_bias: bool, seed: int
) -> None:
    x, y = matrix(seed, m, k), matrix(seed + 1, k, n)
    bias = matrix(seed + 2, n) if with_bias else NOTHING
    exact = x.astype(np.float64) @ y + (bias if with_bias else 0)
    given_ = np.asfortranarray(x) if left else x, np.asfortranarray(y) if right else y
    size = np.abs(x).astype(np.float64) @ np.abs(y) + 1
    assert (np.abs(product(*given_, bias) - exact) <= 2e-6 * size).all()


@needed
@given(rows, terms, columns, st.integers(0, 99), st.data())
def test_an_entry_is_that_of_its_row_and_column_alone(
    m: int, k: int, n: int, seed: int, data: st.DataObject
) -> None:
    x, y = matrix(seed, m, k), matrix(seed + 1, k, n)
    whole = product(x, y)
    some = data.draw(st.lists(st.integers(0, m - 1), min_size=1, max_size=5))
    others = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))
    np.testing.assert_array_equal(product(x[some], y[:, others].copy()), whole[np.ix_(some, others)])
    np.testing.assert_array_equal(product(np.asfortranarray(x), np.asfortranarray(y)), whole)


@needed
@given(rows, terms, columns, st.booleans(), st.integers(0, 99))
def test_a_packed_matrix_gives_the_same_bits(m: int, k: int, n: int, transposed: bool, seed: int) -> None:
    x, y = matrix(seed, m, k), matrix(seed + 1, k, n)
    if n >= 32:
        packed = Packed(np.asfortranarray(y) if transposed else y)
        assert packed.packed is not None
        np.testing.assert_array_equal(packed.dot(x, np.empty((m, n), np.float32)), product(x, y))


@needed
def test_special_values_stay_in_their_rows_and_columns() -> None:
    x, y = matrix(0, 40, 300), matrix(1, 300, 64)
    x[3, 7], x[5, 1], y[9, 11] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        expected = x.astype(np.float64) @ y
    np.testing.assert_array_equal(np.isnan(product(x, y)), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(product(x, y)), np.isinf(expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.integers(0, 40), st.integers(0, 300), st.integers(0, 70), st.integers(0, 3), st.integers(0, 99))
def test_dot_is_numpys_however_the_matrices_lie(
    dtype: Any, m: int, k: int, n: int, how: int, seed: int
) -> None:
    x, y = matrix(seed, 2 * m, k)[::2].astype(dtype), matrix(seed + 1, k, n).astype(dtype)
    x = x if how == 3 else np.asfortranarray(x) if how == 1 else np.ascontiguousarray(x)
    y = np.asfortranarray(y) if how == 2 else y
    bias = matrix(seed + 2, n).astype(dtype)
    place = np.empty((m, n), dtype)
    out = dot(x, y, bias, place)
    assert out is place and out.dtype == dtype
    np.testing.assert_allclose(out, x @ y + bias, rtol=0, atol=2e-4)
    np.testing.assert_allclose(Packed(y).dot(np.ascontiguousarray(x), place), x @ y, rtol=0, atol=2e-4)


@pytest.mark.parametrize("size", [(3, 4, 5), (40, 64, 64)])
def test_arrays_of_a_subclass_are_arrays(size: tuple[int, int, int]) -> None:
    m, k, n = size

    class Mapped(np.ndarray[Any, Any]):
        """As np.memmap is."""

    x, y, bias = matrix(0, m, k), matrix(1, k, n), matrix(2, n)
    place = np.empty((m, n), np.float32)
    assert dot(x.view(Mapped), y, bias, place) is place
    np.testing.assert_array_equal(place, dot(x, y, bias))
    np.testing.assert_array_equal(dot(x, y.view(Mapped), bias), place)


@needed
def test_blas_multiplies_where_it_has_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(kernels, "compiled", SimpleNamespace(fuses=1, product=lambda *a: calls.append(a)))
    x, y = matrix(0, 128, 64), matrix(1, 64, 128)
    with closing_pin(2):
        np.testing.assert_array_equal(dot(x, y), x @ y)
    assert not calls
    with closing_pin(1):
        dot(x, y)
    assert len(calls) == 1


@contextmanager
def closing_pin(threads: int) -> Iterator[None]:
    pinned = pin_blas_threads(threads)
    try:
        yield
    finally:
        pinned.restore_original_limits()


def test_a_large_product_has_gradients_of_both_orders() -> None:
    x, y = matrix(0, 128, 64), matrix(1, 64, 128)

    def loss(x: Any, y: Any) -> Any:
        return ((x @ y) ** 2).sum()

    of_x = 2 * (x @ y) @ y.T
    np.testing.assert_allclose(grad(loss)(x, y), of_x, rtol=1e-4, atol=1e-2)
    # The gradient of <v, 2 x y y^T> towards x is 2 v y y^T.
    v = matrix(2, 128, 64)
    second = grad(lambda x: (grad(loss)(x, y) * v).sum())(x)
    np.testing.assert_allclose(second, 2 * v @ y @ y.T, rtol=1e-4, atol=1e-2)
