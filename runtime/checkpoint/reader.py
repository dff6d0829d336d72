"""Reading a checkpoint: everything is verified, nothing is executed, damage is named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.checkpoint import layout
from runtime.store import Store, store_at

Place = str | os.PathLike[str] | Store
"""A directory: a path, a URL, or a store."""


def store_of(place: Place) -> Store:
    """The store of a place."""
    return place if isinstance(place, Store) else store_at(place)


class CheckpointDamaged(Exception):
    """A checkpoint does not hold what was written; the message names file and tensor, `store` is where."""

    def __init__(self, store: Store, reason: str) -> None:
        super().__init__(f"{store.url}: {reason}")
        self.store = store


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: the arrays by name (writable, the caller's own) and what was saved with them."""

    step: int
    arrays: dict[str, NDArray[Any]]
    meta: Any
    digest: str | None
    store: Store


def load(place: Place) -> Checkpoint:
    """Read one checkpoint and verify all of it: sizes, names, dtypes, shapes and the SHA-256 of every array.

    Raises:
        CheckpointDamaged: a file is missing, cannot be read, or differs from what was written.
        OSError: an object store cannot be reached, which says nothing of the checkpoint.
        ValueError: an intact checkpoint of a format that this version does not know.
    """
    store = store_of(place)
    try:
        data = store.read(layout.MANIFEST)
        manifest = layout.Manifest.decode(data)
        if manifest is None:
            raise CheckpointDamaged(store, f"{layout.MANIFEST} ({len(data)} bytes) fails its own SHA-256")
        arrays = {
            name: np.empty(tensor.shape, layout.DTYPES[tensor.dtype])
            for name, tensor in manifest.tensors.items()
        }
        for rank, part in enumerate(manifest.parts):
            held = layout.pieces(manifest.tensors, rank, len(manifest.parts))
            _read_part(store, manifest, part, held, arrays)
    except OSError as error:
        if store.local is None and not isinstance(error, FileNotFoundError):
            raise
        raise CheckpointDamaged(store, f"cannot be read: {error}") from error
    return Checkpoint(manifest.step, arrays, manifest.meta, manifest.digest, store)


def _read_part(
    store: Store,
    manifest: layout.Manifest,
    part: layout.PartFile,
    held: list[layout.Piece],
    arrays: dict[str, NDArray[Any]],
) -> None:
    header = layout.header(manifest.tensors, held)
    contents = [arrays[name].reshape(-1)[lo:hi].view(np.uint8).data for _, name, lo, hi in held]
    expected = len(header) + sum(map(len, contents))
    with store.open(part.file) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size != expected:
            raise CheckpointDamaged(store, f"{part.file} has {size} bytes, expected {expected}")
        if file.read(len(header)) != header:
            raise CheckpointDamaged(store, f"the header of {part.file} differs from {layout.MANIFEST}")
        for piece, content in zip(held, contents, strict=True):
            file.readinto(content)  # type: ignore[attr-defined]
            found = hashlib.sha256(content).hexdigest()
            if found != part.sha256[piece.key]:
                tensor = manifest.tensors[piece.name]
                raise CheckpointDamaged(
                    store,
                    f"{part.file}, tensor {piece.key!r} ({tensor.dtype}, shape {tensor.shape}): "
                    f"SHA-256 is {found}, expected {part.sha256[piece.key]}",
                )


def available(root: Place) -> list[Store]:
    """The directories of the checkpoints under `root`, newest step first; they are listed, not verified."""
    return [directory for directory in layout.directories(store_of(root)) if layout.finished(directory)]


def latest(root: Place, on_damaged: Callable[[CheckpointDamaged], None]) -> Checkpoint | None:
    """The newest checkpoint under `root` that verifies, or None if there is none at all.

    `on_damaged` is called with the error of each damaged one on the way; then the one before it is tried. One that was
    not finished, because its writers were interrupted, does not exist.

    Raises:
        CheckpointDamaged: there are checkpoints and every one of them is damaged. Starting over would hide it.
        OSError: an object store cannot be reached.
        ValueError: an intact checkpoint of a format that this version does not know.
    """
    store = store_of(root)
    reasons = []
    for directory in layout.directories(store):
        if not layout.finished(directory):
            continue
        try:
            return load(directory)
        except CheckpointDamaged as damage:
            reasons.append(str(damage))
            on_damaged(damage)
    if reasons:
        raise CheckpointDamaged(
            store,
            f"all {len(reasons)} checkpoints are damaged; restore one from a copy, or remove this "
            "directory to start from the first step again:\n  " + "\n  ".join(reasons),
        )
    return None
