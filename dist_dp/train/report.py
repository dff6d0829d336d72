"""What a run directory holds, told without changing anything in it: the content of `dist-dp inspect`."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import numpy as np

from runtime import checkpoint
from runtime.checkpoint import CheckpointDamaged
from runtime.checkpoint.layout import step_of
from runtime.store import Store

from .run_directory import MANIFEST, RunDirectory
from .shard import RESERVED

_ARRAY = re.compile(r"(\w+)\[(.*)\]")


class NoRun(ValueError):
    """A path at which there is no run directory."""


def report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A run as plain JSON values; every checkpoint is read and verified.

    `run`, `status` (`running`, `finished`, `stopped`), `in_use_by`; `version`, `program`, `model` (with the number of
    `arrays`, `numbers` and `bytes`), `optimizer`, `data`, `settings`, `fingerprint` as the run was begun; `step`,
    `total_steps`, the newest `metrics`; `checkpoints`, newest first, each with `step`, `bytes`, `digest` and
    `damage` (null, or what is wrong with it); `digest` with its step; `problems`, a list of lines.

    Raises:
        NoRun: `path` is no run directory.
        ValueError: its manifest cannot be read.
    """
    try:
        directory = RunDirectory(path)
    except NotADirectoryError:
        raise NoRun(f"{path} is a file; expected the directory of a run") from None
    except ValueError as error:
        raise NoRun(str(error)) from None
    path = directory.path
    if directory.local is not None and not directory.local.is_dir():
        raise NoRun(f"{path} is not there; expected the directory of a run")
    manifest = directory.manifest()
    if manifest is None:
        raise NoRun(f"{path} is no run directory: it holds no {MANIFEST}")
    if not isinstance(manifest, dict) or not isinstance(manifest.get("model"), dict):
        raise ValueError(f"{path}/{MANIFEST} is not the manifest of a run")
    in_use_by = directory.holder()
    events = _events(directory)
    checkpoints = [entry for entry in map(_checkpoint, checkpoint.available(directory.checkpoints)) if entry]
    good = [entry for entry in checkpoints if entry["damage"] is None]
    problems = [
        f"checkpoint of step {entry['step']}: {entry['damage']}" for entry in checkpoints if entry["damage"]
    ]
    return {
        "run": path,
        "status": "running" if in_use_by else "finished" if events["ended"] else "stopped",
        "in_use_by": in_use_by,
        **{
            name: manifest.get(name)
            for name in ("version", "program", "optimizer", "data", "settings", "fingerprint")
        },
        "model": {"class": manifest["model"].get("class"), **_size(manifest["model"].get("arrays", {}))},
        "step": max([events["step"], *(entry["step"] for entry in good)]),
        "total_steps": events["total_steps"],
        "metrics": events["metrics"],
        "checkpoints": checkpoints,
        "digest": _digest(directory),
        "problems": problems + events["problems"],
    }


def _size(arrays: dict[str, str]) -> dict[str, int]:
    """The size of a model whose arrays the manifest tells as `float32[3, 4]`."""
    numbers = bytes_ = 0
    for text in arrays.values():
        if found := _ARRAY.fullmatch(text):
            count = math.prod(int(n) for n in found[2].split(",") if n.strip())
            numbers += count
            bytes_ += count * np.dtype(found[1]).itemsize
    return {"arrays": len(arrays), "numbers": numbers, "bytes": bytes_}


def _checkpoint(store: Store) -> dict[str, Any] | None:
    """One checkpoint, verified; None if the run has removed it meanwhile."""
    entry: dict[str, Any] = {"step": step_of(store), "bytes": 0, "digest": None, "damage": None}
    try:
        for name in store.names():
            with store.open(name) as file:
                entry["bytes"] += file.seek(0, os.SEEK_END)
        entry["digest"] = checkpoint.load(store).digest
    except (CheckpointDamaged, ValueError, OSError) as error:
        if not store.names():
            return None
        entry["damage"] = str(error).removeprefix(f"{store.url}: ")
    return entry


def _events(directory: RunDirectory) -> dict[str, Any]:
    """What the metrics file says of the newest step."""
    found: dict[str, Any] = {"step": 0, "total_steps": None, "ended": False, "metrics": {}, "problems": []}
    metrics: dict[str, Any] = {}
    try:
        for event in directory.events():
            found["step"] = max(found["step"], event.step)
            found["ended"] = event.kind == "end"
            if event.kind == "start":
                found["total_steps"] = event.values.get("total_steps")
            elif event.kind == "step":
                kept = {name: value for name, value in metrics.items() if name.startswith("validation_")}
                metrics = {n: v for n, v in event.values.items() if n not in RESERVED} | kept
            elif event.kind == "validation":
                metrics |= {f"validation_{name}": value for name, value in event.values.items()}
    except ValueError as error:
        found["problems"] = [str(error)]
    # JSON has no NaN: such a value is told as text.
    found["metrics"] = {
        n: v if not isinstance(v, float) or math.isfinite(v) else str(v) for n, v in metrics.items()
    }
    return found


def _digest(directory: RunDirectory) -> dict[str, Any] | None:
    digest = directory.digest()
    return None if digest is None else {"step": digest[1], "sha256": digest[0]}
