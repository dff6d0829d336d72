"""Checks of arguments that several parts of the package make: the call is refused, not what comes of it later."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np


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


def check_options(name: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise TypeError if one of the keywords `given` to the class `name` is not `known`."""
    for option in given:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {list(known)}"
            raise TypeError(f"{name}: unknown option {option!r}; {hint if known else 'it takes none'}")


def sixteen_bits(name: str, value: Any) -> np.dtype[Any]:
    """The dtype of floats of 16 bits that `value`, the argument `name`, means: "float16", or "bfloat16" of ml_dtypes.

    Raises:
        ValueError: neither, or ml_dtypes is not installed.
    """
    if value not in ("float16", "bfloat16"):
        raise ValueError(f"{name} must be None, 'float16' or 'bfloat16', got {value!r:.80}")
    if value == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401 - NumPy knows bfloat16 by its name then
        except ImportError:
            raise ValueError(
                f"{name}='bfloat16' needs the package ml_dtypes: pip install 'dist-dp[bfloat16]'"
            ) from None
    dtype: np.dtype[Any] = np.dtype(value)
    return dtype
