"""Timing two ways of doing the same thing, in turn, on a machine that is never quiet.

A B A B ...: what disturbs one round disturbs both sides of it, so the ratio of a round means something where the
times do not. Taken is the processor's time, of all threads: what other programs take of it does not count. Reported are
medians of times and the median of the ratios.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from dist_dp import kernels

Work = Callable[[], Any]


class Pair(NamedTuple):
    """Seconds per call of both sides (medians); the median over rounds of theirs / ours: above 1, ours is faster."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Pair:
        """From the seconds of each round."""
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        return cls(statistics.median(ours), statistics.median(theirs), *middle_half(ratios))

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({self.low:.2f} to {self.high:.2f})"


def middle_half(found: Iterable[float]) -> tuple[float, float, float]:
    """Median, and the borders of the middle half."""
    ordered = sorted(found)
    return statistics.median(ordered), ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]


def repeat(work: Work, calls: int) -> float:
    """Seconds of the processor per call over `calls` calls."""
    start = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - start) / calls


def in_turn(works: Sequence[Work], rounds: int, seconds: float) -> list[list[float]]:
    """Seconds per call of each work in every round; a measurement makes enough calls to last about `seconds`."""
    calls = []
    for work in works:
        work()
        calls.append(max(1, round(seconds / max(repeat(work, 2), 1e-9))))
    collecting = gc.isenabled()
    gc.disable()
    try:
        times = [[repeat(work, n) for work, n in zip(works, calls, strict=True)] for _ in range(rounds)]
    finally:
        if collecting:
            gc.enable()
    return [list(column) for column in zip(*times, strict=True)]


def numpy_alone(work: Work) -> Work:
    """The same work without the compiled kernels."""

    def alone() -> None:
        before, kernels.compiled = kernels.compiled, None
        try:
            work()
        finally:
            kernels.compiled = before

    return alone


def compare(ours: Work, theirs: Work, rounds: int = 15, seconds: float = 0.1) -> Pair:
    """Time both in turn."""
    return Pair.of(*in_turn((ours, theirs), rounds, seconds))


def python_calls(work: Work) -> int:
    """How many Python functions one call of `work` enters, itself not counted."""
    entered = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal entered
        entered += event == "call"

    work()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return entered - 1
