"""What a run computed, bit by bit but short: SHA-256 of every shard's gradients and of the model after every step.

Two traces of one program are compared to find where they first differ. A trace is a folder in the run directory, with
one file of JSON lines for each process:

    {"step": 3, "shard": 1, "weight": 8.0, "loss": "0.25", "gradients": {name: sha256}}
    {"step": 3, "after": {name: sha256}}

A step that was redone stands there again. Gradients are as they go into the sum: multiplied by their weight.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.digest import array_digest

_FOLDER = "trace"


class Trace:
    """Writes the trace of one process.

    Args:
        run: the run directory.
        worker: the number of this worker.
    """

    def __init__(self, run: str | os.PathLike[str], worker: int) -> None:
        self._path = Path(run, _FOLDER, f"worker-{worker}-{os.getpid()}.jsonl")
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def shard(
        self, step: int, shard: int, weight: float, loss: float | None, gradients: Mapping[str, Any]
    ) -> None:
        """What a shard adds to a step; a parameter that it did not touch is not in `gradients`."""
        hashes = _hashes(gradients)
        self._add({"step": step, "shard": shard, "weight": weight, "loss": repr(loss), "gradients": hashes})

    def after(self, step: int, arrays: Mapping[str, Any]) -> None:
        """The parameters and buffers after a step."""
        self._add({"step": step, "after": _hashes(arrays)})

    def _add(self, entry: dict[str, Any]) -> None:
        with open(
            self._path, "a", encoding="utf-8"
        ) as file:  # opened anew: a kill loses nothing, no one has to close
            file.write(json.dumps(entry) + "\n")


def _hashes(arrays: Mapping[str, Any]) -> dict[str, str]:
    return {name: array_digest(array) for name, array in arrays.items()}


# --- comparing ----------------------------------------------------------------------------------------------------


def first_difference(expected: Path, found: Path) -> str | None:
    """Where the traces of two run directories first differ, in words; None if nowhere.

    Both are of one program; `expected` was computed by one process. A shard is compared with every time that it was
    computed, and the model after a step with that of every worker.

    Raises:
        ValueError: one of them holds no trace.
    """
    reference = {(step, shard): entry for step, shard, _, entry in _entries(expected)}
    others = list(_entries(found))
    if not (reference and others):
        raise ValueError(f"there is no trace in {expected if not reference else found}")
    # Shards come before what follows from them.
    order = sorted(others, key=lambda e: (e[0], e[1] is None, e[1] or 0, e[2]))
    for step, shard, worker, entry in order:
        before = reference.get((step, shard))
        place = f"step {step}" if shard is None else f"step {step}, shard {shard}"
        if before is None:
            return f"{place}: worker {worker} computed it, one process did not"
        if shard is None:
            if name := _differing(before["after"], entry["after"]):
                what = "all shards of it agree, so the sum or the update differs"
                return f"step {step}, parameter {name}, after the step on worker {worker}; {what}"
            continue
        if name := _differing(before["gradients"], entry["gradients"]):
            return f"{place}, parameter {name}: its gradient, computed by worker {worker}"
        for key in ("weight", "loss"):
            if before[key] != entry[key]:
                return f"{place}: its {key}, {entry[key]} on worker {worker}, {before[key]} in one process"
    missing = sorted({key for key in reference if key[1] is not None} - {(s, i) for s, i, _, _ in others})
    if missing:
        return "step {}, shard {}: computed by one process only".format(*missing[0])
    return None


def _differing(a: Mapping[str, str], b: Mapping[str, str]) -> str | None:
    """The first name, in the order of the model, whose hashes differ or that only one of the two has."""
    return next((name for name in {**a, **b} if a.get(name) != b.get(name)), None)


def _entries(run: Path) -> Iterator[tuple[int, int | None, int, dict[str, Any]]]:
    """(step, shard or None, worker, entry) of all processes."""
    for path in sorted(Path(run, _FOLDER).glob("worker-*.jsonl")):
        worker = int(path.name.split("-")[1])
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # else the process was killed while it wrote
                entry = json.loads(line)
                yield entry["step"], entry.get("shard"), worker, entry
