"""Checks of the arguments of layers: each returns the argument in its plain form or raises an error that names the
layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..random import integer_argument

__all__ = ["check_flags", "count", "nonnegative", "probability", "sizes"]


def check_flags(layer: str, **flags: object) -> None:
    """Raise TypeError if one of `flags`, arguments by name, is not a bool."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{layer}: {name} must be True or False, got {value!r:.80}")


def count(layer: str, name: str, value: object, least: int = 1) -> int:
    """`value` as an int of at least `least`."""
    return integer_argument(f"{layer}: {name}", value, least=least)


def sizes(layer: str, name: str, value: int | Sequence[int], axes: int, least: int = 1) -> tuple[int, ...]:
    """One int for all spatial axes, or one for each, as a tuple."""
    if isinstance(value, (tuple, list)):
        if len(value) != axes:
            raise ValueError(f"{layer}: {name} must be an int or {axes} of them, got {value}")
        return tuple(count(layer, name, v, least) for v in value)
    return (count(layer, name, value, least),) * axes


def probability(layer: str, value: float) -> float:
    """`value` as a float in [0, 1]."""
    p = nonnegative(layer, "p", value)
    if p > 1:
        raise ValueError(f"{layer}: p must be a probability between 0 and 1, got {value}")
    return p


def nonnegative(layer: str, name: str, value: float) -> float:
    """`value` as a float of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{layer}: {name} must be a number, got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{layer}: {name} must be at least 0, got {value}")
    return float(value)
