"""The command `dist-dp`: run a script, look into a run directory, look at this machine.

Exit codes: 0 success; 1 the program failed, or what was inspected is damaged; 2 a wrong option, argument or setting,
told in a line; 130 Ctrl-C. Everything that is heavy is imported where it is needed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import click

import runtime
from runtime import launch

from ._version import __version__

_OURS = tuple(f"{Path(file).parent}{os.sep}" for file in (__file__, runtime.__file__ or ""))
_CORE = ("numpy", "click", "rich", "safetensors", "threadpoolctl")
_EXTRAS = {"ray": "workers on a Ray cluster", "mpi4py": "workers under MPI"}
_AFTER_SCRIPT = {"allow_interspersed_args": False}  # options behind the script are the script's


class _Refused(click.ClickException):
    """Something that the user can put right, told in a line."""

    exit_code = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dist-dp", message="%(prog)s %(version)s")
def main() -> None:
    """Differentiable programs, trained data-parallel: one run, one answer."""


# --- run ----------------------------------------------------------------------------------------------------------


def _one_worker(context: click.Context, parameter: click.Parameter, workers: int) -> int:
    if workers < 1:
        raise click.BadParameter(f"{workers} is below 1")
    if workers > 1:
        raise click.BadParameter(
            f"several workers come with a later version; {__version__} trains in one process (-n 1)"
        )
    return workers


@main.command(context_settings=_AFTER_SCRIPT)
@click.option(
    "-n", "--workers", type=int, default=1, show_default=True, callback=_one_worker, expose_value=False,
    help="Worker processes; this version has one.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True,
    help="BLAS threads. A run is resumed with the number it was begun with.",
)  # fmt: skip
@click.option(
    "--progress", type=click.Choice(["auto", "bar", "plain", "off"]),
    help="A live bar, plain lines, or only warnings. By default a bar on a terminal and lines in a log.",
)  # fmt: skip
@click.option(
    "--accept-changes", is_flag=True,
    help="Resume although the program or the fingerprint of the machine has changed.",
)  # fmt: skip
@click.argument("script", type=click.Path(exists=True, dir_okay=False, readable=True))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    threads: int, progress: str | None, accept_changes: bool, script: str, arguments: tuple[str, ...]
) -> None:
    """Run SCRIPT as `python SCRIPT ARGUMENTS...` does.

    Beyond that, every BLAS library is held to --threads from its start, a wrong argument or setting is told in a line,
    and Ctrl-C ends quietly once the newest step is saved.
    """
    if progress is not None:
        os.environ["DIST_DP_PROGRESS"] = progress
    if accept_changes:
        os.environ["DIST_DP_ACCEPT_CHANGES"] = "1"
    launch.restart_with_threads(threads)
    try:
        launch.run_as_main(script, arguments)
    except KeyboardInterrupt:
        click.echo(
            "\ndist-dp: interrupted; the same command goes on from the newest checkpoint, where SCRIPT gives run=",
            err=True,
        )
        sys.exit(130)
    except Exception as error:
        _fail(script, error)


def _fail(script: str, error: Exception) -> NoReturn:
    """End as the script did: told in a line if the call is to be put right, else with its traceback, as Python does."""
    # Loaded long ago, if any of these is the case.
    from runtime.checkpoint import CheckpointDamaged
    from runtime.run_lock import RunInUse

    from .train import RunMismatch

    error.__traceback__ = launch.within(script, error.__traceback__)
    if isinstance(error, RunMismatch | RunInUse | CheckpointDamaged):
        raise _Refused(str(error)) from None
    if (call := _wrong_call(error)) is not None:
        what = "".join(traceback.format_exception_only(error)).strip()
        raise _Refused(f"{what}\n  {os.path.relpath(call.filename)}:{call.lineno}: {call.line}") from None
    sys.excepthook(type(error), error, error.__traceback__)
    sys.exit(1)


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
        "extras": {name: _version(name) for name in _EXTRAS},
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


def _show_machine(found: dict[str, Any]) -> None:
    core = [
        (name, version or "none", "" if version else "wrong: install it")
        for name, version in found["versions"].items()
    ]
    extras = [
        (name, version or "none", f"not needed yet: for {_EXTRAS[name]}, in a later version")
        for name, version in found["extras"].items()
    ]
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
    for line in found["wrong"]:
        click.echo(f"Error: {line}", err=True)


if __name__ == "__main__":
    main()
