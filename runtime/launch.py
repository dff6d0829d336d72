"""Starting a script: the thread settings that must stand before NumPy is loaded, and running a file as Python does.

BLAS libraries read their number of threads from the environment when they are loaded. A launcher sets it for the
processes that it starts, so that every library is reached, those that load later too.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType, TracebackType

THREADS = "DIST_DP_THREADS"

# What the launcher of `runtime.hosts.local` tells its workers: the number of each, how many there are, the file
# descriptor of its control socket, what to exchange over, and the secret that sockets between workers prove to know.
WORKER, WORKERS = "DIST_DP_WORKER", "DIST_DP_WORKERS"
CONTROL, BACKEND, SECRET = "DIST_DP_CONTROL", "DIST_DP_BACKEND", "DIST_DP_SECRET"

# An id that all workers of one launch have, and no other launch.
LAUNCH = "DIST_DP_LAUNCH"

THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def launch_id() -> str:
    """The id of the launch that this process belongs to: what its launcher says, else a new one."""
    return os.environ.get(LAUNCH) or os.urandom(16).hex()


def for_workers(threads: int) -> dict[str, str]:
    """The environment of workers that a launcher starts elsewhere: its own settings, their threads, the launch."""
    own = {name: value for name, value in os.environ.items() if name.startswith("DIST_DP_")}
    return {**own, **dict.fromkeys((THREADS, *THREAD_VARIABLES), str(threads)), LAUNCH: launch_id()}


def blas_threads() -> int:
    """The BLAS threads that a run uses: 1, or what DIST_DP_THREADS says (`dist-dp run --threads` sets it).

    Raises:
        ValueError: DIST_DP_THREADS is no whole number above 0.
    """
    text = os.environ.get(THREADS, "1")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"{THREADS} must be a whole number above 0, got {text!r}")
    return int(text)


def restart_with_threads(threads: int) -> None:
    """Replace this process by itself with `threads` in the environment, unless a launcher did so before.

    The process keeps its id, its files and its arguments; returns only if there is nothing to do.
    """
    if os.environ.get(THREADS) == str(threads):
        return
    os.environ.update({name: str(threads) for name in (THREADS, *THREAD_VARIABLES)})
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def run_as_main(script: str, arguments: Sequence[str]) -> None:
    """Run a file as `python script arguments...` would, in this process; what it raises comes through.

    It is the module `__main__`, `sys.argv` is as given, and imports look first where the file lies.

    Raises:
        OSError: the file cannot be read.
        SyntaxError: it is no Python.
    """
    path = os.path.abspath(script)
    with io.open_code(path) as file:
        source = file.read()
    module = ModuleType("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)


def within(script: str, traceback: TracebackType | None) -> TracebackType | None:
    """The part of a traceback from the frames of a script on; None if it never came there."""
    path = os.path.abspath(script)
    while traceback is not None and traceback.tb_frame.f_code.co_filename != path:
        traceback = traceback.tb_next
    return traceback
