"""Which gradients there are: none where the loss does not depend on a parameter, all where it does."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from batching.agreement import agree

import dist_dp as dp
from dist_dp import nn

ONE = np.ones(2, np.float32)


@dp.cell
def double(x: Any) -> Any:
    return x * 2.0


def test_a_read_without_gradients_leaves_those_of_older_rows() -> None:
    """Its batch appends rows to the block that the others are in."""
    w = dp.tensor(np.eye(2, dtype=np.float32), requires_grad=True)

    def program(n: int) -> Any:
        h = (w @ ONE) * (n + 1.0)
        with dp.no_grad():
            score = double(h if n else ONE)
        assert score.sum().item() > 0
        return (w @ h).sum()

    agree(program, [0, 1, 2], w)


def test_what_is_computed_beside_the_loss_gives_no_gradient() -> None:
    """None, not zero: the moments of an optimizer would move. Through cells with several results too."""
    used, beside = nn.LSTMCell(2, 2), nn.LSTMCell(2, 2)

    @dp.cell
    def one(x: Any, h: Any, c: Any) -> Any:
        return used(x, (h, c))

    @dp.cell
    def other(x: Any, h: Any, c: Any) -> Any:
        return beside(x, (h, c))

    def program(n: float) -> Any:
        h, c = one(ONE * n, ONE, ONE)
        metric, _ = other(h, h, c)
        return h.sum(), metric.sum()

    for enabled in (True, False):
        loss, _ = dp.batched(program, [1.0, 2.0], enabled=enabled)
        loss.sum().backward()
        assert all(p.grad is not None for p in used.parameters())
        assert all(p.grad is None for p in beside.parameters())


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_are_as_they_were_where_the_call_was_made(enabled: bool) -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)
    kept: list[Any] = []

    def program(n: float) -> Any:
        with dp.enable_grad():
            kept.append(double(w * np.float32(n)))
        return kept[-1].sum()

    with dp.no_grad():
        dp.batched(program, [1.0, 2.0], enabled=enabled)
    assert all(h.requires_grad for h in kept)


def test_a_hook_inside_an_example_is_refused() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    def program(n: float) -> Any:
        h = double(w * np.float32(n))
        h.register_hook(lambda g: g)
        return h

    with pytest.raises(TypeError, match="register it in the body"):
        dp.batched(program, [1.0])


def test_a_chain_costs_one_gradient_of_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gather whose block has a gradient already adds to it; none is written out anew for each."""
    from dist_dp.ops.views import Part

    written: list[int] = []
    dense = Part.dense
    monkeypatch.setattr(Part, "dense", lambda self: written.append(1) or dense(self))  # type: ignore[func-returns-value]
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    @dp.cell
    def step(h: Any) -> Any:
        return h * w

    def chain(n: int) -> Any:
        h = step(ONE * np.float32(n))
        for _ in range(50):
            h = step(h)
        return h.sum()

    dp.batched(chain, [1, 2, 3]).sum().backward()
    assert len(written) <= 3


@dataclasses.dataclass(frozen=True)
class Setting:
    n: Any


def test_fields_of_a_static_object_are_told_apart_by_type() -> None:
    @dp.cell
    def scaled(x: Any, setting: Setting) -> Any:
        return x * (100.0 if type(setting.n) is int else 1.0)

    agree(lambda n: scaled(ONE, Setting(n)), [1, 1.0, True])


def test_values_of_a_failed_batch_fail_in_the_next_one_and_again() -> None:
    table = dp.tensor(np.arange(3.0))
    kept: list[Any] = []

    @dp.cell
    def look(i: Any) -> Any:
        return dp.ops.take(table, i)

    def first(n: int) -> Any:
        kept.append(look(n))
        return kept[-1]

    with pytest.raises(IndexError):
        dp.batched(first, [0, 7])
    later: list[Any] = []

    def second(i: int) -> Any:
        later.append(kept[i] * 2.0)
        return later[-1]

    with pytest.raises(IndexError):
        dp.batched(second, [0, 1])
    with pytest.raises(IndexError):
        later[1].item()
    assert kept[0].item() == 0.0


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_tangent_reaches_only_what_depends_on_its_input(which: int) -> None:
    """Rows of one block: some have tangents, those before, between and behind them have none."""
    leaves = [dp.tensor(ONE * (k + 1), requires_grad=True) for k in range(3)]

    def value(x: Any, enabled: bool) -> Any:
        its = [x if k == which else leaf for k, leaf in enumerate(leaves)]

        def program(n: float) -> Any:
            rows = []
            for leaf in its:  # one append after the other
                rows.append(double(leaf * n))
                assert rows[-1].sum().item() > 0
            return sum(double(row * rows[0]) for row in rows)

        return dp.batched(program, [1.0, 2.0], enabled=enabled)

    found = [
        dp.jvp(lambda x, enabled=enabled: value(x, enabled), (leaves[which],), (ONE,))[1]
        for enabled in (False, True)
    ]
    np.testing.assert_allclose(found[1].data, found[0].data, rtol=1e-6)
