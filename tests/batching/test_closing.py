"""When a batch or an example fails, all that examples have open is closed, and what is around goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from batching.cells import ONE, double, look, notes

import dist_dp as dp
from dist_dp.random import Key, scope


class Trail:
    """Examples that note when they are closed, and all that a thread has open while they wait."""

    def __init__(self) -> None:
        self.closed: list[int] = []

    def example(self, n: int, then: Callable[[int], Any]) -> Any:
        try:
            with dp.no_grad(), scope(Key(n)):
                if double(ONE * n).sum().item() < 0:
                    return ONE
                out = then(n)
                return out * 2 if out.sum().item() > 1e9 else out
        finally:
            self.closed.append(n)


def failing(n: int) -> Any:
    if n == 2:
        raise KeyError("n")
    return double(ONE)


def interrupted(n: int) -> Any:
    if n == 1:
        raise KeyboardInterrupt
    return double(ONE)


@pytest.mark.parametrize(
    ("then", "error"),
    [
        (failing, KeyError),
        (interrupted, KeyboardInterrupt),
    ],
)
def test_all_that_examples_have_open_is_closed(then: Any, error: Any) -> None:
    trail = Trail()
    with pytest.raises(error):
        dp.batched(lambda n: trail.example(n, then), range(5))
    assert sorted(trail.closed) == [0, 1, 2, 3, 4]


def test_examples_that_were_not_reached_are_not_started() -> None:
    started = []

    def program(n: int) -> Any:
        started.append(n)
        return failing(n)

    with pytest.raises(KeyError):
        dp.batched(program, range(5))
    assert started == [0, 1, 2]


def test_an_error_of_one_batched_does_not_disturb_the_one_around_it() -> None:
    def outer(n: int) -> Any:
        try:
            return dp.batched(failing, [n, 0]).sum(0)
        except KeyError:
            return double(ONE) * 10

    out = dp.batched(outer, range(4))
    assert out.tolist() == [[4, 4], [4, 4], [20, 20], [4, 4]]


def test_an_example_may_catch_its_own_exceptions() -> None:
    def program(n: int) -> Any:
        try:
            if double(ONE * n).sum().item() > 5:
                raise StopIteration(n)
        except StopIteration as stop:
            return double(ONE) * stop.value
        return ONE

    assert dp.batched(program, range(4)).tolist() == [[1, 1], [1, 1], [4, 4], [6, 6]]


def test_what_waiting_examples_have_open_is_closed_when_a_batch_fails() -> None:
    closed = []

    def program(n: int) -> Any:
        try:
            return look(n) if look(n).item() > 1 else look(n + 1)
        finally:
            closed.append(n)

    with pytest.raises(IndexError):
        dp.batched(program, [0, 1, 7, 2])
    assert sorted(closed) == [0, 1, 2, 7]


def test_closing_may_read_values_and_fail() -> None:
    seen: list[Any] = []

    def program(n: int) -> Any:
        h = double(ONE * n)
        try:
            return 1 / 0 if n == 0 and h.sum().item() == 0 else h * h.sum().item()
        finally:
            if n:
                seen.append(double(h).sum().item())  # nobody else is waited for any more
                seen.append(1 / (n - 2))

    with pytest.raises(ZeroDivisionError) as caught:
        dp.batched(program, range(4))
    assert seen == [8.0, -1.0, 16.0, 24.0, 1.0]
    assert notes(caught.value) == "in example 0 of dp.batched"


def test_a_value_that_a_failed_batch_did_not_compute_fails_again() -> None:
    kept: list[Any] = []

    def program(n: int) -> Any:
        kept.append(look(n))
        return kept[-1] * 2.0

    with pytest.raises(IndexError):
        dp.batched(program, range(5))
    with pytest.raises(IndexError):
        kept[4].item()
    assert kept[1].item() == 1.0
