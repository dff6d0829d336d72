"""Faults to order: what to break, in which worker, at which step and phase. Used by tests and by `dist-dp verify`."""

from __future__ import annotations


def here(phase: str, step: int, shard: int | None = None) -> None:
    """A place where a plan may break something."""
