"""Learning rates as functions of the step.

A schedule is passed as `lr=` of an optimizer and has no state of its own: the rate at step k is a function of k (and of
the length of the run), so that a resumed run needs nothing restored. `Plateau` alone looks at a metric; what it has
seen is saved with the run. The `repr` of a schedule says all that decides it; the record of a run holds that.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .hyperparameters import number, whole


class Schedule:
    """A learning rate for every step. Subclasses define `at`, and a `repr` that says all that decides it."""

    @property
    def uses_total(self) -> bool:
        """Whether the rate depends on the length of the whole run."""
        return False

    def at(self, step: int, total: int | None = None) -> float:
        """The rate at `step` (0 for the first update) of a run of `total` steps (None if unknown)."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    def state(self) -> dict[str, float]:
        """What the schedule has seen and must be saved; nothing for a function of the step."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take over what `state` returned."""

    def observe(self, metric: float) -> None:
        """Look at a metric (the validation loss after each epoch). Only `Plateau` does."""

    def _normalise(self, **fields: Any) -> None:
        """Set checked fields of a frozen dataclass, in `__post_init__`."""
        for name, value in fields.items():
            object.__setattr__(self, name, value)


class _UntilEnd(Schedule):
    """Base of the schedules that end with the run, or after `total` steps."""

    total: int | None

    @property
    def uses_total(self) -> bool:
        return self.total is None

    def _length(self, total: int | None) -> int:
        length = total if self.total is None else self.total
        if length is None:
            raise ValueError(
                f"{type(self).__name__} must know how long the run is: give it total=, or set optimizer.total_steps "
                "(dist_dp.fit and dist_dp.steps do)"
            )
        return length


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every step.

    >>> Constant(0.1).at(5)
    0.1
    """

    lr: float

    def __post_init__(self) -> None:
        self._normalise(lr=number("lr", self.lr))

    def at(self, step: int, total: int | None = None) -> float:
        return self.lr


@dataclass(frozen=True)
class StepDecay(Schedule):
    """lr * factor^floor(step / every), as torch's StepLR.

    >>> schedule = StepDecay(0.5, every=10, factor=0.5)
    >>> schedule.at(9), schedule.at(10), schedule.at(20)
    (0.5, 0.25, 0.125)
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        self._normalise(
            lr=number("lr", self.lr),
            every=whole("every", self.every, 1),
            factor=number("factor", self.factor),
        )

    def at(self, step: int, total: int | None = None) -> float:
        return self.lr * self.factor ** (step // self.every)


@dataclass(frozen=True)
class MultiStepDecay(Schedule):
    """lr * factor^n after n of the `milestones` are reached, as torch's MultiStepLR.

    >>> schedule = MultiStepDecay(0.5, milestones=(10, 30), factor=0.5)
    >>> schedule.at(9), schedule.at(10), schedule.at(30)
    (0.5, 0.25, 0.125)
    """

    lr: float
    milestones: Sequence[int]
    factor: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.milestones, str) or not isinstance(self.milestones, Sequence):
            raise TypeError(f"milestones must be a sequence of steps, got {self.milestones!r:.80}")
        steps = tuple(whole("milestones", m) for m in self.milestones)
        if list(steps) != sorted(steps):
            raise ValueError(f"milestones must not decrease, got {self.milestones!r}")
        self._normalise(lr=number("lr", self.lr), milestones=steps, factor=number("factor", self.factor))

    def at(self, step: int, total: int | None = None) -> float:
        return self.lr * self.factor ** bisect_right(self.milestones, step)


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """lr * factor^step, as torch's ExponentialLR.

    >>> ExponentialDecay(1.0, factor=0.5).at(3)
    0.125
    """

    lr: float
    factor: float

    def __post_init__(self) -> None:
        self._normalise(lr=number("lr", self.lr), factor=number("factor", self.factor))

    def at(self, step: int, total: int | None = None) -> float:
        return self.lr * self.factor**step


@dataclass(frozen=True)
class LinearDecay(_UntilEnd):
    """From lr to `floor` in a straight line over the run, or over `total` steps; `floor` afterwards.

    lr + (floor - lr) * min(step / total, 1), as torch's LinearLR from factor 1 to floor/lr.

    >>> schedule = LinearDecay(0.5, total=4)
    >>> [schedule.at(k) for k in range(6)]
    [0.5, 0.375, 0.25, 0.125, 0.0, 0.0]
    """

    lr: float
    floor: float = 0.0
    total: int | None = None

    def __post_init__(self) -> None:
        _check_span(self)

    def at(self, step: int, total: int | None = None) -> float:
        return self.lr + (self.floor - self.lr) * min(step / self._length(total), 1.0)


@dataclass(frozen=True)
class Cosine(_UntilEnd):
    """From lr to `floor` along half a cosine (Loshchilov & Hutter 2017, equation 5), after a linear warm-up.

    lr * (step + 1) / (warmup + 1) in the first `warmup` steps, then floor + (lr - floor) * (1 + cos(pi x)) / 2, where x
    goes from 0 to 1 over the rest of the run (or of the first `total` steps); `floor` afterwards. Without warm-up it is
    torch's CosineAnnealingLR.

    Args:
        lr: the highest rate.
        warmup: steps of the warm-up, part of `total`.
        floor: the last rate.
        total: where the cosine ends; None for the length of the run.

    >>> schedule = Cosine(1.0, warmup=1, total=5)
    >>> [round(schedule.at(k), 3) for k in range(7)]
    [0.5, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    lr: float
    warmup: int = 0
    floor: float = 0.0
    total: int | None = None

    def __post_init__(self) -> None:
        self._normalise(warmup=whole("warmup", self.warmup))
        _check_span(self)

    def at(self, step: int, total: int | None = None) -> float:
        length = self._length(total) - self.warmup
        if step < self.warmup:
            return _warming(self.lr, step, self.warmup)
        x = min((step - self.warmup) / length, 1.0) if length > 0 else 1.0
        return self.floor + (self.lr - self.floor) * (1 + math.cos(math.pi * x)) / 2


@dataclass(frozen=True)
class Warmup(Schedule):
    """A linear warm-up to the first rate of another schedule, which begins when the warm-up ends.

    schedule.at(0) * (step + 1) / (steps + 1) in the first `steps` steps, then schedule.at(step - steps).

    >>> schedule = Warmup(StepDecay(0.5, every=2, factor=0.5), steps=1)
    >>> [schedule.at(k) for k in range(4)]
    [0.25, 0.5, 0.5, 0.25]
    """

    schedule: Schedule
    steps: int

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise TypeError(
                f"schedule must be a Schedule, such as optim.Constant(1e-3), got {self.schedule!r:.80}"
            )
        self._normalise(steps=whole("steps", self.steps))

    @property
    def uses_total(self) -> bool:
        return self.schedule.uses_total

    def at(self, step: int, total: int | None = None) -> float:
        rest = None if total is None else max(total - self.steps, 1)
        if step < self.steps:
            return _warming(self.schedule.at(0, rest), step, self.steps)
        return self.schedule.at(step - self.steps, rest)

    def state(self) -> dict[str, float]:
        return self.schedule.state()

    def load_state(self, state: Mapping[str, float]) -> None:
        self.schedule.load_state(state)

    def observe(self, metric: float) -> None:
        self.schedule.observe(metric)


@dataclass(frozen=True)
class OneCycle(_UntilEnd):
    """Up to lr and down to nearly nothing over the run (Smith & Topin 2018), along cosines as torch's OneCycleLR.

    From lr / start_divisor up to lr until step rise * total - 1, then down to lr / start_divisor / end_divisor at step
    total - 1.

    Args:
        lr: the highest rate.
        rise: fraction of the run that goes up.
        start_divisor, end_divisor: lr over the first rate, and the first rate over the last.
        total: length of the cycle; None for the length of the run.

    >>> schedule = OneCycle(1.0, rise=0.5, start_divisor=10, end_divisor=10, total=6)
    >>> [round(schedule.at(k), 4) for k in range(6)]
    [0.1, 0.55, 1.0, 0.7525, 0.2575, 0.01]
    """

    lr: float
    rise: float = 0.3
    start_divisor: float = 25.0
    end_divisor: float = 1e4
    total: int | None = None

    def __post_init__(self) -> None:
        self._normalise(
            lr=number("lr", self.lr),
            rise=number("rise", self.rise, high=1.0, most=True),
            start_divisor=number("start_divisor", self.start_divisor, above=True),
            end_divisor=number("end_divisor", self.end_divisor, above=True),
            total=None if self.total is None else whole("total", self.total, 1),
        )

    def at(self, step: int, total: int | None = None) -> float:
        last = self._length(total) - 1
        top = self.rise * (last + 1) - 1
        first = self.lr / self.start_divisor
        if step <= top:
            return _cosine_between(first, self.lr, step / top if top > 0 else 1.0)
        x = min((step - top) / (last - top), 1.0) if last > top else 1.0
        return _cosine_between(self.lr, first / self.end_divisor, x)


@dataclass
class Plateau(Schedule):
    """Multiply the rate by `factor` when a metric has stopped falling, as torch's ReduceLROnPlateau.

    A metric is better if it is below best - threshold * |best|. When more than `patience` metrics in a row were not,
    the rate becomes max(rate * factor, floor) and the count starts anew. `fit` shows it the validation loss after each
    epoch; a loop of your own calls `observe`.

    >>> schedule = Plateau(0.5, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.observe(loss)
    >>> schedule.at(0)
    0.25
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    floor: float = 0.0
    _rate: float = field(init=False, repr=False)
    _best: float = field(init=False, repr=False, default=math.inf)
    _waited: int = field(init=False, repr=False, default=0)

    def __post_init__(self) -> None:
        self.lr = self._rate = number("lr", self.lr)
        self.factor = number("factor", self.factor, high=1.0)
        self.patience = whole("patience", self.patience)
        self.threshold = number("threshold", self.threshold)
        self.floor = number("floor", self.floor)

    def at(self, step: int, total: int | None = None) -> float:
        return self._rate

    def observe(self, metric: float) -> None:
        if isinstance(metric, (bool, str)) or np.ndim(metric):
            raise TypeError(f"metric must be a number, got {metric!r:.80} ({type(metric).__name__})")
        value = float(metric)
        margin = 0.0 if self._best == math.inf else self.threshold * abs(self._best)
        if value < self._best - margin:
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        if self._waited > self.patience:
            self._rate, self._waited = max(self._rate * self.factor, self.floor), 0

    def state(self) -> dict[str, float]:
        seen = {} if self._best == math.inf else {"best": self._best}
        return {"rate": self._rate, "waited": self._waited, **seen}

    def load_state(self, state: Mapping[str, float]) -> None:
        self._rate, self._waited = float(state["rate"]), int(state["waited"])
        self._best = float(state.get("best", math.inf))


def _check_span(schedule: LinearDecay | Cosine) -> None:
    total = schedule.total
    schedule._normalise(
        lr=number("lr", schedule.lr),
        floor=number("floor", schedule.floor),
        total=None if total is None else whole("total", total, 1),
    )


def _warming(lr: float, step: int, steps: int) -> float:
    return lr * (step + 1) / (steps + 1)


def _cosine_between(start: float, end: float, x: float) -> float:
    """From start at x = 0 to end at x = 1."""
    return end + (start - end) * (1 + math.cos(math.pi * x)) / 2
