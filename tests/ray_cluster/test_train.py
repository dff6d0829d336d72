"""Ray Train's workers as a dist_dp group: the digest of one process, whatever happens to them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.data
import ray.train

import dist_dp as dp
from dist_dp import nn, optim
from dist_dp.integrations.ray_train import DataParallelTrainer, DistDPConfig, checkpoint_of, resume_from

pytestmark = [
    pytest.mark.usefixtures("local_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray, of its own defaults
]

STEPS = 12
rng = np.random.default_rng(5)
x, y = rng.standard_normal((60, 4)).astype(np.float32), rng.integers(0, 3, 60)


def trained(
    run: Any = None,
    data: Any = (x, y),
    max_steps: int = STEPS,
    before: Callable[[int], None] = lambda step: None,
) -> str:
    dp.seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    steps = dp.steps(
        model,
        optim.Adam(model.parameters(), lr=1e-2),
        data,
        batch_size=10,
        epochs=9,
        max_steps=max_steps,
        shards=4,
        run=run,
        checkpoint_every=2,
        progress=False,
    )
    for shard in steps:
        before(shard.step)
        inputs, labels = (
            shard.batch if isinstance(shard.batch, tuple) else (shard.batch["x"], shard.batch["y"])
        )
        shard.backward(nn.functional.cross_entropy(model(inputs), labels))
    return steps.digest()


@pytest.fixture(scope="module")
def alone() -> str:
    return trained()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")  # how often Ray Train looks at its workers


def fitted(loop: Callable[[], Any], tmp_path: Path, failures: int = 0, storage: Path | None = None) -> Any:
    return DataParallelTrainer(
        loop,
        backend_config=DistDPConfig(storage=storage),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(
            storage_path=str(tmp_path), failure_config=ray.train.FailureConfig(max_failures=failures)
        ),
    ).fit()


def test_workers_share_the_shards(tmp_path, alone):
    items = [{"x": x[i], "y": int(y[i])} for i in range(len(x))]
    dataset = ray.data.from_items(items, override_num_blocks=3).materialize()

    def loop() -> list[Any]:
        seen: list[int] = []
        digests = [trained(before=seen.append), trained(data=dataset)]
        return dp.group().gather_objects([digests, len(seen), os.getpid()])

    told = fitted(loop, tmp_path).return_value
    assert [digests for digests, *_ in told] == 2 * [[alone, alone]]
    assert [seen for _, seen, _ in told] == 2 * [2 * STEPS]  # two of four shards each
    assert len({pid for *_, pid in told}) == 2


def test_a_lost_worker_costs_no_bit(tmp_path, alone):
    def loop() -> tuple[str, int]:
        def kill(step: int) -> None:
            fault = tmp_path / "killed"
            if step == 7 and ray.train.get_context().get_world_rank() == 1 and not fault.exists():
                fault.touch()
                saved = tmp_path / "digits" / "checkpoints"
                until = time.monotonic() + 20
                while not list(saved.glob("step-*/manifest.json")) and time.monotonic() < until:
                    time.sleep(0.01)  # it is written in the background
                os.kill(os.getpid(), signal.SIGKILL)
            seen.append(step)

        seen: list[int] = []
        return trained(run="digits", before=kill), min(seen)

    digest, resumed_at = fitted(loop, tmp_path, failures=1, storage=tmp_path).return_value
    assert digest == alone
    assert (tmp_path / "killed").exists()
    assert resumed_at in (2, 4, 6)
    assert (tmp_path / "digits" / "manifest.json").exists()


def test_checkpoints_are_those_of_ray_train(tmp_path, alone, monkeypatch):
    """A checkpoint that was reported, and kept by Ray Train in its own storage, begins another run where it stands."""

    def loop() -> tuple[str, int]:
        first = ray.train.get_context().get_world_rank() == 0
        trained(run="begun", max_steps=6)
        ray.train.report({"step": 6}, checkpoint=checkpoint_of("begun") if first else None)
        seen: list[int] = []
        kept = ray.train.get_all_reported_checkpoints()[-1].checkpoint
        resume_from(kept, "resumed")
        return trained(run="resumed", before=seen.append), min(seen)

    result = fitted(loop, tmp_path, storage=tmp_path / "runs")
    assert result.return_value == (alone, 6)
    assert not Path(result.checkpoint.path).is_relative_to(tmp_path / "runs")
    # And a plain program goes on from it, too, if it is said to be the same.
    monkeypatch.setenv("DIST_DP_ACCEPT_CHANGES", "1")
    seen: list[int] = []
    resume_from(result.checkpoint, tmp_path / "plain")
    assert trained(run=tmp_path / "plain", before=seen.append) == alone
    assert seen[0] == 6
    resume_from(
        ray.train.Checkpoint.from_directory(tmp_path / "nowhere"), tmp_path / "plain"
    )  # it has its own


def test_what_the_program_raises_is_told(tmp_path):
    def loop() -> None:
        def fail(step: int) -> None:
            if step == 3 and ray.train.get_context().get_world_rank() == 1:
                raise ArithmeticError("no more")

        with pytest.raises(
            ValueError, match="run='digits' would lie in the directory"
        ):  # there is no storage
            trained(run="digits")
        trained(before=fail)

    with pytest.raises(ray.train.WorkerGroupError, match="ArithmeticError: no more"):
        fitted(loop, tmp_path)
