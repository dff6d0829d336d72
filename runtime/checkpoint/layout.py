"""How a checkpoint lies on disk: the names of its directory and files, and the bytes of the two files.

::

    checkpoints/
        step-0000000123/
            arrays.safetensors    every array, readable by any safetensors library
            manifest.json         written last; without it there is no checkpoint
        step-0000000123.old/      the former one of a step saved again, until the new one is in place
        .partial-.../             being written or removed; never read

``arrays.safetensors`` is the length of a JSON header (8 bytes, little-endian), the header, and the bytes of
the arrays one after the other, C order and little-endian: https://huggingface.co/docs/safetensors. Its header
follows from the manifest, so a reader compares it byte for byte. The manifest ends with the SHA-256 of
everything before that line. Between them no bit of a checkpoint can change unnoticed.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
ARRAYS = "arrays.safetensors"
MANIFEST = "manifest.json"
PARTIAL = ".partial-"
OLD = ".old"

# The dtypes of both NumPy and safetensors, under their names in the file.
DTYPES = {
    "BOOL": np.dtype("?"),
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_DIRECTORY = re.compile(r"step-\d{10,}(\.old)?")


@dataclass(frozen=True)
class TensorEntry:
    """What the manifest says of one array: dtype (as in the file), shape, SHA-256 of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def nbytes(self) -> int:
        """The number of bytes of the array in the file."""
        size = DTYPES[self.dtype].itemsize
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``; ``tensors`` is in the order of the file."""

    step: int
    digest: str | None
    meta: Any
    tensors: Mapping[str, TensorEntry]

    def encode(self) -> bytes:
        """The bytes of ``manifest.json``."""
        tensors = {name: asdict(entry) for name, entry in self.tensors.items()}
        fields = {
            "format": FORMAT,
            "step": self.step,
            "digest": self.digest,
            "meta": self.meta,
            "tensors": tensors,
        }
        body = json.dumps(fields, indent=1, allow_nan=False).removesuffix("\n}").encode()
        return body + _seal(body)

    @classmethod
    def decode(cls, data: bytes) -> "Manifest | None":
        """The manifest that ``encode`` gave these bytes for, or None if a bit of them has changed.

        Raises
            ValueError: an intact manifest of another format.
        """
        body = data[: -len(_seal(b""))]
        if data != body + _seal(body):
            return None
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise ValueError(
                f"the checkpoint has format {fields['format']}, this version reads format {FORMAT}; "
                "use the version that wrote it"
            )
        tensors = {
            name: TensorEntry(entry["dtype"], tuple(entry["shape"]), entry["sha256"])
            for name, entry in fields["tensors"].items()
        }
        return cls(fields["step"], fields["digest"], fields["meta"], tensors)


def _seal(body: bytes) -> bytes:
    return b',\n "sha256": "%s"\n}\n' % hashlib.sha256(body).hexdigest().encode()


def arrays_header(tensors: Mapping[str, TensorEntry]) -> bytes:
    """The first bytes of ``arrays.safetensors`` for arrays that lie in this order."""
    header: dict[str, Any] = {}
    start = 0
    for name, entry in tensors.items():
        end = start + entry.nbytes
        header[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays start at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def directory_name(step: int) -> str:
    """The name of the directory of a step.

    >>> directory_name(123)
    'step-0000000123'
    """
    return f"step-{step:010d}"


def step_of(directory: Path) -> int:
    """The step whose checkpoint a directory of :func:`available` holds, by its name.

    >>> step_of(Path("step-0000000123")), step_of(Path("step-0000000123.old"))
    (123, 123)
    """
    return int(directory.stem.removeprefix("step-"))


def available(root: Path) -> list[Path]:
    """The checkpoint directories under ``root``, newest step first, unread; none without ``root``.

    Of a step that was saved again and lies there twice, the newer comes first.
    """
    if not root.exists():
        return []
    found = [path for path in root.iterdir() if _DIRECTORY.fullmatch(path.name)]
    return sorted(found, key=lambda path: (step_of(path), path.suffix != OLD), reverse=True)
