"""What the environment directs in the runs of a program, so that it can be run as it is in several ways and compared.

`dist-dp verify` sets these variables (and `dist-dp run --shards` the second):

DIST_DP_RUN      a directory: the program's runs go into `0`, `1`, ... in it, in the order in which they are made,
                 whatever their run= says. A run inside a shard's body is that worker's own and stays as it is.
DIST_DP_SHARDS   the number of shards of runs that give none.
DIST_DP_TRACE    if set, each run directory gets a trace (`dist_dp.debug.trace`).
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from runtime.member import in_a_body

from ..debug.trace import Trace
from .options import Options

RUN, SHARDS, TRACE = "DIST_DP_RUN", "DIST_DP_SHARDS", "DIST_DP_TRACE"

_numbers = itertools.count()


def directed(options: Options) -> Options:
    """The options of a run, as the environment directs them."""
    root = os.environ.get(RUN)
    return options if root is None or in_a_body() else {**options, "run": Path(root, str(next(_numbers)))}


def default_shards(workers: int) -> int:
    """The number of shards of a run that gives none and has none yet."""
    return int(os.environ.get(SHARDS, workers))


def trace(run: str | os.PathLike[str] | None, worker: int) -> Trace | None:
    """Where to write down what happens in a run, if that is directed."""
    return Trace(run, worker) if TRACE in os.environ and run is not None and not in_a_body() else None
