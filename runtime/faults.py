"""Faults to order: what to break, in which worker, at which step and phase. Used by tests and by `dist-dp verify`.

A plan is a JSON file, named by the variable DIST_DP_FAULTS; every process of a run reads it once. A fault strikes once
in a run, also if the process that it struck is replaced: before it strikes, a line is appended to the file beside the
plan (`landed`) and synced. The lines of that file are what really happened.
"""

from __future__ import annotations

import functools
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .member import current

FAULTS = "DIST_DP_FAULTS"

# Where a worker of a training loop comes through in every step, in this order.
STEP_PHASES = ("shard", "exchange", "exchange-started", "agreed", "apply", "committed")
PHASES = (*STEP_PHASES, "checkpoint", "body")

_EXIT = 7  # the code of `exit`
_TORN = 100  # bytes of a file that still find room on a full disk


class Ordered(RuntimeError):
    """The exception that the action `raise` raises."""


@dataclass(frozen=True)
class Fault:
    """One thing to break.

    Attributes:
        worker: whom it strikes.
        phase: where: before a "shard" is computed, before its partial sums are offered ("exchange"), before the total
            is waited for ("exchange-started"), once it is there ("agreed"), before it is applied ("apply"), after
            ("committed", at the number of steps done), before a "checkpoint" is written (by the worker that writes), or
            in the "body" of a program that calls `here` itself.
        step: at which step, or the first one after it that this worker comes to.
        action: "kill" (SIGKILL), "stop" (SIGSTOP), "hang" (sleeps for ever), "exit" (os._exit(7)), "raise" (`Ordered`),
            "delay" (sleeps for `seconds`), or "disk-full" (the next write to a file fails).
        shard: in the phase "shard", before which one; None: before the first.
        seconds: of a delay.
    """

    worker: int
    phase: str
    step: int
    action: str = "kill"
    shard: int | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise ValueError(f"phase must be one of {', '.join(PHASES)}, got {self.phase!r}")
        if self.action not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}, got {self.action!r}")


class FaultPlan:
    """The faults of a run, and how many of them have landed.

    Args:
        path: the plan's file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plan = FaultPlan.order(f"{folder}/plan.json", [Fault(1, "apply", 3, "delay")])
    ...     plan.strike(1, "apply", 2), plan.landed()
    ...     plan.strike(1, "apply", 4), plan.landed()
    ...     plan.strike(1, "apply", 5), plan.landed()
    (None, [])
    (None, [Fault(worker=1, phase='apply', step=3, action='delay', shard=None, seconds=0.0)])
    (None, [Fault(worker=1, phase='apply', step=3, action='delay', shard=None, seconds=0.0)])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.faults = [Fault(**fault) for fault in json.loads(self.path.read_text())]
        self._landed_path = self.path.with_suffix(".landed")
        self._due = [i for i in range(len(self.faults)) if i not in self._struck()]

    @classmethod
    def order(cls, path: str | os.PathLike[str], faults: Sequence[Fault]) -> FaultPlan:
        """Write a plan; a run with `{FAULTS: str(path)}` in its environment follows it."""
        Path(path).write_text(json.dumps([asdict(fault) for fault in faults]))
        Path(path).with_suffix(".landed").unlink(missing_ok=True)
        return cls(path)

    def landed(self) -> list[Fault]:
        """The faults that have struck, in their order."""
        return [self.faults[i] for i in self._struck()]

    def landed_lines(self) -> list[str]:
        """The line that each of them left: "NUMBER step STEP process ID at SECONDS", since 1970."""
        try:
            return self._landed_path.read_text().splitlines()
        except FileNotFoundError:
            return []

    def strike(self, worker: int, phase: str, step: int, shard: int | None = None) -> None:
        """Break what is to be broken at this place, if it was not broken before."""
        for i in self._due:
            fault = self.faults[i]
            if (fault.worker, fault.phase) == (worker, phase) and step >= fault.step:
                if fault.shard is not None and fault.shard != shard:
                    continue
                self._due.remove(i)
                self._note(i, step)
                _STRIKES[fault.action](fault)
                return

    def _struck(self) -> list[int]:
        return [int(line.split()[0]) for line in self.landed_lines()]

    def _note(self, number: int, step: int) -> None:
        descriptor = os.open(self._landed_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(
                descriptor, f"{number} step {step} process {os.getpid()} at {time.time():.3f}\n".encode()
            )
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def drawn(
    seed: int, workers: int, steps: int, count: int, actions: Sequence[str] = ("kill", "stop")
) -> list[Fault]:
    """`count` faults of a run of so many steps, drawn at random; spread over the workers.

    >>> drawn(1, workers=3, steps=50, count=2) == drawn(1, workers=3, steps=50, count=2)
    True
    """
    chance = random.Random(seed)
    turns = chance.sample(range(workers), workers)
    return [
        Fault(
            turns[i % workers],
            chance.choice(STEP_PHASES),
            chance.randrange(steps),
            chance.choice(actions),
            seconds=chance.uniform(0.0, 0.3),
        )
        for i in range(count)
    ]


def here(phase: str, step: int, shard: int | None = None) -> None:
    """A place where a plan may break something."""
    ordered = _plan()
    if ordered is not None:
        plan, worker = ordered
        plan.strike(worker, phase, step, shard)


@functools.cache
def _plan() -> tuple[FaultPlan, int] | None:
    """The plan of this process, and which worker it is."""
    path = os.environ.get(FAULTS)
    return (FaultPlan(path), current().worker) if path else None


# --- what is done -----------------------------------------------------------------------------------------------------


def _kill(fault: Fault) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(fault: Fault) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _hang(fault: Fault) -> None:
    while True:
        time.sleep(1.0)


def _exit(fault: Fault) -> None:
    os._exit(_EXIT)


def _raise(fault: Fault) -> None:
    raise Ordered(f"ordered in worker {fault.worker}, {fault.phase}, step {fault.step}")


def _delay(fault: Fault) -> None:
    time.sleep(fault.seconds)


def _disk_full(fault: Fault) -> None:
    """Let the next write to a file end in the middle, by the limit that every process has on the size of its files.

    The error is EFBIG, where a full disk gives ENOSPC; what is left behind is the same: a part of a file. The system
    tells the process of it by a signal, at which the limit is lifted again.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift(number: int, frame: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python has it

    signal.signal(signal.SIGXFSZ, lift)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_TORN, limits[1]))


_STRIKES: dict[str, Callable[[Fault], None]] = {
    "kill": _kill,
    "stop": _stop,
    "hang": _hang,
    "exit": _exit,
    "raise": _raise,
    "delay": _delay,
    "disk-full": _disk_full,
}
ACTIONS = tuple(_STRIKES)
