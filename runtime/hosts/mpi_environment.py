"""Whether this process was started by an MPI launcher, told from the environment, without loading MPI."""

from __future__ import annotations


def launched() -> bool:
    """Whether an MPI launcher started this process together with others."""
    return False
