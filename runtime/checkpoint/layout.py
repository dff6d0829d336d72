"""How a checkpoint lies in a store: the names of its directory and files, and the bytes of the files.

::

    checkpoints/
        step-0000000123/
            arrays.safetensors                     every array, readable by any safetensors library
            manifest.json                          written last; without it there is no checkpoint
        step-0000000456/                           one that four workers wrote
            arrays-1-of-4.5c1d07aa.safetensors     the first quarter of the bytes, ...
            arrays-4-of-4.5c1d07aa.safetensors
            manifest.json

The arrays lie one after the other, wide elements first. Of N parts the r-th holds the r-th N-th of their bytes, cut at
the borders of elements: an array that lies in one part has its own name there, a piece of one the name `name[lo:hi]`,
its elements lo to hi in C order as an array of one axis. The letters after "of" are those of one attempt to save, so
that the parts of two attempts never come together.

A part is the length of a JSON header (8 bytes, little-endian), the header, and the bytes of the arrays one after the
other, C order and little-endian: https://huggingface.co/docs/safetensors. Its header follows from the manifest, so a
reader compares it byte for byte. The manifest ends with the SHA-256 of everything before that line. Between them no bit
of a checkpoint can change unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from runtime.store import Store

FORMAT = 2
ARRAYS = "arrays.safetensors"
MANIFEST = "manifest.json"

# The dtypes of both NumPy and safetensors, under their names in the file.
DTYPES = {
    "BOOL": np.dtype("?"),
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_DIRECTORY = re.compile(r"step-\d{10,}")


@dataclass(frozen=True)
class Tensor:
    """What the manifest says of one array: dtype (as in the file) and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """The bytes of an element."""
        return DTYPES[self.dtype].itemsize


class Part(NamedTuple):
    """The part of rank `rank` of `size`, in one attempt to save."""

    rank: int = 0
    size: int = 1
    attempt: str = ""

    @property
    def file(self) -> str:
        """The name of its file.

        >>> Part().file, Part(1, 4, "5c1d07aa").file
        ('arrays.safetensors', 'arrays-2-of-4.5c1d07aa.safetensors')
        """
        which = f"-{self.rank + 1}-of-{self.size}" if self.size > 1 else ""
        return f"arrays{which}{self.attempt and '.'}{self.attempt}.safetensors"

    @property
    def said(self) -> str:
        """The name of the small file in which its writer says that it is there, until the manifest does."""
        return f"{self.file}.json"


class Piece(NamedTuple):
    """Elements lo to hi of the array `name`, under the name `key` in the file of a part."""

    key: str
    name: str
    lo: int
    hi: int


def pieces(tensors: Mapping[str, Tensor], rank: int, size: int) -> list[Piece]:
    """What the part `rank` of `size` holds, in the order of its file.

    >>> tensors = {"w": Tensor("F32", (2, 4)), "b": Tensor("F32", (2,))}
    >>> pieces(tensors, 0, 2), pieces(tensors, 1, 2)
    ([Piece(key='w[0:5]', name='w', lo=0, hi=5)], [Piece(key='w[5:8]', name='w', lo=5, hi=8), \
Piece(key='b', name='b', lo=0, hi=2)])
    """
    total = sum(tensor.count * tensor.itemsize for tensor in tensors.values())
    first, last = total * rank // size, total * (rank + 1) // size
    found, start = [], 0
    for name, tensor in tensors.items():
        lo, hi = (min(max((border - start) // tensor.itemsize, 0), tensor.count) for border in (first, last))
        start += tensor.count * tensor.itemsize
        if hi - lo == tensor.count and (tensor.count or rank == 0):
            found.append(Piece(name, name, 0, tensor.count))
        elif hi > lo:
            key = f"{name}[{lo}:{hi}]"
            while key in tensors:
                key += "'"
            found.append(Piece(key, name, lo, hi))
    return found


def header(tensors: Mapping[str, Tensor], held: Sequence[Piece]) -> bytes:
    """The first bytes of the file that holds these pieces in this order."""
    entries: dict[str, Any] = {}
    start = 0
    for key, name, lo, hi in held:
        tensor = tensors[name]
        end = start + (hi - lo) * tensor.itemsize
        shape = tensor.shape if key == name else (hi - lo,)
        entries[key] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays start at a multiple of 8
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True)
class PartFile:
    """A part as the manifest knows it: its file, and the SHA-256 of each piece by its key."""

    file: str
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`; `tensors` in the order of the bytes, `parts` by rank."""

    step: int
    digest: str | None
    meta: Any
    tensors: Mapping[str, Tensor]
    parts: Sequence[PartFile]

    def encode(self) -> bytes:
        """The bytes of `manifest.json`."""
        fields = {
            "format": FORMAT,
            "step": self.step,
            "digest": self.digest,
            "meta": self.meta,
            "tensors": {name: {"dtype": t.dtype, "shape": t.shape} for name, t in self.tensors.items()},
            "parts": [{"file": part.file, "sha256": dict(part.sha256)} for part in self.parts],
        }
        return sealed(fields)

    @classmethod
    def decode(cls, data: bytes) -> Manifest | None:
        """The manifest that `encode` gave these bytes for, or None if a bit of them has changed.

        Raises:
            ValueError: an intact manifest of another format.
        """
        fields = unsealed(data)
        if fields is None:
            return None
        if fields["format"] not in (1, FORMAT):
            raise ValueError(
                f"the checkpoint has format {fields['format']}, this version reads formats 1 and {FORMAT}; "
                "use the version that wrote it"
            )
        entries = fields["tensors"]
        tensors = {name: Tensor(entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        if fields["format"] == 1:  # one file, its SHA-256s beside dtype and shape
            parts = [PartFile(ARRAYS, {name: entry["sha256"] for name, entry in entries.items()})]
        else:
            parts = [PartFile(part["file"], part["sha256"]) for part in fields["parts"]]
        return cls(fields["step"], fields["digest"], fields["meta"], tensors, parts)


def sealed(fields: Mapping[str, Any]) -> bytes:
    """A JSON object that ends with the SHA-256 of everything before."""
    body = json.dumps(fields, indent=1, allow_nan=False).removesuffix("\n}").encode()
    return body + _seal(body)


def unsealed(data: bytes) -> dict[str, Any] | None:
    """The fields that `sealed` gave these bytes for; None if a bit of them has changed."""
    body = data[: -len(_seal(b""))]
    if data != body + _seal(body):
        return None
    fields: dict[str, Any] = json.loads(data)
    return fields


def _seal(body: bytes) -> bytes:
    return b',\n "sha256": "%s"\n}\n' % hashlib.sha256(body).hexdigest().encode()


def directory_name(step: int) -> str:
    """The name of the directory of a step.

    >>> directory_name(123)
    'step-0000000123'
    """
    return f"step-{step:010d}"


def step_of(directory: Store) -> int:
    """The step whose checkpoint a directory holds, by its name."""
    return int(directory.name.removeprefix("step-"))


def directories(root: Store) -> list[Store]:
    """The directories of steps under `root`, newest step first, whether the checkpoint in them is finished or not."""
    found = [root.below(name) for name in root.names() if _DIRECTORY.fullmatch(name)]
    return sorted(found, key=step_of, reverse=True)


def finished(directory: Store) -> bool:
    """Whether there is a checkpoint in the directory of a step."""
    return MANIFEST in directory.names()
