"""Elementwise operations where the laws of the table say nothing: at kinks and poles, in dtypes, on bad arguments."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import ops
from dist_dp.functional import grad
from dist_dp.ops import elementwise

INF, NAN = np.inf, np.nan


def slope(f: Callable[[Any], Any], *at: float) -> list[float]:
    """The derivative of an elementwise function at each of some points."""
    x = dp.tensor(np.array(at), requires_grad=True)
    with np.errstate(all="ignore"):
        f(x).sum().backward()
    return [] if x.grad is None else x.grad.tolist()


# ----- a branch that is not taken receives 0, never 0 * inf


@pytest.mark.parametrize(
    ("f", "at"),
    [
        (ops.sqrt, 0.0),
        (ops.log, 0.0),
        (ops.log, -1.0),
        (ops.log2, 0.0),
        (ops.log10, 0.0),
        (ops.log1p, -1.0),
        (ops.cbrt, 0.0),
        (ops.rsqrt, 0.0),
        (ops.reciprocal, 0.0),
        (ops.arcsin, 1.0),
        (ops.arccos, -1.0),
        (ops.arctanh, 1.0),
        (ops.arccosh, 1.0),
        (ops.exp, 1000.0),
        (lambda x: 1 / x, 0.0),
        (lambda x: x / x, 0.0),
        (lambda x: x**-1.5, 0.0),
        (lambda x: x**x, 0.0),
        (lambda x: x % x, 0.0),
        (lambda x: ops.arctan2(x, x), 0.0),
        (lambda x: ops.hypot(x, x), 0.0),
        (lambda x: ops.logaddexp(x, x), -INF),
    ],
)
def test_an_untaken_branch_gives_no_gradient_of_any_order(f: Callable[[Any], Any], at: float) -> None:
    def guarded(x: Any) -> Any:
        return ops.where(dp.tensor(False), f(x), 3 * x)

    with np.errstate(all="ignore"):
        assert grad(guarded)(np.array(at)).item() == 3
        assert grad(grad(guarded))(np.array(at)).item() == 0


def test_masks_select_gradients() -> None:
    x = dp.tensor(np.array([0.0, 4.0]), requires_grad=True)
    ops.masked_fill(ops.sqrt(x), x == 0, 7.0).sum().backward()
    assert x.grad.tolist() == [0.0, 0.25]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int64])
def test_what_is_kept_is_what_where_keeps(dtype: Any) -> None:
    special = [0.0, 1.5, -2.0] if dtype is np.int64 else [0.0, -0.0, 1e-7, INF, -INF, NAN]
    g = np.tile(np.array(special, dtype), (2, 1))
    condition = np.array([[True], [False]])
    for array, mask in (
        (g, condition),
        (g.T, condition.T),
        (g[:, ::2], condition),
        (g[0, 1], condition),
        (g, True),
    ):
        expected = np.where(mask, array, 0)
        found = elementwise.masked(array, mask)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


def test_a_leaky_gradient_is_that_of_where() -> None:
    x, g = np.array([[-INF, -1.0, -0.0, 0.0, 1e-45, INF, NAN], [1, -2, 3, INF, NAN, -INF, 0]], np.float32)
    for slope_ in (0.01, 2.0, -1.0, 0.0):
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(elementwise._leaky(g, x, slope_), np.where(x > 0, g, slope_ * g))
    assert ops.leaky_relu(np.array([-4, 2]), 0.25).tolist() == [-1.0, 2.0]


# ----- at kinks


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (ops.abs, 0.0),
        (ops.relu, 0.0),
        (lambda x: ops.maximum(x, 0.0), 0.5),
        (lambda x: ops.minimum(0.0, x), 0.5),
        (lambda x: ops.clip(x, 0.0, 1.0), 1.0),
        (lambda x: ops.clip(x, -1.0, 0.0), 1.0),
        (lambda x: ops.clip(x, 0.1, None), 0.0),
        (lambda x: ops.clip(x, np.array(0.0), np.array(1.0)), 1.0),
        (lambda x: ops.hypot(x, 0.0), 0.0),
        (lambda x: x**0, 0.0),
        (lambda x: x**1, 1.0),
        (lambda x: x**2, 0.0),
        (lambda x: x ** dp.tensor(0.0), 0.0),
        (lambda x: ops.leaky_relu(x, 0.25), 0.25),
    ],
)
def test_the_derivative_at_0(f: Callable[[Any], Any], expected: float) -> None:
    assert slope(f, 0.0) == [expected]


def test_equal_tensors_share_the_gradient_of_a_maximum_in_halves() -> None:
    x, y = (dp.tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    ops.maximum(x, y).sum().backward()
    assert x.grad.tolist() == y.grad.tolist() == [0.5, 0.5]


def test_bounds_of_clip_receive_the_gradient_of_what_they_replaced() -> None:
    low, high = dp.tensor(0.0, requires_grad=True), dp.tensor(1.0, requires_grad=True)
    x = dp.tensor([-2.0, -1.0, 0.0, 0.5, 3.0], requires_grad=True)
    ops.clip(x, low, high).sum().backward()
    assert (low.grad.item(), high.grad.item()) == (2, 1)
    assert x.grad.tolist() == [0, 0, 1, 1, 0]


def test_powers_of_numbers_and_of_zero() -> None:
    assert slope(lambda y: 0.0**y, 1.0, 2.0) == [0, 0]
    assert slope(lambda y: 2.0**y, 1.0) == pytest.approx([2 * math.log(2)])
    assert slope(lambda y: dp.tensor(0.0) ** y, 2.0) == [0]
    # The mixed second derivative of x^y at y = 0 is 1/x.
    mixed = grad(lambda y: grad(lambda x: x**y)(np.array(4.0)))(np.array(0.0))
    assert mixed.item() == pytest.approx(0.25)


def test_logaddexp_at_infinities() -> None:
    x = dp.tensor(np.array([INF, -INF, INF, 1.0]), requires_grad=True)
    y = dp.tensor(np.array([INF, -INF, 0.0, INF]), requires_grad=True)
    ops.logaddexp(x, y).backward(np.ones(4))
    assert x.grad.tolist() == [0.5, 0, 1, 0]
    assert y.grad.tolist() == [0.5, 0, 0, 1]


# ----- values far out


def test_no_overflow_where_the_result_is_finite() -> None:
    x = np.array([-1e4, -100.0, 0.0, 100.0, 1e4])
    assert ops.sigmoid(x).tolist() == [0, 0, 0.5, 1, 1]  # and no warning, which would be an error here
    assert ops.softplus(x).tolist() == pytest.approx([0, math.exp(-100), math.log(2), 100, 1e4])
    assert slope(ops.softplus, -800.0, -30.0, 800.0) == pytest.approx([0, math.exp(-30), 1])
    assert slope(ops.sigmoid, -1e4, 1e4) == [0, 0]


def erf_error(x: np.ndarray) -> float:
    """The largest error of erf in units in the last place."""
    exact = np.array([math.erf(v) for v in x.tolist()])
    out = ops.erf(x).numpy()
    assert out.dtype == x.dtype
    return float(np.max(np.abs(out.astype(np.float64) - exact) / np.spacing(np.abs(exact).astype(x.dtype))))


def test_erf_to_the_last_digits() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), np.geomspace(1e-30, 0.5, 500)])
    assert erf_error(x) <= 4
    assert erf_error(x.astype(np.float32)) <= 0.51
    special = ops.erf(np.array([INF, -INF, NAN, -0.0])).numpy()
    np.testing.assert_array_equal(special, [1, -1, NAN, 0])
    assert np.signbit(special[3])


# ----- dtypes


@given(
    st.sampled_from(["float16", "float32", "float64"]),
    st.sampled_from(["+", "-", "*", "/", "**", "%", "max", "where"]),
)
@settings(deadline=None)
def test_python_numbers_never_widen(dtype: str, operator: str) -> None:
    operation: Any = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
        "**": lambda a, b: a**b,
        "%": lambda a, b: a % b,
        "max": ops.maximum,
        "where": lambda a, b: ops.where(dp.tensor([True, False]), a, b),
    }[operator]
    x = dp.tensor([1.0, 2.0], dtype=dtype, requires_grad=True)
    for number in (2, 1.5, True, np.float64(1.5)):
        for out in (operation(x, number), operation(number, x)):
            assert out.dtype == dtype
            out.sum().backward()
            assert x.grad.dtype == dtype


def test_integers_do_not_decide_the_width_of_a_float() -> None:
    x, n = dp.tensor([1.0, 2.0]), dp.tensor([1, 2])
    assert n.dtype == np.int64
    assert (x + n).dtype == (n * x).dtype == ops.where(n == 1, x, n).dtype == np.float32
    assert ops.exp(2.0).dtype == ops.maximum(1.0, 2.0).dtype == np.float32
    assert ops.add(1, 2).dtype == np.int64


def test_results_without_a_gradient() -> None:
    x = dp.tensor([1.5, -0.5], requires_grad=True)
    for out in (
        x > 0,
        x == x,
        ops.floor(x),
        ops.round(x),
        ops.sign(x),
        ops.isnan(x),
        x // 1,
        x.astype("int64"),
    ):
        assert not out.requires_grad
    assert ops.where(x, x, 0.0).requires_grad  # the values carry one, the condition never
    ops.where(x, x, 0.0).sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_astype_copies_unless_told_not_to() -> None:
    x = dp.tensor([1.0])
    assert ops.astype(x, "float32", copy=False) is x
    assert not np.shares_memory(ops.astype(x, "float32").numpy(), x.numpy())
    y = dp.tensor([1.5], requires_grad=True)
    ops.astype(y, "float64").sum().backward()
    assert y.grad.dtype == np.float32


def test_closeness_is_numpys() -> None:
    x, y = np.array([1.0, NAN, INF, INF, 2.0]), np.array([1.0 + 1e-7, NAN, INF, -INF, 2.1])
    for equal_nan in (False, True):
        np.testing.assert_array_equal(
            ops.isclose(x, y, equal_nan=equal_nan), np.isclose(x, y, equal_nan=equal_nan)
        )
    assert ops.allclose(x[:1], y[:1]) is True
    assert ops.array_equal([1.0, 2.0], [[1.0, 2.0]]) is False


# ----- bad arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.exp("a"), TypeError, "must be real numbers"),
        (lambda: ops.add([1.0], None), TypeError, "must be real numbers"),
        (lambda: ops.exp(1j), TypeError, "complex"),
        (
            lambda: ops.bitwise_and([1.0], [1]),
            TypeError,
            "bitwise_and needs integers or booleans, got float32",
        ),
        (lambda: ops.bitwise_not([1.0]), TypeError, "invert needs integers"),
        (
            lambda: ops.masked_fill([1.0], [1], 0.0),
            TypeError,
            "`mask` of masked_fill must be boolean, got int64",
        ),
        (lambda: ops.astype([1.0], "complex64"), TypeError, "`dtype` must be floating, integer or boolean"),
        (lambda: ops.add([1.0, 2.0], [1.0, 2.0, 3.0]), ValueError, "shape"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
