"""The options of `fit` and `steps`, their defaults, and what is wrong with those that were given."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from runtime.events import Sink

from ..arguments import sixteen_bits
from ..nn import Module
from ..optim import Optimizer
from ..optim.hyperparameters import number


@dataclass(frozen=True)
class LocalSGD:
    """Average the shards' copies of the model every `every` steps (fewer before the end of an epoch).

    Args:
        every: steps of a round.
        lr, momentum: of the outer rule: v = momentum v + d, then weights += lr (d + momentum v), where d is the average
            change in the round. 1 and 0 are plain averaging; DiLoCo takes 0.7 and 0.9.

    Raises:
        TypeError, ValueError: a number of the wrong type or out of range.

    >>> LocalSGD(every=8)
    LocalSGD(every=8, lr=1.0, momentum=0.0)
    """

    every: int
    lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.every, bool) or not isinstance(self.every, int):
            raise TypeError(f"every must be an int >= 1, got {self.every!r:.80}")
        if self.every < 1:
            raise ValueError(f"every must be an int >= 1, got {self.every}")
        object.__setattr__(self, "lr", number("lr", self.lr, above=True))
        object.__setattr__(self, "momentum", number("momentum", self.momentum))


class Options(TypedDict, total=False):
    """The options that `fit` and `steps` share; see `steps` for what each means."""

    shards: int | None
    max_steps: int | None
    seed: int
    run: str | os.PathLike[str] | None
    collate: Callable[[list[Any]], Any] | None
    shuffle: bool
    drop_last: bool
    balance: Sequence[int] | None
    checkpoint_every: int | None
    keep_last: int
    keep_every: int | None
    prefetch: int
    overlap: bool
    shard_optimizer: bool
    wire: str | None
    local: LocalSGD | None
    progress: bool | None
    sinks: Sequence[Sink]


DEFAULTS: Options = {
    "shards": None,
    "max_steps": None,
    "seed": 0,
    "run": None,
    "collate": None,
    "shuffle": True,
    "drop_last": False,
    "balance": None,
    "checkpoint_every": None,
    "keep_last": 3,
    "keep_every": None,
    "prefetch": 2,
    "overlap": False,
    "shard_optimizer": False,
    "wire": None,
    "local": None,
    "progress": None,
    "sinks": (),
}


def check(model: Any, optimizer: Any, given: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError, with the name of the argument, for what `steps` cannot take."""
    if not isinstance(model, Module):
        raise TypeError(f"model must be a dist_dp.nn.Module, got {type(model).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a dist_dp.optim optimizer, got {type(optimizer).__name__}")
    for name in given:
        if name == "validation":
            raise TypeError("validation is an option of fit; in a loop of your own, call dist_dp.evaluate")
        if name not in DEFAULTS:
            near = difflib.get_close_matches(name, [*DEFAULTS, "batch_size", "epochs", "validation"], 1)
            raise TypeError(
                f"unknown option {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; known are {sorted(DEFAULTS)}")
            )
    for name in ("checkpoint_every", "keep_every", "keep_last", "max_steps", "prefetch"):
        value, least = given.get(name), 0 if name in ("checkpoint_every", "prefetch") else 1
        if name in given and value is None and DEFAULTS[name] is None:  # type: ignore[literal-required]
            continue
        if name in given and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be an int >= {least}, got {value!r}")
    for name in ("overlap", "shard_optimizer"):
        if not isinstance(given.get(name, False), bool):
            raise TypeError(f"{name} must be True or False, got {given[name]!r:.80}")
    if given.get("wire") is not None:
        sixteen_bits("wire", given["wire"])
    if not isinstance(given.get("local"), LocalSGD | None):
        raise TypeError(f"local must be a dist_dp.LocalSGD, got {given['local']!r:.80}")
    modes = [name for name in ("local", "wire", "overlap", "shard_optimizer") if given.get(name)]
    if len(modes) > 1 and set(modes) != {"overlap", "shard_optimizer"}:
        raise ValueError(f"{' and '.join(modes)} cannot be combined; choose one of them")
    progress, sinks = given.get("progress"), given.get("sinks", ())
    if progress not in (None, True, False):
        raise TypeError(f"progress must be True, False or None, got {progress!r:.80}")
    if not isinstance(sinks, (tuple, list)) or not all(callable(getattr(s, "emit", None)) for s in sinks):
        raise TypeError(
            f"sinks must be a list of sinks (with emit and close, see runtime.events), got {sinks!r:.80}"
        )
