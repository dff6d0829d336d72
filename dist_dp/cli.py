"""The command `dist-dp`: run a script, look into a run directory, look at this machine.

Exit codes: 0 success; 1 the program failed, or what was inspected is damaged; 2 a wrong option, argument or setting,
told in a line; 3 the run was lost, and the same command resumes it; 130 Ctrl-C. A program's own `sys.exit(code)` comes
through. Everything that is heavy is imported where it is needed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import json
import math
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import runtime
from runtime import launch
from runtime.coordinator import Limits
from runtime.group import GroupBroken
from runtime.hosts import cores, mpi_environment
from runtime.member import Lost, current

from ._version import __version__
from .verify_command import verify

if TYPE_CHECKING:
    from runtime.hosts.logs import Show

_OURS = tuple(f"{Path(file).parent}{os.sep}" for file in (__file__, runtime.__file__ or ""))
_CORE = ("numpy", "click", "rich", "safetensors", "threadpoolctl")
_EXTRAS = {
    "ray": "not needed yet: for workers on a Ray cluster, in a later version",
    "mpi4py": "for workers under MPI",
}
_RESUME = "the same command goes on from the newest checkpoint, where SCRIPT gives run="
_LOST, _INTERRUPTED = 3, 130
_AFTER_SCRIPT = {"allow_interspersed_args": False}  # options behind the script are the script's


class _Refused(click.ClickException):
    """Something that the user can put right, told in a line."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dist-dp", message="%(prog)s %(version)s")
def main() -> None:
    """Differentiable programs, trained data-parallel: one run, one answer."""


# --- run ----------------------------------------------------------------------------------------------------------


def _workers(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    """The number of workers; None for `auto`."""
    if value == "auto":
        return None
    if not (value.lstrip("-").isdecimal() and value.isascii()):
        raise click.BadParameter(f"{value!r} is not a valid integer, nor 'auto'")
    workers = int(value)
    if not 1 <= workers <= cores.MOST_WORKERS:
        raise click.BadParameter(f"{workers} is not in the range 1<=x<={cores.MOST_WORKERS}")
    if workers > 1 and mpi_environment.launched():
        raise click.BadParameter(
            "MPI has started this process as one of several workers already; leave -n out"
        )
    return workers


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> float | None:
    """A time above 0; None for `never`."""
    if value == "never":
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise click.BadParameter(f"{value!r} is no number of seconds above 0, nor 'never'")
    return seconds


def _backend(context: click.Context, parameter: click.Parameter, backend: str) -> str:
    from runtime.hosts.local import BACKENDS

    if backend == "mpi":
        raise click.BadParameter("workers over MPI are started by MPI: mpirun -n 4 python SCRIPT")
    if backend not in BACKENDS:
        raise click.BadParameter(f"{backend!r} is not one of {', '.join(map(repr, BACKENDS))}")
    return backend


@main.command(context_settings=_AFTER_SCRIPT)
@click.option(
    "-n", "--workers", callback=_workers, default="1", show_default=True, metavar="NUMBER|auto",
    help="Worker processes on this machine; auto: one for every --threads cores.",
)  # fmt: skip
@click.option(
    "--shards", type=click.IntRange(min=1), metavar="NUMBER",
    help="Shards per step where SCRIPT gives none. By default as many as there are workers; runs with equal numbers of "
    "shards end with equal digests. A run is resumed with the number it was begun with.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True,
    help="BLAS threads of each worker. A run is resumed with the number it was begun with.",
)  # fmt: skip
@click.option(
    "--progress", type=click.Choice(["auto", "bar", "plain", "off"]),
    help="A live bar, plain lines, or only warnings. By default a bar on a terminal, and lines in a log or if there "
    "are several workers.",
)  # fmt: skip
@click.option(
    "--accept-changes", is_flag=True,
    help="Resume although the program or the fingerprint of the machine has changed.",
)  # fmt: skip
@click.option(
    "--backend", callback=_backend, default="shm", show_default=True, metavar="shm|tcp|shm+tcp",
    help="What several workers exchange over.",
)  # fmt: skip
@click.option(
    "--logs", type=click.Choice(["errors", "all", "first"]), default="errors", show_default=True,
    help="Of several workers, show what the first prints and the errors of the others, every line, or the first alone. "
    "All is kept in the run directory.",
)  # fmt: skip
@click.option(
    "--hang-after", callback=_seconds, metavar="SECONDS|never", default=f"{Limits.hang:g}", show_default=True,
    help="A worker that has made no progress for so long is replaced.",
)  # fmt: skip
@click.option(
    "--max-losses", type=click.IntRange(min=1), default=Limits.losses, show_default=True,
    help="Workers lost so many times without a step in between end the run; those lost together count once.",
)  # fmt: skip
@click.argument("script", type=click.Path(exists=True, dir_okay=False, readable=True))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    workers: int | None,
    shards: int | None,
    threads: int,
    progress: str | None,
    accept_changes: bool,
    backend: str,
    logs: Show,
    hang_after: float | None,
    max_losses: int,
    script: str,
    arguments: tuple[str, ...],
) -> None:
    """Run SCRIPT as `python SCRIPT ARGUMENTS...` does, in one process or several.

    Beyond that, every BLAS library is held to --threads from its start, a wrong argument or setting is told in a line,
    and Ctrl-C ends quietly once the newest step is saved.
    """
    if progress is not None:
        os.environ["DIST_DP_PROGRESS"] = progress
    if accept_changes:
        os.environ["DIST_DP_ACCEPT_CHANGES"] = "1"
    if shards is not None:
        os.environ["DIST_DP_SHARDS"] = str(shards)
    if workers is None:
        workers = 1 if mpi_environment.launched() else cores.available() // threads
    if workers > 1:
        limits = Limits(hang=hang_after, losses=max_losses)
        _run_workers(workers, threads, backend, limits, logs, script, arguments)
    launch.restart_with_threads(threads)
    if launch.CONTROL in os.environ:  # one of the workers that the other branch starts
        from runtime.hosts.program import run_program

        program = functools.partial(launch.run_as_main, script, arguments)
        sys.exit(run_program(program, functools.partial(_report, script)))
    try:
        launch.run_as_main(script, arguments)
    except KeyboardInterrupt as error:
        if mpi_environment.launched():
            sys.excepthook(type(error), error, error.__traceback__)  # ends all ranks
        click.echo(f"\ndist-dp: interrupted; {_RESUME}", err=True)
        sys.exit(_INTERRUPTED)
    except Exception as error:
        _fail(script, error)


def _run_workers(
    workers: int,
    threads: int,
    backend: str,
    limits: Limits,
    logs: Show,
    script: str,
    arguments: tuple[str, ...],
) -> NoReturn:
    """Run the script in several processes, each as `dist-dp run` with one worker does."""
    from runtime.hosts.local import LocalHost
    from runtime.hosts.logs import WorkerLogs

    command = [sys.executable, "-m", "dist_dp.cli", "run", "--threads", str(threads), script, *arguments]
    output = WorkerLogs(workers, sys.stdout, sys.stderr, logs)
    environment = {launch.THREADS: str(threads)}
    host = LocalHost(command, workers, backend=backend, limits=limits, environment=environment, logs=output)
    try:
        over = host.run()
    finally:
        output.close()
    report = over.report
    if "refused" in report:
        raise _Refused(report["refused"])
    if report:
        click.echo(report["traceback"], err=True, nl=False)
        last = f", last in step {report['step']}, {report['doing']}" if report["doing"] else ""
        click.echo(f"dist-dp: worker {report['worker']} of {workers} failed{last}; all have ended", err=True)
        sys.exit(report["exit"])
    if over.code == _INTERRUPTED:
        click.echo(f"\ndist-dp: interrupted; {_RESUME}", err=True)
    elif over.code:
        click.echo(f"dist-dp: the run was lost: {over.reason}", err=True)
    sys.exit(over.code)


def _report(script: str, error: BaseException) -> dict[str, Any]:
    """How the script failed in this worker, for `_run_workers` to tell as `_fail` does."""
    error.__traceback__ = launch.within(script, error.__traceback__)
    report = {"worker": current().worker, "error": type(error).__name__, "message": str(error)}
    if isinstance(error, SystemExit):
        is_text = not isinstance(error.code, int)
        return {
            **report,
            "exit": 1 if is_text else error.code,
            "traceback": f"{error.code}\n" if is_text else "",
        }
    if isinstance(error, GroupBroken | Lost):  # in an exchange of the program's own, or in the place of one
        return {**report, "exit": _LOST, "traceback": f"dist-dp: the run was lost: {error}; {_RESUME}\n"}
    if isinstance(error, Exception) and (refusal := _refusal(error)) is not None:
        return {**report, "refused": refusal, "exit": _Refused.exit_code, "traceback": f"Error: {refusal}\n"}
    with contextlib.redirect_stderr(io.StringIO()) as told:
        sys.excepthook(type(error), error, error.__traceback__)
    return {**report, "exit": 1, "traceback": told.getvalue()}


def _fail(script: str, error: Exception) -> NoReturn:
    """End as the script did: told in a line if the call is to be put right, else with its traceback, as Python does."""
    error.__traceback__ = launch.within(script, error.__traceback__)
    if (refusal := _refusal(error)) is not None:
        if mpi_environment.launched():
            current().failed(_report(script, error))  # tells it, once, and ends the others too
            sys.exit(_Refused.exit_code)
        raise _Refused(refusal) from None
    sys.excepthook(type(error), error, error.__traceback__)  # of MPI's ranks, it ends all
    sys.exit(1)


def _refusal(error: Exception) -> str | None:
    """What to tell in a line of an error that says what is to be put right in the call; None for any other failure."""
    # Loaded long ago, if any of these is the case.
    from runtime.checkpoint import CheckpointDamaged
    from runtime.run_lock import RunInUse

    from .train import RunMismatch

    if isinstance(error, RunMismatch | RunInUse | CheckpointDamaged):
        return str(error)
    if (call := _wrong_call(error)) is None:
        return None
    what = "".join(traceback.format_exception_only(error)).strip()
    return f"{what}\n  {os.path.relpath(call.filename)}:{call.lineno}: {call.line}"


def _wrong_call(error: Exception) -> traceback.FrameSummary | None:
    """The line of the program that called dist_dp with what it refused, before any step; None for any other failure."""
    from .train import Steps

    if Steps.begun or not isinstance(error, TypeError | ValueError | LookupError | OSError):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    # Generated code (of a dataclass, say) and context managers stand between frames of ours.
    ours = [frame.filename.startswith((*_OURS, "<", contextlib.__file__)) for frame in frames]
    # The program's frames, then ours up to the one that raised: nothing of the program failed on the way.
    border = ours.index(True) if True in ours else 0
    raised_here = bool(frames) and frames[-1].filename.startswith(_OURS)
    return frames[border - 1] if border and raised_here and all(ours[border:]) else None


# --- inspect ------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("run", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def inspect(run: str, as_json: bool) -> None:
    """Tell what the run directory RUN holds, and verify its checkpoints.

    The exit code is 1 if anything in it is damaged.
    """
    from .train.report import NoRun, report

    try:
        found = report(run)
    except NoRun as error:
        raise _Refused(str(error)) from None
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        _show_run(found)
    sys.exit(1 if found["problems"] else 0)


def _show_run(found: dict[str, Any]) -> None:
    status = f"in use by {found['in_use_by']}" if found["in_use_by"] else found["status"]
    total = f" of {found['total_steps']:,}" if found["total_steps"] else ""
    model, digest = found["model"], found["digest"]
    size = f"{model['numbers']:,} numbers in {model['arrays']} arrays, {_bytes(model['bytes'])}"
    about = {
        "status": status,
        "steps done": f"{found['step']:,}{total}",
        "model": f"{model['class']}: {size}",
        **{name: _flat(found[name]) for name in ("optimizer", "data", "settings", "program", "version")},
        "metrics": _flat({n: f"{v:.6g}" if isinstance(v, float) else v for n, v in found["metrics"].items()}),
        "digest": digest["sha256"] if digest else "none yet",
        "of step": f"{digest['step']:,}" if digest else "",
    }
    _print(rows=((name, text) for name, text in about.items() if text))
    if not found["checkpoints"]:
        click.echo("no checkpoints")
    else:
        rows = (
            (
                f"{entry['step']:,}",
                _bytes(entry["bytes"]),
                f"damaged: {entry['damage']}" if entry["damage"] else "ok",
            )
            for entry in found["checkpoints"]
        )
        _print("checkpoint", "size", "verified", rows=rows)
    for problem in found["problems"]:
        click.echo(f"warning: {problem}", err=True)


def _flat(value: Any) -> str:
    """A JSON value in a line: `batch_size 32, shards 4`."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return f"({'; '.join(map(_flat, value))})"
    return value if isinstance(value, str) else json.dumps(value)


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"


def _print(*columns: str, rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table; without names of columns, just the rows."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD) if columns else Table.grid(padding=(0, 2))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))  # no markup: brackets are the run's own
    Console().print(table)


# --- doctor -------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def doctor(as_json: bool) -> None:
    """Tell what a run computes with here: versions, fingerprint, threads, what else is installed.

    The exit code is 1 if something is wrong.
    """
    from runtime.fingerprint import fingerprint

    versions = {"dist_dp": __version__, **{name: _version(name) for name in _CORE}}
    wrong = [f"{name} is not installed" for name, version in versions.items() if version is None]
    blas = _blas()
    wrong += [blas] if blas.startswith("wrong") else []
    found = {
        "versions": versions,
        "fingerprint": fingerprint(),
        "threads": {name: os.environ.get(name) for name in launch.THREAD_VARIABLES},
        "blas": blas,
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
    _print("package", "version", "", rows=core + extras)
    _print("fingerprint", "", rows=((name, str(value)) for name, value in found["fingerprint"].items()))
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
    _print("threads", "", "verdict", rows=threads)
    _print("cores", "", rows=((name, str(value)) for name, value in found["cores"].items()))
    _print("mpi", "", rows=((name, value or "none") for name, value in found["mpi"].items()))
    for line in found["wrong"]:
        click.echo(f"Error: {line}", err=True)


main.add_command(verify)

if __name__ == "__main__":
    main()
