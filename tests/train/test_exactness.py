"""One run, one answer: the digest does not depend on how a run was cut, saved, loaded or spread over workers."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from runtime.events import read_events

STEPS = 15


class Stop(Exception):
    """Raised by a test in the body of a loop, in the place of a kill."""


def run_until(program: Any, directory: Path, last: int, **options: Any) -> None:
    """One launch of the run that ends after `last` steps in the middle of the next."""
    make, loss, arrays = program
    model, optimizer = make()

    def stopping(model: Any, batch: Any) -> Any:
        if optimizer.steps >= last:
            raise Stop
        return loss(model, batch)

    settings = {"batch_size": 10, "epochs": 3, "shards": 4, "seed": 11, "progress": False, **options}
    with pytest.raises(Stop):
        dp.fit(model, stopping, optimizer, arrays(), run=directory, **settings)


def test_the_same_program_gives_the_same_digest_and_another_seed_another(train: Any) -> None:
    first, second = train(), train()
    assert first == second
    assert first.step == STEPS
    assert train(seed=12).digest != first.digest


@pytest.mark.parametrize("cuts", [(4,), (1, 9), (5, 6, 7), (2, 5, 10, 14), (0, 3, 3, 8, 12)])
def test_a_run_cut_into_launches_ends_like_the_whole_run(
    train: Any, program: Any, tmp_path: Path, cuts: tuple[int, ...]
) -> None:
    for last in cuts:
        run_until(program, tmp_path / "run", last, checkpoint_every=2)
    assert train(tmp_path / "run", checkpoint_every=2) == train()


@pytest.mark.parametrize("every", [1, 7, 0, None])
def test_how_often_a_run_is_saved_does_not_matter(train: Any, tmp_path: Path, every: int | None) -> None:
    assert train(tmp_path / "run", checkpoint_every=every) == train()


@pytest.mark.parametrize("moment", ["apply", "validate"])
def test_a_step_interrupted_while_it_is_applied_is_not_saved(
    train: Any, program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Ctrl-C in the middle of an update, or before a schedule has seen the validation that belongs to the step."""
    make, loss, arrays = program
    settings = {
        "batch_size": 10,
        "epochs": 3,
        "shards": 4,
        "seed": 11,
        "progress": False,
        "validation": arrays(20),
    }

    def launch(directory: Path | None, interrupted: bool) -> dp.Result:
        model, _ = make()
        optimizer = dp.optim.AdamW(
            model.parameters(), lr=dp.optim.Plateau(3e-2, factor=0.5, patience=0, threshold=1.0)
        )
        landed = []

        def interrupt(*_: Any, **__: Any) -> Any:
            landed.append(optimizer.steps)
            next(model.parameters()).data[...] += 1  # half of an update
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            if interrupted and moment == "apply":
                update = optimizer.apply
                patch.setattr(
                    optimizer, "apply", lambda *a: interrupt() if optimizer.steps == 7 else update(*a)
                )
            elif interrupted:
                patch.setattr(sys.modules["dist_dp.train.fit"], "evaluate", interrupt)
            try:
                return dp.fit(model, loss, optimizer, arrays(), run=directory, checkpoint_every=2, **settings)
            except KeyboardInterrupt:
                assert landed == [7] if moment == "apply" else landed == [5]
                return dp.Result("", 0)

    whole = launch(None, False)
    launch(tmp_path / "run", True)
    assert launch(tmp_path / "run", False) == whole


def test_prefetch_does_not_matter(train: Any) -> None:
    assert train(prefetch=0) == train(prefetch=1) == train(prefetch=5)


def test_the_number_of_shards_is_part_of_the_question(train: Any) -> None:
    assert len({train(shards=n).digest for n in (1, 2, 4)}) == 3


def test_a_level_two_loop_gives_the_answer_of_fit(train: Any, program: Any) -> None:
    make, loss, arrays = program
    model, optimizer = make()
    model.train()
    steps = dp.steps(model, optimizer, arrays(), batch_size=10, epochs=3, shards=4, seed=11, progress=False)
    for shard in steps:
        value, weight, metrics = loss(model, shard.batch)
        shard.backward(value, weight)
        shard.log(metrics)
    assert (steps.digest(), steps.step, steps.metrics) == (train().digest, train().step, train().metrics)


def test_weights_make_one_exact_mean(program: Any) -> None:
    """The gradient of a step is that of the weighted mean over the batch, however it was cut into shards."""
    x = np.random.default_rng(0).normal(size=(12, 3))
    target = np.random.default_rng(1).normal(size=12)
    results = []
    for shards in (1, 5, 12, 20):  # uneven and, with 20, empty ones
        w = dp.nn.Linear(3, 1, bias=False).to(np.float64)
        with dp.no_grad():
            w.weight.fill_(1)
        steps = dp.steps(
            w, dp.optim.SGD(w.parameters(), lr=0.1), (x, target), batch_size=12, shards=shards, progress=False
        )
        for shard in steps:
            xs, ts = shard.batch
            weight = np.abs(ts).sum()
            squares = (w(xs)[:, 0] - ts) ** 2 * np.abs(ts)
            shard.backward(squares.sum() / weight, weight)
        results.append(w.weight.detach().numpy())
    residual = x.sum(1) - target
    gradient = 2 * (np.abs(target) * residual) @ x / np.abs(target).sum()
    for result in results:
        np.testing.assert_allclose(result[0], 1 - 0.1 * gradient, rtol=1e-12)


def test_a_parameter_that_no_shard_used_does_not_move(program: Any) -> None:
    make, _, arrays = program
    model, optimizer = make()
    before = model.rare.weight.detach().numpy().copy()
    x, y = arrays()
    for shard in dp.steps(model, optimizer, (x, y), batch_size=23, epochs=2, shards=3, progress=False):
        xs, ys = shard.batch
        shard.backward(dp.nn.functional.cross_entropy(model(xs, rare=False), ys))
    np.testing.assert_array_equal(model.rare.weight.detach().numpy(), before)
    state = optimizer.state_dict()["state"]
    names = [name for name, _ in model.named_parameters()]
    assert {names[i]: entry["step"] for i, entry in state.items()} == {
        name: 0 if name.startswith("rare") else 4 for name in names
    }


def test_metrics_of_a_resumed_run_are_written_once(train: Any, program: Any, tmp_path: Path) -> None:
    run_until(program, tmp_path / "run", 9, checkpoint_every=4)
    # What a kill leaves: the lines of steps that no checkpoint holds.
    kept = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    shutil.rmtree(kept)
    train(tmp_path / "run", checkpoint_every=4)
    steps = [e.step for e in read_events(tmp_path / "run" / "metrics.jsonl") if e.kind == "step"]
    assert steps == list(range(1, STEPS + 1))


def test_a_finished_run_says_its_result_again(train: Any, tmp_path: Path) -> None:
    first = train(tmp_path / "run")
    assert train(tmp_path / "run") == first


def test_the_run_directory_tells_the_digest(train: Any, tmp_path: Path) -> None:
    result = train(tmp_path / "run")
    assert (tmp_path / "run" / "digest").read_text() == f"{result.digest} step {STEPS}\n"
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["settings"]["shards"] == 4 and "fingerprint" in manifest


def test_evaluation_counts_every_example_once(program: Any) -> None:
    make, loss, arrays = program
    model, _ = make()
    model.eval()
    x, y = arrays()
    weights = [float(1 + (y[i : i + 7] > 0).sum()) for i in range(0, len(x), 7)]
    with dp.no_grad():
        losses = [loss(model, (x[i : i + 7], y[i : i + 7]))[0].item() for i in range(0, len(x), 7)]
    measured = dp.evaluate(model, loss, (x, y), batch_size=7)
    assert measured["loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-6)
    assert set(measured) == {"loss", "accuracy"}
    assert measured == dp.evaluate(model, loss, (x, y), batch_size=7)
