"""How long until training goes on after a worker was killed: Ray Train v2 with its default recovery.

One of two workers ends itself with SIGKILL in the middle of a run; what is measured is the time from then until the
loop does its next step, with everything that Ray Train does by default: it notices, ends the other worker, starts both
again and calls the loop from its beginning, which goes on from the newest checkpoint.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

STEP_SECONDS = 0.05


def ray_train_recovery(look_every: float | None = None) -> float:
    """Seconds from the kill of one of two workers of Ray Train until the loop does a step again.

    `ray.init` comes first; two processors are needed.

    Args:
        look_every: seconds between Ray Train's looks at its workers; None: its default (2 s).
    """
    import ray.train

    from dist_dp.integrations.ray_train import DataParallelTrainer, DistDPConfig

    if look_every is not None:  # read in this process, and handed on to the controller
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(look_every)
    with tempfile.TemporaryDirectory() as directory:
        DataParallelTrainer(
            _loop,
            train_loop_config={"directory": directory},
            backend_config=DistDPConfig(storage=directory),
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(
                storage_path=directory, failure_config=ray.train.FailureConfig(max_failures=1)
            ),
        ).fit()
        killed, going_on = (float(Path(directory, name).read_text()) for name in ("killed", "going on"))
    return going_on - killed


def _loop(config: dict[str, Any]) -> None:
    import numpy as np
    import ray.train

    import dist_dp as dp
    from dist_dp import nn, optim

    killed, going_on = (Path(config["directory"], name) for name in ("killed", "going on"))
    rank, again = ray.train.get_context().get_world_rank(), killed.exists()
    model = nn.Linear(4, 1)
    x = np.ones((400, 4), np.float32)
    for shard in dp.steps(
        model,
        optim.SGD(model.parameters(), lr=0.1),
        x,
        batch_size=10,
        shards=2,
        run="run",
        checkpoint_every=5,
        progress=False,
    ):
        if again and rank == 0 and not going_on.exists():
            going_on.write_text(repr(time.time()))
        if rank == 1 and shard.step == 20 and not again:
            killed.write_text(repr(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(STEP_SECONDS)
        shard.backward((model(shard.batch) ** 2).mean())
