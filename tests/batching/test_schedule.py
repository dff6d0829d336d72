"""The schedule alone: signatures without a recorder, calls without an operation."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dp.batching import schedule
from dist_dp.batching.lazy import UNSEEN, Call, Lazy
from dist_dp.batching.schedule import batches, needed


class Kind(SimpleNamespace):
    """What the schedule knows of a signature."""

    def __init__(self, name: Any) -> None:
        super().__init__(name=name, ready=[], front=0)

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def call(signature: Any, inputs: Sequence[Any], outputs: int = 1) -> Call:
    made = Call.__new__(Call)
    made.signature, made.values, made.waits = signature, list(inputs), UNSEEN
    outs = []
    for _ in range(outputs):
        out = Lazy.__new__(Lazy)
        out.call = made
        outs.append(out)
    made.outs = tuple(outs)
    return made


def run(wanted: Sequence[Any], most: int | None = None) -> list[tuple[Any, list[Call]]]:
    """All batches, carried out as the recorder does: what is computed forgets its call."""
    done: list[tuple[Any, list[Call]]] = []
    finished: set[int] = set()
    for its, batch in batches(needed(wanted), most):
        for c in batch:
            assert all(v.call is None for v in c.values if type(v) is Lazy), "before what it waits for"
            assert id(c) not in finished, "twice"
        for c in batch:
            finished.add(id(c))
            for out in c.outs:
                out.call = None
        done.append((its, batch))
    return done


@st.composite
def graphs(draw: Any) -> list[Call]:
    """Calls of a few signatures, each of which takes results of earlier ones, numbers, or one value twice."""
    kinds = [Kind(i) for i in range(draw(st.integers(1, 4)))]
    calls: list[Call] = []
    for _ in range(draw(st.integers(1, 25))):
        places = draw(st.lists(st.integers(-1, len(calls) - 1), max_size=3))
        inputs = [
            calls[i].outs[draw(st.integers(0, len(calls[i].outs) - 1))] if i >= 0 else 1.0 for i in places
        ]
        calls.append(call(draw(st.sampled_from(kinds)), inputs, draw(st.integers(1, 3))))
    return calls


def behind(calls: Sequence[Call]) -> dict[int, Call]:
    """These calls and all that they need, by the plain definition."""
    found: dict[int, Call] = {}
    stack = list(calls)
    while stack:
        c = stack.pop()
        if id(c) not in found:
            found[id(c)] = c
            stack.extend(v.call for v in c.values if type(v) is Lazy and v.call is not None)
    return found


@given(graphs(), st.data(), st.sampled_from([None, 1, 2, 3]))
@settings(max_examples=120)
def test_every_needed_call_runs_once_after_what_it_waits_for(
    calls: list[Call], data: Any, most: int | None
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(calls) - 1), max_size=4))
    expected = behind([calls[i] for i in chosen])
    done = run([calls[i].outs[0] for i in chosen], most)
    assert sorted(id(c) for _, batch in done for c in batch) == sorted(expected)
    for its, batch in done:
        assert batch and all(c.signature is its for c in batch)
        assert most is None or len(batch) <= most
    for c in calls:
        assert not c.signature.ready and c.signature.front == 0
        assert all((out.call is None) == (id(c) in expected) for out in c.outs)


@given(graphs(), st.data())
@settings(max_examples=60)
def test_what_was_not_needed_can_be_asked_for_later(calls: list[Call], data: Any) -> None:
    """Any partition into flushes computes each call once."""
    order = data.draw(st.permutations(range(len(calls))))
    ran: list[int] = []
    for i in order:
        if calls[i].outs[0].call is not None:
            ran += [id(c) for _, batch in run([calls[i].outs[0]]) for c in batch]
    assert sorted(ran) == sorted(map(id, calls))


@given(graphs())
@settings(max_examples=60)
def test_complete_signatures_first(calls: list[Call]) -> None:
    """One whose calls all are ready or wait for another of them, if there is any; else of those that wait for no other
    group, by the plain definition, the one ready for longest."""
    after = {s: {s} for s in {c.signature for c in calls}}  # what waits for it, by way of others too
    for _ in after:
        for c in calls:
            for v in c.values:
                if type(v) is Lazy and v.call is not None:
                    after[v.call.signature] |= after[c.signature]
    waiting = {id(c): c for c in calls}
    since: dict[Any, int] = {}
    for step, (its, batch) in enumerate(run_lazily(calls)):
        inputs = {i: [v.call for v in c.values if type(v) is Lazy and v.call] for i, c in waiting.items()}
        ready = {i for i in waiting if not inputs[i]}
        since = {c.signature: since.get(c.signature, step) for i, c in waiting.items() if i in ready}
        complete = {
            s
            for s in since
            if all(
                i in ready or any(b.signature is s for b in inputs[i])
                for i, c in waiting.items()
                if c.signature is s
            )
        }
        if complete:
            assert its in complete
        else:
            assert not any(its in after[s] and s not in after[its] for s in since)
            assert since[its] == min(since[s] for s in since if its in after[s] and s in after[its])
        assert {id(c) for c in batch} == {i for i in ready if waiting[i].signature is its}, (
            "all that are ready"
        )
        for c in batch:
            del waiting[id(c)]
        since.pop(its)


def run_lazily(calls: Sequence[Call]) -> Iterator[tuple[Any, list[Call]]]:
    for its, batch in batches(needed([out for c in calls for out in c.outs]), None):
        yield its, batch
        for c in batch:
            for out in c.outs:
                out.call = None


def test_losses_wait_until_all_are_ready() -> None:
    """The paper's example: chains of different lengths, each with a loss at its end."""
    step, loss = Kind("step"), Kind("loss")
    losses = []
    for length in (1, 2, 3, 4):
        h: Any = 0.0
        for _ in range(length):
            h = call(step, [h]).outs[0]
        losses.append(call(loss, [h]).outs[0])
    assert [(s.name, len(batch)) for s, batch in run(losses)] == [("step", n) for n in (4, 3, 2, 1)] + [
        ("loss", 4)
    ]


def test_losses_wait_for_kinds_of_steps_that_wait_for_each_other() -> None:
    """A tree's nodes with a left child, a right one or both are three kinds: none is complete before the end."""
    left, right, loss = Kind("left"), Kind("right"), Kind("loss")
    losses = []
    for length in (1, 3, 5, 8):
        h: Any = 0.0
        for i in range(length):
            h = call((left, right)[(i + length) % 2], [h]).outs[0]
        losses.append(call(loss, [h]).outs[0])
    done = [(s.name, len(batch)) for s, batch in run(losses)]
    assert done[-1] == ("loss", 4) and "loss" not in dict(done[:-1])


def test_calls_of_a_batch_come_in_the_order_in_which_they_became_ready() -> None:
    kind = Kind("cell")
    calls = [call(kind, [float(i)]) for i in range(5)]
    (_, batch), *rest = run([calls[i].outs[0] for i in (3, 0, 4, 0, 1)])
    assert [c.values[0] for c in batch] == [3, 0, 4, 1] and not rest


def test_nothing_to_do() -> None:
    done = call(Kind("cell"), [])
    run(done.outs)
    assert needed([]) == [] and needed(done.outs) == [] and run(done.outs) == []


# --- how much work it is ----------------------------------------------------------------------------------------------


def chains(n: int) -> list[Any]:
    kinds = [Kind(i) for i in range(5)]
    ends = []
    for width in range(10):
        h: Any = 1.0
        for i in range(n // 10):
            h = call(kinds[(i + width) % 5], [h, h]).outs[0]
        ends.append(h)
    return ends


def trees(n: int) -> list[Any]:
    kinds = [Kind(i) for i in range(3)]
    level = [call(kinds[0], [float(i)]).outs[0] for i in range(n // 2)]
    while len(level) > 1:
        level = [call(kinds[1], level[i : i + 2]).outs[0] for i in range(0, len(level), 2)]
    return [call(kinds[2], level).outs[0]]


def stars(n: int) -> list[Any]:
    """One value that all others use, and one that uses all."""
    kinds = [Kind(i) for i in range(3)]
    first = call(kinds[0], [1.0]).outs[0]
    return [call(kinds[2], [call(kinds[1], [first]).outs[0] for _ in range(n)]).outs[0]]


def all_pairs_of_depths(n: int) -> list[Any]:
    """A chain each of whose calls uses the first: every one is waited for from far above."""
    kinds = [Kind(i) for i in range(7)]
    first = h = call(kinds[0], [1.0]).outs[0]
    for i in range(n):
        h = call(kinds[i % 7], [h, first]).outs[0]
    return [h]


@pytest.mark.parametrize("graph", [chains, trees, stars, all_pairs_of_depths])
@pytest.mark.parametrize("most", [None, 3])
def test_the_work_is_linear_in_the_calls(
    monkeypatch: pytest.MonkeyPatch, graph: Any, most: int | None
) -> None:
    """Lines of the schedule that run, counted by tracing, for n and 2 n calls."""

    def lines(n: int) -> int:
        wanted, count = graph(n), 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal count
            if frame.f_code.co_filename != schedule.__file__:
                return None
            count += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            run(wanted, most)
        finally:
            sys.settrace(before)
        return count

    small, large = lines(256), lines(512)
    assert 1.8 * small < large < 2.2 * small + 100
