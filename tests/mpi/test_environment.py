"""Who is taken for a worker of an MPI job, and what is said when the job is not in order."""

from pathlib import Path

import pytest
from mpi import launching

from runtime.hosts.mpi_environment import launcher

# Taken from the environments of processes under each launcher; those of Slurm from its documentation.
MPICH = {"PMI_RANK": "0", "PMI_FD": "9", "PMI_HOSTNAME": "h", "MPI_LOCALRANKID": "0", "HYDI_CONTROL_FD": "7"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "0",
    "OMPI_UNIVERSE_SIZE": "8",
    "PMIX_RANK": "0",
    "OMPI_VERSION": "5.0.11",
}
SBATCH = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
    "SLURM_PROCID": "0",
    "SLURM_NNODES": "2",
}
SRUN = {**SBATCH, "SLURM_STEP_ID": "0", "SLURM_STEPID": "0"}


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({}, None),
        ({"HOME": "/root", "OMPI_ALLOW_RUN_AS_ROOT": "1", "PMI_SIZE": ""}, None),
        ({**MPICH, "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}, 2),
        ({**MPICH, "PMI_SIZE": "8", "MPI_LOCALNRANKS": "4"}, 8),
        ({**MPICH, "PMI_SIZE": "1", "MPI_LOCALNRANKS": "1"}, 1),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "3"}, 3),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, 1),
        (SBATCH, None),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "4"}, 4),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "4", "PMIX_RANK": "2"}, 4),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "4", "PMI_RANK": "1", "PMI_SIZE": "4"}, 4),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}, 1),
        # mpirun inside a Slurm job: its daemons are the tasks of a step, one a node
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "2", **OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "16"}, 16),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "2", **OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "2", **MPICH, "PMI_SIZE": "16"}, 16),
    ],
)
def test_the_environment_tells_how_many_processes_were_started(environment, processes):
    found = launcher(environment)
    assert (None if found is None else found[1]) == processes


@pytest.mark.mpi
def test_processes_without_mpi4py_do_not_train_as_many_copies(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(
        "import sys; sys.modules['mpi4py'] = None\nimport runpy; runpy.run_path(sys.argv.pop(), run_name='__main__')\n"
    )
    ended = launching.mpi(2, program, str(launching.PROGRAM))
    assert ended.code != 0 and ended.digests == []
    assert "started 2 processes" in ended.err and "dist-dp[mpi]" in ended.err


@pytest.mark.mpi
@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_launcher_of_another_mpi_than_the_library_is_refused(variable):
    # What each of the processes sees that such a launcher starts: more are said to be there than MPI finds.
    ended = launching.python(launching.PROGRAM, environment={variable: "2"})
    assert ended.code == 1 and ended.digests == []
    assert "started 2 processes" in ended.err and launching.library() in ended.err and "sees 1" in ended.err


@pytest.mark.mpi
def test_one_process_under_mpirun_is_a_process_by_itself(tmp_path):
    program = tmp_path / "who.py"
    program.write_text("from runtime.member import current\nprint(type(current()).__name__)\n")
    assert launching.mpi(1, program).out.split() == ["SoloMember"]


@pytest.mark.mpi
def test_a_timeout_that_is_no_number_is_refused():
    ended = launching.mpi(2, launching.PROGRAM, environment={"DIST_DP_MPI_TIMEOUT": "soon"})
    assert ended.code != 0 and "DIST_DP_MPI_TIMEOUT must be a number of seconds" in ended.err


def test_neither_dist_dp_nor_one_process_loads_mpi(tmp_path: Path):
    program = tmp_path / "alone.py"
    program.write_text(
        "import sys, dist_dp\nfrom runtime.member import current\ncurrent()\n"
        "print([name for name in sys.modules if 'mpi4py' in name])\n"
    )
    assert launching.python(program).out == "[]\n"
