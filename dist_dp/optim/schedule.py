"""Learning rates as functions of the step.

A schedule is passed as `lr=` of an optimizer and has no state of its own: the rate at step k is a function of k (and of the
length of the run), so that a resumed run needs nothing restored. `Plateau` alone looks at a metric; what it has seen is
saved with the run.
"""

from __future__ import annotations


class Schedule:
    """A learning rate for every step. Subclasses define `at`, and a `repr` that says all that decides it."""

    # Whether the rate depends on the length of the whole run.
    uses_total = False

    def at(self, step: int, total: int | None) -> float:
        """The rate at `step` (0 for the first update) of a run of `total` steps (None if unknown)."""
        raise NotImplementedError

    def state(self) -> dict[str, float]:
        """What the schedule has seen and must be saved; nothing for a function of the step."""
        return {}

    def load_state(self, state: dict[str, float]) -> None:
        """Take over what `state` returned."""

    def observe(self, metric: float) -> None:
        """Look at a metric (the validation loss after each epoch). Only `Plateau` does."""
