"""The batch scripts on a real Slurm, which `one_machine.sh` makes: digests, exit codes, nothing left behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SLURM = TOP / "cluster" / "slurm"
PROGRAM = TOP / "tests" / "ray_cluster" / "submitted_program.py"

_PATH = f"{os.environ['PATH']}:/usr/sbin"
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        os.geteuid() != 0
        or not all(shutil.which(p, path=_PATH) for p in ("munged", "slurmctld", "slurmd", "srun")),
        reason="needs root and Slurm: apt-get install slurmctld slurmd slurm-client munge",
    ),
]


def sbatch(tmp_path, *words):
    """Run `sbatch --wait WORDS` on a Slurm of two nodes: its exit code, and the job's output."""
    before = set(Path("/tmp").iterdir())
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "DIST_DP_"))
    }
    with subprocess.Popen(
        [SLURM / "one_machine.sh", "sbatch", "--wait", "--nodes=2", *map(str, words)],
        cwd=tmp_path,
        env={**environment, "DIST_DP_VENV": sys.prefix},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as machine:
        try:
            told, _ = machine.communicate(timeout=240)
        finally:
            machine.terminate()  # it takes its Slurm down
    assert told.startswith("Submitted batch job"), told
    left = [path for path in set(Path("/tmp").iterdir()) - before if path.name.startswith(("ray-", "slurm-"))]
    assert not left
    return machine.returncode, "".join(path.read_text() for path in tmp_path.glob("dist-dp-*.log"))


@pytest.fixture(scope="module")
def digest():
    plain = subprocess.run([sys.executable, PROGRAM], cwd=TOP, capture_output=True, text=True, check=True)
    return plain.stdout.split()[-1]


def test_ray_on_an_allocation(tmp_path, digest):
    code, output = sbatch(tmp_path, "--cpus-per-task=2", SLURM / "ray.sbatch", "-n", 2, PROGRAM, "--run", "r")
    assert (code, output.split()[-1]) == (0, digest), output
    assert (tmp_path / "r").is_dir()


def test_mpi_on_an_allocation(tmp_path, digest):
    code, output = sbatch(tmp_path, "--ntasks-per-node=1", SLURM / "mpi.sbatch", PROGRAM)
    assert code == 0, output
    assert f"digest {digest}" in output


def test_a_program_that_fails_has_the_job_fail(tmp_path):
    code, output = sbatch(tmp_path, "--ntasks-per-node=1", SLURM / "mpi.sbatch", PROGRAM, "--fail")
    assert code  # of srun: the largest of a task
    assert "ArithmeticError: meant to fail" in output
