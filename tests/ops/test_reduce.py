"""Reductions and scans where the laws of the table say nothing: ties, zeros, infinities, empty axes, bad arguments."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import ops
from dist_dp.functional import grad, hessian

INF, NAN = np.inf, np.nan


def gradient(f: Callable[[Any], Any], x: Any) -> Any:
    leaf = dp.tensor(np.array(x, dtype=float), requires_grad=True)
    f(leaf).sum().backward()
    return leaf.grad.numpy()


# ----- ties


@given(st.integers(1, 6), st.integers(0, 4))
@settings(deadline=None)
def test_ties_share_the_gradient_evenly(ties: int, others: int) -> None:
    x = np.array([5.0] * ties + [1.0] * others)
    share = np.where(x == 5, 1 / ties, 0)
    for f, sign in ((ops.max, 1), (ops.amax, 1), (ops.min, -1), (ops.amin, -1)):
        np.testing.assert_allclose(gradient(f, sign * x), share)
        np.testing.assert_allclose(gradient(lambda v: f(v, axis=(0, 1)), sign * x[None]), share[None])  # noqa: B023


def test_ties_of_a_median() -> None:
    np.testing.assert_allclose(gradient(ops.median, [2.0, 2.0, 1.0, 2.0, 3.0]), [1 / 3, 1 / 3, 0, 1 / 3, 0])
    np.testing.assert_allclose(gradient(ops.median, [4.0, 1.0, 2.0, 3.0]), [0, 0, 0.5, 0.5])


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, NAN]), min_size=1, max_size=7))
@settings(deadline=None)
def test_nan_wins(values: list[float]) -> None:
    x = np.array(values)
    with np.errstate(invalid="ignore"):
        for name in ("max", "min", "median", "argmax", "argmin"):
            np.testing.assert_array_equal(getattr(ops, name)(x).numpy(), getattr(np, name)(x))


# ----- zeros in products


@given(st.lists(st.sampled_from([0.0, 0.5, -2.0, 3.0]), min_size=1, max_size=5))
@settings(deadline=None, max_examples=40)
def test_every_derivative_of_a_product_is_a_product_of_the_others(values: list[float]) -> None:
    x = np.array(values)
    n = len(x)
    others = np.array([[np.prod(np.delete(x, [i, j])) if i != j else 0 for j in range(n)] for i in range(n)])
    for product in (ops.prod, lambda v: ops.cumprod(v)[-1]):
        first = grad(product)(x)
        np.testing.assert_allclose(first.numpy(), [np.prod(np.delete(x, i)) for i in range(n)])
        np.testing.assert_allclose(hessian(product)(x).numpy(), others)


# ----- infinities and empty axes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_logsumexp_of_large_entries_is_that_of_the_differences(dtype: Any, offset: float) -> None:
    x = np.random.default_rng(0).normal(size=(5, 300)).astype(dtype)
    x = (x + dtype(offset)).astype(dtype)
    exact = np.log(np.exp(x.astype(np.float64) - offset).sum(1)) + offset
    np.testing.assert_allclose(ops.logsumexp(x, 1).numpy(), exact, rtol=4 * np.finfo(dtype).eps)


def test_logsumexp_at_infinities() -> None:
    x = np.array([[-INF, -INF], [INF, 0.0], [INF, INF], [-INF, 1.0], [1e300, 0.0]])
    assert ops.logsumexp(x, 1).tolist() == [-INF, INF, INF, 1, 1e300]
    np.testing.assert_array_equal(
        gradient(lambda v: ops.logsumexp(v, 1)[np.array([0, 3, 4])], x),
        [[0, 0], [0, 0], [0, 0], [0, 1], [1, 0]],
    )
    leaf = dp.tensor(x, requires_grad=True)
    ops.logsumexp(leaf, 1).backward(np.ones(5))
    np.testing.assert_array_equal(leaf.grad, [[0, 0], [1, 0], [0.5, 0.5], [0, 1], [1, 0]])


def test_masked_logsumexp_has_finite_second_derivatives() -> None:
    second = hessian(lambda x: ops.logsumexp(ops.concatenate([x, np.array([-INF])])))(np.array([0.0, 0.0]))
    np.testing.assert_allclose(second.numpy(), [[0.25, -0.25], [-0.25, 0.25]])


def test_reductions_of_no_elements() -> None:
    empty = dp.tensor(np.zeros((2, 0)))
    assert ops.sum(empty, 1).tolist() == [0, 0]
    assert ops.prod(empty, 1).tolist() == [1, 1]
    assert ops.logsumexp(empty, 1).tolist() == [-INF, -INF]
    assert ops.all(empty).item() is True
    assert ops.any(empty).item() is False
    assert ops.max(empty, 0).shape == (0,)
    for f in (ops.max, ops.min, ops.argmax, ops.argmin, ops.median):
        with pytest.raises(ValueError, match=r"of no elements: x has shape \(2, 0\)"):
            f(empty, axis=1)


def test_sums_of_integers_and_booleans_are_integers() -> None:
    flags = dp.tensor([True, True, False])
    assert (ops.sum(flags).dtype, ops.sum(flags).item()) == (np.int64, 2)
    assert ops.sum(dp.tensor([1, 2], dtype="int8")).dtype == np.int64
    assert ops.prod(dp.tensor([2, 3])).dtype == np.int64
    assert ops.mean(flags).item() == pytest.approx(2 / 3)
    assert ops.sum(flags, dtype="float32").dtype == np.float32


# ----- where a norm or a deviation has no derivative


@pytest.mark.parametrize("p", [2, 3, 1, INF, 0.5, 0, "fro", None])
def test_norms_at_the_origin_have_gradient_0(p: Any) -> None:
    x = np.zeros(3)
    out = ops.norm(dp.tensor(x, requires_grad=True), p)
    assert out.item() == 0
    if p == 0:
        assert not out.requires_grad  # a count
    else:
        np.testing.assert_array_equal(gradient(lambda v: ops.norm(v, p), x), x)


@pytest.mark.parametrize("p", [2, 3, 1, 1.5, INF, -INF, 0, -1])
def test_norms_are_numpys(p: float) -> None:
    x = np.random.default_rng(0).normal(size=7)
    assert ops.norm(x, p).item() == pytest.approx(np.linalg.norm(x, p))


def test_a_constant_has_no_deviation_and_passes_no_gradient() -> None:
    np.testing.assert_array_equal(gradient(ops.std, [3.0, 3.0, 3.0]), [0, 0, 0])
    second = hessian(ops.std)(np.array([3.0, 3.0]))
    assert np.isfinite(second.numpy()).all()


# ----- dtypes and memory


@pytest.mark.parametrize(
    "name", ["sum", "mean", "prod", "var", "std", "max", "logsumexp", "norm", "median", "cumsum"]
)
def test_float32_stays_float32(name: str) -> None:
    x = dp.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    out = getattr(ops, name)(x, axis=1)
    assert out.dtype == np.float32
    out.sum().backward()
    assert x.grad.dtype == np.float32


def test_the_gradient_of_a_sum_takes_no_memory() -> None:
    seen: list[Any] = []
    x = dp.tensor(np.ones((1000, 10)), requires_grad=True) * 1.0
    x.register_hook(lambda g: seen.append(g.numpy()))
    x.sum().backward()
    assert seen[0].strides == (0, 0)
    assert not seen[0].flags.writeable  # all elements are one: nobody may write to it


# ----- bad arguments


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: ops.sum(x, 2), ValueError, "axis 2 is out of bounds"),
        (lambda x: ops.sum(x, (0, 0)), ValueError, "each axis once"),
        (lambda x: ops.mean(x, 0.5), TypeError, "`axis` must be an integer"),
        (lambda x: ops.cumsum(x, 3), ValueError, "axis 3 is out of bounds"),
        (lambda x: ops.argmax(x, (0, 1)), TypeError, "must be an integer"),
        (lambda x: ops.norm(x, "nuc"), TypeError, "`ord` of norm must be a number, got 'nuc'"),
        (lambda x: ops.average(x, 0, np.ones(3)), ValueError, r"`weights` of average .* got \(3,\)"),
        (lambda x: ops.average(x, weights=np.ones(2)), ValueError, "`weights` of average"),
        (lambda x: ops.sum(x, 0, False, "float32"), TypeError, "positional"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(dp.tensor([[1.0, 2.0], [3.0, 4.0]]))
