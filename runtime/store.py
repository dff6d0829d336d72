"""`Store`: a directory of files, local or behind an object store (fsspec), with one rule of durability.

What `write` has returned from is there, whole, after a kill and after a power cut; what it has not returned from is
there whole or not at all. Names are relative to the store, with '/' between their parts.

A power cut keeps what was synced and may keep or lose anything else, in any order. So on a local file system a file is
written beside, synced, renamed into place, and the directory synced after. An object store gives that by itself: an
object appears when its upload is complete. (File systems behind fsspec that write in place, such as sftp, may leave a
torn file; whoever must know looks at a checksum.)
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

PARTIAL = ".partial-"  # begins the name of a file that is being written; `names` does not show it


class Store(ABC):
    """A directory of files.

    Attributes:
        url: how messages name it: an absolute path, or a URL.
        local: its path, if it lies on a local (or mounted) file system.
    """

    url: str
    local: Path | None

    @property
    def name(self) -> str:
        """The last part of its url."""
        return self.url.rsplit("/", 1)[-1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Store) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __repr__(self) -> str:
        return f"store_at({self.url!r})"

    @abstractmethod
    def below(self, name: str) -> Store:
        """The store of a directory in this one, whether it is there already or not."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A file to read and seek in.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a file, durably, whole or not at all, in the place of what was there."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """Write a file that is not there yet. Of several that try at once, one succeeds.

        Raises:
            FileExistsError: it is there.
        """

    @abstractmethod
    def names(self, directory: str = "") -> list[str]:
        """The names of the files and directories in a directory, sorted; none if it is not there."""

    @abstractmethod
    def modified(self, name: str) -> float:
        """When a file was written last, in seconds since 1970 by the store's clock.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, or a directory with all in it; nothing there is fine. A kill may leave a part of it."""


def store_at(place: str | os.PathLike[str]) -> Store:
    """The store at a path, or at a URL `scheme://...` of any file system that fsspec knows.

    Raises:
        ValueError: fsspec knows no such scheme. ImportError: the package that serves it is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     store = store_at(directory)
    ...     store.write("a/b", [b"1", b"2"])
    ...     store.names(), store.names("a"), store.read("a/b")
    (['a'], ['b'], b'12')
    """
    text = os.fspath(place)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        return RemoteStore(text)
    return LocalStore(text)


# --- a local file system ----------------------------------------------------------------------------------------------


class LocalStore(Store):
    """A directory of a local or mounted file system."""

    local: Path

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.local = Path(os.path.abspath(path))
        self.url = str(self.local)

    def below(self, name: str) -> LocalStore:
        return LocalStore(self.local / name)

    def read(self, name: str) -> bytes:
        return (self.local / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        return open(self.local / name, "rb")

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        path = self.local / name
        make_directory(path.parent)
        for leftover in path.parent.glob(f"{PARTIAL}{path.name}.*"):  # of writers that were killed
            remove_file(leftover)
        # A name of its own: should another still write, it fails when it renames, and nothing is torn.
        beside = path.with_name(f"{PARTIAL}{path.name}.{os.urandom(4).hex()}")
        try:
            write_file(beside, chunks)
            rename(beside, path)
        except OSError:
            with suppress(OSError):
                remove_file(beside)  # gives back the space it took
            raise

    def create(self, name: str, data: bytes) -> None:
        path = self.local / name
        make_directory(path.parent)
        beside = path.with_name(f"{PARTIAL}{path.name}.{os.urandom(4).hex()}")
        try:
            write_file(beside, [data])
            os.link(beside, path)  # whole, or FileExistsError
            sync_directory(path.parent)
        finally:
            with suppress(OSError):
                remove_file(beside)

    def names(self, directory: str = "") -> list[str]:
        try:
            found = os.listdir(self.local / directory)
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith(PARTIAL))

    def modified(self, name: str) -> float:
        return (self.local / name).stat().st_mtime

    def remove(self, name: str) -> None:
        path = self.local / name
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                remove_file(path)
            sync_directory(path.parent)


def _sync(descriptor: int) -> None:
    # On macOS fsync leaves the data in the drive's cache; F_FULLFSYNC is the call that waits for the medium.
    # Network file systems refuse it.
    if hasattr(fcntl, "F_FULLFSYNC"):
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and the missing ones above it, durably; one that is there is left as it is."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        sync_directory(directory.parent)


def write_file(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a new file and make its content durable; its name is so once the directory is synced."""
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        _sync(file.fileno())


def rename(source: Path, target: Path) -> None:
    """Give a file its new name in the same directory, at once and durably."""
    os.rename(source, target)
    sync_directory(target.parent)


def remove_file(path: Path) -> None:
    """Remove a file; nothing there is fine."""
    path.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a directory and what is in it; a kill may leave a part."""
    shutil.rmtree(path)


# --- behind fsspec ----------------------------------------------------------------------------------------------------

_CHUNK = 8 << 20  # written at a time, so that the client's buffer stays small


class RemoteStore(Store):
    """A directory of a file system behind fsspec; its client is set up by the environment (fsspec's configuration).

    `create` is atomic where the store knows a conditional write (fsspec's mode="create": S3, Google, Azure); elsewhere
    it looks first and writes then, and two at once may both succeed.
    """

    local = None

    def __init__(self, url: str) -> None:
        import fsspec  # type: ignore[import-untyped, unused-ignore]

        self.url = url.rstrip("/")
        # A listing must show what others wrote meanwhile.
        self._system, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        self._root = root.rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _named(self, name: str) -> Iterator[str]:
        """The path of a name; whatever the client library raises meanwhile comes out as an OSError."""
        try:
            yield self._path(name)
        except (FileNotFoundError, FileExistsError, PermissionError) as error:
            raise type(error)(f"{self.url}/{name}: {error}") from error
        except Exception as error:
            raise OSError(f"{self.url}/{name}: {type(error).__name__}: {error}") from error

    def below(self, name: str) -> RemoteStore:
        return RemoteStore(f"{self.url}/{name}")

    def read(self, name: str) -> bytes:
        with self._named(name) as path:
            return cast(bytes, self._system.cat_file(path))

    def open(self, name: str) -> BinaryIO:
        with self._named(name) as path:
            return io.BufferedReader(_Reading(self._system.open(path, "rb"), self, name))

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        with self._named(name) as path:
            file = self._system.open(path, "wb")
            try:
                for chunk in chunks:
                    for start in range(0, len(chunk), _CHUNK):
                        file.write(chunk[start : start + _CHUNK])
                file.close()
            except BaseException:
                file.closed = True  # else it completes the upload when it is collected
                with suppress(Exception):
                    file.discard()
                raise

    def create(self, name: str, data: bytes) -> None:
        with self._named(name) as path:
            # Some servers take a conditional write and do not look at the condition.
            if self._system.exists(path):
                raise FileExistsError("it is there already")
            self._system.pipe_file(path, data, mode="create")

    def names(self, directory: str = "") -> list[str]:
        with self._named(directory) as path:
            try:
                found = self._system.ls(path, detail=False)
            except FileNotFoundError:
                return []
            names = {entry.rstrip("/").removeprefix(path).lstrip("/") for entry in found}
            return sorted(names - {""})

    def modified(self, name: str) -> float:
        with self._named(name) as path:
            return cast(float, self._system.modified(path).timestamp())

    def remove(self, name: str) -> None:
        with self._named(name) as path, suppress(FileNotFoundError):
            self._system.rm(path, recursive=True)


class _Reading(io.RawIOBase):
    """A file of a remote store, whose errors are the store's."""

    def __init__(self, file: Any, store: RemoteStore, name: str) -> None:
        self._file, self._store, self._name = file, store, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._store._named(self._name):
            return cast(int, self._file.readinto(buffer))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._store._named(self._name):
            return cast(int, self._file.seek(offset, whence))

    def tell(self) -> int:
        return cast(int, self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
