"""What the loop does with what a body may do: log, assign, forget, freeze, and come to grief."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import nn, optim
from runtime import checkpoint
from runtime.checkpoint import Saver, layout, writer
from runtime.events import read_events

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)


def regression() -> tuple[nn.Module, optim.Optimizer]:
    dp.seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    return model, optim.SGD(model.parameters(), lr=0.1)


def loss(model: Any, batch: Any) -> Any:
    return (model(batch) ** 2).mean()


def test_metrics_may_be_nan_or_infinite(tmp_path: Path) -> None:
    def strange(model: Any, batch: Any) -> Any:
        return loss(model, batch), len(batch), {"a": math.nan, "b": -math.inf}

    results = []
    for _ in range(2):  # the second launch reads them back
        model, optimizer = regression()
        results.append(
            dp.fit(model, strange, optimizer, X, batch_size=4, run=tmp_path / "run", progress=False)
        )
    for result in results:
        assert math.isnan(result.metrics["a"]) and result.metrics["b"] == -math.inf


@pytest.mark.parametrize("name", ["lr", "epoch", "seconds", "examples", "kind", "validation_loss"])
def test_names_that_the_loop_reports_itself_are_refused_before_anything_is_applied(name: str) -> None:
    model, optimizer = regression()
    with pytest.raises(ValueError, match=f"metric '{name}'"):
        dp.fit(model, lambda m, b: (loss(m, b), 1, {name: 1.0}), optimizer, X, batch_size=4, progress=False)
    assert optimizer.steps == 0


def test_a_rate_that_the_body_assigned_holds_after_a_resume(tmp_path: Path) -> None:
    def launch(run: Path | None, last: int) -> str | None:
        model, optimizer = regression()
        steps = dp.steps(model, optimizer, X, batch_size=4, epochs=3, run=run, progress=False)
        for shard in steps:
            if shard.step == last:
                return None
            if shard.step == 2:
                optimizer.param_groups[0]["lr"] = 0.01
            shard.backward(loss(model, shard.batch))
        return steps.digest()

    launch(tmp_path / "run", 5)
    assert launch(tmp_path / "run", 99) == launch(None, 99)


def test_a_part_frozen_in_evaluation_mode_stays_so() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[1].eval()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    before = model[1].running_mean.numpy().copy()
    dp.fit(model, loss, optimizer, X, batch_size=4, validation=X, progress=False)
    assert model.training and model[0].training and not model[1].training
    np.testing.assert_array_equal(model[1].running_mean.numpy(), before)


def test_parameters_that_are_not_trained_collect_nothing_over_the_steps() -> None:
    model, _ = regression()
    optimizer = optim.SGD(model[2].parameters(), lr=0.1)
    norms = []
    for shard in dp.steps(model, optimizer, X, batch_size=12, epochs=4, progress=False):
        shard.backward(loss(model, shard.batch))
        norms.append(float(np.abs(model[0].weight.grad.numpy()).sum()))
    assert max(norms) < 2 * norms[0]


def test_a_gradient_that_came_past_the_shard_is_noticed() -> None:
    model, optimizer = regression()
    with pytest.raises(RuntimeError, match=r"call shard\.backward\(loss\), not loss\.backward\(\)"):
        for shard in dp.steps(model, optimizer, X, batch_size=4, progress=False):
            loss(model, shard.batch).backward()


def test_two_losses_of_one_shard_report_their_weighted_mean() -> None:
    model, optimizer = regression()
    steps = dp.steps(model, optimizer, X, batch_size=12, progress=False)
    for shard in steps:
        shard.backward(loss(model, shard.batch) * 0.0 + 1.0, weight=1)
        shard.backward(loss(model, shard.batch) * 0.0 + 3.0, weight=3)
    assert steps.metrics["loss"] == pytest.approx(2.5)


def test_a_finite_loss_with_a_nan_gradient_names_the_parameter() -> None:
    w = nn.Linear(3, 1)
    w.weight.register_hook(lambda g: g * np.nan)
    with pytest.raises(dp.NonFiniteLoss, match="the gradient of weight is not finite at step 0"):
        dp.fit(w, loss, optim.SGD(w.parameters(), lr=0.1), X, batch_size=4, progress=False)
    assert np.isfinite(w.weight.detach().numpy()).all()


def test_steps_in_which_no_shard_takes_part_move_the_schedule_alone(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = regression()
    optimizer = optim.SGD(model.parameters(), lr=optim.LinearDecay(1.0))
    before = model[0].weight.detach().numpy().copy()
    steps = dp.steps(model, optimizer, X, batch_size=4, progress=False)
    for _ in steps:
        pass
    assert (steps.step, optimizer.steps) == (3, 3)
    assert "nothing was trained" in caplog.text
    np.testing.assert_array_equal(model[0].weight.detach().numpy(), before)


@pytest.mark.parametrize("step", [4, 15])
@pytest.mark.parametrize("where", ["copied", "written"])
def test_ctrl_c_while_a_checkpoint_is_made_is_heard_when_the_newest_step_is_saved(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, step: int
) -> None:
    """While the state is copied, in the thread of the loop; while it is written, in another, during later steps or, of
    the last step, while the loop waits for it."""
    landed: list[int] = []

    def interrupt(at: int) -> None:
        if at == step and not landed:
            landed.append(at)
            os.kill(os.getpid(), signal.SIGINT)

    save, write = Saver.save, writer.write_manifest

    def copied(self: Saver, root: Any, at: int, *rest: Any, **options: Any) -> None:
        if where == "copied":
            interrupt(at)
        save(self, root, at, *rest, **options)

    def written(directory: Any, manifest: Any) -> None:
        if where == "written":
            interrupt(manifest.step)
        write(directory, manifest)

    monkeypatch.setattr(Saver, "save", copied)
    monkeypatch.setattr(writer, "write_manifest", written)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", checkpoint_every=4)
    assert landed == [step]
    newest = checkpoint.available(tmp_path / "run" / "checkpoints")[0]
    steps = [e.step for e in read_events(tmp_path / "run" / "metrics.jsonl") if e.kind == "step"]
    saved = layout.step_of(newest)
    assert step <= saved <= steps[-1]  # a step that is interrupted while it is applied is not saved
    assert (tmp_path / "run" / "digest").read_text().endswith(f" step {saved}\n")
    assert train(tmp_path / "run", checkpoint_every=4) == train()
