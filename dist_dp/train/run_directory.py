"""The run directory: what a run leaves behind and resumes from.

runs/digits/
    manifest.json         what the run is: model, optimizer, data, settings, program, fingerprint
    metrics.jsonl         what happened, one JSON object per line (`runtime.events`)
    checkpoints/step-…/   parameters, buffers and optimizer state, each verified by SHA-256 when read
    digest                the newest recorded digest, and the step it belongs to
    lock                  held while a process trains here
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime import checkpoint
from runtime.checkpoint import Checkpoint, CheckpointDamaged, store
from runtime.fingerprint import differences, fingerprint

from .._version import __version__
from ..data import Source
from ..nn import Module
from ..optim import Optimizer

MANIFEST_FORMAT = 1

# What may differ between the launches of one run, if the user says so (see `refuse_differences`).
_ACCEPTABLE = ("program", "fingerprint")
ACCEPT_CHANGES = "DIST_DP_ACCEPT_CHANGES"


class RunMismatch(ValueError):
    """This launch is not the run that the directory holds; the message names every difference."""


class RunDirectory:
    """The files of one run. The directory need not exist yet; `create` makes it.

    Raises:
        TypeError, ValueError: `path` is no path, or empty. NotADirectoryError: it names a file, or lies below one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"run must be the path of a directory, got {path!r:.80} ({type(path).__name__})")
        if not os.fspath(path):
            raise ValueError("run must be the path of a directory, got ''; run=None keeps nothing on disk")
        self.path = Path(path)
        there = next((p for p in (self.path, *self.path.parents) if p.exists()), self.path)
        if there.exists() and not there.is_dir():
            raise NotADirectoryError(f"run must name a directory, got {self.path}, and {there} is a file")

    def create(self) -> None:
        """Make the directory, if it is not there."""
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def manifest_path(self) -> Path:
        return self.path / "manifest.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def lock_path(self) -> Path:
        return self.path / "lock"

    def manifest(self) -> dict[str, Any] | None:
        """The manifest, or None in a fresh directory.

        Raises:
            ValueError: there is one and it cannot be read.
        """
        try:
            text = self.manifest_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            found: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{self.manifest_path} is not readable JSON ({error}); restore it, or use another run directory"
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
                    f"{self.path} holds checkpoints but no manifest.json; use another run directory"
                )
            text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
            beside = self.manifest_path.with_suffix(".partial")
            store.write(beside, [text.encode()])
            store.rename(beside, self.manifest_path)
            return
        refuse_differences(self.path, known, json.loads(json.dumps(manifest)))

    def newest(self, on_damaged: Any) -> Checkpoint | None:
        """The newest checkpoint that verifies; each damaged one is reported by name and passed over."""
        return checkpoint.latest(self.checkpoints, on_damaged)

    def record_digest(self, digest: str, step: int) -> None:
        beside = self.path / "digest.partial"
        store.write(beside, [f"{digest} step {step}\n".encode()])
        store.rename(beside, self.path / "digest")


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


def refuse_differences(path: Path, known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
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
