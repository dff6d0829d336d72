"""Side by side with peers, and at scale: `python -m benchmarks [NAME] [OPTIONS]`; engine, if none is named.

`python -m benchmarks NAME --help` says what each measures and needs.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

# Before NumPy and torch are imported: one thread each.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

NAMES = ("engine", "all_reduce", "workers", "checkpoint", "scale", "ray_recovery", "ray_exchange", "batching")


def main(argv: list[str]) -> None:
    name, *options = argv if argv and argv[0] in NAMES else ["engine", *argv]
    import_module(f".{name}", __package__).main(options)


if __name__ == "__main__":
    main(sys.argv[1:])
