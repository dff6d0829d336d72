"""What is measured, part by part: `python -m benchmarks [engine|all_reduce|workers] [OPTIONS]`."""

from __future__ import annotations

import importlib
import os
import sys

PARTS = ("engine", "all_reduce", "workers")


def main() -> None:
    # Before NumPy and torch are imported, in this process and in those it starts: one thread each.
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    argv = sys.argv[1:]
    part = argv.pop(0) if argv and not argv[0].startswith("-") else "engine"
    if part not in PARTS:
        sys.exit(f"there is no part {part!r}; known are {', '.join(PARTS)}")
    importlib.import_module(f"{__package__}.{part}").main(argv)
