"""Compact gradients are the gradients: a sweep that adds them up gives what a recorded sweep, which has none, gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import backward, compact

use = st.tuples(
    st.sampled_from(["row", "rows", "part", "whole", "square"]),
    st.integers(0, 3),
    st.integers(0, compact.FEW_ROWS + 2),
)


def program(w: dp.Tensor, x: dp.Tensor, uses: list[tuple[str, int, int]]) -> dp.Tensor:
    """Uses `w` (4, 3) in all the ways that leave compact gradients, and some that do not."""
    total = (w * 0.0).sum()
    for kind, i, n in uses:
        if kind == "row":
            value = x[i] @ w
        elif kind == "rows":
            value = x[np.arange(n) % 4] @ w
        elif kind == "part":
            value = w[i, 1:] * x[i, :2]
        elif kind == "square":
            value = (w * w)[i] * 0.5  # parts of an array that is no leaf
        else:
            value = w * float(i)
        total = total + (value * value).sum()
    return total


@settings(max_examples=60)
@given(st.lists(use, min_size=1, max_size=12), st.integers(2, 5))
def test_compact_gradients_add_up_to_the_recorded_ones(uses: list[tuple[str, int, int]], most: int) -> None:
    rng = np.random.default_rng(0)
    w, x = (dp.tensor(rng.normal(size=s), requires_grad=True) for s in ((4, 3), (4, 4)))
    program(w, x, uses).backward(create_graph=True)
    expected = [w.grad.detach().numpy(), None if x.grad is None else x.grad.detach().numpy()]
    w.grad = x.grad = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backward, "MOST_COMPACT", most)  # added up now and then, not only at the end
        program(w, x, uses).backward()
    for tensor, value in zip((w, x), expected, strict=True):
        if value is None:
            assert tensor.grad is None
        else:
            np.testing.assert_allclose(tensor.grad.numpy(), value, rtol=1e-12, atol=1e-12)


def test_many_uses_of_one_weight_are_one_product(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    w, x = dp.tensor(rng.normal(size=(4, 3)), requires_grad=True), rng.normal(size=(50, 4))
    products = []
    dense = compact.RowProduct.dense
    monkeypatch.setattr(
        compact.RowProduct,
        "dense",
        lambda self, place=None: products.append(self.left.shape) or dense(self, place),
    )
    sum(((x[i] @ w).sum() for i in range(50)), dp.tensor(0.0)).backward()
    assert products == [(50, 4)]
    np.testing.assert_allclose(w.grad.numpy(), np.repeat(x.sum(0)[:, None], 3, 1))


def test_hooks_and_targets_see_whole_gradients() -> None:
    w = dp.tensor(np.ones((4, 3)), requires_grad=True)
    seen = []
    w.register_hook(lambda g: seen.append(g.shape))
    (np.ones(4) @ w + w[0]).sum().backward()
    assert seen == [(4, 3)]
    (g,) = backward.backward([((np.ones(4) @ w).sum().node, np.ones(()))], targets=[w.node])
    np.testing.assert_array_equal(g, np.ones((4, 3)))


def test_the_first_product_is_computed_in_the_sink() -> None:
    """And later ones are added to it; a sink of another dtype takes a copy."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(5, 4))
    for dtype in (np.float64, np.float32):
        w = dp.tensor(rng.normal(size=(4, 3)), requires_grad=True)
        w.node.sink = sink = np.full((4, 3), 7.0, dtype)
        for times in (1, 2):
            ((x @ w) * 2.0).sum().backward()
            assert w.node.grad is sink
            np.testing.assert_allclose(sink, times * 2 * np.repeat(x.sum(0)[:, None], 3, 1), rtol=1e-6)
