"""Writing a checkpoint: its part or parts, then the manifest; and the removal of those no longer wanted.

Every file is written whole or not at all (`runtime.store`) and under a name that no checkpoint uses yet, and the
manifest comes last. So at every moment, a kill or a power cut included, the newest checkpoint that verifies is the
former one or the new one. Removal begins with the manifest. One process at a time writes manifests under a directory
(the run's lock sees to that), so anything without one that is found there is the leftover of a killed one.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.checkpoint import layout
from runtime.checkpoint.layout import Manifest, Part, PartFile, Tensor
from runtime.checkpoint.reader import Place, store_of
from runtime.digest import little_endian_bytes
from runtime.store import Store


class CheckpointNotSaved(RuntimeError):
    """The checkpoint was not written (`__cause__` says why, if the store refused); those there are untouched."""


def save(
    root: Place,
    step: int,
    arrays: Mapping[str, NDArray[Any]],
    meta: Any,
    *,
    digest: str | None = None,
    keep_last: int = 3,
    keep_every: int | None = None,
) -> Store:
    """Write the checkpoint of a step under `root`, remove those no longer kept, return its directory.

    At every moment, a kill or a power cut included, the newest checkpoint that verifies is the former one or this one.
    A step that is there already is replaced in the same way. `arrays` may be boolean, integer or float of up to 64
    bits, of any shape and layout; every bit is kept. `meta` is a tree of plain JSON values, `digest` the digest of the
    state, kept beside it.

    Kept are this step, the `keep_last - 1` before it, and those whose step is a multiple of `keep_every`. Later steps,
    which a run finds when it had to resume from an older checkpoint, stay until the run has reached them.

    Raises:
        CheckpointNotSaved: the store refused (full, read-only, gone, ...).
        TypeError, ValueError: an argument is not as described; nothing has been written.
    """
    check(step, meta, keep_last, keep_every)
    tensors = tensors_of(arrays)
    store = store_of(root)
    directory = store.below(layout.directory_name(step))
    contents = [little_endian_bytes(arrays[name]) for name in tensors]
    try:
        part = write_part(directory, alone(directory), tensors, contents)
        write_manifest(directory, Manifest(step, digest, meta, tensors, [part]))
    except OSError as error:
        clear(store, directory)
        raise CheckpointNotSaved(f"the checkpoint of step {step} was not saved: {error}") from error
    retire(store, step, keep_last, keep_every)
    return directory


def check(step: Any, meta: Any, keep_last: Any, keep_every: Any) -> None:
    """Raise TypeError or ValueError for arguments of `save` that are not as described there."""
    for argument, number, least in (
        ("step", step, 0),
        ("keep_last", keep_last, 1),
        ("keep_every", keep_every, 1),
    ):
        if argument == "keep_every" and number is None:
            continue
        if not isinstance(number, int):
            raise TypeError(f"{argument} must be an int, got {number!r}")
        if number < least:
            raise ValueError(f"{argument} must be at least {least}, got {number}")
    # Sure to come back equal from JSON: no tuple, no key but strings, no NaN.
    try:
        same = json.loads(json.dumps(meta, allow_nan=False)) == meta
    except (TypeError, ValueError) as error:
        raise type(error)(f"meta must be plain JSON: {error}") from error
    if not same:
        raise TypeError(
            "meta must be plain JSON: dicts with string keys, lists, strings, numbers, bool and None"
        )


def tensors_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """The arrays as the manifest knows them, in the order of the bytes: wide elements first, so that all are aligned.

    Raises:
        TypeError, ValueError: an array or a name that a checkpoint cannot hold.
    """
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
    return {
        name: Tensor(layout.DTYPE_NAMES[arrays[name].dtype.newbyteorder("<")], arrays[name].shape)
        for name in names
    }


def alone(directory: Store) -> Part:
    """The only part of a checkpoint, under a name that is not in use."""
    return Part(attempt=secrets.token_hex(4) if layout.finished(directory) else "")


def write_part(
    directory: Store, part: Part, tensors: Mapping[str, Tensor], contents: Sequence[memoryview]
) -> PartFile:
    """Write the file of a part, which holds the bytes `contents`; returns what the manifest is to say of it."""
    held = layout.pieces(tensors, part.rank, part.size)
    sums = {
        piece.key: hashlib.sha256(content).hexdigest() for piece, content in zip(held, contents, strict=True)
    }
    directory.write(part.file, (layout.header(tensors, held), *contents))
    return PartFile(part.file, sums)


def write_manifest(directory: Store, manifest: Manifest) -> None:
    """From here on there is the checkpoint, and nothing else in its directory."""
    directory.write(layout.MANIFEST, [manifest.encode()])
    with suppress(OSError):
        _sweep(directory)


def clear(root: Store, directory: Store) -> None:
    """After a failure: give back the space that it took, as far as the store lets us."""
    with suppress(OSError):
        if layout.finished(directory):
            _sweep(directory)
        else:
            root.remove(directory.name)


def _sweep(directory: Store) -> None:
    """Remove from a finished checkpoint's directory what its manifest does not name."""
    manifest = Manifest.decode(directory.read(layout.MANIFEST))
    if manifest is not None:
        for name in {*directory.names()} - {layout.MANIFEST, *(part.file for part in manifest.parts)}:
            directory.remove(name)


def retire(root: Store, step: int, keep_last: int, keep_every: int | None) -> None:
    """Remove the checkpoints up to `step` that are no longer kept, and those that were never finished.

    Whatever hinders it will hinder the next save too, and is said then.
    """
    with suppress(OSError):
        kept = 0
        for directory in layout.directories(root):
            past = layout.step_of(directory)
            if past > step:
                continue
            if kept < keep_last and layout.finished(directory):
                kept += 1
            elif kept < keep_last or keep_every is None or past % keep_every:
                directory.remove(layout.MANIFEST)
                root.remove(directory.name)
