"""`dist-dp doctor`: what a run computes with on this machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from typing import Any

import click

from runtime import launch
from runtime.hosts import cores

from .._version import __version__
from .table import print_table

_CORE = ("numpy", "click", "rich", "safetensors", "threadpoolctl")
_EXTRAS = {
    "ray": "for workers on a Ray cluster",
    "mpi4py": "for workers under MPI",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def doctor(as_json: bool) -> None:
    """Tell what a run computes with here: versions, fingerprint, threads, what else is installed.

    The exit code is 1 if something is wrong.
    """
    from runtime.fingerprint import fingerprint

    versions = {"dist_dp": __version__, **{name: _version(name) for name in _CORE}}
    wrong = [f"{name} is not installed" for name, version in versions.items() if version is None]
    blas = _blas()
    kernels = _kernels()
    wrong += [verdict for verdict in (blas, kernels) if verdict.startswith("wrong")]
    found = {
        "versions": versions,
        "fingerprint": fingerprint(),
        "threads": {name: os.environ.get(name) for name in launch.THREAD_VARIABLES},
        "blas": blas,
        "kernels": kernels,
        "cores": _cores(),
        "extras": {name: _version(name) for name in _EXTRAS},
        "mpi": _mpi(),
        "wrong": wrong,
    }
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        _show_machine(found)
    sys.exit(1 if wrong else 0)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _blas() -> str:
    """Whether a run here can hold its BLAS to one thread."""
    from runtime.fingerprint import fingerprint, pin_blas_threads

    try:
        pin_blas_threads(1).restore_original_limits()
    except RuntimeError as error:
        return f"wrong: {error}"
    if not fingerprint()["blas_threads"]:
        return "unknown: this BLAS does not tell its threads; `dist-dp run` sets them by environment"
    return "ok: a run holds it to one thread, tried here"


def _kernels() -> str:
    """Whether the compiled kernels are used here, and if not, why."""
    from .. import kernels
    from ..kernels import build

    if kernels.compiled is None:
        return f"{'wrong: ' if 'cannot be loaded' in kernels.why_not else ''}NumPy: {kernels.why_not}"
    digest = build.digest()
    if any(build.HERE.glob("*.c")) and digest != kernels.compiled.source:
        return (
            f"wrong: stale, compiled from other sources ({kernels.compiled.source}) than those beside them ({digest}); "
            f"compile again: {sys.executable} {build.__file__}"
        )
    return "ok: compiled"


def _cores() -> dict[str, Any]:
    """How many workers of one thread `-n auto` starts, and why."""
    cpus = cores.affinity()
    return {
        "available": cores.available(),
        "logical": os.cpu_count(),
        "affinity": None if cpus is None else len(cpus),
        "quota": cores.quota(),
    }


def _mpi() -> dict[str, str | None]:
    """The launcher of MPI that is found here, and the library that mpi4py loads, told by a process of its own."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    mpirun = shutil.which("mpirun", path=path) or shutil.which("mpiexec", path=path)
    library = None
    if _version("mpi4py") is not None:
        ask = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"
        try:
            told = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=30)
            lines = (told.stdout or told.stderr).strip("\0 \n").splitlines()
            # Of a failure, the last line of its traceback.
            library = " ".join(lines[-1 if told.returncode else 0].split()) if lines else "nothing told"
        except (OSError, subprocess.TimeoutExpired) as error:
            library = f"unknown: {error}"
    return {"mpirun": mpirun, "library": library}


def _show_machine(found: dict[str, Any]) -> None:
    core = [
        (name, version or "none", "" if version else "wrong: install it")
        for name, version in found["versions"].items()
    ]
    extras = [(name, version or "none", _EXTRAS[name]) for name, version in found["extras"].items()]
    print_table("package", "version", "", rows=core + extras)
    print_table("kernels", rows=[(found["kernels"],)])
    print_table("fingerprint", "", rows=((name, str(value)) for name, value in found["fingerprint"].items()))
    threads = [("BLAS now", str(found["fingerprint"]["blas_threads"]), found["blas"])]
    for name, value in found["threads"].items():
        verdict = (
            "ok"
            if value == "1"
            else "ok: `dist-dp run` sets it"
            if value is None
            else "`dist-dp run` sets it anew"
        )
        threads.append((name, value or "not set", verdict))
    print_table("threads", "", "verdict", rows=threads)
    print_table("cores", "", rows=((name, str(value)) for name, value in found["cores"].items()))
    print_table("mpi", "", rows=((name, value or "none") for name, value in found["mpi"].items()))
    for line in found["wrong"]:
        click.echo(f"Error: {line}", err=True)
