"""Norms and clipping of gradients."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optim.problem import SHAPES, gradients, parameters, values

from dist_dp import Tensor, optim
from dist_dp.optim.clip import NORM_BLOCK, global_norm


def with_gradients(scale: float = 1.0) -> list[Tensor]:
    params = parameters()
    for p, g in zip(params[1:], gradients(params, 0)[1:], strict=True):  # the first has none
        p.grad = g * np.float32(scale)
    return params


def packed(params: list[Tensor]) -> Any:
    return np.concatenate([p.grad.data.ravel() for p in params if p.grad is not None])


@settings(max_examples=40)
@given(
    order=st.sampled_from([0.5, 1, 2, 3, math.inf]),
    limit=st.floats(0, 20),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 1e3]),
)
def test_clip_grad_norm_scales_to_the_norm_and_returns_the_one_before(
    order: float, limit: float, scale: float
) -> None:
    params = with_gradients(scale)
    before = packed(params).astype(np.float64)
    norm = np.max(np.abs(before)) if order == math.inf else np.sum(np.abs(before) ** order) ** (1 / order)
    assert optim.clip_grad_norm_(params, limit, order) == pytest.approx(norm, rel=1e-9)
    np.testing.assert_allclose(packed(params), before * min(1, limit / (norm + 1e-6)), rtol=1e-6, atol=1e-30)
    assert params[0].grad is None


def test_clip_grad_norm_and_clip_norm_agree_bit_for_bit() -> None:
    by_hand, by_option = with_gradients(), with_gradients()
    first, second = optim.SGD(by_hand), optim.SGD(by_option, clip_norm=0.7)
    for p, q, g in zip(by_hand[1:], by_option[1:], gradients(by_hand, 0)[1:], strict=True):
        p.grad, q.grad = g, g
    optim.clip_grad_norm_(by_hand, 0.7)
    first.step()
    second.step()
    assert values(by_hand) == values(by_option)


@pytest.mark.parametrize("order", [2.0, 3.0])
def test_a_norm_over_many_blocks_is_exact_and_takes_no_notice_of_their_arrangement(order: float) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=n).astype(np.float32) for n in (3 * NORM_BLOCK + 1, 1, 0, NORM_BLOCK)]
    whole = math.fsum(float(abs(x)) ** order for a in arrays for x in a.tolist()) ** (1 / order)
    assert global_norm(arrays, order) == pytest.approx(whole, rel=1e-14)
    small = list(rng.normal(size=(200, 3)) ** 3)
    assert all(global_norm(rng.permutation(small), order) == global_norm(small, order) for _ in range(5))


def test_small_gradients_do_not_vanish_in_a_norm() -> None:
    """Their squares would in float32."""
    assert global_norm([np.full(4, 1e-30, np.float32)]) == pytest.approx(2e-30)


def test_clip_grad_value_clips_every_element() -> None:
    params = with_gradients()
    before = packed(params)
    optim.clip_grad_value_(params, 0.4)
    np.testing.assert_array_equal(packed(params), np.clip(before, -0.4, 0.4))


def test_one_tensor_will_do_and_none_has_no_norm() -> None:
    (p,) = parameters([(2,)])
    assert optim.clip_grad_norm_(p, 1.0) == 0
    assert optim.clip_grad_norm_([], 1.0, math.inf) == 0
    p.grad = np.float32([3, -4])
    assert optim.clip_grad_norm_(p, 1.0) == 5
    optim.clip_grad_value_(p, 0.5)
    np.testing.assert_array_equal(p.grad.data, np.float32([0.5, -0.5]))


def test_a_graph_that_saved_a_gradient_refuses_after_clipping() -> None:
    for clip in (optim.clip_grad_norm_, optim.clip_grad_value_):
        p, x = parameters([(2,), (2,)])
        p.grad = np.float32([3, 4])
        y = x * p.grad
        clip(p, 1.0)
        with pytest.raises(RuntimeError, match="modified by an in-place operation"):
            y.backward(np.ones(2, np.float32))


@pytest.mark.parametrize("order", [2.0, 3.0])
def test_a_norm_that_is_not_finite_shows_in_the_gradients_without_a_warning(order: float) -> None:
    p, q = parameters([(2,), (1,)])
    p.grad, q.grad = np.float32([1, np.nan]), np.float32([1])
    assert math.isnan(optim.clip_grad_norm_([p, q], 1.0, order))
    assert np.isnan(q.grad.data).all()
    p.grad = np.float32([1, np.inf])
    assert optim.clip_grad_norm_(p, 1.0, order) == math.inf
    np.testing.assert_array_equal(p.grad.data, np.float32([0, np.nan]))


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda p: optim.clip_grad_norm_(p, -1.0), ValueError, "max_norm must be a number >= 0, got -1.0"),
    (lambda p: optim.clip_grad_norm_(p, "1"), TypeError, r"max_norm must be a number >= 0, got '1' \(str\)"),
    (lambda p: optim.clip_grad_norm_(p, 1.0, 0), ValueError, "norm_type must be a number > 0"),
    (
        lambda p: optim.clip_grad_norm_([np.ones(2)], 1.0),
        TypeError,
        "parameters must be tensors, got ndarray",
    ),
    (lambda p: optim.clip_grad_value_(p, math.nan), ValueError, "clip_value must be a number >= 0, got nan"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_wrong_arguments_are_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(parameters(SHAPES[:1]))
