"""A run on an S3 server is a run: killed and resumed, refused to others, taken over, going on without the server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.launching import LAST_STEP, launch
from store.s3 import S3Server

from dist_dp.train.report import report
from dist_dp.train.run_directory import RunDirectory
from runtime.faults import Fault

PROGRAM = Path(__file__).with_name("program.py")


@contextlib.contextmanager
def start(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join([str(PROGRAM.parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        with process:
            yield process
    finally:
        process.kill()


def digest_of(output: str) -> str:
    return output.strip().splitlines()[-1].removeprefix("digest ")


@pytest.fixture(scope="module")
def whole() -> str:
    """The digest of the undisturbed run, which leaves nothing anywhere."""
    with start() as process:
        return digest_of(process.communicate(timeout=60)[0])


def steps_of(url: str) -> list[int]:
    return [event.step for event in RunDirectory(url).events() if event.kind == "step"]


def come_to(process: subprocess.Popen[str], step: int) -> int:
    """Read what the process says until it begins a step; returns the first that it said."""
    assert process.stdout is not None
    first = None
    for line in process.stdout:
        said = int(line.split()[0])
        first = said if first is None else first
        if said == step:
            return first
    raise AssertionError(f"it ended before step {step}: {process.stderr and process.stderr.read()}")


@pytest.mark.process
def test_a_run_that_is_killed_resumes_from_the_store_with_the_same_answer(whole: str, url: str) -> None:
    kills, resumed_at = 0, []
    for step in (12, 30):
        with start(url, "3", "0.02") as process:
            resumed_at.append(come_to(process, step))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    with start(url, "3") as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "waiting for a sign of life" in errors, "the lock of the killed one was there"
    resumed_at.append(int(output.split()[0]))
    assert resumed_at[0] == 0 < resumed_at[1] < resumed_at[2], "it should have resumed, not started over"
    assert digest_of(output) == whole
    assert steps_of(url) == list(range(1, LAST_STEP + 1))
    found = report(url)
    assert (found["status"], found["step"], found["problems"]) == ("finished", LAST_STEP, [])
    assert found["digest"] == {"step": LAST_STEP, "sha256": whole}
    told = subprocess.run(
        [sys.executable, "-m", "dist_dp.cli", "inspect", "--json", url],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0 and json.loads(told.stdout) == found, told.stderr


@pytest.mark.process
def test_a_second_launch_is_refused_by_name_and_the_first_goes_on(whole: str, url: str) -> None:
    with start(url, "5", "0.06") as first:
        come_to(first, 2)
        with start(url, "5") as second:
            _, errors = second.communicate(timeout=60)
        assert second.returncode != 0
        assert f"is held by process {first.pid} on" in errors
        assert report(url)["status"] == "running"
        output, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert digest_of(output) == whole


@pytest.mark.process
def test_a_launch_that_stood_still_finds_its_run_taken_over_and_leaves_it_alone(whole: str, url: str) -> None:
    with start(url, "3", "0.05") as first:
        come_to(first, 8)
        first.send_signal(signal.SIGSTOP)
        with start(url, "3") as second:
            output, errors = second.communicate(timeout=120)
        assert second.returncode == 0, errors
        assert digest_of(output) == whole
        first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=60)
        assert first.returncode != 0
        assert "which found this process silent for 4 s" in errors
    assert steps_of(url) == list(range(1, LAST_STEP + 1))
    assert report(url)["digest"] == {"step": LAST_STEP, "sha256": whole}


@pytest.mark.process
def test_the_run_goes_on_while_the_store_is_away(whole: str, url: str, s3: S3Server) -> None:
    refused = s3.refused
    with start(url, "3", "0.1") as process:
        come_to(process, 8)
        s3.cut()
        try:
            come_to(process, 30)  # no step waits for the store
        finally:
            s3.mend()
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert s3.refused > refused, "it should have asked meanwhile"
    assert "was not saved" in errors and "the last good checkpoint is kept" in errors
    assert digest_of(output) == whole
    assert steps_of(url) == list(range(1, LAST_STEP + 1))
    assert report(url)["digest"] == {"step": LAST_STEP, "sha256": whole}


@pytest.mark.process
def test_when_the_writer_is_lost_another_worker_of_the_launch_writes_on(
    whole: str, url: str, tmp_path: Path
) -> None:
    faults = [Fault(0, "shard", 7), Fault(1, "exchange", 20)]  # worker 2 has the state all along
    began = time.monotonic()
    ended = launch(tmp_path, faults, url, "5")
    assert len(ended.landed) == 2
    assert ended.digest == whole
    assert time.monotonic() - began < 30, "the lock of a writer of the same launch is taken at once"
    assert steps_of(url) == list(range(1, LAST_STEP + 1))
