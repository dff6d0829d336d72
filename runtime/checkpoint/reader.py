"""Reading a checkpoint: everything is verified, nothing is executed, damage is named."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.checkpoint import layout, store


class CheckpointDamaged(Exception):
    """A checkpoint does not hold what was written; the message names file and tensor, ``path`` is where."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: the arrays by name (writable, the caller's own) and what was saved with them."""

    step: int
    arrays: dict[str, NDArray[Any]]
    meta: Any
    digest: str | None
    path: Path


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read one checkpoint and verify all of it: sizes, names, dtypes, shapes and the SHA-256 of every array.

    Raises
        CheckpointDamaged: a file is missing, cannot be read, or differs from what was written.
        ValueError: an intact checkpoint of a format that this version does not know.
    """
    path = Path(path)
    try:
        with store.open_to_read(path / layout.MANIFEST) as file:
            data = file.read()
        manifest = layout.Manifest.decode(data)
        if manifest is None:
            raise CheckpointDamaged(path, f"{layout.MANIFEST} ({len(data)} bytes) fails its own SHA-256")
        arrays = _read_arrays(path, manifest)
    except OSError as error:
        raise CheckpointDamaged(path, f"cannot be read: {error}") from error
    return Checkpoint(manifest.step, arrays, manifest.meta, manifest.digest, path)


def _read_arrays(path: Path, manifest: layout.Manifest) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    header = layout.arrays_header(manifest.tensors)
    expected = len(header) + sum(entry.nbytes for entry in manifest.tensors.values())
    with store.open_to_read(path / layout.ARRAYS) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size != expected:
            raise CheckpointDamaged(path, f"{layout.ARRAYS} has {size} bytes, expected {expected}")
        if file.read(len(header)) != header:
            raise CheckpointDamaged(path, f"the header of {layout.ARRAYS} differs from {layout.MANIFEST}")
        for name, entry in manifest.tensors.items():
            array = np.empty(entry.shape, layout.DTYPES[entry.dtype])
            content = array.reshape(-1).view(np.uint8).data
            file.readinto(content)
            found = hashlib.sha256(content).hexdigest()
            if found != entry.sha256:
                raise CheckpointDamaged(
                    path,
                    f"{layout.ARRAYS}, tensor {name!r} ({entry.dtype}, shape {entry.shape}): "
                    f"SHA-256 is {found}, expected {entry.sha256}",
                )
            arrays[name] = array
    return arrays


def available(root: str | os.PathLike[str]) -> list[Path]:
    """The checkpoint directories under ``root``, newest step first; they are listed, not verified."""
    return layout.available(Path(root))


def latest(
    root: str | os.PathLike[str], on_damaged: Callable[[CheckpointDamaged], None]
) -> Checkpoint | None:
    """The newest checkpoint under ``root`` that verifies, or None if there is none at all.

    ``on_damaged`` is called with the error of each damaged one on the way; then the one before it is tried.

    Raises
        CheckpointDamaged: there are checkpoints and every one of them is damaged. Starting over would
            hide it.
        ValueError: an intact checkpoint of a format that this version does not know.
    """
    root = Path(root)
    reasons = []
    for path in layout.available(root):
        try:
            return load(path)
        except CheckpointDamaged as damage:
            reasons.append(str(damage))
            on_damaged(damage)
    if reasons:
        raise CheckpointDamaged(
            root,
            f"all {len(reasons)} checkpoints are damaged; restore one from a copy, or remove this "
            "directory to start from the first step again:\n  " + "\n  ".join(reasons),
        )
    return None
