"""What an update does not depend on, what it leaves alone, and what it tells the tape."""

import copy
import gc
import pickle
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optim.problem import IDS, RULES, SHAPES, gradients, parameters, take_step, values

from dist_dp import Tensor, no_grad, optim
from dist_dp.optim import optimizer as module
from dist_dp.optim.flat import runs

every_rule = pytest.mark.parametrize(("kind", "options"), RULES, ids=IDS)
Kind = type[optim.Optimizer]


def trained(
    kind: Kind, options: dict[str, Any], groups: list[list[int]], order: list[int] | None = None
) -> list[bytes]:
    params = parameters(dtype=np.float64)  # where the last bit of a norm shows
    optimizer = kind([{"params": [params[i] for i in group]} for group in groups], **options, clip_norm=1.5)
    for step in range(3):
        optimizer.zero_grad()
        grads = gradients(params, step)
        for i in order or range(len(params)):
            params[i].grad = grads[i]
        optimizer.step()
    return values(params)


@every_rule
@settings(max_examples=8)
@given(order=st.permutations(range(len(SHAPES))), cuts=st.sets(st.integers(1, len(SHAPES) - 1)))
def test_groups_with_equal_options_and_the_order_of_gradients_do_not_matter(
    kind: Kind, options: dict[str, Any], order: list[int], cuts: set[int]
) -> None:
    n = len(SHAPES)
    edges = [0, *sorted(cuts), n]
    groups = [list(range(a, b)) for a, b in pairwise(edges)]
    assert trained(kind, options, groups, order) == trained(kind, options, [list(range(n))])


@every_rule
def test_the_order_of_parameters_does_not_matter(kind: Kind, options: dict[str, Any]) -> None:
    n = len(SHAPES)
    assert trained(kind, options, [list(range(n))[::-1]]) == trained(kind, options, [list(range(n))])


@every_rule
@pytest.mark.parametrize("piece", [1, 7, 64])
def test_the_size_of_pieces_does_not_matter(
    kind: Kind, options: dict[str, Any], piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(kind, options, [list(range(len(SHAPES)))])
    monkeypatch.setattr(module, "PIECE", piece)
    assert trained(kind, options, [list(range(len(SHAPES)))]) == whole


@every_rule
@settings(max_examples=10)
@given(rounds=st.lists(st.sets(st.integers(0, len(SHAPES) - 1)), min_size=1, max_size=4))
def test_a_parameter_without_a_gradient_stays_as_it_is(
    kind: Kind, options: dict[str, Any], rounds: list[set[int]]
) -> None:
    """Neither it nor its state nor its update count changes; those of the others do."""
    params = parameters()
    optimizer = kind(params, **options)
    for step, touched in enumerate(rounds):
        before, state = values(params), optimizer.state_dict()["state"]
        take_step(optimizer, params, step, touched)
        after, new_state = values(params), optimizer.state_dict()["state"]
        for i, p in enumerate(params):
            assert new_state[i]["step"] == state[i]["step"] + (i in touched)
            if i not in touched:
                assert after[i] == before[i]
                assert all(np.array_equal(new_state[i][name], state[i][name]) for name in state[i])
            elif p.size:
                assert after[i] != before[i]


@every_rule
def test_zero_grad_then_step_moves_nothing_but_the_clock(kind: Kind, options: dict[str, Any]) -> None:
    params = parameters()
    optimizer = kind(params, **options)
    take_step(optimizer, params, 0)
    before = values(params)
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    optimizer.step()
    assert values(params) == before
    assert optimizer.steps == 2


def test_zeros_in_place_of_gradients_are_gradients() -> None:
    params = parameters([(3,), (2,)])
    optimizer = optim.SGD(params, lr=0.1, momentum=0.9)
    take_step(optimizer, params, 0, [0])
    before = values(params)
    optimizer.zero_grad(set_to_none=False)
    assert params[0].grad is not None and not params[0].grad.data.any() and params[1].grad is None
    optimizer.step()
    assert values(params)[0] != before[0]
    assert values(params)[1] == before[1]


@every_rule
def test_several_dtypes_are_updated_each_in_its_own(kind: Kind, options: dict[str, Any]) -> None:
    params = [p for dtype in ("f4", "f8", "f4") for p in parameters([(3,), (2, 2)], dtype)]
    optimizer = kind(params, **options)
    take_step(optimizer, params, 0)
    for lo, dtype in ((0, "f4"), (2, "f8")):
        alone = parameters([(3,), (2, 2)], dtype)
        single = kind(alone, **options)
        for p, g in zip(alone, gradients(params, 0)[lo:], strict=False):
            p.grad = g
        single.step()
        assert values(params[lo : lo + 2]) == values(alone)
        assert all(p.dtype == np.dtype(dtype) for p in params[lo : lo + 2])


@every_rule
def test_step_leaves_gradients_as_they_are(kind: Kind, options: dict[str, Any]) -> None:
    params = parameters()
    optimizer = kind(params, **options, clip_norm=0.1, clip_value=0.01)
    take_step(optimizer, params, 0)
    assert [p.grad.data.tobytes() for p in params if p.grad is not None] == [
        g.tobytes() for g in gradients(params, 0)
    ]


def test_sums_over_shards_are_divided_by_the_weight() -> None:
    params, whole = parameters(), parameters()
    optimizer, reference = optim.SGD(params, clip_norm=0.5), optim.SGD(whole, clip_norm=0.5)
    total = optimizer.gradients
    for shard in range(2):
        buffer = total if shard == 0 else optimizer.new_gradients()
        buffer.arrays[0].fill(np.nan)  # what an earlier step left
        buffer.receive()
        for i, (p, g) in enumerate(zip(params, gradients(params, 5), strict=True)):
            if i != shard:  # each of the first two is used by one shard alone
                p.grad = g * 2
        buffer.seal()
        if buffer is not total:
            total.add(buffer)
    optimizer.apply(total, 4.0)
    for i, (p, g) in enumerate(zip(whole, gradients(whole, 5), strict=True)):
        p.grad = g if i > 1 else g / 2
    reference.step()
    assert values(params) == values(whole)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2)), min_size=1, max_size=8), st.booleans())
def test_runs_cover_the_touched_parameters_once_with_one_count_each(
    entries: list[tuple[bool, int]], alone: bool
) -> None:
    touched, counts = np.array([e[0] for e in entries]), np.array([e[1] for e in entries])
    found = runs(touched, counts, alone)
    assert [i for lo, hi in found for i in range(lo, hi)] == np.flatnonzero(touched).tolist()
    assert all(len(set(counts[lo:hi].tolist())) == 1 for lo, hi in found)
    for (_, end), (start, _) in pairwise(found):
        assert alone or end < start or counts[end - 1] != counts[start]


# --- the tape -----------------------------------------------------------------------------------------------------


def used(p: Tensor) -> Tensor:
    """Something whose gradient needs the values of p."""
    return p * p


def test_backward_refuses_a_parameter_that_was_updated_after_its_use() -> None:
    params = parameters([(3,), (2,)])
    optimizer = optim.Adam(params)
    first, second = used(params[0]), used(params[1])
    params[0].grad = np.ones(3, np.float32)
    optimizer.step()
    second.backward(np.ones(2, np.float32))  # its parameter had no gradient and was not written
    with pytest.raises(RuntimeError, match=r"Adam\.step overwrote"):
        first.backward(np.ones(3, np.float32))


def test_gradients_of_backward_land_in_the_flat_buffer_and_add_up() -> None:
    params = parameters([(3,), (2,)])
    optimizer = optim.SGD(params, lr=0.5)
    for _ in range(2):
        used(params[0]).backward(np.ones(3, np.float32))
    assert params[0].grad is not None and np.shares_memory(params[0].grad.data, optimizer.gradients.arrays[0])
    np.testing.assert_allclose(params[0].grad.data, 4 * params[0].data, rtol=1e-6)


def test_a_gradient_with_a_history_is_used() -> None:
    (p,) = parameters([(3,)], np.float64)
    start = p.data.copy()
    optimizer = optim.SGD([p], lr=0.25)
    used(p).backward(np.ones(3), create_graph=True)
    assert p.grad is not None and p.grad.requires_grad
    optimizer.step()
    np.testing.assert_allclose(p.data, start / 2)


def test_a_replaced_array_is_taken_in() -> None:
    p, q = parameters([(3,), (3,)], np.float64)
    optimizer = optim.SGD([p, q], lr=0.5)
    old = used(q)
    p.data, q.data = np.ones(3), np.ones(3)
    p.grad = np.ones(3)
    optimizer.step()
    np.testing.assert_array_equal([p.data, q.data], [[0.5] * 3, [1.0] * 3])
    q.grad = np.ones(3)
    optimizer.step()
    np.testing.assert_array_equal(q.data, 0.5)
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        old.backward(np.ones(3))


def test_taking_in_a_replaced_array_is_a_write_to_what_stood_there() -> None:
    p, q = parameters([(3,), (3,)], np.float64)
    optimizer = optim.SGD([p, q], lr=0.5)
    old = used(q)
    q.data = np.ones(3)
    p.grad = np.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        old.backward(np.ones(3))


def test_two_optimizers_can_take_turns_on_one_parameter() -> None:
    (p,) = parameters([(3,)], np.float64)
    p.data[...] = 0
    turns = [optim.SGD([p], lr=1.0), optim.SGD([p], lr=10.0)]
    for optimizer in (*turns, *turns):
        p.grad = np.ones(3)
        optimizer.step()
    np.testing.assert_allclose(p.data, -22.0)


def test_a_parameter_that_was_frozen_and_thawed_is_trained_again() -> None:
    (p, q) = parameters([(3,), (2,)])
    optimizer = optim.SGD([p, q], lr=0.5)
    p.requires_grad_(False)
    take_step(optimizer, [q], 0)
    before = values([p])
    p.requires_grad_(True)
    used(p).backward(np.ones(3, np.float32))
    optimizer.step()
    assert values([p]) != before


def test_a_changed_dtype_is_refused_before_anything_moves() -> None:
    p, q = parameters([(3,), (3,)])
    optimizer = optim.SGD([p, q], lr=0.5)
    q.data = q.data.astype(np.float64)
    p.grad = np.ones(3, np.float32)
    before = values([p, q])
    with pytest.raises(
        RuntimeError, match=r"was float32 \(3,\) when its optimizer was made and is now float64 \(3,\)"
    ):
        optimizer.step()
    assert values([p, q]) == before


def test_parameters_may_be_written_between_steps() -> None:
    (p,) = parameters([(3,)], np.float64)
    optimizer = optim.SGD([p], lr=0.5)
    with no_grad():
        p.fill_(2.0)
    p.grad = np.ones(3)
    optimizer.step()
    np.testing.assert_allclose(p.data, 1.5)


def test_an_optimizer_is_freed_without_the_collector() -> None:
    optimizer = optim.Adam(parameters())
    gone = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@every_rule
def test_a_copy_of_parameters_and_optimizer_goes_on_alone(
    kind: Kind, options: dict[str, Any], way: Any
) -> None:
    params = parameters()
    optimizer = kind(params, **options, clip_norm=2.0)
    take_step(optimizer, params, 0)
    others, other = way((params, optimizer))
    before = values(params)
    take_step(other, others, 1)
    assert values(params) == before
    take_step(optimizer, params, 1)
    assert values(params) == values(others)
