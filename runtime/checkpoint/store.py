"""The few file-system operations that a checkpoint is made of, each with its rule of durability.

A power cut keeps what was synced and may keep or lose anything else, in any order. So a file is synced before
its name counts, and a directory after the names in it have changed.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path


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


def write(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a new file and make its content durable; its name is so once the directory is synced."""
    with open(path, "xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        _sync(file.fileno())


def rename(source: Path, target: Path) -> None:
    """Give a file or directory its new name in the same directory, at once and durably."""
    os.rename(source, target)
    sync_directory(target.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory and what is in it; a kill may leave a part."""
    shutil.rmtree(path)


def open_to_read(path: Path) -> BufferedReader:
    """Open a file to read its bytes."""
    return open(path, "rb")
