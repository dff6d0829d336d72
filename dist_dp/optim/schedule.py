"""Learning rates as functions of the step.

A schedule is passed as `lr=` of an optimizer and has no state of its own: the rate at step k is a function of k (and of the
length of the run), so that a resumed run needs nothing restored. `Plateau` alone looks at a metric; what it has seen is
saved with the run.
"""

from __future__ import annotations


class Schedule:
    """A learning rate for every step. Subclasses define `at`."""

    def at(self, step: int, total: int | None) -> float:
        """The rate at `step` (0 for the first update) of a run of `total` steps (None if unknown)."""
        raise NotImplementedError
