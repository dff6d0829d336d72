"""Timing two ways of doing the same thing, in turn, on a machine that is never quiet.

A B A B ...: what disturbs one round disturbs both sides of it, so the ratio of a round means something where the
times do not. Reported are medians of times and the median of the ratios.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

Work = Callable[[], Any]


class Pair(NamedTuple):
    """Seconds per call of both sides (medians); the median over rounds of theirs / ours: above 1, ours is faster."""

    ours: float
    theirs: float
    ratio: float
    low: float
    high: float


def repeat(work: Work, calls: int) -> float:
    """Seconds per call over `calls` calls."""
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - start) / calls


def compare(ours: Work, theirs: Work, rounds: int = 15, seconds: float = 0.1) -> Pair:
    """Time both in turn; each measurement makes enough calls to last about `seconds`."""
    calls = []
    for work in (ours, theirs):
        work()
        calls.append(max(1, round(seconds / max(repeat(work, 2), 1e-9))))
    collecting = gc.isenabled()
    gc.disable()
    try:
        times = [(repeat(ours, calls[0]), repeat(theirs, calls[1])) for _ in range(rounds)]
    finally:
        if collecting:
            gc.enable()
    ratios = sorted(b / a for a, b in times)
    return Pair(
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
        statistics.median(ratios),
        ratios[len(ratios) // 4],
        ratios[-1 - len(ratios) // 4],
    )


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
