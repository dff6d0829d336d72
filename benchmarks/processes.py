"""What shows only in processes that hold one library each: peak memory, import, and the way to the first step."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from .dense import KINDS
from .pairs import Pair
from .tables import Settings, reached, table
from .turns import program_environment

MEMORY, IMPORT = 1.1, 0.2  # goals: our peak over torch's; seconds
SIDES = "dist_dp", "torch"
STARTS = 5  # rounds at most: a start takes seconds


def memory(settings: Settings) -> Iterator[str]:
    yield "\n## Peak memory\n"
    yield "Of training steps as above: how far the resident memory of a process rises, in five steps, over what it is"
    yield "when the model is made. Before, a small model of the kind does a step, so that all that a library loads at"
    yield "first use is there. A process for each side; medians of three. Goal: dist_dp over torch at most"
    yield f"{MEMORY}.\n"
    if not sys.platform.startswith("linux"):
        yield "Left out: only Linux tells the peak of a part of a process's life."
        return
    yield from table(("model", "dist_dp MiB", "torch MiB", "dist_dp / torch", "goal"), _peaks(settings))
    yield "\nArrays are made anew in every step, from memory that the process keeps (runtime/allocator.py). *From the"
    yield "system* is with `DIST_DP_MALLOC=system`: each page of a large array then costs a fault.\n"
    head = ("model", "kept: faults a step", "ms", "from the system: faults a step", "ms", "system / kept")
    yield from table(head, _faults(settings))


def _peaks(settings: Settings) -> Iterator[tuple[object, ...]]:
    for key in list(KINDS)[: 2 if settings.tiny else None]:
        ours, theirs = (
            statistics.median(float(_said("memory", side, key)) for _ in range(1 if settings.tiny else 3))
            for side in SIDES
        )
        over = ours / theirs
        yield (
            *(KINDS[key].title(), f"{ours:.1f}", f"{theirs:.1f}", f"{over:.2f}"),
            reached(over, MEMORY, most=True),
        )


def _faults(settings: Settings) -> Iterator[tuple[object, ...]]:
    for key in list(KINDS)[: 2 if settings.tiny else None]:
        found: dict[str, list[tuple[float, ...]]] = {"kept": [], "system": []}
        for _ in range(1 if settings.tiny else 3):
            for name, numbers in found.items():
                numbers.append(
                    tuple(map(float, _said("faults", "dist_dp", key, DIST_DP_MALLOC=name).split()))
                )
        kept, system = ([statistics.median(each) for each in zip(*n, strict=True)] for n in found.values())
        ratio = Pair.of([t for _, t in found["kept"]], [t for _, t in found["system"]])
        yield (
            KINDS[key].title(),
            f"{kept[0]:.0f}",
            f"{kept[1]:.1f}",
            f"{system[0]:.0f}",
            f"{system[1]:.1f}",
            ratio,
        )


def startup(settings: Settings) -> Iterator[str]:
    rounds = min(settings.rounds, STARTS)
    yield "\n## Import and start\n"
    yield f"Processes in turn, medians of {rounds}, files compiled and in the system's cache. *import* is what the"
    yield "statement takes in a process of its own; *first step* is from the start of a process to the end of its first"
    yield f"step, with the MLP and the batch of `examples/digits.py`, on noise. Goal: import within {IMPORT} s.\n"
    imports: dict[str, list[float]] = {name: [] for name in ("numpy", *SIDES)}
    firsts: dict[str, list[float]] = {name: [] for name in SIDES}
    for name in imports:
        _said("import", name)  # compiled, and in the system's cache
    for _ in range(rounds):
        for name, found in imports.items():
            found.append(float(_said("import", name)))
        for side, found in firsts.items():
            start = time.perf_counter()
            _said("first", side)
            found.append(time.perf_counter() - start)
    yield from table(("", "import s", "first step s"), _starts(imports, firsts))
    beside = Pair.of(firsts["dist_dp"], firsts["torch"])
    goal = reached(statistics.median(imports["dist_dp"]), IMPORT, most=True)
    yield f"\nTo the first step torch takes {beside} times as long. Import: {goal}."


def _starts(imports: dict[str, list[float]], firsts: dict[str, list[float]]) -> Iterator[tuple[object, ...]]:
    for name, found in imports.items():
        first = f"{statistics.median(firsts[name]):.2f}" if name in firsts else ""
        yield name, f"{statistics.median(found):.3f}", first


def _said(*words: str, **settings: str) -> str:
    """What a process of `one_side` prints; it keeps compiled files, as an installed package does."""
    command: Sequence[str] = [sys.executable, "-m", f"{__package__}.one_side", *words]
    environment = {k: v for k, v in program_environment().items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, env=environment | settings, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout
