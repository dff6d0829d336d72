"""What benchmarks share beside the timing: how parts are asked to measure, and how they say what they found."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .pairs import Pair, middle_half


class Settings(NamedTuple):
    """Rounds, seconds that a measurement in a round lasts about, and whether small sizes do, to see that all runs."""

    rounds: int = 15
    seconds: float = 0.1
    tiny: bool = False


class Point(NamedTuple):
    """For the plot: a ratio, in the panel of this name, at `x`, a name or a number."""

    panel: str
    x: str | int
    pair: Pair
    goal: float = 1.0


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """The lines of a table in Markdown, each as soon as its row is there."""
    yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"


def milli(seconds: float) -> str:
    """Milliseconds, in three digits or as many as there are before the point."""
    ms = seconds * 1e3
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def reached(value: float, goal: float, most: bool = False) -> str:
    """The goal, and whether a value is that at least (at most), as it is printed."""
    value = round(value, 2)
    return f"{goal:g} {'✓' if (value <= goal if most else value >= goal) else '✗'}"


def spread(found: Iterable[float], form: str = ".2f") -> str:
    """Median and middle half, in words."""
    middle, low, high = middle_half(found)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def processor() -> str:
    """The name of the processor, where the system tells."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()
