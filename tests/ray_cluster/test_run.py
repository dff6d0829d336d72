"""Workers on Ray that die, stop, hang, fail or lose their coordinator: the digest of the one-process run, and nothing
is left behind."""

from __future__ import annotations

import functools
import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from faults.launching import LAST_STEP, PROGRAM, Ended

import dist_dp as dp
from dist_dp import nn, optim
from dist_dp.commands.run import _report
from runtime import launch
from runtime.coordinator import Limits
from runtime.events import read_events
from runtime.faults import FAULTS, STEP_PHASES, Fault, FaultPlan, Ordered
from runtime.hosts.logs import WorkerLogs

pytestmark = [pytest.mark.usefixtures("local_cluster"), pytest.mark.process]

ACTORS = ("ray::WorkerActor", "ray::CoordinatorActor")


@pytest.fixture(scope="module")
def expected() -> str:
    """The digest of the undisturbed one-process run."""
    whole = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, check=True)
    return whole.stdout.splitlines()[-1].removeprefix("digest ")


def actors(*names: str) -> list[psutil.Process]:
    """The processes of our actors in this cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(names or ACTORS):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left(local_cluster: None) -> Iterator[None]:
    yield
    until = time.monotonic() + 10.0
    while actors() and time.monotonic() < until:
        time.sleep(0.05)
    assert not actors()


def run(
    place: Path,
    faults: Sequence[Fault] = (),
    *arguments: str,
    workers: int = 3,
    script: str = PROGRAM,
    during: Callable[[Any, Callable[[], str]], None] | None = None,
    **limits: Any,
) -> Ended:
    """Run the program on Ray; meanwhile `during(host, output)` in a thread."""
    from runtime.hosts.ray.host import RayHost

    place.mkdir(exist_ok=True)
    plan = FaultPlan.order(place / "plan.json", faults)
    text = io.StringIO()
    logs = WorkerLogs(workers, text, text, "all")
    host = RayHost(
        functools.partial(launch.run_as_main, script, arguments),
        functools.partial(_report, script),
        least=workers,
        most=workers,
        bundle={"CPU": 1.0},
        directory=str(place),
        limits=Limits(**{"losses": 3 + len(faults), **limits}),
        environment=launch.for_workers(1) | {FAULTS: str(plan.path)},
        logs=logs,
        say=lambda line: print(line, file=text),
    )
    threads = [threading.Timer(90.0, host.stop, ["the test took too long"]) for _ in range(2)]
    if during is not None:
        threads.append(threading.Thread(target=during, args=(host, text.getvalue)))  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    try:
        over = host.run()
    finally:
        logs.close()
        for thread in threads[:2]:
            thread.cancel()
        for thread in threads:
            thread.join()
    assert "too long" not in over.reason, text.getvalue()
    return Ended(over, plan.landed(), host.generations, text.getvalue())


def until(met: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- loss -------------------------------------------------------------------------------------------------------------


def test_undisturbed(expected: str, tmp_path: Path) -> None:
    ended = run(tmp_path)
    assert ended.digest == expected and ended.generations == 1


def test_workers_die_in_every_phase(expected: str, tmp_path: Path) -> None:
    faults = [Fault(i % 3, phase, 4 + 7 * i) for i, phase in enumerate(STEP_PHASES)]
    run_directory = tmp_path / "run"
    ended = run(tmp_path, faults, str(run_directory), "10", "0.05")
    assert ended.digest == expected
    assert len(ended.landed) == len(faults) and ended.generations > len(faults)
    steps = [event.step for event in read_events(run_directory / "metrics.jsonl") if event.kind == "step"]
    assert steps == list(range(1, LAST_STEP + 1))


def test_replacements_die_too_and_two_at_once(expected: str, tmp_path: Path) -> None:
    faults = [Fault(1, "shard", 2), Fault(1, "agreed", 3), Fault(0, "apply", 3), Fault(2, "exchange", 30)]
    ended = run(tmp_path, faults, "", "0", "0.05")
    assert ended.digest == expected and len(ended.landed) == len(faults)


def test_a_stopped_worker_and_one_that_hangs_are_replaced(expected: str, tmp_path: Path) -> None:
    faults = [Fault(1, "exchange", 5, "stop"), Fault(2, "body", 20, "hang")]
    ended = run(tmp_path, faults, hang=5.0)
    assert ended.digest == expected and len(ended.landed) == 2 and ended.generations >= 3


def test_the_coordinator_dies_and_the_workers_go_on(expected: str, tmp_path: Path) -> None:
    """And once more together with a worker."""
    killed: list[int] = []

    def during(host: Any, output: Callable[[], str]) -> None:
        for met in (lambda: "] 5 0\n" in output(), lambda: bool(plan.landed())):
            until(met)
            (process,) = actors("ray::CoordinatorActor")
            process.kill()
            killed.append(process.pid)
            until(lambda: output().count("the coordinator was lost") == len(killed))

    faults = [Fault(1, "shard", 40)]
    plan = FaultPlan.order(tmp_path / "plan.json", faults)
    ended = run(tmp_path, faults, "", "0", "0.15", during=during)
    assert ended.digest == expected and len(ended.landed) == 1 and len(set(killed)) == 2
    assert ended.generations in (2, 3)


def test_too_many_losses_end_the_run(tmp_path: Path) -> None:
    faults = [Fault(worker, "shard", 0, "exit") for worker in (0, 1) for _ in range(3)]
    ended = run(tmp_path, faults, workers=2, losses=3)
    assert ended.over.code == 3 and 3 <= len(ended.landed) <= 6
    assert "the same command resumes the run" in ended.over.reason


def test_a_run_that_is_stopped_is_resumed(expected: str, tmp_path: Path) -> None:
    def during(host: Any, output: Callable[[], str]) -> None:
        until(lambda: "] 8 0\n" in output())
        host.stop("interrupted")

    where = str(tmp_path / "run")
    ended = run(tmp_path, [], where, "1", "0.1", during=during)
    assert (ended.over.code, ended.over.reason) == (130, "interrupted")
    again = run(tmp_path, [], where, "1", workers=2)
    assert again.digest == expected
    events = list(read_events(tmp_path / "run" / "metrics.jsonl"))
    assert [event.step for event in events if event.kind == "start"][-1] >= 8
    assert [event.step for event in events if event.kind == "step"] == list(range(1, LAST_STEP + 1))


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("raises", "Ordered", "ordered in worker 1, body, step 10"),
        ("nan", "NonFiniteLoss", "loss is nan at step 10, shard 1"),
    ],
)
def test_an_error_on_one_shard_ends_all_with_one_report(
    tmp_path: Path, wrong: str, error: str, message: str
) -> None:
    fault = Fault(1, "body", 10, "raise", shard=1)
    ended = run(tmp_path, [fault], "", "0", "0", wrong)
    assert ended.over.code == 1 and ended.landed == [fault]
    report = ended.over.report
    assert (report["worker"], report["error"]) == (1, error) and message in report["message"]
    assert report["traceback"].count("Traceback") == 1 and "Traceback" not in ended.output


def test_more_workers_than_shards_are_refused(tmp_path: Path) -> None:
    ended = run(tmp_path, workers=4)
    assert ended.over.code == 1 and "shards" in ended.over.report["refused"]


def test_a_script_that_fails_to_import_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import numpy\nimport no_such_module\n")
    ended = run(tmp_path, script=str(script))
    assert ended.over.code == 1
    assert "No module named 'no_such_module'" in ended.over.report["traceback"]


# --- dp.launch --------------------------------------------------------------------------------------------------------


def _train(rate: float) -> str:
    dp.seed(1)
    model = nn.Linear(3, 1)
    data = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    return dp.fit(
        model,
        lambda model, batch: model(batch).mean(),
        optim.SGD(model.parameters(), lr=rate),
        data,
        batch_size=12,
        shards=4,
        progress=False,
    ).digest


def _fail() -> None:
    raise Ordered("as ordered")


def test_launch_on_ray_returns_results_and_raises_errors() -> None:
    (one,) = dp.launch(_train, 0.1, workers=1)
    assert dp.launch(_train, 0.1, workers=3, backend="ray") == [one] * 3
    with pytest.raises(Ordered, match="as ordered") as caught:
        dp.launch(_fail, workers=2, backend="ray")
    assert "in worker" in caught.value.__notes__[0]
