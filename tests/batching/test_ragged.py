"""Ragged lists: calls with lists of any length in one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import nn
from dist_dp import numpy as dnp

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@given(LENGTHS, st.integers(0, 99))
def test_values_and_gradients_are_those_of_each_list(lengths: list[int], seed: int) -> None:
    """Σ_k a_k² tanh(w · b_k) over pairs (a, b) of a number and a vector, times a number of the call."""
    rng = np.random.default_rng(seed)
    examples = [
        (float(i), [(np.float64(rng.normal()), rng.normal(size=3)) for _ in range(n)])
        for i, n in enumerate(lengths)
    ]
    w = dp.tensor(rng.normal(size=3), requires_grad=True)

    @dp.cell
    def step(factor: Any, pairs: Any) -> Any:
        if not pairs:
            return factor * 0.5
        a, b = pairs.values
        assert a.shape == (pairs.lengths.sum(),) and b.shape == (*a.shape, 3)
        assert len(pairs.lengths) == len(factor.data)
        return factor * pairs.sum(a * a * dnp.tanh(b @ w))

    def plain(factor: float, pairs: list[Any]) -> Any:
        return factor * sum((a * a * dnp.tanh(b @ w) for a, b in pairs), 0.0 if pairs else 0.5)

    found = dp.batched(lambda e: step(np.float64(e[0]), dp.Ragged(e[1])), examples)
    batches = dp.explain_batching().batches[step.fun.__qualname__]
    assert sorted(batches) == sorted(n for n in (lengths.count(0), len(lengths) - lengths.count(0)) if n)
    expected = [plain(*e) for e in examples]
    np.testing.assert_allclose(
        found.detach().numpy(), [dp.as_tensor(x).detach().numpy() for x in expected], rtol=1e-6
    )
    if any(lengths):
        scale = np.arange(1.0, len(lengths) + 1)
        (found * scale).sum().backward()
        gradient, w.grad = w.grad.numpy(), None
        sum(x * s for x, s in zip(expected, scale, strict=True)).backward()
        np.testing.assert_allclose(gradient, w.grad.numpy(), rtol=1e-6, atol=1e-9)


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=9))
def test_child_sum_cells_take_ragged_children(heads: list[int]) -> None:
    """Trees of any shape: word i hangs on an earlier one, or on none."""
    dp.seed(0)
    cell = nn.ChildSumTreeLSTMCell(2, 3)
    inputs = np.random.default_rng(0).normal(size=(len(heads), 2)).astype(np.float32)
    children: list[list[int]] = [[] for _ in heads]
    tops = [i for i, head in enumerate(heads) if not 0 <= head < i]
    for i, head in enumerate(heads):
        if i not in tops:
            children[head].append(i)

    @dp.cell
    def node(x: Any, states: Any) -> Any:
        return cell(x, states)

    def read(i: int, kind: Any) -> Any:
        return node(inputs[i], kind([read(j, kind) for j in children[i]]))

    def gradients(kind: Any, enabled: bool) -> list[Any]:
        h, c = dp.batched(lambda i: read(i, kind), tops, enabled=enabled)
        cell.zero_grad()
        (h.sum() + (c * c).sum()).backward()
        return [h.detach().numpy(), *(p.grad.numpy() for p in cell.parameters() if p.grad is not None)]

    expected = gradients(list, True)
    for enabled in (True, False):
        for one, other in zip(gradients(dp.Ragged, enabled), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_unlike_items_are_refused_where_they_are_given() -> None:
    @dp.cell
    def total(xs: Any) -> Any:
        return xs.sum(xs.values)

    with pytest.raises(ValueError, match=r"items of a dp.Ragged must be alike, got .*\[2\] and .*\[3\]"):
        dp.batched(lambda _: total(dp.Ragged([np.zeros(2), np.zeros(3)])), [0])


def test_random_numbers_are_those_of_the_call() -> None:
    @dp.cell
    def noisy(xs: Any) -> Any:
        total = xs.sum(xs.values)
        return total + dp.random.normal(total.shape)

    def both(enabled: bool) -> Any:
        dp.seed(0)
        return dp.batched(lambda n: noisy(dp.Ragged([1.0] * n)), [1, 3, 2], enabled=enabled).numpy()

    np.testing.assert_array_equal(both(True), both(False))


def test_lists_of_lists_are_refused() -> None:
    @dp.cell
    def total(xs: Any) -> Any:
        return xs.sum(xs.values)

    with pytest.raises(TypeError, match="among the items of another"):
        dp.batched(lambda _: total(dp.Ragged([dp.Ragged([1.0])])), [0])


def test_the_body_alone_sees_the_lists_of_all_calls() -> None:
    with pytest.raises(AttributeError, match="in the body of the cell"):
        dp.Ragged([1.0]).values  # noqa: B018


@pytest.mark.parametrize("enabled", [True, False])
def test_the_body_does_not_see_the_items_of_one_call(enabled: bool) -> None:
    shown = []

    @dp.cell
    def first(xs: Any) -> Any:
        shown.append(repr(xs))
        return xs.items[0]

    with pytest.raises(AttributeError, match="`values` has those of all calls"):
        dp.batched(lambda x: first(dp.Ragged([x])), [1.0, 2.0], enabled=enabled)
    assert shown == ["<Ragged of lengths [1, 2, 3, 4, 5, 6, 7]>" if enabled else "<Ragged of lengths [1]>"]


@pytest.mark.parametrize("enabled", [True, False])
def test_an_empty_list_has_no_values(enabled: bool) -> None:
    @dp.cell
    def total(xs: Any) -> Any:
        return xs.sum(xs.values)

    with pytest.raises(AttributeError, match=r"empty dp.Ragged.* `... if xs else ...`"):
        dp.batched(lambda n: total(dp.Ragged([1.0] * n)), [2, 0], enabled=enabled)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_calls_that_the_loss_does_not_need_leave_the_gradients_of_the_others(
    lengths: list[int], data: st.DataObject
) -> None:
    """Which item of a batch a call has is not which call of the batch it is."""
    needed = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    w = dp.tensor(np.arange(1.0, 4.0), requires_grad=True)

    @dp.cell
    def make(x: Any) -> Any:
        return x * w

    @dp.cell
    def squared(xs: Any) -> Any:
        total = xs.sum(xs.values)
        return total * total

    def program(example: int) -> Any:
        out = squared(dp.Ragged([make(np.full(3, float(i))) for i in range(lengths[example])]))
        assert out.sum() >= 0  # reading it computes it, needed or not
        return out if example in needed else dnp.zeros(3, dtype=np.float64)

    def gradient(enabled: bool) -> Any:
        w.grad = None
        dp.batched(program, range(len(lengths)), enabled=enabled).sum().backward()
        return w.grad.numpy()

    np.testing.assert_allclose(gradient(True), gradient(False))
