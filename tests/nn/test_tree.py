"""Tree-LSTM cells: their equations, the order of children, and batches of trees."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dp import nn

RNG = np.random.default_rng(0)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _state(*shape: int) -> tuple[Any, Any]:
    return nn.Parameter(RNG.normal(size=shape)), nn.Parameter(RNG.normal(size=shape))


def _child_sum(cell: Any, x: Any, children: Any) -> tuple[Any, Any]:
    """Equations 2 to 8."""
    w, b, n = cell.weight_ih.data, cell.bias.data, cell.hidden_size
    given_ = b if x is None else w @ x + b
    i, o, u = np.split(
        given_[: 3 * n] + cell.weight_hh.data @ sum((h.data for h, _ in children), np.zeros(n)), 3
    )
    c = _sigmoid(i) * np.tanh(u)
    for h_k, c_k in children:
        c = c + _sigmoid(given_[3 * n :] + cell.weight_fh.data @ h_k.data) * c_k.data
    return _sigmoid(o) * np.tanh(c), c


def _binary(cell: Any, x: Any, left: Any, right: Any) -> tuple[Any, Any]:
    """Equations 9 to 14."""
    gates = cell.bias.data if x is None else cell.weight_ih.data @ x + cell.bias.data
    for state, weight in ((left, cell.weight_left), (right, cell.weight_right)):
        gates = gates if state is None else gates + weight.data @ state[0].data
    i, f_left, f_right, o, u = np.split(gates, 5)
    c = _sigmoid(i) * np.tanh(u)
    for state, f in ((left, f_left), (right, f_right)):
        c = c if state is None else c + _sigmoid(f) * state[1].data
    return _sigmoid(o) * np.tanh(c), c


def _close(got: Any, expected: Any) -> None:
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.data, b if isinstance(b, np.ndarray) else b.data, rtol=1e-10)


@settings(max_examples=30)
@given(st.integers(0, 4), st.booleans(), st.randoms(use_true_random=False))
def test_child_sum_follows_its_equations_and_is_blind_to_the_order(
    count: int, has_input: bool, rng: Any
) -> None:
    cell = nn.ChildSumTreeLSTMCell(3, 4, dtype=np.float64)
    x = RNG.normal(size=3) if has_input else None
    children = [_state(4) for _ in range(count)]
    got = cell(x, children)
    _close(got, _child_sum(cell, x, children))
    rng.shuffle(children)
    _close(cell(x, children), got)


@pytest.mark.parametrize("has_input", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
def test_binary_follows_its_equations(has_input: bool, left: bool, right: bool) -> None:
    cell = nn.BinaryTreeLSTMCell(3, 4, dtype=np.float64)
    x = RNG.normal(size=3) if has_input else None
    sides = [_state(4) if there else None for there in (left, right)]
    _close(cell(x, *sides), _binary(cell, x, *sides))


def test_binary_tells_left_from_right() -> None:
    cell = nn.BinaryTreeLSTMCell(3, 4, dtype=np.float64)
    one, two = _state(4), _state(4)
    assert (cell(None, one, two)[0].data != cell(None, two, one)[0].data).any()


def test_trees_of_one_form_go_together() -> None:
    child_sum, binary = (
        kind(3, 4, dtype=np.float64) for kind in (nn.ChildSumTreeLSTMCell, nn.BinaryTreeLSTMCell)
    )
    one, two = _state(5, 4), _state(5, 4)
    for x in (RNG.normal(size=(5, 3)), None):
        for cell, children in ((child_sum, ([one, two],)), (binary, (one, two))):
            h, c = cell(x, *children)
            assert h.shape == c.shape == (5, 4)
            for k in range(5):
                row = [(s[0][k], s[1][k]) for s in (one, two)]
                alone = cell(None if x is None else x[k], *([row] if cell is child_sum else row))
                _close((h[k], c[k]), alone)


@pytest.mark.parametrize("kind", [nn.ChildSumTreeLSTMCell, nn.BinaryTreeLSTMCell])
def test_a_recursion_reaches_every_parameter(kind: Any) -> None:
    cell = kind(3, 4)

    def encode(depth: int) -> Any:
        x = np.full(3, depth, np.float32)
        if depth == 0:
            return cell(x)
        children = [encode(depth - 1), encode(depth - 1)]
        return cell(x, children) if kind is nn.ChildSumTreeLSTMCell else cell(x, *children)

    encode(3)[0].sum().backward()
    for name, p in cell.named_parameters():
        assert p.grad is not None and p.grad.shape == p.shape and (p.grad.data != 0).any(), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nn.ChildSumTreeLSTMCell(3, 4)(np.zeros(2)), r"in_features=3\).*got shape \(2,\)"),
        (
            lambda: nn.ChildSumTreeLSTMCell(3, 4)(np.zeros(3), [_state(5)]),
            r"ChildSumTreeLSTMCell: expected the state of a child as \(h, c\), both \(..., hidden_size=4\), got",
        ),
        (lambda: nn.ChildSumTreeLSTMCell(3, 4)(np.zeros(3), [None]), "got NoneType"),  # type: ignore[list-item]
        (lambda: nn.BinaryTreeLSTMCell(3, 4)(None, (np.zeros(4), np.zeros(5))), r"got \[\(4,\), \(5,\)\]"),  # type: ignore[arg-type]
    ],
)
def test_what_cells_refuse(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
