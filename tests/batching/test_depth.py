"""Deep chains and wide nodes run, forward and backward, and nothing outlives what was asked for."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from greenlet import greenlet

import dist_dp as dp
from dist_dp import ops
from dist_dp.batching import recorder

DEPTH = 10_000


@dp.cell
def step(h: Any) -> Any:
    return ops.tanh(h) * 1.001


@dp.cell
def total(children: Any) -> Any:
    return sum(children)


@dp.cell
def pair(a: Any, b: Any) -> Any:
    return a * 0.5 + b * 0.5


def chain(h: Any, n: int) -> Any:
    for _ in range(n):
        h = step(h)
    return h


def test_a_chain_of_ten_thousand_calls() -> None:
    w = dp.tensor(np.array([0.1, -0.2, 0.3]), requires_grad=True)
    found = []
    for enabled in (False, True):
        w.grad = None
        out = dp.batched(lambda n: chain(w * n, DEPTH), [1.0, 2.0], enabled=enabled)
        out.sum().backward()
        found.append((out.data, w.grad.data))
    for got, expected in zip(*found[::-1], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert dp.explain_batching().batches[step.fun.__qualname__] == [2] * DEPTH


def test_a_chain_of_ten_thousand_operations_outside_cells() -> None:
    w = dp.tensor(1.0, requires_grad=True)

    def program(n: float) -> Any:
        h = w * np.float32(n) + step(w)
        for _ in range(DEPTH):
            h = h + 1.0
        return h

    dp.batched(program, [1.0, 2.0]).sum().backward()
    assert dp.explain_batching().calls > 2 * DEPTH and np.isfinite(w.grad.item())


def test_a_chain_that_nobody_asks_for_is_dropped() -> None:
    out = dp.batched(lambda n: (chain(np.ones(2), DEPTH), np.ones(2))[1], [1, 2])
    assert out.tolist() == [[1, 1], [1, 1]] and dp.explain_batching().calls == 0


def test_a_node_with_a_thousand_children() -> None:
    w = dp.tensor(np.arange(3.0), requires_grad=True)

    def program(n: int) -> Any:
        return total([pair(w * i, w) for i in range(n)])

    out = dp.batched(program, [1000, 1000, 10])
    out.sum().backward()
    weights = [sum(0.5 * i + 0.5 for i in range(n)) for n in (1000, 1000, 10)]
    np.testing.assert_allclose(out.data, np.outer(weights, [0, 1, 2]), rtol=1e-9)
    np.testing.assert_allclose(w.grad.data, [sum(weights)] * 3, rtol=1e-9)


def test_a_value_with_ten_thousand_users() -> None:
    w = dp.tensor(np.arange(3.0), requires_grad=True)

    def program(n: int) -> Any:
        h = step(w)
        return total([total([pair(h, h) for _ in range(100)]) for _ in range(n)])

    dp.batched(program, [100, 1]).sum().backward()
    slope = 1.001 / np.cosh(np.arange(3.0)) ** 2
    np.testing.assert_allclose(w.grad.data, 10_100 * slope, rtol=1e-9)


def test_many_examples_that_all_wait() -> None:
    """A thousand coroutines."""
    out = dp.batched(
        lambda n: step(np.ones(1) * n) if step(np.ones(1) * n).sum() > 0.5 else np.zeros(1), range(1000)
    )
    assert (out.data[1:] > 0).all() and dp.explain_batching().flushes == 2


def test_writes_cost_the_same_however_many_there_were() -> None:
    def elements(n: int) -> int:
        seen = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal seen
            if frame.f_code.co_filename == recorder.__file__:
                seen += 1
                return trace
            return None

        def program(_: int) -> Any:
            h = step(np.ones(2))
            for _ in range(n):
                h += 1.0
            return h

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            dp.batched(program, [0])
        finally:
            sys.settrace(before)
        return seen

    assert elements(200) < 2.5 * elements(100)


# --- nothing is left --------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def ours() -> Counter[str]:
    """How many objects of the package there are."""
    kinds = [type(x) for x in gc.get_objects()]
    found = Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("dist_dp."))
    return found + Counter(greenlets=sum(kind is greenlet for kind in kinds))


w = dp.tensor(np.ones(1000), requires_grad=True)


def reads(n: int) -> Any:
    h = step(w * n)
    return pair(h, w) if h.sum() > 0 else h


def keeps_nothing(n: int) -> Any:
    return pair(step(w * n), chain(w, n)) * 2.0


def in_waves(n: int) -> Any:
    return dp.batched(lambda k: step(w * k), [n, 1]).sum(0)


@pytest.mark.parametrize("program", [keeps_nothing, reads, in_waves])
@pytest.mark.parametrize("ending", ["backward", "dropped", "no_grad"])
def test_everything_is_freed_by_reference_counts(no_collector: None, program: Any, ending: str) -> None:
    """But for calls that were never computed, after an error or as nobody needed them: call and result are a cycle."""

    def once() -> None:
        if ending == "no_grad":
            with dp.no_grad():
                dp.batched(program, range(1, 6))
        else:
            loss = dp.batched(program, range(1, 6)).sum()
            if ending == "backward":
                loss.backward()
                w.grad = None

    once()
    before = ours()
    once()
    assert ours() - before == Counter()


def test_memory_does_not_grow_with_the_steps(no_collector: None) -> None:
    def steps(n: int) -> int:
        for _ in range(n):
            dp.batched(reads, range(1, 6)).sum().backward()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        start = steps(3)
        assert steps(10) - start < 40_000  # one step makes 40 arrays of 8000 bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "derive", [dp.jvp, lambda *its: dp.grad(lambda x: dp.jvp(its[0], (x,), its[2])[1])(*its[1])]
)
def test_memory_of_forward_mode_grows_with_the_calls(no_collector: None, derive: Any) -> None:
    """Not with their square: the tangent of a growing block grows with it."""

    def peak(n: int) -> int:
        tracemalloc.start()
        try:
            derive(
                lambda x: dp.batched(lambda k: chain(x * k, n), [1.0, 2.0]).sum(),
                (np.ones(50),),
                (np.ones(50),),
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(400) < 3 * peak(200)


def test_waves_bound_the_memory(no_collector: None) -> None:
    """Backward too, where they are computed again one at a time."""

    def peak(**options: int) -> int:
        tracemalloc.reset_peak()
        start = tracemalloc.get_traced_memory()[0]
        dp.batched(lambda n: chain(w * n, 20), range(1, 33), **options).sum().backward()
        return tracemalloc.get_traced_memory()[1] - start

    tracemalloc.start()
    try:
        whole = peak()
        assert peak(wave=4) < 0.3 * whole
        assert peak(wave=4, max_batch=2) < 0.3 * whole
    finally:
        tracemalloc.stop()
