"""Which gradients a sweep takes as they are, and which it copies: nobody else may have what it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import backward as sweeps
from dist_dp.ops.core import Op, apply
from dist_dp.tensor import Tensor


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


# One gradient for both inputs; and one of which a part goes to the second.
shared = Op("test_shared", lambda x, y: x + y, "x y", joint=lambda g, need: (d := 2 * g, d))
partly_shared = Op("test_partly", lambda x, y: x + y, "x y", joint=lambda g, need: (d := 2 * g, d[:1]))


@pytest.mark.parametrize("op", [shared, partly_shared])
def test_a_gradient_that_a_rule_shares_out_is_copied(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "SMALL", -1)
    x, y = leaf(1.0, 2.0), leaf(3.0)
    inner = y * 1
    (apply(op, (x, inner)) * x).backward(np.ones(2))
    np.testing.assert_array_equal(x.grad.data, [2 + 4, 4 + 5])
    y_gradient = [2 + 4] if op is shared else [2]
    np.testing.assert_array_equal(y.grad.data, y_gradient)


def test_a_gradient_that_nobody_else_has_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "SMALL", -1)
    made: list[Any] = []

    def rule(g: Any) -> Any:
        made.append(2 * g)
        return made[-1]

    op = Op("test_made", lambda x: 2 * x, vjp=(rule,))
    x = leaf(1.0)
    apply(op, (x,)).backward(np.ones(1))
    assert x.grad.data is made[0]


def test_a_gradient_that_a_rule_of_the_user_holds_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "SMALL", -1)
    held = Tensor(np.full(2, 3.0))
    function = dp.custom_vjp(lambda x: 3 * x)
    function.defvjp(lambda x: (3 * x, None), lambda _, g: (held,))
    x = leaf(1.0, 2.0)
    inner = x * 1
    (function(x) + function(inner) + inner * 2).backward(np.ones(2))
    np.testing.assert_array_equal(x.grad.data, [8, 8])
    x.grad.data[:] = 7.0
    np.testing.assert_array_equal(held.data, [3, 3])
