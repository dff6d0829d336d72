"""Losses: values, reductions, modules against functions, and the refusal to broadcast."""

from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import nn
from dist_dp.nn import functional as F

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(4, 3)), RNG.uniform(0.1, 0.9, size=(4, 3))
P = RNG.uniform(0.1, 0.9, size=(4, 3))
CLASSES = np.array([2, 0, -100, 1])

SAME_SHAPE = [
    F.mse_loss,
    F.l1_loss,
    F.smooth_l1_loss,
    F.huber_loss,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
    F.kl_div,
    F.poisson_nll_loss,
    nn.MSELoss(),
    nn.L1Loss(),
    nn.SmoothL1Loss(),
    nn.HuberLoss(),
    nn.BCELoss(),
    nn.BCEWithLogitsLoss(),
    nn.KLDivLoss(),
    nn.PoissonNLLLoss(),
]


@pytest.mark.parametrize("loss", SAME_SHAPE)
@pytest.mark.parametrize(
    ("one", "other"),
    [((5,), (5, 1)), ((5, 1), (5,)), ((1, 5), (5,)), ((5, 3), (5, 1)), ((5,), ()), ((5, 3), (3,))],
)
def test_nothing_broadcasts(loss: Any, one: tuple[int, ...], other: tuple[int, ...]) -> None:
    x, y = np.full(one, 0.5, np.float32), np.full(other, 0.5, np.float32)
    with pytest.raises(ValueError) as error:
        loss(x, y)
    message = str(error.value)
    assert f"input and target must have the same shape, got {one} and {other}" in message
    if x.size == y.size:
        assert f"input.reshape({', '.join(map(str, other))})" in message


def test_the_variance_of_a_gaussian_must_fit_too() -> None:
    with pytest.raises(ValueError, match=r"input and var.*\(4, 3\) and \(4, 1\)"):
        F.gaussian_nll_loss(X, Y, np.ones((4, 1)))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_modules_are_their_functions(reduction: Any) -> None:
    weight = np.array([0.5, 1.0, 2.0])
    pairs = [
        (nn.MSELoss(reduction), F.mse_loss(X, Y, reduction)),
        (nn.L1Loss(reduction), F.l1_loss(X, Y, reduction)),
        (nn.SmoothL1Loss(reduction, 0.5), F.smooth_l1_loss(X, Y, reduction, 0.5)),
        (nn.HuberLoss(reduction, 0.5), F.huber_loss(X, Y, reduction, 0.5)),
        (
            nn.BCEWithLogitsLoss(weight, reduction, weight),
            F.binary_cross_entropy_with_logits(X, Y, weight, reduction, weight),
        ),
        (nn.KLDivLoss(reduction, True), F.kl_div(X, Y, reduction, True)),
        (nn.PoissonNLLLoss(False, reduction=reduction), None),
    ]
    for module, expected in pairs:
        x = P if expected is None else X
        expected = F.poisson_nll_loss(P, Y, False, reduction=reduction) if expected is None else expected
        np.testing.assert_array_equal(module(x, Y).data, expected.data)
    np.testing.assert_array_equal(
        nn.BCELoss(weight, reduction)(P, Y).data, F.binary_cross_entropy(P, Y, weight, reduction).data
    )
    np.testing.assert_array_equal(
        nn.GaussianNLLLoss(True, reduction=reduction)(X, Y, P).data,
        F.gaussian_nll_loss(X, Y, P, True, reduction=reduction).data,
    )
    np.testing.assert_array_equal(
        nn.CrossEntropyLoss(weight, -100, reduction, 0.1)(X, CLASSES).data,
        F.cross_entropy(X, CLASSES, weight, -100, reduction, 0.1).data,
    )
    np.testing.assert_array_equal(
        nn.NLLLoss(weight, -100, reduction)(X, CLASSES).data,
        F.nll_loss(X, CLASSES, weight, -100, reduction).data,
    )


@pytest.mark.parametrize("loss", [F.mse_loss, F.l1_loss, F.huber_loss, F.binary_cross_entropy, F.kl_div])
def test_mean_and_sum_are_those_of_the_elements(loss: Any) -> None:
    elements = loss(P, Y, reduction="none").data
    assert elements.shape == P.shape
    np.testing.assert_allclose(loss(P, Y, reduction="sum").item(), elements.sum())
    np.testing.assert_allclose(loss(P, Y).item(), elements.mean())


def test_cross_entropy_over_positions_and_its_mean_over_what_counts() -> None:
    logits, target = RNG.normal(size=(2, 3, 4)), RNG.integers(0, 3, (2, 4))
    target[0, 1] = -100
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    picked = np.where(target >= 0, -np.take_along_axis(log_p, np.maximum(target, 0)[:, None], 1)[:, 0], 0)
    np.testing.assert_allclose(F.cross_entropy(logits, target, reduction="none").data, picked)
    np.testing.assert_allclose(F.cross_entropy(logits, target).item(), picked.sum() / 7)
    np.testing.assert_allclose(F.nll_loss(log_p, target).item(), picked.sum() / 7)


def test_probabilities_of_zero_and_one_cost_a_hundred_at_most() -> None:
    np.testing.assert_allclose(
        F.binary_cross_entropy([0.0, 1.0], [1.0, 0.0], reduction="none").data, [100, 100]
    )
    np.testing.assert_allclose(F.binary_cross_entropy([0.0, 1.0], [0.0, 1.0], reduction="none").data, [0, 0])


def test_logits_of_any_size_do_not_overflow() -> None:
    x = dp.Tensor([-1e4, 1e4], requires_grad=True)
    loss = F.binary_cross_entropy_with_logits(x, [1.0, 0.0], reduction="sum")
    assert loss.item() == 2e4
    loss.backward()
    assert x.grad is not None and x.grad.tolist() == [-1.0, 1.0]


def test_divergence_of_a_distribution_from_itself_is_zero_also_where_it_vanishes() -> None:
    p = np.array([[0.0, 0.25, 0.75]])
    log_p = np.log(np.maximum(p, 1e-300))
    assert abs(F.kl_div(log_p, p, "batchmean").item()) < 1e-12
    assert abs(F.kl_div(np.log(P), np.log(P), "batchmean", log_target=True).item()) < 1e-12
    both = F.kl_div(X, Y, "sum").item(), F.kl_div(X, Y, "batchmean").item()
    np.testing.assert_allclose(both[0], 4 * both[1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: F.mse_loss(X, Y, "average"),
            ValueError,
            "mse_loss: reduction must be 'mean', 'sum' or 'none'",
        ),  # type: ignore[arg-type]
        (lambda: nn.MSELoss("average"), ValueError, r"MSELoss: reduction must be one of .* got 'average'"),  # type: ignore[arg-type]
        (lambda: nn.L1Loss("batchmean"), ValueError, "L1Loss: reduction must be one of"),  # type: ignore[arg-type]
        (lambda: F.huber_loss(X, Y, delta=0.0), ValueError, "huber_loss: delta must be positive, got 0.0"),
        (lambda: nn.HuberLoss(delta=-1.0), ValueError, "HuberLoss: delta must be positive"),
        (lambda: F.smooth_l1_loss(X, Y, beta=-1.0), ValueError, "smooth_l1_loss: beta must be positive"),
        (lambda: nn.SmoothL1Loss(beta=-1.0), ValueError, "SmoothL1Loss: beta must be at least 0"),
        (
            lambda: F.binary_cross_entropy(X, Y),
            ValueError,
            "input must be probabilities between 0 and 1, got values",
        ),
        (
            lambda: nn.CrossEntropyLoss(label_smoothing=1.5),
            ValueError,
            "label_smoothing must be between 0 and 1",
        ),
        (lambda: F.cross_entropy(X, CLASSES[:3]), ValueError, r"\(4,\).*got .*\(3,\)"),
        (lambda: F.cross_entropy(X, np.array([0, 1, 2, 3])), (IndexError, ValueError), "3"),
        (lambda: F.nll_loss(X, Y), (TypeError, ValueError), "nll_loss"),
    ],
)
def test_what_losses_refuse(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()
