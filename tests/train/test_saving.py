"""When a run is saved and by whom: the workers write together, the step never waits, what fails is left out."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from train.cluster import Cluster, Death
from train.conftest import make
from train.test_workers import Stop, program

import dist_dp as dp
from dist_dp.train import saving
from runtime import checkpoint, store
from runtime.events import Event, read_events
from runtime.member import current

STEPS = 10  # of `program`


def events(run: Path, kind: str) -> list[Event]:
    return [event for event in read_events(run / "metrics.jsonl") if event.kind == kind]


def parts_of(run: Path) -> dict[int, list[str]]:
    """The parts of each checkpoint, with the name of the attempt left out."""
    found = {}
    for saved in checkpoint.available(run / "checkpoints"):
        names = [re.sub(r"\.\w{8}\.", ".", name) for name in saved.names() if name != "manifest.json"]
        found[checkpoint.load(saved).step] = names
    return found


def parts(size: int) -> list[str]:
    return [f"arrays-{rank + 1}-of-{size}.safetensors" for rank in range(size)]


def finished(cluster: Cluster, expected: Any, landed: int = 0) -> None:
    assert cluster.over is not None and cluster.over.code == 0, (cluster.over, cluster.errors)
    assert len(cluster.landed) == landed
    assert cluster.results and all(result == expected for result in cluster.results.values())


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], bool]], threading.Event]:
    """Let the disk take nothing of what a test names until it sets the event."""

    def make_slow(which: Callable[[Path], bool]) -> threading.Event:
        opened, write = threading.Event(), store.write_file

        def waiting(path: Path, chunks: Any) -> None:
            assert not which(path) or opened.wait(30)
            write(path, chunks)

        monkeypatch.setattr(store, "write_file", waiting)
        return opened

    return make_slow


def test_the_workers_write_together_and_any_number_of_them_goes_on(tmp_path: Path) -> None:
    expected, run = program(), tmp_path / "run"
    for workers, until in ((3, 4), (4, 7), (1, 9), (2, 99)):
        if workers == 1:
            with pytest.raises(Stop):
                program(run, until=until, shards=4, checkpoint_every=1, keep_last=50)
            continue
        cluster = Cluster(
            workers, lambda until=until: program(run, until=until, checkpoint_every=1, keep_last=50)
        )
        cluster.run()
        if until == 99:
            finished(cluster, expected)
    found = parts_of(run)
    assert found[STEPS] == parts(2)
    assert len({len(names) for names in found.values()}) > 1
    assert all(names in (parts(len(names)), ["arrays.safetensors"]) for names in found.values())
    (*_, last) = events(run, "checkpoint")
    assert last.step == STEPS and last.values["digest"] == expected[0].digest
    assert last.values["seconds"] > 0 and last.values["bytes"] > 1000
    assert not list(run.glob("seen-*"))


def test_workers_that_do_not_see_one_directory_are_told_and_rank_0_writes_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finished(
        Cluster(3, lambda: program(tmp_path / str(current().worker), checkpoint_every=2)).run(), program()
    )
    found = parts_of(tmp_path / "0")
    assert found and all(names == ["arrays.safetensors"] for names in found.values()) and STEPS in found
    assert not list(tmp_path.glob("[12]/**/*.safetensors"))
    said = [str(event.values["message"]) for event in events(tmp_path / "0", "warning")]
    (line,) = [line for line in said if "do not see" in line]
    assert (
        "the workers of rank 1, 2 do not see" in line
        and "give run= a directory that all machines share" in line
    )


def test_one_that_has_not_heard_whether_the_directory_is_shared_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generation in which it was found out ended when only some had heard."""
    monkeypatch.setattr(
        saving.Saving, "_look", lambda self, group, step: setattr(self, "_shared", group.rank == 0)
    )
    finished(Cluster(3, lambda: program(tmp_path / "run", checkpoint_every=2)).run(), program())
    assert parts_of(tmp_path / "run")[STEPS] == parts(3)


def test_by_time_all_workers_take_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of one worker decides, whatever the others' clocks say."""
    monkeypatch.setattr(saving, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    finished(Cluster(3, lambda: program(tmp_path / "run", keep_last=50)).run(), program())
    found = parts_of(tmp_path / "run")
    assert len(found) > 1 and found[STEPS] == parts(3)
    assert set(map(tuple, found.values())) == {tuple(parts(3))}
    assert events(tmp_path / "run", "warning") == []  # by time, one that is still being written is not late


def test_steps_do_not_wait_for_the_disk_and_what_it_cannot_take_is_left_out(
    tmp_path: Path, slow: Any
) -> None:
    opened = slow(lambda path: "step-0000000002" in str(path))
    seen: list[int] = []

    def body(shard: Any) -> None:
        seen.append(shard.step)
        if shard.step == 7:
            assert not list((tmp_path / "run" / "checkpoints").glob("*/manifest.json"))
            opened.set()
            until = time.monotonic() + 30
            while not checkpoint.available(tmp_path / "run" / "checkpoints") and time.monotonic() < until:
                time.sleep(1e-3)
        shard.backward(sum((p * p).sum() for p in model.parameters()))

    model, optimizer = make()
    run = {"run": tmp_path / "run", "checkpoint_every": 2, "progress": False}
    for shard in dp.steps(model, optimizer, range(10), batch_size=1, **run):
        body(shard)
    assert seen == list(range(10))
    saved = [event.step for event in events(tmp_path / "run", "checkpoint")]
    assert saved[0] == 2 and saved[-1] == 10 and not set(saved) & {4, 6}
    (warning,) = events(tmp_path / "run", "warning")
    assert warning.step == 4 and "step 4 is not saved, the checkpoint before is still being written" in str(
        warning.values["message"]
    )


@pytest.mark.parametrize("victim", [1, 2])
def test_a_worker_that_dies_before_its_part_costs_this_checkpoint_and_no_other(
    tmp_path: Path, victim: int
) -> None:
    run = tmp_path / "run"
    cluster = Cluster(
        3, lambda: program(run, checkpoint_every=6, keep_last=50), [Death(victim, "checkpoint", 6)]
    )
    finished(cluster.run(), program(), landed=1)
    found = parts_of(run)
    assert 6 not in found and STEPS in found
    (warning,) = [e for e in events(run, "warning") if e.step == 6]
    missing = re.search(
        r"of 3 parts, which the workers write together, (.*) did not come", str(warning.values)
    )
    assert missing is not None and str(victim + 1) in missing[1].split(", ")


def test_a_worker_that_dies_before_the_last_part_leaves_it_to_the_others(tmp_path: Path) -> None:
    run = tmp_path / "run"
    cluster = Cluster(3, lambda: program(run, checkpoint_every=0), [Death(1, "checkpoint", STEPS)])
    finished(cluster.run(), program(), landed=1)
    assert parts_of(run) == {STEPS: ["arrays.safetensors"]}
    assert (run / "digest").read_text() == f"{program()[0].digest} step {STEPS}\n"


def test_a_state_that_is_spread_over_the_workers_is_saved_whole(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished(Cluster(3, lambda: program(run, checkpoint_every=5, shard_optimizer=True)).run(), program())
    assert parts_of(run) == {5: ["arrays.safetensors"], STEPS: ["arrays.safetensors"]}


def test_an_error_of_the_writer_that_is_none_of_the_disk_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(checkpoint.writer, "write_manifest", broken)
    with caplog.at_level(logging.WARNING), pytest.raises(ZeroDivisionError):
        program(tmp_path / "run", checkpoint_every=1)
