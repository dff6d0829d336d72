"""Normalisation where the table of laws does not go: arrays of several pieces, hard statistics, errors."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from ops.fused import agree

from dist_dp import ops
from dist_dp.ops import blocked, normalise

random = np.random.default_rng(0)


def weights(n: int) -> tuple[Any, Any]:
    return random.normal(size=n), random.normal(size=n)


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "layer": (
        lambda x, w, b: ops.layer_norm(x, 9, w, b),
        (random.normal(size=(300, 9)) * 3 + 5, *weights(9)),
    ),
    "layer without weights": (lambda x: ops.layer_norm(x, (4, 9)), (random.normal(size=(30, 4, 9)),)),
    "rms": (lambda x, w: ops.rms_norm(x, 9, w), (random.normal(size=(300, 9)), weights(9)[0])),
    "group": (lambda x, w, b: ops.group_norm(x, 2, w, b), (random.normal(size=(50, 6, 5)) + 1, *weights(6))),
    "instance": (lambda x, w, b: ops.group_norm(x, 6, w, b), (random.normal(size=(50, 6, 5)), *weights(6))),
    "batch": (ops.batch_norm, (random.normal(size=(40, 6, 5)) * 2 + 3, *weights(6))),
    "batch of vectors": (ops.batch_norm, (random.normal(size=(40, 6)), *weights(6))),
    "batch without weights": (ops.batch_norm, (random.normal(size=(40, 6, 2, 3)),)),
}


@pytest.mark.parametrize("block", [8, 100, 1 << 16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_fused_is_composed_in_pieces_of_any_size(name: str, block: int) -> None:
    fn, arrays = FUNCTIONS[name]
    with patch.object(blocked, "BLOCK", block), patch.object(normalise, "BLOCK", block):
        agree(fn, *arrays)
        agree(fn, *(np.asarray(x, np.float32) for x in arrays), rtol=2e-4)


def test_a_large_mean_does_not_cost_the_variance() -> None:
    x = (np.array([[-1.0, 1.0, -1.0, 1.0]]) + 2.0**20).astype(np.float32)
    np.testing.assert_allclose(ops.layer_norm(x, 4, eps=0.0).data, [[-1, 1, -1, 1]])
    np.testing.assert_allclose(ops.batch_norm(x.T, eps=0.0)[0].data.T, [[-1, 1, -1, 1]])


def test_constant_rows_give_the_bias() -> None:
    out = ops.layer_norm(np.full((2, 3), 7.0), 3, np.ones(3), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(out.data, [[1, 2, 3]] * 2)


def test_statistics_of_the_batch_are_returned_and_used_again() -> None:
    x = random.normal(size=(8, 3, 4))
    out, mean, var = ops.batch_norm(x)
    np.testing.assert_allclose(mean.data, x.mean((0, 2)))
    np.testing.assert_allclose(var.data, x.var((0, 2)))
    again, used_mean, used_var = ops.batch_norm(x, mean=mean, var=var)
    np.testing.assert_allclose(again.data, out.data)
    assert used_mean is mean and used_var is var


def test_examples_without_entries() -> None:
    assert ops.layer_norm(np.zeros((0, 3)), 3).shape == (0, 3)
    assert ops.layer_norm(np.zeros((2, 0)), 0).shape == (2, 0)
    assert ops.group_norm(np.zeros((0, 4, 2)), 2).shape == (0, 4, 2)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_weights_have_gradients_where_there_are_no_entries(shape: tuple[int, int]) -> None:
    x, w = np.zeros(shape, np.float32), np.ones(shape[1], np.float32)
    agree(lambda x, w, b: ops.layer_norm(x, shape[1], w, b), x, w, w)
    agree(lambda x, w: ops.rms_norm(x, shape[1], w), x, w)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.layer_norm(np.zeros((2, 3)), 2), r"layer_norm: the last axes of `x` must be .* \(2,\), got shape"),
        (lambda: ops.layer_norm(np.zeros(3), (2, 3)), "layer_norm: the last axes"),
        (lambda: ops.layer_norm(np.zeros((2, 3)), ()), "layer_norm: the last axes"),
        (lambda: ops.layer_norm(np.zeros((2, 3)), 3, np.ones(2)), r"`weight` must have shape \(3,\), got \(2,\)"),
        (lambda: ops.layer_norm(np.zeros((2, 3)), 3, None, np.ones(2)), "layer_norm: `bias` must have shape"),
        (lambda: ops.rms_norm(np.zeros((2, 3)), 3, np.ones(2)), "rms_norm: `weight` must have shape"),
        (lambda: ops.group_norm(np.zeros((2, 3)), 2), "group_norm: `num_groups`=2 must divide the 3 channels"),
        (lambda: ops.group_norm(np.zeros((2, 3)), 0), "group_norm: `num_groups`=0 must divide"),
        (lambda: ops.group_norm(np.zeros(3), 1), r"group_norm: `x` must be \(n, channels, ...\), got shape \(3,\)"),
        (lambda: ops.batch_norm(np.zeros(3)), r"batch_norm: `x` must be \(n, channels, ...\)"),
        (lambda: ops.batch_norm(np.zeros((1, 3))), "batch_norm: statistics need at least 2 values per channel"),
        (lambda: ops.batch_norm(np.zeros((2, 3)), mean=np.zeros(3)), "batch_norm: give both `mean` and `var`"),
        (lambda: ops.batch_norm(np.zeros((2, 3)), mean=np.zeros(3), var=np.zeros(2)), "`var` must have shape"),
    ],
)  # fmt: skip
def test_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
