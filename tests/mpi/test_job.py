"""Jobs under the real mpirun: groups keep their laws, training its digest, and a death ends the job, to be resumed."""

from __future__ import annotations

import pytest
from mpi import launching
from transports.laws import LAWS

from runtime.faults import Fault

pytestmark = pytest.mark.mpi

SECONDS = 10.0  # within which a job that failed must have ended, its start included


@pytest.mark.parametrize("processes", [2, 3])
def test_every_law_of_groups_holds(processes):
    ended = launching.mpi(processes, launching.TESTS / "mpi" / "program_laws.py")
    assert ended.code == 0, ended.err
    assert ended.out.count(f"{len(LAWS)} laws hold") == processes


def test_a_generation_that_is_broken_off_is_followed_by_another():
    ended = launching.mpi(3, launching.TESTS / "mpi" / "program_abort.py", "6")
    assert ended.code == 0, ended.err
    assert ended.out.count("broken off") == 3
    assert ended.err == ""


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_digest_is_that_of_one_process(digest, processes):
    ended = launching.mpi(processes, launching.PROGRAM)
    assert (ended.code, ended.digests) == (0, [digest] * processes), ended


@pytest.mark.parametrize("worker", [0, 1])
def test_a_death_ends_the_job_at_once_and_it_can_be_resumed(digest, faults, tmp_path, worker):
    plan, environment = faults(Fault(worker, "exchange", 7))
    run = str(tmp_path / "run")
    ended = launching.mpi(3, launching.PROGRAM, run, "2", environment=environment)
    assert len(plan.landed()) == 1
    assert ended.code != 0 and ended.digests == []
    assert ended.seconds < SECONDS and "Traceback" not in ended.err

    ended = launching.mpi(2, launching.PROGRAM, run, "2", environment=environment)
    assert ended.code == 0 and ended.digests == [digest] * 2
    assert 0 < ended.out.count("\n") < 48 * 3  # it did not begin anew


@pytest.mark.parametrize("worker", [0, 2])
def test_a_failing_program_ends_the_job_with_one_report(faults, worker):
    plan, environment = faults(Fault(worker, "exchange", 7, "raise"))
    ended = launching.mpi(3, launching.PROGRAM, environment=environment)
    assert len(plan.landed()) == 1
    assert ended.code == 1 and ended.digests == []
    assert ended.seconds < SECONDS
    assert f"worker {worker} of 3 failed" in ended.err and ended.err.count("Traceback") == 1
    assert "Ordered: ordered in worker" in ended.err


def test_what_fails_on_all_workers_is_reported_once(faults):
    plan, environment = faults(*(Fault(worker, "agreed", 7, "raise") for worker in range(3)))
    ended = launching.mpi(3, launching.PROGRAM, environment=environment)
    assert len(plan.landed()) == 3
    assert ended.code == 1 and ended.err.count("Traceback") == 1


@pytest.mark.parametrize("action", ["stop", "hang"])
def test_a_worker_that_makes_no_progress_ends_the_job_after_the_timeout(faults, action):
    plan, environment = faults(Fault(1, "shard", 7, action))
    ended = launching.mpi(3, launching.PROGRAM, environment={**environment, "DIST_DP_MPI_TIMEOUT": "2"})
    assert len(plan.landed()) == 1
    assert ended.code == 3 and ended.digests == []
    assert ended.seconds < SECONDS + 2
    assert "DIST_DP_MPI_TIMEOUT" in ended.err and "resumes the run" in ended.err


def test_slowness_is_no_failure(digest, faults):
    plan, environment = faults(*(Fault(w, "exchange", 3 * w + 2, "delay", seconds=0.5) for w in range(3)))
    ended = launching.mpi(3, launching.PROGRAM, environment=environment)
    assert len(plan.landed()) == 3
    assert ended.code == 0 and ended.digests == [digest] * 3
