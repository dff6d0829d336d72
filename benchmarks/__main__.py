"""Side by side with peers, and at scale: `python -m benchmarks [NAME] [OPTIONS]`; engine, if none is named.

`python -m benchmarks NAME --help` says what each measures and needs.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

# Before NumPy and torch are imported: one thread each.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

NAMES = ("engine", "all_reduce", "workers", "checkpoint", "scale", "ray_recovery", "ray_exchange", "batching")

# The extra that has a package; another one is told by its own name.
_EXTRAS = {
    "torch": "bench",
    "jax": "bench",
    "matplotlib": "bench",
    "ray": "ray",
    "mpi4py": "mpi",
    "sklearn": "examples",
}


def main(argv: list[str]) -> None:
    name, *options = argv if argv and not argv[0].startswith("-") else ["engine", *argv]
    if name not in NAMES:
        _refuse(f"there is no benchmark {name!r}; there are {', '.join(NAMES)}")
    try:
        import_module(f".{name}", __package__).main(options)
    except ModuleNotFoundError as error:  # and PackageNotFoundError
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        _refuse(f"{name} needs {missing}, which is not installed: pip install '.[{_EXTRAS[missing]}]'")


def _refuse(why: str) -> NoReturn:
    print(f"Error: {why}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
