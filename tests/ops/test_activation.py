"""Softmax and its kin where the table of laws does not go: large arrays, large entries, infinities."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.fused import leaf

import dist_dp as dp
from dist_dp import ops

both = pytest.mark.parametrize("fn", [ops.softmax, ops.log_softmax])


def exact(x: Any, axis: int) -> Any:
    """log-softmax in extended precision."""
    x = x.astype(np.longdouble)
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=30)
@given(
    shape=st.sampled_from([(1, 1), (3, 4), (400, 70), (70, 4, 40), (2, 40000)]),
    axis=st.integers(-2, 1),
    size=st.sampled_from([0.0, 1.0, 30.0, 1e3, 1e30]),
    offset=st.sampled_from([0.0, 59.0, -100.0, 1e4, -1e4]),
)
def test_any_size_of_entries_and_of_arrays(
    dtype: Any, shape: tuple[int, ...], axis: int, size: float, offset: float
) -> None:
    x = (np.random.default_rng(0).normal(size=shape) * size + offset).astype(dtype)
    eps = np.finfo(dtype).eps
    expected = exact(x, axis)
    p, log_p = ops.softmax(x, axis), ops.log_softmax(x, axis)
    assert p.dtype == log_p.dtype == dtype
    np.testing.assert_allclose(p.data, np.exp(expected).astype(dtype), rtol=100 * eps, atol=1e-30)
    np.testing.assert_allclose(log_p.data, expected.astype(dtype), rtol=16 * eps, atol=16 * eps)
    np.testing.assert_allclose(p.data.sum(axis), 1, rtol=100 * eps)


@both
def test_small_rows_among_large_ones_do_not_vanish(fn: Any) -> None:
    x = np.full((100, 50), -200.0, np.float32)
    x[::2] = 50.0
    np.testing.assert_allclose(fn(x).data, fn(np.zeros((100, 50), np.float32)).data, rtol=1e-6)


@both
@pytest.mark.parametrize("rows", [2, 100])
def test_a_row_of_minus_infinity_is_nan_and_one_entry_is_left_out(fn: Any, rows: int) -> None:
    x = np.zeros((rows, 50))
    x[0] = -np.inf
    x[1, 0] = -np.inf
    out = fn(x).data
    assert np.isnan(out[0]).all()
    assert out[1, 0] == fn([-np.inf, 0.0]).data[0]
    np.testing.assert_allclose(out[1, 1:], fn(np.zeros(49)).data)


@both
def test_integers_are_taken_as_float32(fn: Any) -> None:
    assert fn([1, 2]).dtype == np.float32


@pytest.mark.parametrize("fn", [ops.softmax, ops.log_softmax, ops.glu])
def test_errors_name_the_function_and_the_axis(fn: Any) -> None:
    with pytest.raises(ValueError, match=rf"{fn.__name__}: `axis` must be in \[-2, 1\] for 2 axes, got 2"):
        fn(np.zeros((2, 2)), 2)
    with pytest.raises(TypeError, match=f"{fn.__name__}: `axis` must be an integer, got 0.5"):
        fn(np.zeros((2, 2)), 0.5)
    with pytest.raises(ValueError, match="axis"):
        fn(1.0)


def test_glu_refuses_an_odd_axis() -> None:
    with pytest.raises(ValueError, match="glu: axis 0 is split in halves, but its length is 3"):
        ops.glu(np.zeros((3, 2)), 0)


@pytest.mark.parametrize(
    "fn", [ops.gelu, lambda x: ops.gelu(x, "tanh"), ops.silu], ids=["gelu", "tanh", "silu"]
)
def test_gates_in_float32_are_as_good_as_their_rounding(fn: Any) -> None:
    wide = np.linspace(-15, 15, 100_002).reshape(-1, 2)
    g = np.random.default_rng(0).normal(size=(2, len(wide))).T  # not contiguous
    found = []
    for dtype in (np.float32, np.float64):
        x = leaf(wide.astype(np.float32).astype(dtype))
        out = fn(x)
        out.backward(g.astype(dtype))
        found.append((out.data, x.grad.data))
        with dp.no_grad():
            np.testing.assert_array_equal(fn(x).data, out.data)
    (out, d), (exact_out, exact_d) = found
    assert (np.abs(out - exact_out) / np.maximum(1, np.abs(wide))).max() < 6e-7
    assert (np.abs(d - exact_d) / np.maximum(1, np.abs(g))).max() < 3e-6


def test_gelu_of_huge_and_infinite_numbers() -> None:
    x = np.array([-1e30, 1e30, np.inf, -40.0], np.float32)
    np.testing.assert_array_equal(ops.gelu(x).data, [0, np.float32(1e30), np.inf, 0])
