"""Workers that die, stop or hang, in real processes: the digest of the undisturbed one-process run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faults.launching import LAST_STEP, PROGRAM, Command, all_gone, launch

from runtime.events import Event, read_events
from runtime.faults import STEP_PHASES, Fault

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def expected() -> str:
    """The digest of the undisturbed one-process run."""
    whole = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, check=True)
    return whole.stdout.splitlines()[-1].removeprefix("digest ")


def events(run: Path) -> list[Event]:
    return list(read_events(run / "metrics.jsonl"))


def check_steps(run: Path) -> None:
    """Every step stands in the record once."""
    assert [e.step for e in events(run) if e.kind == "step"] == list(range(1, LAST_STEP + 1))


def segments() -> set[str]:
    """The names of shared memory, without those of MPI jobs that may run here too."""
    return {n for n in os.listdir("/dev/shm") if not n.startswith(("mpich", "sm_segment", "vader", "psm"))}


# --- death ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turn", range(len(STEP_PHASES)))
def test_each_worker_dies_once_each_in_another_phase(expected: str, tmp_path: Path, turn: int) -> None:
    """Over all turns, each of three workers dies in each phase."""
    phases = [STEP_PHASES[(turn + i) % len(STEP_PHASES)] for i in range(3)]
    faults = [Fault(worker, phase, 5 + 12 * worker) for worker, phase in enumerate(phases)]
    backend = ("shm", "tcp", "shm+tcp")[turn % 3]
    run = tmp_path / "run"
    ended = launch(tmp_path / "place", faults, str(run), "1", backend=backend)
    assert ended.digest == expected
    assert sorted(ended.landed, key=lambda fault: fault.worker) == faults
    assert ended.generations > 3
    check_steps(run)


def test_whoever_writes_dies_before_a_checkpoint_and_the_next_one_writes_on(
    expected: str, tmp_path: Path
) -> None:
    faults = [Fault(0, "checkpoint", 10)]
    run = tmp_path / "run"
    # Slow enough that each checkpoint is written when the next is due, also on a busy machine.
    ended = launch(tmp_path / "place", faults, str(run), "5", "0.15")
    assert ended.digest == expected and ended.landed == faults
    check_steps(run)
    saved = [e.step for e in events(run) if e.kind == "checkpoint"]
    assert saved[0] == 5 and saved[-1] == LAST_STEP and set(saved) >= set(range(15, 50, 5))


@pytest.mark.parametrize("phases", [("exchange", "exchange"), ("agreed", "exchange-started")])
def test_two_workers_die_in_one_step(expected: str, tmp_path: Path, phases: tuple[str, str]) -> None:
    faults = [Fault(worker, phase, 10) for worker, phase in enumerate(phases)]
    ended = launch(tmp_path, faults)
    assert ended.digest == expected and len(ended.landed) == 2


def test_the_replacement_of_a_worker_dies_too(expected: str, tmp_path: Path) -> None:
    faults = [Fault(1, "shard", 2), Fault(1, "exchange-started", 3), Fault(1, "agreed", 4)]
    ended = launch(tmp_path, faults, "", "0", "0.15")
    assert ended.digest == expected and ended.landed == faults
    assert ended.generations >= 6  # each time without it, and with it again


@pytest.mark.parametrize("every", ["1", "0"])
def test_all_workers_die_and_go_on_from_the_newest_checkpoint(
    expected: str, tmp_path: Path, every: str
) -> None:
    """Or from the beginning, if there is none."""
    run = tmp_path / "run"
    ended = launch(
        tmp_path / "place", [Fault(worker, "shard", 20) for worker in range(3)], str(run), every, "0.02"
    )
    assert ended.digest == expected and len(ended.landed) == 3
    check_steps(run)
    starts = [e.step for e in events(run) if e.kind == "start"]
    assert 0 < starts[-1] <= 20 if every == "1" else starts[-1] == 0


def test_one_worker_alone_dies_and_is_replaced(expected: str, tmp_path: Path) -> None:
    ended = launch(tmp_path, [Fault(0, "apply", 30)], str(tmp_path / "run"), "1", "0.01", workers=1)
    assert ended.digest == expected and len(ended.landed) == 1
    first, again = [e.step for e in events(tmp_path / "run") if e.kind == "start"]
    assert first == 0 < again <= 30


def test_a_worker_that_is_lost_again_and_again_before_any_step_ends_the_run(tmp_path: Path) -> None:
    faults = [Fault(worker, "shard", 0, "exit") for worker in (0, 1) for _ in range(3)]
    command = Command(tmp_path, "-n", "2", PROGRAM, faults=faults)
    assert command.end() == 3, command.output
    assert 3 <= len(command.plan.landed()) <= 6
    assert "the run was lost" in command.output and "exit code 7" in command.output
    assert "Traceback" not in command.output


# --- stopped, hung ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["shm", "tcp"])
def test_a_stopped_worker_is_replaced(expected: str, tmp_path: Path, backend: str) -> None:
    ended = launch(tmp_path, [Fault(1, "exchange", 10, "stop")], backend=backend, heartbeat=1.0)
    assert ended.digest == expected and len(ended.landed) == 1 and ended.generations >= 2


def test_a_worker_that_hangs_in_its_body_is_replaced(expected: str, tmp_path: Path) -> None:
    command = Command(
        tmp_path, "-n", "2", "--hang-after", "4", PROGRAM, faults=[Fault(1, "body", 10, "hang")]
    )
    assert command.end() == 0, command.output
    assert f"digest {expected}" in command.output and len(command.plan.landed()) == 1


# --- the launcher's end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number, code", [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_the_launcher_ends_all_workers_with_it_and_the_run_is_resumed(
    expected: str, tmp_path: Path, number: int, code: int
) -> None:
    before = segments()
    arguments = "-n", "3", PROGRAM, str(tmp_path / "run"), "1"
    command = Command(tmp_path / "place", *arguments, "0.1")
    command.until(8)
    pids = command.workers()
    assert len(pids) == 3
    command.send(number)
    assert all_gone(pids, 2.0)
    assert command.end() == code
    assert segments() <= before
    assert "Traceback" not in command.output

    again = Command(tmp_path / "place", *arguments)
    assert again.end() == 0, again.output
    assert f"digest {expected}" in again.output
    # What is on its way to the disk is lost with SIGKILL; Ctrl-C waits for it.
    least = 8 if number == signal.SIGINT else 1
    assert [e.step for e in events(tmp_path / "run") if e.kind == "start"][-1] >= least
    check_steps(tmp_path / "run")
