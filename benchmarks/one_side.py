"""A process that holds one library alone, and prints numbers: `python -m benchmarks.one_side WHAT SIDE [MODEL]`.

`import NAME`: seconds that importing it takes. `first SIDE`: the loss after a first step. `memory SIDE MODEL`: MiB
by which training steps raise the peak of resident memory. `faults SIDE MODEL`: page faults of a step, and the
processor's milliseconds for one.
"""

from __future__ import annotations

import statistics
import sys
import time
from importlib import import_module
from pathlib import Path

STEPS = 5


def seconds_of_import(name: str) -> float:
    start = time.perf_counter()
    import_module(name)
    return time.perf_counter() - start


def first_step(side: str) -> float:
    import numpy as np

    from . import dense

    library = getattr(dense, side)()
    nn, rng = library.nn, np.random.default_rng(0)
    x = library.input(rng.random((64, 1, 8, 8), np.float32))
    y = library.input(rng.integers(0, 10, 64))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    training = dense.Training(
        model,
        lambda: nn.functional.cross_entropy(model(x), y),
        library.optim.Adam(model.parameters(), lr=3e-3),
    )
    training.step()
    return float(training.loss().item())


def risen_memory(side: str, key: str) -> float:
    from . import dense

    library, kind = getattr(dense, side)(), dense.KINDS[key]
    kind.training(
        library, kind.model(library, **kind.tiny), **kind.tiny
    ).step()  # loads what is loaded at first use
    model = kind.model(library)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
    before = resident("VmRSS")
    training = kind.training(library, model)
    for _ in range(STEPS):
        training.step()
    return (resident("VmHWM") - before) / 1024


def faults(side: str, key: str) -> str:
    import resource

    from . import dense

    library, kind = getattr(dense, side)(), dense.KINDS[key]
    training = kind.training(library, kind.model(library))
    for _ in range(STEPS):
        training.step()
    found, times = [], []
    for _ in range(STEPS):
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
        training.step()
        times.append((time.process_time() - start) * 1e3)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return f"{statistics.median(found)} {statistics.median(times)}"


def resident(field: str) -> int:
    """A line of the process's own status, in KiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    functions = {"import": seconds_of_import, "first": first_step, "memory": risen_memory, "faults": faults}
    print(functions[what](*words))
