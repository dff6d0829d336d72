"""What a run directory holds, told without changing anything in it: the content of `dist-dp inspect`."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from runtime import checkpoint
from runtime.checkpoint import CheckpointDamaged
from runtime.checkpoint.layout import step_of
from runtime.events import read_events
from runtime.run_lock import RunInUse, run_lock

from .run_directory import RunDirectory
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
    path = Path(path)
    if not path.is_dir():
        raise NoRun(
            f"{path} is {'a file' if path.exists() else 'not there'}; expected the directory of a run"
        )
    if not (path / "manifest.json").exists():
        raise NoRun(f"{path} is no run directory: it holds no manifest.json")
    directory = RunDirectory(path)
    manifest = directory.manifest()
    if not isinstance(manifest, dict) or not isinstance(manifest.get("model"), dict):
        raise ValueError(f"{directory.manifest_path} is not the manifest of a run")
    in_use_by = _holder(directory.lock_path)
    events = _events(directory.metrics_path)
    checkpoints = [entry for entry in map(_checkpoint, checkpoint.available(directory.checkpoints)) if entry]
    good = [entry for entry in checkpoints if entry["damage"] is None]
    problems = [
        f"checkpoint of step {entry['step']}: {entry['damage']}" for entry in checkpoints if entry["damage"]
    ]
    return {
        "run": str(path),
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
        "digest": _digest(path / "digest"),
        "problems": problems + events["problems"],
    }


def _holder(lock: Path) -> str | None:
    """Who trains in the run now."""
    if not lock.exists():
        return None
    try:
        with run_lock(lock):
            return None
    except RunInUse as error:
        return str(error).removeprefix(f"{lock} is held by ").split(":")[0]
    except OSError:  # not ours to open, so nobody of us holds it
        return None


def _size(arrays: dict[str, str]) -> dict[str, int]:
    """The size of a model whose arrays the manifest tells as `float32[3, 4]`."""
    numbers = bytes_ = 0
    for text in arrays.values():
        if found := _ARRAY.fullmatch(text):
            count = math.prod(int(n) for n in found[2].split(",") if n.strip())
            numbers += count
            bytes_ += count * np.dtype(found[1]).itemsize
    return {"arrays": len(arrays), "numbers": numbers, "bytes": bytes_}


def _checkpoint(path: Path) -> dict[str, Any] | None:
    """One checkpoint, verified; None if the run has removed it meanwhile."""
    entry: dict[str, Any] = {"step": step_of(path), "bytes": 0, "digest": None, "damage": None}
    try:
        entry["bytes"] = sum(file.stat().st_size for file in path.iterdir())
        entry["digest"] = checkpoint.load(path).digest
    except (CheckpointDamaged, ValueError, OSError) as error:
        if not path.exists():
            return None
        entry["damage"] = str(error).removeprefix(f"{path}: ")
    return entry


def _events(path: Path) -> dict[str, Any]:
    """What the metrics file says of the newest step."""
    found: dict[str, Any] = {"step": 0, "total_steps": None, "ended": False, "metrics": {}, "problems": []}
    metrics: dict[str, Any] = {}
    try:
        for event in read_events(path):
            found["step"] = max(found["step"], event.step)
            found["ended"] = event.kind == "end"
            if event.kind == "start":
                found["total_steps"] = event.values.get("total_steps")
            elif event.kind == "step":
                kept = {name: value for name, value in metrics.items() if name.startswith("validation_")}
                metrics = {n: v for n, v in event.values.items() if n not in RESERVED} | kept
            elif event.kind == "validation":
                metrics |= {f"validation_{name}": value for name, value in event.values.items()}
    except FileNotFoundError:
        pass
    except ValueError as error:
        found["problems"] = [str(error)]
    # JSON has no NaN: such a value is told as text.
    found["metrics"] = {
        n: v if not isinstance(v, float) or math.isfinite(v) else str(v) for n, v in metrics.items()
    }
    return found


def _digest(path: Path) -> dict[str, Any] | None:
    try:
        sha256, _, step = path.read_text(encoding="ascii").split()
        return {"step": int(step), "sha256": sha256}
    except (OSError, ValueError):
        return None
