"""What is rare and must not change the answer either: bodies that assign rates or leave early, a writer lost at a bad
moment, faults in the middle of settling. Workers are threads (`cluster.py`)."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from train.cluster import Cluster, Death, Killed, ThreadMember
from train.conftest import arrays, loss, make
from train.test_workers import program

import dist_dp as dp
from dist_dp import optim
from dist_dp.train import run_directory
from dist_dp.train.record import Record
from dist_dp.train.sharded import ShardedOptimizer
from runtime.events import Event
from runtime.group import GroupBroken
from runtime.member import current
from runtime.transports.shm import ShmGroup


def looped(body: Callable[[Any, Any], bool | None], rule: Any = None, **options: Any) -> Any:
    """Steps with a body that says with True that it has had enough; the digest, and a mean."""
    model, optimizer = make()
    if rule is not None:
        optimizer = rule(model.parameters(), lr=0.05)
    given: dict[str, Any] = {"batch_size": 10, "epochs": 2, "shards": 4, "progress": False}
    steps = dp.steps(model, optimizer, arrays(), **{**given, **options})
    for shard in steps:
        if body(shard, optimizer):
            break
        if shard.weight == 0:
            shard.backward(loss(model, shard.batch)[0])
    return steps.digest(), dp.evaluate(model, loss, arrays(23), batch_size=4)


def agreed(cluster: Cluster, expected: Any, landed: int = 0) -> None:
    assert cluster.over is not None and cluster.over.code == 0, (cluster.over, cluster.errors)
    assert len(cluster.landed) == landed
    assert cluster.results and all(result == expected for result in cluster.results.values())


def replaced_late(program: Callable[[], Any], worker: int, there: Callable[[], Any]) -> Callable[[], Any]:
    """The program of a cluster in which the replacement of `worker` comes when `there()`, or after 2 s."""
    starts: list[int] = []

    def started() -> Any:
        starts.append(current().worker)
        until = time.monotonic() + 2
        while starts.count(worker) == 2 and not there() and time.monotonic() < until:
            time.sleep(1e-3)
        return program()

    return started


def joined_by(step: int, body: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """The body of a worker that waits at this step until a newcomer asks to come in.

    Others may be quicker to the end of the program than a replacement is to its beginning.
    """
    member = current()  # a body has no worker to ask for

    def waiting(shard: Any, optimizer: Any) -> None:
        until = time.monotonic() + 10
        while shard.step == step and not member.regroup_wanted:
            assert time.monotonic() < until
            time.sleep(1e-3)
        body(shard, optimizer)

    return waiting


def lower_rate(shard: Any, optimizer: Any) -> None:
    if shard.step >= 3:
        optimizer.param_groups[0]["lr"] = 0.005


def more_momentum(shard: Any, optimizer: Any) -> None:
    if shard.step >= 3:
        optimizer.param_groups[0]["momentum"] = 0.9


@pytest.mark.parametrize("mode", [{}, {"shard_optimizer": True}], ids=str)
@pytest.mark.parametrize("body", [lower_rate, more_momentum])
@pytest.mark.parametrize("worker", [0, 1])
def test_what_the_body_assigned_is_handed_over(tmp_path: Path, body: Any, worker: int, mode: Any) -> None:
    """To a newcomer, to a new writer, and by way of a checkpoint."""
    expected = looped(body, optim.SGD)
    settings: dict[str, Any] = {"run": tmp_path / "run", "checkpoint_every": 1, **mode}
    cluster = Cluster(3, lambda: looped(body, optim.SGD, **settings), [Death(worker, "exchange", 6)]).run()
    agreed(cluster, expected, landed=1)
    again = looped(body, optim.SGD, run=tmp_path / "run")
    assert again == expected


def test_a_schedule_that_the_body_assigned_is_not_lost_silently() -> None:
    def body(shard: Any, optimizer: Any) -> None:
        if shard.step == 3:
            optimizer.param_groups[0]["lr"] = optim.Constant(0.001)

    cluster = Cluster(3, lambda: looped(joined_by(7, body)), [Death(1, "exchange", 6)]).run()
    assert cluster.over is not None and cluster.over.code == 1
    assert "a schedule is not" in str(cluster.errors[0])


def test_a_newcomer_with_another_program_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def edited() -> Any:
        if current() not in started:
            started.append(current())
        return {"file": "train.py", "sha256": "new" if started.index(current()) >= 3 else "old"}

    monkeypatch.setattr(run_directory, "program", edited)

    def looping() -> Any:
        return looped(joined_by(5, lambda shard, optimizer: None))

    cluster = Cluster(3, looping, [Death(1, "exchange", 4)]).run()
    assert len(cluster.landed) == 1
    assert cluster.over is not None and cluster.over.code == 1
    assert cluster.errors and all(isinstance(error, dp.RunMismatch) for error in cluster.errors), (
        cluster.errors
    )


def test_a_writer_lost_in_the_last_checkpoint(tmp_path: Path) -> None:
    run, expected = tmp_path / "run", program()
    agreed(Cluster(3, lambda: program(run), [Death(0, "checkpoint", 10)]).run(), expected, landed=1)
    assert (run / "digest").read_text() == f"{expected[0].digest} step 10\n"


def test_a_writer_replaced_before_anybody_has_a_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker 1 has begun to write in the place of worker 0, then worker 0 comes, and all begin."""
    real, opened = Record.open, list[int]()

    def opening(self: Record, *arguments: Any, **options: Any) -> None:
        member = current()
        assert isinstance(member, ThreadMember) and isinstance(member.group, ShmGroup)
        opened.append(member.worker)
        if opened == [0]:
            raise Killed
        real(self, *arguments, **options)
        if opened == [0, 1]:
            while not member.wanted:
                time.sleep(1e-3)
            member.group.abort()
            raise GroupBroken

    expected = program()
    monkeypatch.setattr(Record, "open", opening)
    late = replaced_late(lambda: program(tmp_path / "run"), 0, lambda: len(opened) == 2)
    agreed(Cluster(3, late).run(), expected)
    assert opened == [0, 1, 0]


class Listening:
    def __init__(self) -> None:
        self.kinds, self.closed = list[str](), 0

    def emit(self, event: Event) -> None:
        assert not self.closed
        self.kinds.append(event.kind)

    def close(self) -> None:
        self.closed += 1


def test_a_sink_stays_open_while_others_write() -> None:
    """Worker 1 writes, hands on to the replacement of worker 0, and writes again."""
    sinks: list[Listening] = []

    def listened() -> Any:
        sinks.append(Listening())
        return program(sinks=[sinks[-1]])

    agreed(
        Cluster(3, listened, [Death(0, "exchange", 1), Death(0, "exchange", 9)]).run(), program(), landed=2
    )
    assert all(sink.closed == 1 for sink in sinks)


@pytest.mark.parametrize("mode", [{}, {"overlap": True}, {"local": dp.LocalSGD(every=2)}], ids=str)
def test_leaving_a_loop_after_backward(mode: dict[str, Any]) -> None:
    """5 shards over 3 workers: only some have an exchange in flight by then."""

    def body(shard: Any, optimizer: Any) -> bool:
        if shard.step < 6:
            return False
        (p, *_) = optimizer.param_groups[0]["params"]
        shard.backward((p * p).sum())
        return True

    agreed(Cluster(3, lambda: looped(body, shards=5, **mode)).run(), looped(body, shards=5, **mode))


@pytest.mark.parametrize("mode", [{}, {"overlap": True}, {"local": dp.LocalSGD(every=2)}], ids=str)
@pytest.mark.parametrize("deaths", [[], [Death(2, "exchange", 4)]], ids=str)
def test_a_worker_without_data_leaves_a_loop_with_the_others(
    mode: dict[str, Any], deaths: list[Death]
) -> None:
    """The last batch of an epoch has 6 examples for 8 shards."""

    def body(shard: Any, optimizer: Any) -> bool:
        return bool(shard.step == 4)

    cluster = Cluster(8, lambda: looped(body, shards=8, **mode), deaths).run()
    agreed(cluster, looped(body, shards=8, **mode), landed=len(cluster.landed))


def test_backward_that_failed_is_not_tried_again_with_overlap() -> None:
    """Part of its gradients may have been sent."""

    def body(shard: Any, optimizer: Any) -> None:
        if (shard.step, shard.index) == (2, 3):
            (p, *_) = optimizer.param_groups[0]["params"]
            value = (p * p).sum()
            value.register_hook(lambda g: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                shard.backward(value)

    cluster = Cluster(2, lambda: looped(body, overlap=True)).run()
    assert cluster.over is not None and cluster.over.code == 1
    assert "was called twice" in str(cluster.errors[0])


def test_gradients_after_a_loop_are_the_programs_own() -> None:
    model, optimizer = make()
    for _ in dp.steps(model, optimizer, arrays(), batch_size=10, progress=False):
        break
    loss(model, arrays())[0].backward()
    dp.evaluate(model, loss, arrays(23), batch_size=4)
    assert model.head.weight.grad is not None


def test_steps_are_freed_with_their_last_reference() -> None:
    """They hold gradients: to wait for the garbage collector would double the memory of two fits in a row."""
    model, optimizer = make()
    gc.collect()
    gc.disable()
    try:
        steps = dp.steps(model, optimizer, arrays(), batch_size=10, progress=False)
        for shard in steps:
            shard.backward(loss(model, shard.batch)[0])
        left = weakref.ref(steps)
        del steps, shard
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", [{}, {"shard_optimizer": True}], ids=str)
def test_who_waits_for_others_says_so(monkeypatch: pytest.MonkeyPatch, mode: dict[str, Any]) -> None:
    """Else it is held to be hung where another one takes long, for its part of an evaluation say."""
    real, waits = ShmGroup.gather_bytes, list[str]()

    def progress(self: ThreadMember, step: int, doing: str) -> None:
        self.doing = doing  # type: ignore[attr-defined]

    def gather_bytes(self: ShmGroup, payload: bytes) -> list[bytes]:
        waits.append(current().doing)  # type: ignore[attr-defined]
        return real(self, payload)

    monkeypatch.setattr(ThreadMember, "progress", progress)
    monkeypatch.setattr(ShmGroup, "gather_bytes", gather_bytes)
    agreed(Cluster(3, lambda: program(**mode), [Death(1, "exchange", 4)]).run(), program(), landed=1)
    assert waits and set(waits) <= {"exchange", ""}


def test_a_second_loss_while_a_sharded_state_is_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker 3 is lost; while the others settle, worker 2 is lost too, and worker 1 has not yet got what it missed."""
    expected = program()
    placed, struck = threading.Event(), list[int]()
    place, take_held = ShardedOptimizer.place, ShardedOptimizer.take_held

    def placing(self: ShardedOptimizer, rank: int, size: int) -> None:
        place(self, rank, size)
        if size == 3:
            placed.set()

    def taking(self: ShardedOptimizer, told: Any) -> bool:
        member = current()
        assert isinstance(member, ThreadMember)
        if len(told) == 3 and member.worker in {1, 2} - set(struck):
            struck.append(member.worker)
            placed.wait(0.3)  # in vain: nobody drops what it has before all have come so far
            assert isinstance(member.group, ShmGroup)
            member.group.abort()
            raise Killed if member.worker == 2 else GroupBroken
        return take_held(self, told)

    monkeypatch.setattr(ShardedOptimizer, "place", placing)
    monkeypatch.setattr(ShardedOptimizer, "take_held", taking)
    late = replaced_late(lambda: program(shard_optimizer=True), 3, placed.is_set)
    agreed(Cluster(4, late, [Death(3, "exchange", 4)]).run(), expected, landed=1)
    assert sorted(struck) == [1, 2]
