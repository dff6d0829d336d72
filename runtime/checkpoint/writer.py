"""Writing a checkpoint: beside, synced, renamed into place; and the removal of those no longer wanted.

One process writes to a directory at a time (the run's lock sees to that), so anything half-made that is found
there is the leftover of a killed one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.checkpoint import layout, store
from runtime.digest import little_endian_bytes


class CheckpointNotSaved(RuntimeError):
    """The disk refused the checkpoint (``__cause__`` says how); those already there are untouched."""


def save(
    root: str | os.PathLike[str],
    step: int,
    arrays: Mapping[str, NDArray[Any]],
    meta: Any,
    *,
    digest: str | None = None,
    keep_last: int = 3,
    keep_every: int | None = None,
) -> Path:
    """Write the checkpoint of a step under ``root``, remove those no longer kept, return its directory.

    At every moment, a kill or a power cut included, the newest checkpoint that verifies is the former one or
    this one. A step that is there already is replaced in the same way. ``arrays`` may be boolean, integer or
    float of up to 64 bits, of any shape and layout; every bit is kept. ``meta`` is a tree of plain JSON
    values, ``digest`` the digest of the state, kept beside it.

    Kept are this step, the ``keep_last - 1`` before it, and those whose step is a multiple of ``keep_every``.
    Later steps, which a run finds when it had to resume from an older checkpoint, stay until the run has
    reached them.

    Raises
        CheckpointNotSaved: the file system refused (full, read-only, gone, ...).
        TypeError, ValueError: an argument is not as described; nothing has been written.
    """
    root = Path(root)
    _check_at_least("step", step, 0)
    _check_at_least("keep_last", keep_last, 1)
    if keep_every is not None:
        _check_at_least("keep_every", keep_every, 1)
    contents = _contents(arrays)
    tensors = {
        name: layout.TensorEntry(
            layout.DTYPE_NAMES[arrays[name].dtype.newbyteorder("<")],
            arrays[name].shape,
            hashlib.sha256(content).hexdigest(),
        )
        for name, content in contents.items()
    }
    header = layout.arrays_header(tensors)
    manifest = layout.Manifest(step, digest, _plain(meta), tensors).encode()

    target = root / layout.directory_name(step)
    partial = root / f"{layout.PARTIAL}{target.name}"
    try:
        store.make_directory(root)
        for leftover in root.glob(f"{layout.PARTIAL}*"):
            store.remove_tree(leftover)
        store.make_directory(partial)
        store.write(partial / layout.ARRAYS, (header, *contents.values()))
        store.write(partial / layout.MANIFEST, (manifest,))
        store.sync_directory(partial)
        if target.exists():
            # No portable call swaps two directories. Readers take the old one until the new one has its name.
            old = target.with_name(target.name + layout.OLD)
            if old.exists():
                _discard(old)
            store.rename(target, old)
        store.rename(partial, target)
    except OSError as error:
        with suppress(OSError):
            store.remove_tree(partial)  # gives back the space it took
        raise CheckpointNotSaved(f"the checkpoint of step {step} was not saved: {error}") from error
    # The checkpoint is safe. Whatever hinders the removal of old ones will hinder the next save too, and is
    # said then.
    with suppress(OSError):
        _retire(root, step, keep_last, keep_every)
    return target


def _check_at_least(argument: str, number: int, least: int) -> None:
    if not isinstance(number, int):
        raise TypeError(f"{argument} must be an int, got {number!r}")
    if number < least:
        raise ValueError(f"{argument} must be at least {least}, got {number}")


def _contents(arrays: Mapping[str, NDArray[Any]]) -> dict[str, memoryview]:
    """The bytes of each array in the order of the file: wide elements first, so that all are aligned."""
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"arrays: names must be strings, got {name!r}")
        if name == "__metadata__":
            raise ValueError("arrays: the safetensors format keeps the name '__metadata__' for itself")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"arrays[{name!r}] must be a NumPy array, got {type(array).__name__}")
        if array.dtype.newbyteorder("<") not in layout.DTYPE_NAMES:
            raise TypeError(
                f"arrays[{name!r}] must have one of the dtypes {', '.join(layout.DTYPES)}, got {array.dtype}"
            )
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    return {name: little_endian_bytes(arrays[name]) for name in names}


def _plain(meta: Any) -> Any:
    """``meta`` itself, once it is sure to come back equal from JSON: no tuple, no key but strings, no NaN."""
    try:
        same = json.loads(json.dumps(meta, allow_nan=False)) == meta
    except (TypeError, ValueError) as error:
        raise type(error)(f"meta must be plain JSON: {error}") from error
    if not same:
        raise TypeError(
            "meta must be plain JSON: dicts with string keys, lists, strings, numbers, bool and None"
        )
    return meta


def _discard(path: Path) -> None:
    # Renamed first, so that a kill half-way leaves no checkpoint with a part missing.
    hidden = path.with_name(layout.PARTIAL + path.name)
    store.rename(path, hidden)
    store.remove_tree(hidden)


def _retire(root: Path, step: int, keep_last: int, keep_every: int | None) -> None:
    past = []
    for path in layout.available(root):
        current = path.with_suffix("")
        if path != current and current.exists():
            _discard(path)
        elif layout.step_of(path) <= step:
            past.append(path)
    for path in past[keep_last:]:
        if keep_every is None or layout.step_of(path) % keep_every:
            _discard(path)
