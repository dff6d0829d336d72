"""Models on disk: safetensors files, in full precision or in 16 bits."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
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
        OSError: the file cannot be written.
        TypeError: `model` is no Module, or `path` no path.

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
    file = _file("save_state", model, path)
    arrays = model.state_dict()
    if dtype is not None:
        stored = sixteen_bits("dtype", dtype)
        with np.errstate(over="ignore"):  # beyond float16's 65,504: infinite
            arrays = {name: a.astype(stored) if a.dtype.kind == "f" else a for name, a in arrays.items()}
    if not file.parent.is_dir():
        raise FileNotFoundError(
            f"save_state: path must be in a folder that is there, got '{file}'; make '{file.parent}' first"
        )
    try:
        save_file(arrays, file)
    except (OSError, SafetensorError) as error:
        why = re.sub(r'.*error: | at path ".*"', "", str(error))  # which would name a temporary file
        raise OSError(f"save_state: path '{file}' cannot be written: {why}; choose another path") from error


def load_state(model: Module, path: str | os.PathLike[str], strict: bool = True) -> Incompatible:
    """Read a safetensors file, written by `save_state` or by torch, into `model`: see `Module.load_state_dict`.

    Floats of 16 bits are widened to the dtype of what they overwrite, which is exact.

    Raises:
        ValueError: as of `load_state_dict`; or the file is damaged, is of another format, holds floats of 8 bits, or
            holds bfloat16 and the package ml_dtypes is missing.
        OSError: the file is not there or cannot be read.
        TypeError: `model` is no Module, or `path` no path.
    """
    file = _file("load_state", model, path)
    try:
        try:
            arrays = load_file(file)
        except TypeError as error:
            if "bfloat16" not in str(error):
                raise
            sixteen_bits("dtype", "bfloat16")  # NumPy knows it from here on
            arrays = load_file(file)
    except OSError as error:
        raise type(error)(
            f"load_state: path must be a file that can be read, got '{file}': {error}; check the path"
        ) from error
    except SafetensorError as error:
        raise ValueError(
            f"load_state: path must be a whole safetensors file, got '{file}', which is damaged, cut short or of "
            f"another format ({error}); write it again with save_state"
        ) from error
    except AttributeError as error:  # of NumPy, which is asked for a dtype that it does not have
        raise ValueError(
            f"load_state: '{file}' must hold dtypes that NumPy has, or bfloat16, got {error.name}; "
            "write it again in float32 or 16 bits"
        ) from error
    return model.load_state_dict(arrays, strict)


def _file(name: str, model: Module, path: str | os.PathLike[str]) -> Path:
    """`path`, which must not be a directory; `name` is the function that was called."""
    if not isinstance(model, Module):
        raise TypeError(f"{name}: model must be a Module, got {type(model).__name__}")
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name}: path must be a str or a Path, got {type(path).__name__}")
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(
            f"{name}: path must be a file, got the directory '{path}'; name a file in it, such as "
            f"'{file / 'model.safetensors'}'"
        )
    return file
