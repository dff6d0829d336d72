"""The run directory: what a run leaves behind and resumes from.

runs/digits/
    manifest.json         what the run is: model, optimizer, data, settings, program, fingerprint
    metrics.jsonl         what happened, one JSON object per line (`runtime.events`)
    checkpoints/step-…/   parameters, buffers and optimizer state, each verified by SHA-256 when read
    digest                the newest recorded digest, and the step it belongs to
    lock                  held while a process trains here

It lies on a local or shared file system, or at a URL behind fsspec (`runtime.store`). There the lines are in objects
below `metrics/`, and the lock is one below `lock/` (`runtime.stored_events`, `runtime.store_lock`).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime import checkpoint, stored_events
from runtime.checkpoint import Checkpoint, CheckpointDamaged
from runtime.events import Event, JsonLines, Lines, read_events
from runtime.fingerprint import differences, fingerprint
from runtime.launch import launch_id
from runtime.run_lock import RunInUse, run_lock
from runtime.store import Store, store_at
from runtime.store_lock import GuardedStore, StoreLock, holder

from .._version import __version__
from ..data import Source
from ..nn import Module
from ..optim import Optimizer

MANIFEST_FORMAT = 1
MANIFEST = "manifest.json"

# What may differ between the launches of one run, if the user says so (see `refuse_differences`).
_ACCEPTABLE = ("program", "fingerprint")
ACCEPT_CHANGES = "DIST_DP_ACCEPT_CHANGES"

# How long the lock of a writer that was lost may take to be free. On a machine that is there it is freed with the
# process; one that was cut off ends itself some seconds after the others have given it up. That of a machine that is
# gone is freed by the file server when its lease ends (NFS: 90 s).
_SECONDS_FOR_THE_LOCK = 120.0


class RunMismatch(ValueError):
    """This launch is not the run that the directory holds; the message names every difference."""


class RunDirectory:
    """The files of one run. The directory need not exist yet; `create` makes it.

    Args:
        path: of the directory, or its URL `scheme://...`.

    Attributes:
        path: as it was given; messages name it.
        store: where the files are read and written.
        local: the directory, where it lies on a local or mounted file system; else None.

    Raises:
        TypeError, ValueError: `path` is no path, or empty, or a URL that cannot be used: the scheme is unknown, or its
            client package is not installed. NotADirectoryError: it names a file, or lies below one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(
                f"run must be the path or URL of a directory, got {path!r:.80} ({type(path).__name__})"
            )
        self.path = os.fspath(path)
        if not self.path:
            raise ValueError(
                "run must be the path or URL of a directory, got ''; run=None keeps nothing on disk"
            )
        if not isinstance(path, str) and (url := re.match(r"([a-z][a-z0-9+]+):/(?=[^/])", self.path)):
            raise ValueError(
                f"run must be a str where it is a URL, got {path!r}: a path object has lost a slash; give "
                f"'{url[1]}://{self.path[url.end() :]}'"
            )
        self.store = _usable(self.path)
        self.local = None if self.store.local is None else Path(self.path.removeprefix("file://"))
        if self.local is not None:
            there = next((p for p in (self.local, *self.local.parents) if p.exists()), self.local)
            if there.exists() and not there.is_dir():
                raise NotADirectoryError(f"run must name a directory, got {self.path}, and {there} is a file")

    def create(self) -> None:
        """Make the directory, if it is not there."""
        if self.local is not None:
            self.local.mkdir(parents=True, exist_ok=True)

    # --- who writes here --------------------------------------------------------------------------------------------

    @contextmanager
    def held(self, takeover: bool = False) -> Iterator[Callable[[], None]]:
        """Hold the run: nobody else writes in it meanwhile. Gives what raises RunInUse if somebody has taken it.

        Args:
            takeover: the writer before, of this launch, was lost.

        Raises:
            RunInUse: another process trains here.
            OSError: the store cannot be reached, or refuses.
        """
        if self.local is not None:
            with run_lock(self.local / "lock", _SECONDS_FOR_THE_LOCK if takeover else 0.0):
                yield lambda: None
            return
        free = self.store
        with StoreLock(free, launch_id(), takeover) as lock:
            self.store = GuardedStore(free, lock)
            try:
                yield lock.check
            finally:
                self.store = free

    def holder(self) -> str | None:
        """Who trains here now, as far as it can be told."""
        return _local_holder(self.local / "lock") if self.local is not None else holder(self.store)

    # --- what happened ----------------------------------------------------------------------------------------------

    @property
    def seconds_to_keep(self) -> float:
        """How long every worker remembers what was reported: the lines of a writer that is lost are not all kept."""
        return 0.0 if self.local is not None else 4 * stored_events.EVERY

    def lines(self) -> Lines:
        """A sink that keeps events here. The run must be held."""
        return (
            stored_events.StoredLines(self.store)
            if self.local is None
            else JsonLines(self.local / "metrics.jsonl")
        )

    def events(self) -> Iterator[Event]:
        """The events kept here, none in a fresh directory.

        Raises:
            ValueError: a line is not an event; it is named.
        """
        if self.local is None:
            yield from stored_events.read_stored_events(self.store)
        elif (file := self.local / "metrics.jsonl").exists():
            yield from read_events(file)

    # --- what it is -------------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None in a fresh directory.

        Raises:
            ValueError: there is one and it cannot be read. OSError: the store cannot be reached.
        """
        try:
            found: dict[str, Any] = json.loads(self.store.read(MANIFEST))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(
                f"{self.path}/{MANIFEST} is not readable JSON ({error}); restore it, or use another run directory"
            ) from None
        return found

    def agree(self, manifest: Mapping[str, Any]) -> None:
        """Record what this run is, or check that it is the run that was begun here.

        Raises:
            RunMismatch: it is not; every difference is named.
        """
        known = self.manifest()
        saved = bool(checkpoint.available(self.checkpoints))
        if known is None or not saved:  # without a checkpoint nothing was begun that could be spoiled
            if saved:
                raise RunMismatch(
                    f"{self.path} holds checkpoints but no {MANIFEST}; use another run directory"
                )
            text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
            self.store.write(MANIFEST, [text.encode()])
            return
        refuse_differences(self.path, known, json.loads(json.dumps(manifest)))

    # --- its states -------------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Store:
        return self.store.below("checkpoints")

    def newest(self, on_damaged: Any) -> Checkpoint | None:
        """The newest checkpoint that verifies; each damaged one is reported by name and passed over."""
        return checkpoint.latest(self.checkpoints, on_damaged)

    def record_digest(self, digest: str, step: int) -> None:
        self.store.write("digest", [f"{digest} step {step}\n".encode()])

    def digest(self) -> tuple[str, int] | None:
        """The newest recorded digest and its step, if there is one that can be read."""
        try:
            sha256, _, step = self.store.read("digest").decode("ascii").split()
            return sha256, int(step)
        except (OSError, ValueError):
            return None


def _usable(path: str) -> Store:
    try:
        return store_at(path)
    except ImportError as error:
        # fsspec's own line says which package it is: "Install s3fs to access S3".
        raise ValueError(
            f"run={path!r} cannot be used here: {error} (pip install it on every node)"
        ) from None
    except ValueError as error:
        raise ValueError(
            f"run={path!r} cannot be used: {error}. run= takes a path, or a URL that fsspec knows: s3://bucket/name, "
            "gs://, abfs://, ..."
        ) from None


def _local_holder(lock: Path) -> str | None:
    if not lock.exists():
        return None
    try:
        with run_lock(lock):
            return None
    except RunInUse as error:
        return error.holder
    except OSError:  # not ours to open, so nobody of us holds it
        return None


def described(
    model: Module, arrays: Mapping[str, Any], optimizer: Optimizer, data: Source, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest of a run: what decides its bits, as plain JSON."""
    return {
        "format": MANIFEST_FORMAT,
        "version": __version__,
        "program": program(),
        "model": {
            "class": type(model).__qualname__,
            "arrays": {name: f"{a.dtype}{list(a.shape)}" for name, a in arrays.items()},
        },
        "optimizer": optimizer.describe(),
        "data": data.describe(),
        "settings": dict(settings),
        "fingerprint": dict(fingerprint()),
    }


def refuse_differences(path: str, known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RunMismatch if the run that `known` describes and this launch differ in anything that decides bits."""
    found = []
    for section in sorted({*known, *now} - {"version", "created"}):
        if section in _ACCEPTABLE and os.environ.get(ACCEPT_CHANGES):
            continue
        if section == "fingerprint":
            found += [
                f"fingerprint {line}" for line in differences(known.get(section, {}), now.get(section, {}))
            ]
        else:
            found += _differences(section, known.get(section), now.get(section))
    if found:
        hint = ""
        if all(line.startswith(_ACCEPTABLE) for line in found):
            hint = (
                f"\nSet {ACCEPT_CHANGES}=1 (dist-dp run --accept-changes) to go on all the same: the answer may then "
                "differ."
            )
        raise RunMismatch(
            f"{path} holds a run that differs from this launch (recorded there -> asked for now):\n  "
            + "\n  ".join(found)
            + "\nGive run= another directory to start afresh, or restore the settings."
            + hint
        )


def refuse_other_worker(
    mine: Mapping[str, Any], other: Mapping[str, Any], rank: int, other_rank: int
) -> None:
    """Raise RunMismatch if two workers of one launch would compute other bits: another program, model, build or CPU."""
    found = []
    for section in sorted({*mine, *other}):
        a, b = mine.get(section), other.get(section)
        if section == "fingerprint":
            found += [f"fingerprint {line}" for line in differences(a or {}, b or {})]
        else:
            found += _differences(section, a, b)
    if found:
        raise RunMismatch(
            f"the workers of rank {rank} and {other_rank} would not compute the same ({rank} -> {other_rank}):\n  "
            + "\n  ".join(found)
        )


def _differences(name: str, a: Any, b: Any) -> list[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return [
            line for key in sorted({*a, *b}) for line in _differences(f"{name}.{key}", a.get(key), b.get(key))
        ]
    return [] if a == b else [f"{name}: {_shown(a)} -> {_shown(b)}"]


def _shown(value: Any) -> str:
    return "absent" if value is None else json.dumps(value)


def program() -> dict[str, str]:
    """The program being run: its file name, and a hash of its syntax tree (comments and layout do not count)."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file is None or not Path(file).is_file() or Path(file).suffix != ".py":
        return {}
    try:
        with _parsing:
            return {"file": Path(file).name, "sha256": _syntax_hash(Path(file).read_bytes())}
    except (SyntaxError, ValueError):
        return {"file": Path(file).name}


# CPython 3.11 fails with a SystemError now and then when two threads build syntax trees at once (gh-106905).
_parsing = threading.Lock()


@functools.lru_cache(maxsize=8)
def _syntax_hash(source: bytes) -> str:
    return hashlib.sha256(ast.dump(ast.parse(source)).encode()).hexdigest()


def damaged_message(error: CheckpointDamaged) -> str:
    return f"checkpoint refused: {error}; going on from the one before"
