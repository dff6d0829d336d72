"""The engine beside torch on one CPU core: `python -m benchmarks [engine] [--rounds N] [--only PART ...]`.

Needs the extra `bench`; without JAX its columns stay empty.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import numpy as np

import dist_dp as dp
from runtime.fingerprint import fingerprint

from .tables import Point, Settings, processor
from .turns import ROOT

OUTPUT = ROOT / "docs" / "benchmarks" / "engine.md"
TINY = Settings(rounds=1, seconds=0.001, tiny=True)

# What is measured, in the order of the page, and the functions that do.
PARTS = {
    "small_ops": "small_ops.lines",
    "kernels": "kernels.lines",
    "updates": "updates.lines",
    "steps": "steps.models",
    "examples": "steps.examples",
    "memory": "processes.memory",
    "startup": "processes.startup",
    "scaling": "scaling.lines",
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks engine", description=__doc__)
    parser.add_argument("--rounds", type=int, help=f"{Settings().rounds} by default, {TINY.rounds} of --tiny")
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"that a measurement in a round lasts: {Settings().seconds:g} by default, {TINY.seconds:g} of --tiny",
    )
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="small sizes, only to see that all of it runs, in about a minute",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        metavar="PART",
        help=f"these parts, printed and not written unless --output says where: {', '.join(PARTS)}",
    )
    parser.add_argument("--output", type=Path, help="the page; the plot goes beside it, as .svg")
    args = parser.parse_args(argv)
    chosen = args.only or list(PARTS)
    output = args.output or (OUTPUT if chosen == list(PARTS) and not args.tiny else None)
    for package in ("torch", "matplotlib") if output else ("torch",):
        metadata.version(package)  # now, and not when all else is measured, if it is not installed
    usual = TINY if args.tiny else Settings()
    settings = Settings(args.rounds or usual.rounds, args.seconds or usual.seconds, args.tiny)
    text, points = [], []
    for found in page(settings, chosen, args.only):
        if isinstance(found, Point):
            points.append(found)
        else:
            print(found, flush=True)
            text.append(found)
    if output is None:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    if points:
        from .plot import draw

        draw(points, output.with_suffix(".svg"))
        text.append(f"\n![Ratios of the steps to torch's]({output.with_suffix('.svg').name})")
    output.write_text("\n".join(text) + "\n", encoding="utf-8")


def page(settings: Settings, chosen: list[str], only: list[str] | None) -> Iterator[str | Point]:
    mark = fingerprint()
    yield "# The engine beside torch\n"
    options = f"--rounds {settings.rounds}" + (f" --only {' '.join(only)}" if only else "")
    yield f"Made by `python -m benchmarks {options}`, with the plot at the end; one thread each, both in"
    yield f"turn (A B A B ...), medians over {settings.rounds} rounds of the processor's time. A ratio is torch's"
    yield "time over ours in the same round: above 1, dist_dp is faster. In brackets the middle half of the ratios. The"
    yield "machine is shared and noisy: read the ratios, not the times. Both sides run in one process, so torch has the"
    yield "allocator settings that importing dist_dp makes (runtime/allocator.py), which speed it up too. ✓ is a goal"
    yield "that is reached, ✗ one that is not.\n"
    yield f"{processor()}, {platform.system()} {platform.machine()}; dist_dp {dp.__version__}, NumPy {np.__version__}"
    yield f"({mark['blas']}, {mark['blas_kernels']}), torch {metadata.version('torch')}, Python"
    yield f"{platform.python_version()}."
    for name in PARTS:
        if name in chosen:
            module, _, function = PARTS[name].partition(".")
            yield from getattr(import_module(f".{module}", __package__), function)(settings)
