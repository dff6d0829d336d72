"""The plot of the engine's benchmark: ratios to torch, as bars for models and as curves over sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .tables import Point


def draw(points: Sequence[Point], path: Path) -> None:
    """The panels side by side, into a file."""
    panels: dict[str, list[Point]] = {}
    for point in points:
        panels.setdefault(point.panel, []).append(point)
    figure = Figure(figsize=(3.2 * len(panels), 3.2), layout="constrained")
    places = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for place, (name, found) in zip(places, panels.items(), strict=True):
        (_bars if isinstance(found[0].x, str) else _line)(place, found)
        place.set_title(name, fontsize=9)
        place.axhline(1, color="black", linewidth=0.8)
        place.tick_params(labelsize=8)
    places[0].set_ylabel("torch's time / ours", fontsize=9)
    places[0].set_ylim(bottom=0)
    # Nothing in the file that another run of the same figures would write differently.
    with matplotlib.rc_context({"svg.hashsalt": "engine", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _errors(found: Sequence[Point]) -> list[list[float]]:
    pairs = [point.pair for point in found]
    return [[p.ratio - p.low for p in pairs], [p.high - p.ratio for p in pairs]]


def _bars(place: Any, found: Sequence[Point]) -> None:
    names = [str(point.x) for point in found]
    place.bar(names, [point.pair.ratio for point in found], yerr=_errors(found), capsize=2, color="tab:blue")
    place.scatter(
        names, [point.goal for point in found], marker="_", s=250, color="tab:red", zorder=3, label="goal"
    )
    place.legend(fontsize=7)


def _line(place: Any, found: Sequence[Point]) -> None:
    sizes = [point.x for point in found]
    place.errorbar(
        sizes, [point.pair.ratio for point in found], yerr=_errors(found), capsize=2, marker="o", markersize=3
    )
    place.set_xscale("log", base=2)
    place.set_xticks(sizes, [str(size) for size in sizes])
    place.minorticks_off()
