"""Training: the loop over logical shards, the run directory, evaluation."""

from .fit import Result, evaluate, fit, steps
from .loop import Steps
from .options import Options
from .run_directory import RunMismatch
from .shard import NonFiniteLoss, Shard

__all__ = ["NonFiniteLoss", "Options", "Result", "RunMismatch", "Shard", "Steps", "evaluate", "fit", "steps"]
