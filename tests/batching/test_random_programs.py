"""Random programs in batches: what they compute one by one, in values and gradients, at first and second order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from batching.programs import WIDTH, Parameters, Program, function, parameters, programs
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import nn, ops
from dist_dp.random import Key, scope

CLOSE = {np.float64: {"rtol": 1e-9, "atol": 1e-10}, np.float32: {"rtol": 2e-3, "atol": 2e-4}}
RESULT = np.arange(1.0, 1 + WIDTH)  # what a result is weighted with, so that its entries count differently
LIMITS: list[dict[str, int]] = [{}, {}, {"max_batch": 1}, {"max_batch": 2}, {"max_batch": 3}]
limits = st.sampled_from([*LIMITS, {"wave": 1}, {"wave": 2}, {"wave": 3, "max_batch": 2}])


def outcome(program: Program, p: Parameters, **options: Any) -> Any:
    with scope(Key(3)):
        return dp.batched(function(program, p), range(len(program.examples)), **options)


def total(program: Program, p: Parameters, **options: Any) -> Any:
    out = outcome(program, p, **options)
    return (out * RESULT.astype(out.dtype)).sum() + (out * out).sum()


def close(a: Any, b: Any, dtype: Any = np.float64) -> None:
    """Two nestings of tensors are equal up to rounding, and so are their dtypes."""
    for x, y in zip(leaves(a), leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x.data, y.data, **CLOSE[dtype])


def leaves(tree: Any) -> list[Any]:
    return [x for part in tree for x in leaves(part)] if isinstance(tree, tuple) else [tree]


def gradients(program: Program, start: Parameters, **options: Any) -> Any:
    """The result, and the gradients of its total by backward()."""
    p = Parameters(*[dp.tensor(x, requires_grad=True) for x in start])
    value = total(program, p, **options)
    if value.requires_grad:
        value.backward()
    return value, *[ops.zeros_like(x) if x.grad is None else x.grad for x in p]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(program=programs(), limits=limits)
@settings(max_examples=70)
def test_values_and_gradients(dtype: Any, program: Program, limits: dict[str, int]) -> None:
    start = parameters(dtype, len(program.examples))
    expected = gradients(program, start, enabled=False)
    close(gradients(program, start, **limits), expected, dtype)


@given(program=programs(), limits=limits)
@settings(max_examples=40)
def test_two_runs_give_the_same_bits_and_the_same_groups(program: Program, limits: dict[str, int]) -> None:
    start = parameters(np.float32, len(program.examples))
    first, groups = gradients(program, start, **limits), dp.explain_batching().batches
    assert all(size <= limits.get("max_batch", size) for sizes in groups.values() for size in sizes)
    again = gradients(program, start, **limits)
    assert [x.data.tobytes() for x in again] == [x.data.tobytes() for x in first]
    assert dp.explain_batching().batches == groups


@given(program=programs(), limits=limits)
@settings(max_examples=40)
def test_without_gradients(program: Program, limits: dict[str, int]) -> None:
    p = Parameters(*[dp.tensor(x, requires_grad=True) for x in parameters(np.float64, len(program.examples))])
    with dp.no_grad():
        expected = outcome(program, p, enabled=False)
        got = outcome(program, p, **limits)
    assert not got.requires_grad
    close(got, expected)


def second_by_grad(f: Callable[[Parameters], Any], at: Parameters) -> Any:
    def slope(p: Parameters) -> Any:
        return sum((g * g).sum() for g in dp.grad(f)(p))

    return dp.grad(slope)(at)


def second_by_create_graph(f: Callable[[Parameters], Any], at: Parameters) -> Any:
    p = Parameters(*[dp.tensor(x, requires_grad=True) for x in at])
    value = f(p)
    if not value.requires_grad:
        return ()
    value.backward(create_graph=True)
    first = [x.grad for x in p]
    for x in p:
        x.grad = None
    slope = sum((g * g).sum() for g in first if g is not None)
    if isinstance(slope, int) or not slope.requires_grad:
        return ()
    slope.backward()
    return tuple(ops.zeros_like(x) if x.grad is None else x.grad for x in p)


def forward(f: Callable[[Parameters], Any], at: Parameters) -> Any:
    return dp.jvp(f, (at,), (directions(at),))


def directions(at: Parameters) -> Parameters:
    return Parameters(*[np.cos(x.data if isinstance(x, dp.Tensor) else x) for x in at])


def forward_over_reverse(f: Callable[[Parameters], Any], at: Parameters) -> Any:
    return dp.hvp(f, (at,), (directions(at),))


def reverse_over_forward(f: Callable[[Parameters], Any], at: Parameters) -> Any:
    return dp.grad(lambda p: forward(f, p)[1])(at)


ORDERS = [second_by_grad, second_by_create_graph, forward, forward_over_reverse, reverse_over_forward]


@pytest.mark.parametrize("derive", ORDERS)
@given(program=programs(most=3), limits=limits)
@settings(max_examples=30)
def test_second_order_and_forward_mode(derive: Any, program: Program, limits: dict[str, int]) -> None:
    at = parameters(np.float64, len(program.examples))
    expected = derive(lambda p: total(program, p, enabled=False), at)
    got = derive(lambda p: total(program, p, **limits), at)
    if len(got) == len(
        expected
    ):  # a gradient of nothing but zeros may be a constant to one and not to the other
        close(got, expected)
    else:
        assert not any(x.data.any() for x in leaves(got or expected))


@given(program=programs(random=False, most=1), copies=st.integers(2, 5))
@settings(max_examples=40)
def test_copies_of_an_example_run_in_the_batches_of_one(program: Program, copies: int) -> None:
    """Also where it reads values: copies wait for each other."""
    start = parameters(np.float32, 1)
    same = Parameters(start.matrices, start.bias, np.repeat(start.inputs, copies, 0))
    with dp.no_grad():
        outcome(program._replace(examples=program.examples[:1]), start)
        alone = dp.explain_batching()
        outcome(program._replace(examples=program.examples[:1] * copies), same)
        together = dp.explain_batching()
    assert together.flushes == alone.flushes
    assert {name: len(sizes) for name, sizes in together.batches.items()} == {
        name: len(sizes) for name, sizes in alone.batches.items()
    }


# --- plain recursion, as a user writes it -----------------------------------------------------------------------------


class Tree(NamedTuple):
    token: int
    children: tuple[Tree, ...] = ()


trees = st.recursive(
    st.integers(0, 4).map(Tree),
    lambda below: st.tuples(st.integers(0, 4), st.lists(below, max_size=4).map(tuple)).map(
        lambda t: Tree(*t)
    ),
    max_leaves=12,
)


class Reader(nn.Module):
    """A child-sum Tree-LSTM with dropout; a subtree that comes twice in an example is read once."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(5, 4)
        self.gates = nn.Linear(8, 12)
        self.forget = nn.Linear(8, 4)
        self.dropout = nn.Dropout(0.2)

    @dp.cell
    def node(self, token: Any, children: Any) -> Any:
        x = self.tokens(token)
        h = sum((h for h, _ in children), x * 0)
        i, o, u = ops.split(self.gates(ops.concatenate([x, h], -1)), 3, -1)
        c = ops.sigmoid(i) * ops.tanh(u)
        for hidden, cell in children:
            c = c + ops.sigmoid(self.forget(ops.concatenate([x, hidden], -1))) * cell
        return self.dropout(ops.sigmoid(o) * ops.tanh(c)), c

    def read(self, tree: Tree, known: dict[Tree, Any]) -> Any:
        if tree not in known:
            known[tree] = self.node(tree.token, [self.read(child, known) for child in tree.children])
        return known[tree]

    def forward(self, tree: Tree) -> Any:
        h, c = self.read(tree, {})
        return h if h.sum() > 0.0123 else c * 2


@given(examples=st.lists(trees, min_size=1, max_size=6), training=st.booleans())
@settings(max_examples=25)
def test_trees_with_shared_subtrees(examples: list[Tree], training: bool) -> None:
    dp.seed(0)
    model = Reader()
    model.train(training)
    found = []
    for options in ({"enabled": False}, {}, {"max_batch": 2}, {"wave": 2}):
        model.zero_grad()
        with scope(Key(7)):
            out = dp.batched(model, examples, **options)
        (out * np.arange(1, 5, dtype=np.float32)).sum().backward()
        grads = [np.zeros(1) if x.grad is None else x.grad.data for x in model.parameters()]
        found.append([out.data, *grads])
    for got in found[1:]:
        for a, b in zip(got, found[0], strict=True):
            np.testing.assert_allclose(a, b, **CLOSE[np.float32])


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=6))
@settings(max_examples=25)
def test_loops_whose_length_is_decided_by_values(lengths: list[int]) -> None:
    rng = np.random.default_rng(1)
    w = dp.tensor(rng.normal(size=(3, 3)), requires_grad=True)

    @dp.cell
    def advance(h: Any, t: Any) -> Any:
        return ops.tanh(h @ w), t + 1

    def program(length: int) -> Any:
        h, t = dp.tensor(rng_of(length)), 0
        while t < length:  # a number first, then a value
            h, t = advance(h, t)
        return h * int(h.argmax())

    def rng_of(length: int) -> Any:
        return np.random.default_rng(length).normal(size=3)

    found = []
    for enabled in (False, True):
        w.grad = None
        out = dp.batched(program, lengths, enabled=enabled)
        out.sum().backward() if out.requires_grad else None
        found.append((out.data, np.zeros((3, 3)) if w.grad is None else w.grad.data))
    for got, expected in zip(*found[::-1], strict=True):
        np.testing.assert_allclose(got, expected, **CLOSE[np.float64])
    sizes = next((s for name, s in dp.explain_batching().batches.items() if name.endswith("advance")), [])
    assert sizes == [sum(length > t for length in lengths) for t in range(max(lengths))]
