"""Which of these tests the MPI library at hand can pass (those of ULFM need Open MPI), and what they share."""

import pytest
from mpi import launching

from runtime.faults import FAULTS, Fault, FaultPlan

collect_ignore = [] if launching.library() == "Open MPI" else ["test_ulfm.py"]


@pytest.fixture(scope="session")
def digest() -> str:
    """Of the program, trained in one process."""
    (digest,) = launching.python(launching.PROGRAM).digests
    return digest


@pytest.fixture
def faults(tmp_path):
    """Order faults: returns their plan, and the variables that tell a job of it."""

    def order(*faults: Fault) -> tuple[FaultPlan, dict[str, str]]:
        path = tmp_path / "faults.json"
        return FaultPlan.order(path, faults), {FAULTS: str(path)}

    return order
