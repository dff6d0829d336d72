"""Training: the loop over logical shards, the run directory, evaluation."""

from .fit import Result, evaluate, fit, steps
from .loop import Steps
from .options import LocalSGD, Options
from .run_directory import RunMismatch
from .session import group
from .shard import NonFiniteLoss, Shard

__all__ = [
    "LocalSGD",
    "NonFiniteLoss",
    "Options",
    "Result",
    "RunMismatch",
    "Shard",
    "Steps",
    "evaluate",
    "fit",
    "group",
    "steps",
]
