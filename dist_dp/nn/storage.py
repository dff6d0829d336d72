"""Models on disk: safetensors files, in full precision or in 16 bits."""

from __future__ import annotations

import os

import numpy as np
from safetensors.numpy import load_file, save_file

from ..arguments import sixteen_bits
from .module import Incompatible, Module

__all__ = ["load_state", "save_state"]


def save_state(model: Module, path: str | os.PathLike[str], dtype: str | None = None) -> None:
    """Write `model.state_dict()` to a safetensors file, which torch reads with `safetensors.torch.load_file`.

    Args:
        model: whose parameters and persistent buffers are written.
        path: of the file.
        dtype: "float16" or "bfloat16" to round floats to 16 bits (to the nearest, ties to even), at half the size;
            None for what they are. bfloat16 has the range of float32 and 8 bits of precision; it needs the package
            ml_dtypes, also for reading.

    Raises:
        ValueError: another `dtype`, or ml_dtypes is missing.

    >>> import tempfile
    >>> from dist_dp import nn
    >>> model, other = nn.Linear(2, 1), nn.Linear(2, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     nn.save_state(model, f"{folder}/model.safetensors")
    ...     nn.load_state(other, f"{folder}/model.safetensors")
    Incompatible(missing_keys=[], unexpected_keys=[])
    >>> bool((other.weight.data == model.weight.data).all())
    True
    """
    arrays = model.state_dict()
    if dtype is not None:
        stored = sixteen_bits("dtype", dtype)
        with np.errstate(over="ignore"):  # beyond float16's 65,504: infinite
            arrays = {name: a.astype(stored) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    save_file(arrays, path)


def load_state(model: Module, path: str | os.PathLike[str], strict: bool = True) -> Incompatible:
    """Read a safetensors file, written by `save_state` or by torch, into `model`: see `Module.load_state_dict`.

    Floats of 16 bits are widened to the dtype of what they overwrite, which is exact.

    Raises:
        ValueError: as of `load_state_dict`; or the file holds bfloat16 and the package ml_dtypes is missing.
    """
    try:
        arrays = load_file(path)
    except TypeError as error:
        if "bfloat16" not in str(error):
            raise
        sixteen_bits("dtype", "bfloat16")  # NumPy knows it from here on
        arrays = load_file(path)
    return model.load_state_dict(arrays, strict)
