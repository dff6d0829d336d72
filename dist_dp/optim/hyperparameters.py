"""Checks of hyperparameters: a number in its range, or an error that names the argument."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def number(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    *,
    above: bool = False,
    most: bool = False,
) -> float:
    """`value` as a Python float, if it lies in [low, high).

    NumPy's scalars become Python floats, which never widen what they are multiplied with.

    Args:
        above: leave `low` itself out.
        most: let `high` itself in.

    Raises:
        TypeError: not a real number. ValueError: outside of the range, or NaN.

    >>> number("momentum", 0.9, high=1.0)
    0.9
    """
    expected = f"{'>' if above else '>='} {low:g}" + (
        "" if high == math.inf else f" and {'<=' if most else '<'} {high:g}"
    )
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number {expected}, got {value!r:.80} ({type(value).__name__})")
    x = float(value)
    if not (low < x if above else low <= x) or not (x <= high if most else x < high):
        raise ValueError(f"{name} must be a number {expected}, got {value!r}")
    return x


def whole(name: str, value: Any, least: int = 0) -> int:
    """`value` as an int, if it is a whole number >= `least`.

    Raises:
        TypeError: not an integer. ValueError: too small.

    >>> whole("every", 10, least=1)
    10
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int >= {least}, got {value!r:.80} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be an int >= {least}, got {value!r}")
    return int(value)
