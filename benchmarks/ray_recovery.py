"""After a worker on Ray was killed, ours beside Ray Train v2: `python -m benchmarks ray_recovery`.

Of Ray Train: one of two workers ends itself with SIGKILL in the middle of a run; what is measured is the time from then
until the loop does its next step, with everything that Ray Train does by default: it notices, ends the other worker,
starts both again and calls the loop from its beginning, which goes on from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import losses
from .turns import ROOT

OUTPUT = ROOT / "docs" / "benchmarks" / "ray_recovery.md"
STEP_SECONDS = 0.05


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ray_recovery", description=__doc__)
    parser.add_argument("--kills", type=int, default=8, help="of ours, for each number of workers")
    parser.add_argument("--runs", type=int, default=3, help="of Ray Train, for each setting")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    text = []
    for line in lines(args.kills, args.runs):
        print(line, flush=True)
        text.append(line)
    args.output.write_text("\n".join(text) + "\n", encoding="utf-8")


def lines(kills: int, runs: int) -> Iterator[str]:
    # Before Ray is loaded: a token of this process, and nothing of the user's.
    os.environ.update(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0"
    )
    import ray

    yield "# A worker on Ray is killed\n"
    yield f"Made by `python -m benchmarks ray_recovery`, with Ray {ray.__version__} on {os.cpu_count()} processors.\n"
    yield "## dist_dp\n"
    yield "`dist-dp run --ray` of the program in `benchmarks/losses_program.py`; one worker after the other gets"
    yield "SIGKILL at a random moment. *survivors*: until those that are left have finished a step among themselves;"
    yield "*replacement*: until all workers, the new one among them, have finished one; *again*: steps of which some"
    yield "shard was begun twice.\n"
    yield "| workers | kills | survivors ms | worst | replacement s | worst | steps again per kill | most |"
    yield "|---|---|---|---|---|---|---|---|"
    for workers in (2, 4):
        yield losses.row(workers, losses.recoveries(workers, kills, "--ray", "--cpus-per-worker", "0.5"))
    yield "\n## Ray Train v2\n"
    yield "The same kind of program in its `DataParallelTrainer` with two workers and a checkpoint every 5 steps: from"
    yield "the kill until the loop does a step again. All workers are ended and started again, and go on from the"
    yield "checkpoint.\n"
    yield "| looks at its workers | runs | median s | worst |\n|---|---|---|---|"
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    for look_every in (None, 0.2):
        seconds = [ray_train_recovery(look_every) for _ in range(runs)]
        every = "every 2 s (default)" if look_every is None else f"every {look_every} s"
        yield f"| {every} | {runs} | {statistics.median(seconds):.1f} | {max(seconds):.1f} |"
    ray.shutdown()


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
