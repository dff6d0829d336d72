"""Passes over memory, compiled: what NumPy does in several passes, C does in one.

The kernels are an extension that is built with the package where there is a C compiler (`build.py`). Whatever they do,
the operations also do with NumPy alone, more slowly and here and there in other bits; so which of the two it is belongs
to the fingerprint of a run. Their own bits are the same with every compiler and every instruction set (`kernels.h`).

DIST_DP_KERNELS=numpy leaves them out.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from runtime import fingerprint

try:
    from . import _compiled  # type: ignore[attr-defined]
except ImportError:
    _compiled = None

_FLOAT32 = np.dtype(np.float32)


def _chosen() -> Any:
    """The extension, or None."""
    choice = os.environ.get("DIST_DP_KERNELS") or "compiled"
    if choice not in ("compiled", "numpy"):
        raise ValueError(f"DIST_DP_KERNELS must be 'compiled' or 'numpy', got {choice!r}")
    return _compiled if choice == "compiled" else None


compiled: Any = _chosen()
fingerprint.tell(
    "kernels",
    "numpy"
    if compiled is None
    else f"compiled {compiled.source}" + ("" if compiled.fuses else ", without products and convolutions"),
)


def suits(*arrays: Any) -> bool:
    """Whether the compiled kernels take these arrays: float32, contiguous.

    >>> suits(np.zeros(3))
    False
    """
    return compiled is not None and all(
        array.dtype == _FLOAT32 and array.flags.c_contiguous for array in arrays
    )
