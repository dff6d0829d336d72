"""Losses where the table of laws does not go: large arrays and logits, ignored rows, errors."""

from typing import Any

import numpy as np
import pytest
from ops.fused import agree, leaf

from dist_dp import ops

random = np.random.default_rng(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fused_is_composed_over_several_pieces(dtype: Any, reduction: str, smoothing: float) -> None:
    x = (random.normal(size=(1500, 70)) * 5).astype(dtype)
    target = random.integers(-1, 70, 1500)

    def loss(x: Any) -> Any:
        return ops.cross_entropy(x, target, ignore_index=-1, reduction=reduction, label_smoothing=smoothing)

    agree(loss, x, rtol=1e-10 if dtype == np.float64 else 1e-5)
    assert loss(x).dtype == dtype


def test_extreme_logits() -> None:
    x = leaf(np.array([[1e4, 0.0], [1e4, 0.0], [60.0, 60.0 - 1e-6]]))
    losses = ops.cross_entropy(x, [0, 1, 0], reduction="none")
    np.testing.assert_allclose(losses.data, [0, 1e4, np.log(2) - 5e-7], rtol=1e-9)
    losses.sum().backward()
    np.testing.assert_allclose(x.grad.data, [[0, 0], [1, -1], [-0.5, 0.5]], atol=1e-6)


def test_a_confident_row_keeps_its_small_loss_in_float32() -> None:
    x = np.array([[50.0, 40.0]], np.float32)
    np.testing.assert_allclose(ops.cross_entropy(x, [0]).item(), np.exp(-10.0), rtol=0.01)


@pytest.mark.parametrize("loss", [ops.cross_entropy, ops.nll_loss])
def test_rows_that_do_not_count_may_hold_anything(loss: Any) -> None:
    x = leaf([[np.nan, 0.0], [-np.inf, -np.inf], [-1.0, -2.0]])
    out = loss(x, [-100, -100, 1])
    alone = leaf([[-1.0, -2.0]])
    expected = loss(alone, [1])
    assert out.item() == expected.item()
    out.backward()
    expected.backward()
    np.testing.assert_array_equal(x.grad.data, [[0, 0], [0, 0], alone.grad.data[0]])


@pytest.mark.parametrize("loss", [ops.cross_entropy, ops.nll_loss])
def test_the_mean_of_nothing_is_nan_and_the_sum_0(loss: Any) -> None:
    assert np.isnan(loss(np.zeros((2, 3)), [-100, -100]).item())
    assert np.isnan(loss(np.zeros((0, 3)), np.zeros(0, int)).item())
    assert loss(np.zeros((0, 3)), np.zeros(0, int), reduction="sum").item() == 0


def test_one_example_without_an_axis_for_it() -> None:
    assert ops.cross_entropy([0.0, 0.0], 1, reduction="none").shape == ()
    assert abs(ops.cross_entropy([0.0, 0.0], 1).item() - np.log(2)) < 1e-7


@pytest.mark.parametrize("loss", [ops.cross_entropy, ops.nll_loss])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((1.0, 0), {}, ValueError, "`input` needs an axis of classes"),
        (
            (np.zeros((2, 3)), [0, 3]),
            {},
            ValueError,
            r"class indices in \[0, 2\] or ignore_index=-100, got 3",
        ),
        (
            (np.zeros((2, 3)), [0, -1]),
            {},
            ValueError,
            r"class indices in \[0, 2\] or ignore_index=-100, got -1",
        ),
        (
            (np.zeros((2, 3)), [0]),
            {},
            ValueError,
            r"shape \(2,\) for an `input` of shape \(2, 3\), got shape \(1,\)",
        ),
        (
            (np.zeros((2, 3)), [True, False]),
            {},
            TypeError,
            "`target` must hold class indices, integers, got bool",
        ),
        ((np.zeros((2, 3)), [0, 1]), {"reduction": "max"}, ValueError, "`reduction` must be one of .*'max'"),
        ((np.zeros((2, 3)), [0, 1]), {"weight": [1.0]}, ValueError, r"`weight` .* shape \(3,\), got \(1,\)"),
        ((np.zeros((2, 3)), [0, 1]), {"weight": leaf([1.0] * 3)}, ValueError, "`weight` carries a gradient"),
    ],
)
def test_errors(loss: Any, arguments: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        loss(*arguments, **options)


def test_errors_of_floating_targets_and_smoothing() -> None:
    with pytest.raises(ValueError, match="holds probabilities, of shape"):
        ops.cross_entropy(np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(TypeError, match="`target` must hold class indices"):
        ops.nll_loss(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"`label_smoothing` must be in \[0, 1\], got 1.5"):
        ops.cross_entropy(np.zeros((2, 3)), [0, 1], label_smoothing=1.5)
