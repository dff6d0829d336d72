"""Checks of arguments that every transform of functions makes: the call is refused, not the function's first use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_function(value: Any, name: str = "fun") -> None:
    """Raise TypeError if `value`, the argument `name`, cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r:.80} ({type(value).__name__})")


def check_argnums(argnums: Any) -> None:
    """Raise TypeError if `argnums` is neither an int nor a sequence of ints."""
    for i in argnums if isinstance(argnums, Sequence) else (argnums,):
        if isinstance(i, bool) or not isinstance(i, int):
            raise TypeError(f"argnums must be an int or a sequence of ints, got {argnums!r}")
