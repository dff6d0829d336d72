"""Whether this process was started by an MPI launcher together with others, told from the environment, without MPI."""

from __future__ import annotations

import os
from collections.abc import Mapping

# Where launchers say how many processes there are, and the number of this one. The first that is set counts: a
# launcher inside another's job (mpirun in a Slurm step) adds its own to what it inherits.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun"),
    ("MV2_COMM_WORLD_SIZE", "MVAPICH's mpirun"),
    ("PMI_SIZE", "a launcher of the MPICH family (mpirun, or srun --mpi=pmi2)"),
    # Of the step, so not set in a batch script itself, however many tasks its job has.
    ("SLURM_STEP_NUM_TASKS", "Slurm's srun"),
)


def launcher(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """Which kind of launcher started a process with this environment, and with how many others, itself included.

    >>> launcher({"PMI_SIZE": "4", "PMI_RANK": "1"})
    ('a launcher of the MPICH family (mpirun, or srun --mpi=pmi2)', 4)
    >>> launcher({"SLURM_NTASKS": "4"}) is None  # a batch script: one process, whatever was allocated
    True
    """
    for variable, name in _LAUNCHERS:
        text = environment.get(variable, "")
        if text.isascii() and text.isdigit():
            return name, int(text)
    return None


def launched() -> bool:
    """Whether an MPI launcher started this process together with others."""
    found = launcher(os.environ)
    return found is not None and found[1] > 1
