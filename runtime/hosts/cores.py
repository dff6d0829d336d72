"""How many cores this process may use: what the machine has, less what affinity and quota leave out."""

from __future__ import annotations

import os
from pathlib import Path

MOST_WORKERS = 4096  # on one machine; more is a slip of the finger

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")


def affinity() -> frozenset[int] | None:
    """The logical CPUs that this process may run on; None where the system does not tell (macOS)."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def quota(group: str | None = None, root: Path = _CGROUPS) -> float | None:
    """CPUs' worth of time that the control group of this process may use (a container's limit); None without limit."""
    try:
        if group is None:
            lines = Path("/proc/self/cgroup").read_text().splitlines()
            group = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
        limits = []
        inner = root / group.strip("/")
        for folder in (inner, *inner.parents):
            if (limit := folder / "cpu.max").is_file():
                allowed, period = limit.read_text().split()
                if allowed != "max":
                    limits.append(int(allowed) / int(period))
            if folder == root:
                break
        return min(limits, default=None)
    except (OSError, ValueError):
        return None


def physical(cpus: frozenset[int], folder: Path = _CPUS) -> int:
    """How many cores these logical CPUs are: two threads of one core are one; all of them if that is not told."""
    try:
        return len({(folder / f"cpu{n}/topology/thread_siblings_list").read_text() for n in cpus})
    except OSError:
        return len(cpus)


def available() -> int:
    """The cores that this process may use, one at least.

    >>> 1 <= available() <= (os.cpu_count() or 1)
    True
    """
    cpus = affinity()
    cores = physical(cpus) if cpus else os.cpu_count() or 1
    return max(1, min(cores, int(quota() or cores)))
