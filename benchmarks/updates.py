"""Updates of parameters beside torch's, and beside a copy of as many bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .dense import Library, dist_dp, torch
from .pairs import Pair, in_turn, numpy_alone
from .tables import Settings, milli, reached, table

GOAL, OF_A_COPY = 0.7, 1.3  # torch's time over ours; ours over that of a copy
SIZES = 1_000_000, 10_000_000


class Update(NamedTuple):
    """A rule, its options, and how many arrays it reads and writes."""

    name: str
    rule: str
    options: dict[str, Any]
    passes: int


UPDATES = (
    Update("SGD, momentum 0.9", "SGD", {"lr": 1e-3, "momentum": 0.9}, 5),
    Update("Adam", "Adam", {"lr": 1e-3}, 7),
    Update("AdamW", "AdamW", {"lr": 1e-3, "weight_decay": 0.01}, 7),
)


def step(library: Library, update: Update, size: int, **more: Any) -> Callable[[], Any]:
    """The update of one parameter, whose gradient stays as it is."""
    rng = np.random.default_rng(0)
    parameter = library.tensor(rng.normal(size=size).astype(np.float32), requires_grad=True)
    parameter.grad = library.tensor(rng.normal(size=size).astype(np.float32))
    optimizer = getattr(library.optim, update.rule)([parameter], **update.options, **more)
    work: Callable[[], Any] = optimizer.step
    return work


def copy(elements: int) -> Callable[[], Any]:
    """Reads and writes half of these elements each, into memory that exists."""
    source, target = np.ones((2, elements // 2), np.float32)
    return lambda: np.copyto(target, source)


def lines(settings: Settings) -> Iterator[str]:
    yield "\n## Updates of parameters\n"
    yield "One float32 parameter. torch as it is by default; *fused* is its optimizer with `fused=True`. A copy moves"
    yield "as many bytes as the update: Adam reads four arrays and writes three, momentum three and two. Goals: torch's"
    yield f"time over ours at least {GOAL}; Adam's over a copy's at most {OF_A_COPY} (with compiled passes).\n"
    head = (
        "update",
        "parameters",
        "dist_dp ms",
        "torch ms",
        "ratio",
        "goal",
        "fused ms",
        "ratio",
        "copy ms",
        "over a copy",
        "NumPy alone, over a copy",
    )
    yield from table(head, rows(settings))


def rows(settings: Settings) -> Iterator[tuple[object, ...]]:
    ours, theirs = dist_dp(), torch()
    for size in (1000,) if settings.tiny else SIZES:
        for update in UPDATES:
            mine_work = step(ours, update, size)
            works = (
                mine_work,
                step(theirs, update, size),
                step(theirs, update, size, fused=True),
                copy(update.passes * size),
                numpy_alone(mine_work),
            )
            mine, other, fused, copied, alone = in_turn(works, settings.rounds, settings.seconds)
            pair, beside_fused, beside_copy = (
                Pair.of(mine, other),
                Pair.of(mine, fused),
                Pair.of(copied, mine),
            )
            yield (
                *(update.name, f"{size:,}", milli(pair.ours), milli(pair.theirs), pair),
                *(reached(pair.ratio, GOAL), milli(beside_fused.theirs), beside_fused),
                *(milli(beside_copy.ours), beside_copy, Pair.of(copied, alone)),
            )
