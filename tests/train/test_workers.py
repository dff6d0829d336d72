"""Any number of workers, and any of them dying anywhere: the digest of the undisturbed one-process run.

Workers are threads here (`cluster.py`), so that every place of death can be tried; `tests/faults` does the same with
processes and signals."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from train.cluster import Cluster, Death
from train.conftest import arrays, loss, make

import dist_dp as dp
from dist_dp import optim
from dist_dp.train import loop, run_directory, session
from dist_dp.train.sharded import ShardedOptimizer
from runtime.events import read_events
from runtime.member import current

PHASES = ("shard", "exchange", "exchange-started", "agreed", "apply")


class Stop(Exception):
    """Raised by a test in the body of a loop."""


def program(run: Path | None = None, rule: Any = None, until: int = 99, **options: Any) -> Any:
    """2 epochs of 5 steps with a validation after each, then an evaluation: what one worker does."""
    model, optimizer = make()

    def stopping(model: Any, batch: Any) -> Any:
        if optimizer.steps >= until:
            raise Stop
        return loss(model, batch)

    if rule is not None:
        optimizer = rule(model.parameters(), lr=1e-2)
    settings_: dict[str, Any] = {"batch_size": 10, "epochs": 2, "shards": 4, "seed": 11, "progress": False}
    held_out = arrays(23)
    result = dp.fit(
        model, stopping, optimizer, arrays(), validation=held_out, run=run, **{**settings_, **options}
    )
    return result, dp.evaluate(model, loss, held_out, batch_size=4)


# The modes that give the answer of the plain run, and those with an answer of their own.
SAME: list[dict[str, Any]] = [{}, {"overlap": True}, {"shard_optimizer": True}]
OWN: list[dict[str, Any]] = [
    {"wire": "float16"},
    {"wire": "bfloat16"},
    {"local": dp.LocalSGD(every=3)},
    {"local": dp.LocalSGD(every=2, lr=0.7, momentum=0.9)},
]


@pytest.mark.parametrize("mode", SAME + OWN, ids=str)
@pytest.mark.parametrize("shards", [1, 2, 3, 4, 5, 8, 13])
def test_the_number_of_workers_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, shards: int, mode: dict[str, Any]
) -> None:
    """13 shards of 10 examples: some are empty."""
    monkeypatch.setattr(loop, "BUCKET_BYTES", 100)
    expected = program(shards=shards, **(mode if mode in OWN else {}))
    for workers in {2, 3, 4, 5, 7} & set(range(shards + 1)):
        cluster = Cluster(workers, lambda: program(shards=shards, **mode)).run()
        assert cluster.results == dict.fromkeys(range(workers), expected)


def test_every_split_of_the_shards_over_workers_gives_one_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uneven ones too: workers may own any contiguous range, also none."""
    shards, expected = 5, program(shards=5)
    splits, balanced = 0, session.balanced_ranges
    for workers in (2, 3):
        for borders in itertools.combinations_with_replacement(range(shards + 1), workers - 1):
            cuts = [0, *borders, shards]
            ranges = tuple(itertools.pairwise(cuts))

            def split(count: int, size: int, ranges: Any = ranges) -> Any:
                return ranges if (count, size) == (shards, len(ranges)) else balanced(count, size)

            with monkeypatch.context() as patch:
                patch.setattr(session, "balanced_ranges", split)
                cluster = Cluster(workers, lambda: program(shards=shards)).run()
            assert cluster.results == dict.fromkeys(range(workers), expected), f"workers own {ranges}"
            splits += 1
    assert splits == 6 + 21


@pytest.mark.parametrize("phase", [*PHASES, "committed"])
@pytest.mark.parametrize("worker", [0, 1, 2])
@pytest.mark.parametrize("step", [0, 4, 9])
def test_a_worker_that_dies_in_any_phase_changes_nothing(
    tmp_path: Path, phase: str, worker: int, step: int
) -> None:
    step += phase == "committed"
    expected = program()
    cluster = Cluster(3, lambda: program(tmp_path / "run"), [Death(worker, phase, step)]).run()
    assert len(cluster.landed) == 1
    assert set(cluster.results) >= {0, 1, 2} - {worker}
    assert all(result == expected for result in cluster.results.values()), cluster.errors
    steps = [e.step for e in read_events(tmp_path / "run" / "metrics.jsonl") if e.kind == "step"]
    assert steps == list(range(1, 11))


@given(
    workers=st.integers(2, 4),
    places=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(PHASES), st.integers(0, 9)), min_size=1, max_size=5
    ),
    mode=st.sampled_from([*SAME, {"overlap": True, "shard_optimizer": True}, *OWN]),
)
@settings(max_examples=40, deadline=None)
def test_deaths_drawn_at_random_change_nothing(
    workers: int, places: list[tuple[int, str, int]], mode: dict[str, Any]
) -> None:
    starts = range(10)
    if "local" in mode:  # only rounds are seen: they begin here
        starts = [5 * epoch + k for epoch in (0, 1) for k in range(0, 5, mode["local"].every)]
    deaths = [Death(w % workers, phase, max(s for s in starts if s <= step)) for w, phase, step in places]
    with tempfile.TemporaryDirectory() as run:
        cluster = Cluster(workers, lambda: program(Path(run), **mode, checkpoint_every=1), deaths).run()
    assert cluster.over is not None and cluster.over.code == 0, (cluster.over, cluster.errors)
    assert len(cluster.landed) >= 1
    expected = program(**(mode if mode in OWN else {}))
    assert cluster.results and all(result == expected for result in cluster.results.values())


@pytest.mark.parametrize("mode", OWN, ids=str)
@pytest.mark.parametrize("last", [1, 4, 7])
def test_a_mode_of_its_own_goes_on_from_a_checkpoint(tmp_path: Path, mode: dict[str, Any], last: int) -> None:
    with pytest.raises(Stop):
        program(tmp_path / "run", until=last, **mode, checkpoint_every=1)
    assert program(tmp_path / "run", **mode) == program(**mode)


@pytest.mark.parametrize("rule", [optim.LAMB, optim.Adagrad, optim.SGD, optim.RMSprop])
def test_a_sharded_optimizer_gives_the_answer_of_any_rule(rule: Any) -> None:
    """Rules that see parameters whole, start from other values than zero, or have no state at all."""
    expected = program(rule=rule)
    cluster = Cluster(4, lambda: program(rule=rule, shard_optimizer=True)).run()
    assert cluster.results == dict.fromkeys(range(4), expected)


def test_the_state_of_a_sharded_optimizer_is_spread() -> None:
    """Of 8 workers each keeps two eighths, to within the 16 elements on which ranges begin."""
    _, optimizer = make()
    total = sum(part.flat.values.size for part in optimizer.parts)
    owners = np.zeros(total, int)
    for rank in range(8):
        sharded = ShardedOptimizer(optimizer)
        sharded.place(rank, 8)
        for _, lo, hi, _, _ in sharded.held():
            owners[lo:hi] += 1
            assert hi - lo <= total / 8 + 16
    assert (owners == 2).all()


@pytest.mark.parametrize("step", [3, 7])
def test_a_worker_lost_together_with_its_copy_takes_the_run_back_to_its_checkpoint(
    tmp_path: Path, step: int
) -> None:
    run, expected = tmp_path / "run", program()
    deaths = [Death(worker, "exchange", step, together=2) for worker in (1, 2)]
    cluster = Cluster(4, lambda: program(run, shard_optimizer=True, checkpoint_every=2), deaths).run()
    assert len(cluster.landed) == 2
    assert cluster.results and all(result == expected for result in cluster.results.values())
    events = list(read_events(run / "metrics.jsonl"))
    assert [e.step for e in events if e.kind == "step"] == list(range(1, 11))
    assert any(f.position.op == -1 for f in cluster.forms[1:]), "the state should have been lost"


def test_a_loop_that_every_worker_leaves_early_ends_alike() -> None:
    def broken_off() -> Any:
        model, optimizer = make()
        held_out = arrays(23)
        steps = dp.steps(model, optimizer, arrays(), batch_size=10, epochs=2, shards=4, progress=False)
        for shard in steps:
            if shard.step == 6:
                break
            value, weight, _ = loss(model, shard.batch)
            shard.backward(value, weight)
        return steps.step, steps.digest(), dp.evaluate(model, loss, held_out, batch_size=4)

    cluster = Cluster(3, broken_off).run()
    assert cluster.results == dict.fromkeys(range(3), broken_off())


def test_workers_that_leave_a_loop_at_different_steps_are_told() -> None:
    def broken_off() -> None:
        model, optimizer = make()
        for shard in dp.steps(model, optimizer, arrays(), batch_size=10, shards=4, progress=False):
            if shard.index == 3 and shard.step == 2:  # only the worker that has this shard comes here
                break
            shard.backward(loss(model, shard.batch)[0])
        dp.evaluate(model, loss, arrays(23), batch_size=4)

    cluster = Cluster(2, broken_off).run()
    assert cluster.over is not None and cluster.over.code == 1
    assert any("went different ways" in str(error) for error in cluster.errors), cluster.errors


def test_a_worker_with_another_build_or_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = run_directory.fingerprint

    def other(**_: Any) -> Any:
        return {**real(), "blas_kernels": "Haswell" if current().worker == 1 else "SkylakeX"}

    monkeypatch.setattr(run_directory, "fingerprint", other)
    cluster = Cluster(2, program).run()
    assert cluster.over is not None and cluster.over.code == 1
    for error in cluster.errors:
        assert isinstance(error, dp.RunMismatch)
        assert "blas_kernels" in str(error) and "OPENBLAS_CORETYPE" in str(error)


def test_more_workers_than_shards_are_refused() -> None:
    cluster = Cluster(3, lambda: program(shards=2)).run()
    assert cluster.over is not None and cluster.over.code == 1
    assert "shards must be at least the number of workers, got 2 for 3 workers" in str(cluster.errors[0])


def test_shards_are_as_many_as_the_workers_of_the_first_launch(tmp_path: Path) -> None:
    expected = program(shards=3)
    run = tmp_path / "run"
    with pytest.raises(Stop):
        program(run, until=4, shards=3, checkpoint_every=1)
    assert Cluster(2, lambda: program(run, shards=None)).run().results == dict.fromkeys(range(2), expected)
    assert Cluster(3, lambda: program(shards=None)).run().results == dict.fromkeys(range(3), expected)


def test_exchanges_of_the_program_itself() -> None:
    def exchanges() -> Any:
        group = dp.group()
        mine = np.full(3, group.rank + 1.0)
        return group.all_reduce(mine).tolist(), group.gather_objects({"rank": group.rank}), group.size

    cluster = Cluster(3, exchanges).run()
    assert cluster.results == dict.fromkeys(range(3), ([6.0] * 3, [{"rank": r} for r in range(3)], 3))


def test_an_evaluation_in_the_body_of_a_loop_is_the_workers_own() -> None:
    def evaluating() -> Any:
        model, optimizer = make()
        seen = []
        for shard in dp.steps(model, optimizer, arrays(), batch_size=10, shards=4, progress=False):
            if shard.index == 0:
                seen.append(dp.evaluate(model, loss, arrays(23), batch_size=4))
            shard.backward(loss(model, shard.batch)[0])
        return seen

    results = Cluster(2, evaluating).run().results
    assert results == {0: evaluating(), 1: []}


@pytest.mark.parametrize("exchanges", [False, True])
def test_a_replacement_may_ask_for_its_rank_but_not_repeat_an_exchange(exchanges: bool) -> None:
    def asking() -> Any:
        group = dp.group()
        if exchanges:
            group.barrier()
        return group.rank, group.size, program()

    cluster = Cluster(3, asking, [Death(1, "exchange", 4)]).run()
    assert len(cluster.landed) == 1 and cluster.over is not None
    if exchanges:
        assert not cluster.errors and 1 not in cluster.results  # it is lost again and again: raised as such
    else:
        assert cluster.over.code == 0
        assert cluster.results == {rank: (rank, 3, program()) for rank in range(3)}


def test_a_group_is_refused_in_the_body_of_a_loop() -> None:
    def in_the_body() -> None:
        model, optimizer = make()
        for _ in dp.steps(model, optimizer, arrays(), batch_size=10, shards=4, progress=False):
            dp.group()

    with pytest.raises(RuntimeError, match="before the loop"):
        in_the_body()
    assert "before the loop" in str(Cluster(2, in_the_body).run().errors[0])
