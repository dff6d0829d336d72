"""The actor that runs the program as a worker of a run on Ray.

It sets its environment by itself, so that Ray may take a process that is there already, which is seconds faster than
one with a `runtime_env` of its own. Until then nothing may load NumPy, whose libraries read the number of threads when
they are loaded; so what is heavy is imported where it is used.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from .member import RayMember

_LAST_WORDS = 2.0  # seconds to wait at most until the driver has been told what the program printed


class WorkerActor:
    """To be made an actor of (`runtime.hosts.ray.host`), with `max_restarts=0`: another process is another life.

    Args:
        environment: variables to set.
        directory: where the program runs; None: where Ray has put what was sent.
        coordinator, worker, life, workers: see `RayMember`.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        directory: str | None,
        coordinator: Any,
        worker: int,
        life: int,
        workers: int,
    ) -> None:
        os.environ.update(environment)
        if directory is not None:
            os.chdir(directory)
        from ... import member
        from .member import RayMember

        self._member = RayMember(coordinator, worker, life, workers)
        member.become(self._member)
        for name in ("stdout", "stderr"):
            setattr(sys, name, _Heard(getattr(sys, name), name, self._member))

    def ready(self) -> str:
        """It is there; returns its node."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def run(
        self, program: Callable[[], Any], report: Callable[[BaseException], Mapping[str, Any]]
    ) -> tuple[int, Any]:
        """Run the program to its end: the exit code, and what it returned."""
        from ..interrupts import hear_interrupts
        from ..program import run_program

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
