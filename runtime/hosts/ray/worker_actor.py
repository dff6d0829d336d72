"""The actor that runs the program as a worker of a run on Ray."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import ray

from ... import member
from ..coordinated import hear_interrupts
from ..program import run_program
from .member import RayMember

_LAST_WORDS = 2.0  # seconds to wait at most until the driver has been told what the program printed


class WorkerActor:
    """To be made an actor of (`runtime.hosts.ray.host`), with `max_restarts=0`: another process is another life.

    Args:
        directory: where the program runs, if it is not shipped.
    """

    def __init__(self, coordinator: Any, worker: int, life: int, workers: int, directory: str | None) -> None:
        if directory is not None:
            os.chdir(directory)
        self._member = RayMember(coordinator, worker, life, workers)
        member.become(self._member)
        for name in ("stdout", "stderr"):
            setattr(sys, name, _Heard(getattr(sys, name), name, self._member))

    def ready(self) -> str:
        """It is there; returns its node."""
        return str(ray.get_runtime_context().get_node_id())

    def run(
        self, program: Callable[[], Any], report: Callable[[BaseException], Mapping[str, Any]]
    ) -> tuple[int, Any]:
        """Run the program to its end: the exit code, and what it returned."""
        hear_interrupts()
        returned: list[Any] = []
        code = run_program(lambda: returned.append(program()), report, lambda: self._member)
        sys.stdout.flush()
        self._member.flushed(_LAST_WORDS)
        return code, returned[0] if returned else None


class _Heard(io.TextIOBase):
    """A text stream that the driver shows too; Ray keeps the original in a file of the worker's node."""

    def __init__(self, original: TextIO, name: str, among: RayMember) -> None:
        self._original, self._name, self._member = original, name, among

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def write(self, text: str, /) -> int:
        self._member.printed(self._name, text.encode(errors="replace"))
        return self._original.write(text)

    def flush(self) -> None:
        self._original.flush()

    def fileno(self) -> int:
        return self._original.fileno()

    def writable(self) -> bool:
        return True
