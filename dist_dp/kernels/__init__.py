"""Passes over memory, convolutions and products, compiled.

The kernels are an extension that is built with the package where there is a C compiler (`build.py`). Whatever they do,
the operations also do with NumPy alone, more slowly and here and there in other bits; so which of the two it is belongs
to the fingerprint of a run. Their own bits are the same with every compiler and every instruction set (`kernels.h`).

DIST_DP_KERNELS=numpy leaves them out, DIST_DP_KERNELS=compiled refuses to go on without them.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from runtime import fingerprint

_FLOAT32 = np.dtype(np.float32)


def _chosen() -> tuple[Any, str]:
    """The extension, or None and why.

    Raises:
        ValueError: the environment asks for what there is not.
    """
    choice = os.environ.get("DIST_DP_KERNELS")
    if choice == "numpy":
        return None, "DIST_DP_KERNELS=numpy"
    if choice not in ("compiled", "", None):
        raise ValueError(
            f"DIST_DP_KERNELS must be 'compiled' or 'numpy', got {choice!r}; unset it for what is there"
        )
    try:
        return importlib.import_module("._compiled", __name__), ""
    except ModuleNotFoundError:
        reason = (
            "not compiled when dist_dp was installed: install a C compiler and Python's header files, then install "
            "dist_dp again"
        )
    except ImportError as error:  # of a damaged file
        reason = f"cannot be loaded: {error}; install dist_dp again"
    if choice:
        raise ValueError(
            f"DIST_DP_KERNELS=compiled, but the compiled kernels are not there: {reason}, or unset DIST_DP_KERNELS "
            "to go on with NumPy"
        )
    return None, reason


def _is_command() -> bool:
    """Whether this process is the command `dist-dp`, which is loaded after this."""
    installed = [Path(name).name for name in sys.argv[:1]] == ["dist-dp"]
    return installed or sys.orig_argv[1:3] == ["-m", "dist_dp.cli"]


try:
    compiled, why_not = _chosen()
except ValueError as error:
    if not _is_command():
        raise
    print(f"Error: {error}", file=sys.stderr)
    raise SystemExit(2) from None

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
