"""Checks of arguments that several parts of the package make: the call is refused, not what comes of it later."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any


def check_function(value: Any, name: str = "fun") -> None:
    """Raise TypeError if `value`, the argument `name`, cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r:.80} ({type(value).__name__})")


def check_number(value: Any, name: str) -> None:
    """Raise TypeError if `value`, the argument `name`, is no real number."""
    if type(value) not in (float, int) and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{name} must be a number, got {value!r:.80} ({type(value).__name__})")


def check_argnums(argnums: Any) -> None:
    """Raise TypeError if `argnums` is neither an int nor a sequence of ints."""
    for i in argnums if isinstance(argnums, Sequence) else (argnums,):
        if isinstance(i, bool) or not isinstance(i, int):
            raise TypeError(f"argnums must be an int or a sequence of ints, got {argnums!r}")
