"""What one `dp.batched` does is nothing to another: after a failure, beside one in another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from batching.cells import ONE, double, look
from batching.programs import Parameters, Program, function, parameters, programs
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import ops
from dist_dp.random import Key, scope


class Failure(Exception):
    """Of an example."""


@dp.cell
def refuses(x: Any) -> Any:
    if (x > 3).any():
        raise Failure
    return x


W = dp.tensor(ONE.copy(), requires_grad=True)

# How an example can fail, given whether it is the one: on its own, in a cell, in an operation, in backward's face.
FAILURES: list[Callable[[bool], Any]] = [
    lambda bad: raises(Failure) if bad else double(W),
    lambda bad: raises(KeyboardInterrupt) if bad else double(W),
    lambda bad: refuses(W * (5.0 if bad else 1.0)),
    lambda bad: look(9 if bad else 1) * W,
    lambda bad: ops.take(W, double(W)[:1].astype(np.int64) * (9 if bad else 0)),
    lambda bad: double(np.ones(3, np.float32)) @ double(W) if bad else double(W),
]


def raises(error: type[BaseException]) -> Any:
    raise error


def outcome(program: Callable[[int], Any], examples: Any, **options: Any) -> tuple[Any, ...]:
    with scope(Key(9)):
        first = dp.random.normal()
        out = dp.batched(program, examples, **options)
        W.grad = None
        if out.requires_grad:
            out.sum().backward()
        return (
            float(first),
            float(dp.random.normal()),
            out.data.tobytes(),
            None if W.grad is None else W.grad.data.tobytes(),
            dp.explain_batching().batches,
        )


@given(
    program=programs(most=4),
    failure=st.sampled_from(FAILURES),
    bad=st.integers(0, 3),
    before=st.booleans(),
    read=st.booleans(),
    options=st.sampled_from([{}, {"max_batch": 1}, {"wave": 2}]),
)
@settings(max_examples=60)
def test_after_a_failure_everything_is_as_before(
    program: Program, failure: Any, bad: int, before: bool, read: bool, options: dict[str, int]
) -> None:
    p = Parameters(*[dp.tensor(x, requires_grad=True) for x in parameters(np.float64, len(program.examples))])
    fun = function(program, p)
    bad %= len(program.examples)

    def failing(n: int) -> Any:
        h = None if before else fun(n)
        out = failure(n == bad)
        if read:
            out.sum().item()
        return (fun(n) if h is None else h, out)

    expected = outcome(fun, range(len(program.examples)), **options)
    with dp.no_grad(), pytest.raises((Failure, KeyboardInterrupt, IndexError, ValueError)):
        dp.batched(failing, range(len(program.examples)), **options)
    assert outcome(fun, range(len(program.examples)), **options) == expected


@given(its=st.lists(programs(most=3), min_size=2, max_size=3), failing=st.sampled_from(FAILURES))
@settings(max_examples=20, deadline=None)
def test_programs_in_threads_are_those_of_one_thread(its: list[Program], failing: Any) -> None:
    """While another thread fails again and again."""

    def run(program: Program) -> Any:
        start = parameters(np.float64, len(program.examples))
        p = Parameters(*[dp.tensor(x, requires_grad=True) for x in start])
        with scope(Key(4)):
            out = dp.batched(function(program, p), range(len(program.examples)))
        if out.requires_grad:
            out.sum().backward()
        grads = [None if x.grad is None else x.grad.data.tobytes() for x in p]
        return out.data.tobytes(), grads, dp.explain_batching().batches

    def fail(_: Any) -> Any:
        for _ in range(3):
            with pytest.raises((Failure, KeyboardInterrupt, IndexError, ValueError)):
                dp.batched(lambda n: failing(n == 1), range(3))
        return None

    expected = [run(program) for program in its]
    found: dict[int, Any] = {}
    start = threading.Barrier(len(its) + 1)

    def work(i: int, what: Callable[[Any], Any], *given: Any) -> None:
        start.wait()
        found[i] = what(*given)

    threads = [threading.Thread(target=work, args=(i, run, program)) for i, program in enumerate(its)]
    threads.append(threading.Thread(target=work, args=(-1, fail, None)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(its))] == expected and -1 in found


@pytest.mark.parametrize("watching", [dp.profile, dp.debug.anomaly])
def test_an_example_that_watches_itself_while_others_run(watching: Any) -> None:
    """They begin in the order of the examples and end in another one; `nothing_is_left_behind` looks at the rest."""

    def program(reads: int) -> Any:
        x = double(ONE)
        with watching():
            for _ in range(reads):
                (x * 2.0).sum().item()
        return x

    dp.batched(program, [1, 3, 2])


def test_the_report_of_a_thread_is_of_that_thread() -> None:
    odd = ops.Op("test_odd", lambda x: x * x.sum())
    del ops.table["test_odd"]

    def beside() -> None:
        thread = threading.Thread(
            target=lambda: dp.batched(lambda n: ops.apply(odd, (double(ONE * n),)), [1.0, 2.0])
        )
        thread.start()
        thread.join()

    dp.batched(lambda n: (beside(), double(ONE * n))[1], [1.0])
    assert not [name for name, _ in dp.explain_batching().alone if name == odd.name]
