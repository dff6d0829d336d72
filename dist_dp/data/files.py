"""Data sources of files: on this machine, on a shared file system, or in a remote store behind an fsspec URL.

`Files` is a data set of which every file is an example. `Rows` is one of which the rows of arrays are the examples: of
`.npy` files, one after the other, or of the equally long arrays in `.safetensors` files; only the rows of a batch are
read. The order of the examples is that of the sorted names, so every worker sees the same data set.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dist_dp.data.source import DataError, Source, batch_indices, default_collate
from dist_dp.random import integer_argument
from runtime.checkpoint.layout import DTYPES

T = TypeVar("T")
R = TypeVar("R")

_HEADER = 1 << 12  # bytes read first of a file of arrays
_WILD = "*?["


class File(io.BytesIO):
    """The content of a file, and its `name` below the directory of the pattern."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def load_by_suffix(file: File) -> Any:
    """What a file holds: the array of a `.npy`, a dict of the arrays of a `.npz`, the bytes of any other."""
    if file.name.endswith((".npy", ".npz")):
        found = np.load(file, allow_pickle=False)
        return dict(found) if file.name.endswith(".npz") else found
    return file.getvalue()


class Files(Source):
    """A data set with one example in each file.

    Args:
        pattern: a path or fsspec URL with wildcards: `data/train/*.npy`, `s3://bucket/train/**/*.png`.
        load: makes an example of a file that is open for reading in binary, and whose `name` is relative to the
            directory before the first wildcard. By default the array of a `.npy`, a dict of the arrays of a `.npz`, and
            the bytes of anything else.
        collate: makes a batch of a list of examples, as in `dist_dp.data.as_source`.
        threads: files that are read at a time.

    Raises:
        TypeError, ValueError: an argument is not as described, the scheme of the URL is unknown or its client package
            is missing. FileNotFoundError: no file has such a name. OSError: the store cannot be reached.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     for i in range(3):
    ...         np.save(f"{place}/{i}.npy", np.full(2, i))
    ...     Files(f"{place}/*.npy").take(np.array([2, 0]))
    array([[2, 2],
           [0, 0]])
    """

    def __init__(
        self,
        pattern: str | os.PathLike[str],
        load: Callable[[File], Any] = load_by_suffix,
        *,
        collate: Callable[[list[Any]], Any] = default_collate,
        threads: int = 16,
    ) -> None:
        for name, value in {"load": load, "collate": collate}.items():
            if not callable(value):
                raise TypeError(f"{name} must be a function, got {type(value).__name__}")
        self._files = _Found(pattern, integer_argument("threads", threads, least=1))
        self._load, self._collate = load, collate

    def __len__(self) -> int:
        return len(self._files.names)

    def take(self, indices: NDArray[np.int64]) -> Any:
        """The batch of the files at `indices`. They are read side by side; `load` is called in their order."""
        numbers = batch_indices(indices, len(self)).tolist()
        items = []
        for index, content in zip(numbers, self._files.at_once(self._files.read, numbers), strict=True):
            name = self._files.names[index]
            try:
                items.append(self._load(File(content, name)))
            except Exception as error:
                raise DataError(
                    f"example {index}, {self._files.place(index)}, failed to load: {type(error).__name__}: {error}",
                    index,
                ) from error
        try:
            return self._collate(items)
        except Exception as error:
            error.add_note(f"while collating {', '.join(self._files.names[i] for i in numbers)}")
            raise

    def describe(self) -> dict[str, Any]:
        return {"kind": "files", "length": len(self), "files": self._files.describe()}


class Rows(Source):
    """A data set of the rows of arrays that lie in files; a batch reads the rows it needs, not the files.

    Args:
        pattern: a path or fsspec URL, with wildcards where there are several files; their arrays follow each other in
            the order of the sorted names. Of `.npy` files, a batch is an array; of `.safetensors` files, a dict of
            arrays by their names in the file. A tuple or a dict of patterns of `.npy` files makes the fields of one
            data set, as a tuple or dict of arrays does.
        threads: ranges of rows that are read at a time.

    Raises:
        TypeError, ValueError: an argument is not as described, the scheme of the URL is unknown or its client package
            is missing, or the arrays do not fit together. FileNotFoundError: no file has such a name. OSError: the
            store cannot be reached. DataError: a file is damaged.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     for i in range(3):
    ...         np.save(f"{place}/{i}.npy", np.arange(4 * i, 4 * i + 4))
    ...     Rows(f"{place}/*.npy").take(np.array([11, 0, 5]))
    array([11,  0,  5])
    """

    def __init__(
        self,
        pattern: str | os.PathLike[str] | tuple[Any, ...] | Mapping[str, Any],
        *,
        threads: int = 16,
    ) -> None:
        threads = integer_argument("threads", threads, least=1)
        self._shape: Any = pattern
        fields: dict[Any, Any] = {None: pattern}
        if isinstance(pattern, (tuple, Mapping)):
            fields = dict(pattern) if isinstance(pattern, Mapping) else dict(enumerate(pattern))
            if not fields:
                raise ValueError(
                    f"pattern must hold at least one pattern, got an empty {type(pattern).__name__}"
                )
        self._files: list[_Found] = []
        self._fields: dict[Any, _Field] = {}
        for key, one in fields.items():
            found = _Found(one, threads)
            self._files.append(found)
            parts = found.at_once(functools.partial(_parts, found), range(len(found.names)))
            for name in parts[0]:
                where = f"{one}" + (f", array {name!r}" if name else "")
                self._fields[name if key is None else key] = _Field(
                    found, [part.get(name) for part in parts], where
                )
            if key is not None and list(parts[0]) != [""]:
                raise ValueError(f"a tuple or dict of patterns is for .npy files, got {one}")
        lengths = {name: field.length for name, field in self._fields.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the fields of the data must be equally long, got lengths {lengths}")
        self._length = next(iter(lengths.values()))
        if self._length == 0:
            raise ValueError(f"{pattern} must hold at least one row, got none")

    def __len__(self) -> int:
        return self._length

    def take(self, indices: NDArray[np.int64]) -> Any:
        """The batch of the rows at `indices`; rows that follow each other are read together."""
        numbers = batch_indices(indices, self._length)
        taken = {name: field.take(numbers) for name, field in self._fields.items()}
        if isinstance(self._shape, tuple):
            values = list(taken.values())
            return type(self._shape)(*values) if hasattr(self._shape, "_fields") else tuple(values)
        return taken[""] if list(taken) == [""] else taken

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "rows",
            "length": self._length,
            "fields": {
                "data" if name == "" else str(name): {"shape": list(field.shape), "dtype": str(field.dtype)}
                for name, field in self._fields.items()
            },
            "files": [found.describe() for found in self._files],
        }


@dataclass(frozen=True)
class _Part:
    """An array in a file: where its first row begins."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class _Field:
    """Arrays that follow each other in files, as one."""

    def __init__(self, found: _Found, parts: Sequence[_Part | None], where: str) -> None:
        first = parts[0]
        assert first is not None
        self._files, self.dtype, self.shape = found, first.dtype, first.shape[1:]
        self._offsets: list[int] = []
        lengths = []
        for index, part in enumerate(parts):
            if part is None or not part.shape or (part.dtype, part.shape[1:]) != (self.dtype, self.shape):
                has = "is missing" if part is None else f"is {part.dtype}{list(part.shape)}"
                raise ValueError(
                    f"the arrays of {where} must have one dtype and one shape of rows: in {found.names[0]} it is "
                    f"{first.dtype}{list(first.shape)}, in {found.names[index]} it {has}"
                )
            self._offsets.append(part.offset)
            lengths.append(part.shape[0])
        self._starts = np.cumsum([0, *lengths])
        self.length = int(self._starts[-1])

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        order = np.argsort(numbers, kind="stable")
        rows = numbers[order]
        files = np.searchsorted(self._starts, rows, "right") - 1
        # A row that repeats or follows the one before, in the same file, is read with it.
        new = np.flatnonzero((np.diff(rows) > 1) | (np.diff(files) > 0)) + 1
        taken = np.empty((len(numbers), *self.shape), self.dtype)
        width = self.dtype.itemsize * math.prod(self.shape)

        def read(span: tuple[int, int]) -> None:
            lo, hi = span
            file, first, last = int(files[lo]), int(rows[lo]), int(rows[hi - 1])
            start = self._offsets[file] + (first - int(self._starts[file])) * width
            content = self._files.read(file, start, start + (last + 1 - first) * width)
            block = np.frombuffer(content, self.dtype).reshape(last + 1 - first, *self.shape)
            taken[order[lo:hi]] = block[rows[lo:hi] - first]

        self._files.at_once(read, itertools.pairwise([0, *new.tolist(), len(rows)]) if len(rows) else ())
        return taken.astype(self.dtype.newbyteorder("="), copy=False)


class _Found:
    """The files that a pattern names, in the order of their names.

    Attributes:
        names: below the directory that the pattern names before its first wildcard.
    """

    def __init__(self, pattern: str | os.PathLike[str], threads: int) -> None:
        import fsspec

        if not isinstance(pattern, (str, os.PathLike)) or not os.fspath(pattern):
            raise TypeError(f"pattern must be a path or URL, got {pattern!r:.80} ({type(pattern).__name__})")
        self._pattern, self._threads = str(os.fspath(pattern)), threads
        try:
            self._fs, path = fsspec.core.url_to_fs(self._pattern)
        except (ImportError, ValueError) as error:
            raise ValueError(f"pattern {self._pattern!r} cannot be used: {error}") from error
        try:
            found = self._fs.glob(path, detail=True)
        except Exception as error:
            raise OSError(f"{self._pattern} cannot be listed: {type(error).__name__}: {error}") from error
        files = {name: entry for name, entry in sorted(found.items()) if entry["type"] == "file"}
        if not files:
            raise FileNotFoundError(f"no file matches {self._pattern}")
        wild = min([path.index(c) for c in _WILD if c in path], default=len(path))
        directory = path.rfind("/", 0, wild) + 1
        self._paths = list(files)
        self.names = [name[directory:] for name in self._paths]
        self.sizes = [int(entry["size"]) for entry in files.values()]

    def describe(self) -> dict[str, Any]:
        listed = json.dumps(list(zip(self.names, self.sizes, strict=True)))
        return {
            "count": len(self.names),
            "bytes": sum(self.sizes),
            "sha256 of names and sizes": hashlib.sha256(listed.encode()).hexdigest(),
        }

    def place(self, index: int) -> str:
        return str(self._fs.unstrip_protocol(self._paths[index])).removeprefix("file://")

    def read(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """Some of the bytes of a file.

        Raises:
            DataError: it cannot be read, or has another size than when the files were listed.
        """
        stop = self.sizes[index] if stop is None else stop
        if start == stop:  # HTTP has no range of no bytes
            return b""
        try:
            content = bytes(self._fs.cat_file(self._paths[index], start=start, end=stop))
        except Exception as error:
            raise DataError(f"{self.place(index)} cannot be read: {type(error).__name__}: {error}") from error
        if len(content) != stop - start:
            raise DataError(
                f"{self.place(index)} has changed: it ends {stop - start - len(content)} bytes earlier than when the "
                "files were listed"
            )
        return content

    def at_once(self, function: Callable[[T], R], keys: Iterable[T]) -> list[R]:
        """`function` of every key, computed by threads: what they wait for is the store."""
        every = list(keys)
        if len(every) < 2 or self._threads == 1:
            return [function(key) for key in every]
        with ThreadPoolExecutor(min(self._threads, len(every)), "files") as pool:
            return list(pool.map(function, every))


def _parts(found: _Found, index: int) -> dict[str, _Part]:
    """The arrays in a file by their names; that of a `.npy` has the name ""."""
    name, size = found.names[index], found.sizes[index]
    head = found.read(index, 0, min(_HEADER, size))
    try:
        if name.endswith(".npy"):
            parts = {"": _npy(head)}
        elif name.endswith(".safetensors"):
            length = 8 + int.from_bytes(head[:8], "little")
            if not 8 < length <= size:
                raise ValueError("its header is longer than the file")
            parts = dict(_safetensors(head[:length] + found.read(index, len(head), max(length, len(head)))))
        else:
            raise TypeError(
                f"pattern must name .npy or .safetensors files, got {found.place(index)}; dist_dp.data.Files takes "
                "any others"
            )
    except ValueError as error:
        raise DataError(
            f"{found.place(index)} is no file of arrays that can be read by rows: {error}"
        ) from error
    end = max((p.offset + p.dtype.itemsize * math.prod(p.shape) for p in parts.values()), default=0)
    if not parts or end > size:
        raise DataError(f"{found.place(index)} is damaged: it has {size} bytes, its header tells of {end}")
    return parts


def _npy(head: bytes) -> _Part:
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if fortran and len(shape) > 1:
        raise ValueError("its array is in Fortran order; save np.ascontiguousarray of it")
    return _Part(file.tell(), dtype, shape)


def _safetensors(header: bytes) -> Iterator[tuple[str, _Part]]:
    for name, entry in json.loads(header[8:]).items():
        if name != "__metadata__":
            if entry["dtype"] not in DTYPES:
                raise ValueError(f"array {name!r} has the dtype {entry['dtype']}, which NumPy does not know")
            offset = len(header) + entry["data_offsets"][0]
            yield name, _Part(offset, DTYPES[entry["dtype"]], tuple(entry["shape"]))
