"""How the ratio to torch goes with the batch and with the size of a model."""

from __future__ import annotations

from collections.abc import Iterator

from .dense import KINDS
from .pairs import compare
from .steps import pair
from .tables import Point, Settings, milli, table

# of a model, what is varied and how, and what that is called
RANGES = (
    ("mlp", "batch", (16, 32, 64, 128, 256, 512, 1024), "MLP, by batch"),
    ("mlp", "width", (128, 256, 512, 1024, 2048), "MLP, by width"),
    ("gpt", "channels", (64, 128, 256, 512), "char-GPT, by width"),
)


def lines(settings: Settings) -> Iterator[str | Point]:
    yield "\n## Size of the batch and of the model\n"
    yield "Steps as above, of which one size is varied.\n"
    found: list[Point] = []
    yield from table(("model", "dist_dp ms", "torch ms", "ratio"), _rows(settings, found))
    yield from found


def _rows(settings: Settings, found: list[Point]) -> Iterator[tuple[object, ...]]:
    for key, varied, values, panel in RANGES:
        for value in values:
            sizes = KINDS[key].tiny if settings.tiny else {varied: value}
            ours, theirs = pair(key, **sizes)
            beside = compare(ours.step, theirs.step, settings.rounds, settings.seconds)
            found.append(Point(panel, value, beside))
            yield KINDS[key].title(**sizes), milli(beside.ours), milli(beside.theirs), beside
