"""Open MPI with `--with-ft ulfm`: workers die, the survivors go on, and the digest is that of one process."""

from __future__ import annotations

import pytest
from mpi import launching

from runtime.faults import STEP_PHASES, Fault

pytestmark = pytest.mark.mpi

ULFM = ("--with-ft", "ulfm")


@pytest.mark.parametrize("phase", STEP_PHASES)
@pytest.mark.parametrize("worker", [0, 2])
def test_survivors_go_on(digest, faults, phase, worker):
    plan, environment = faults(Fault(worker, phase, 7))
    ended = launching.mpi(3, launching.PROGRAM, options=ULFM, environment=environment)
    assert len(plan.landed()) == 1
    assert ended.code == 0, ended.err
    assert ended.digests == [digest] * 2


@pytest.mark.parametrize(
    "deaths",
    [
        ((0, "shard", 0), (1, "agreed", 20)),
        ((1, "exchange", 9), (0, "exchange", 9)),
        ((2, "agreed", 0), (1, "shard", 1)),
        ((0, "apply", 46), (2, "committed", 46)),
    ],
)
def test_two_in_turn(digest, faults, deaths):
    plan, environment = faults(*(Fault(*death) for death in deaths))
    ended = launching.mpi(3, launching.PROGRAM, options=ULFM, environment=environment)
    assert len(plan.landed()) == 2
    assert ended.code == 0, ended.err
    assert ended.digests == [digest]


def test_the_next_worker_writes_when_the_writer_dies(digest, faults, tmp_path):
    plan, environment = faults(Fault(0, "apply", 7))
    run = tmp_path / "run"
    ended = launching.mpi(3, launching.PROGRAM, str(run), "2", options=ULFM, environment=environment)
    assert len(plan.landed()) == 1
    assert ended.code == 0 and ended.digests == [digest] * 2, ended.err
    steps = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"step"' in line]
    assert steps


def test_a_death_after_the_end_of_training_is_survived(digest, tmp_path):
    """A worker that came to its end waits for the others, and the others do without one that dies there."""
    program = tmp_path / "late.py"
    program.write_text(
        "import os, runpy, signal, sys, time\n"
        f"runpy.run_path({str(launching.PROGRAM)!r}, run_name='__main__')\n"
        "from runtime.member import current\n"
        "time.sleep(0.2 * current().worker)\n"
        "if current().worker == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = launching.mpi(3, program, options=ULFM)
    assert ended.code == 0, ended.err
    assert ended.digests == [digest] * 3


def test_laws_hold_and_generations_follow_each_other():
    ended = launching.mpi(3, launching.TESTS / "mpi" / "program_laws.py", options=ULFM)
    assert ended.code == 0 and ended.out.count("laws hold") == 3, ended.err
    ended = launching.mpi(3, launching.TESTS / "mpi" / "program_abort.py", "6", options=ULFM)
    assert ended.code == 0 and ended.out.count("broken off") == 3, ended.err
