"""What the environment directs in the runs of a program, so that it can be run as it is in several ways and places.

Launchers set these variables for the programs that they start:

DIST_DP_STORAGE  where a relative run= lies: below this directory or URL. `none`: nowhere that would outlive the
                 program, so it is refused. A run= that is an absolute path or a URL stays as it is.
DIST_DP_RUN      a directory: the program's runs go into `0`, `1`, ... in it, in the order in which they are made,
                 whatever their run= says. A run inside a shard's body is that worker's own and stays as it is.
DIST_DP_SHARDS   the number of shards of runs that give none.
DIST_DP_TRACE    if set, each run directory gets a trace (`dist_dp.debug.trace`).
DIST_DP_PROFILE  a directory: each worker measures its runs (`dist_dp.profile`), and writes into it what it found.
"""

from __future__ import annotations

import itertools
import os
import posixpath
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from runtime.member import in_a_body

from ..debug.trace import Trace
from ..profiling import profile
from .options import Options

RUN, SHARDS, TRACE, PROFILE = "DIST_DP_RUN", "DIST_DP_SHARDS", "DIST_DP_TRACE", "DIST_DP_PROFILE"
STORAGE, NOWHERE = "DIST_DP_STORAGE", "none"

_numbers = itertools.count()


def directed(options: Options) -> Options:
    """The options of a run, as the environment directs them.

    Raises:
        ValueError: run= is relative, and no storage is there for it.
    """
    root = os.environ.get(RUN)
    if root is None or in_a_body():
        return {**options, "run": _placed(options["run"])}
    return {**options, "run": Path(root, str(next(_numbers)))}


def _placed(run: str | os.PathLike[str] | None) -> str | os.PathLike[str] | None:
    """Where a run lies."""
    storage = os.environ.get(STORAGE)
    # What is no path at all is told by `RunDirectory`.
    if not storage or not isinstance(run, str | os.PathLike) or not os.fspath(run):
        return run
    relative = os.fspath(run)
    if os.path.isabs(relative) or "://" in relative:
        return run
    if storage == NOWHERE:
        raise ValueError(
            f"run={relative!r} would lie in the directory of the job, which is gone after it: submit with "
            "`dist-dp submit --storage DIRECTORY_OR_URL`, below which it then lies, or give run= an absolute path on a "
            "file system that all nodes share, or a URL"
        )
    return posixpath.join(storage, posixpath.normpath(relative))


def default_shards(workers: int) -> int:
    """The number of shards of a run that gives none and has none yet."""
    return int(os.environ.get(SHARDS, workers))


def trace(run: str | os.PathLike[str] | None, worker: int) -> Trace | None:
    """Where to write down what happens in a run, if that is directed."""
    return Trace(run, worker) if TRACE in os.environ and run is not None and not in_a_body() else None


def profiled() -> AbstractContextManager[object]:
    """What a run is measured by, if that is directed."""
    folder = os.environ.get(PROFILE)
    return nullcontext() if folder is None or in_a_body() else profile(folder)
