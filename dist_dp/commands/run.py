"""`dist-dp run`: run a script in one process or several, and tell in a line what is to be put right."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

import dist_dp
import runtime
from runtime import launch
from runtime.coordinator import Limits, Over
from runtime.group import GroupBroken
from runtime.hosts import cores, mpi_environment
from runtime.member import Lost, current

from ..profiling.profiler import local_folder
from .profile import nothing_measured
from .ray_options import ray_options, refuse_ray_options
from .refusal import INTERRUPTED, LOST, Refused

if TYPE_CHECKING:
    from runtime.hosts.logs import Show

_OURS = tuple(f"{Path(file or '').parent}{os.sep}" for file in (dist_dp.__file__, runtime.__file__))
_RESUME = "the same command goes on from the newest checkpoint, where SCRIPT gives run="
_AFTER_SCRIPT = {"allow_interspersed_args": False}  # options behind the script are the script's


def _workers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int] | None:
    """How many workers at least and at most; None for `auto`."""
    if value == "auto":
        return None
    least, colon, most = value.partition(":")
    for text in (least, most if colon else least):
        if not (text.lstrip("-").isdecimal() and text.isascii()):
            what = "NUMBER:NUMBER" if colon else "a valid integer, nor 'auto' or LEAST:MOST"
            raise click.BadParameter(f"{value!r} is not {what}")
        if not 1 <= int(text) <= cores.MOST_WORKERS:
            raise click.BadParameter(f"{text} is not in the range 1<=x<={cores.MOST_WORKERS}")
    numbers = int(least), int(most if colon else least)
    if numbers[0] > numbers[1]:
        raise click.BadParameter(f"{value!r}: at least {least} workers are more than at most {most}")
    if numbers[1] > 1 and mpi_environment.launched():
        raise click.BadParameter(
            "MPI has started this process as one of several workers already; leave -n out"
        )
    return numbers


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


@click.command(context_settings=_AFTER_SCRIPT)
@click.option(
    "-n", "--workers", callback=_workers, default="1", show_default=True, metavar="NUMBER|auto|LEAST:MOST",
    help="Worker processes on this machine; auto: one for every --threads cores. With --ray: on the cluster; "
    "LEAST:MOST are as many as there is room for, which may change.",
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
@click.option(
    "--profile", type=click.Path(file_okay=False), metavar="FOLDER",
    help="Measure what fit and steps do in each worker, into FOLDER; `dist-dp profile FOLDER` tells. Any other "
    "loop is measured by `with dist_dp.profile(FOLDER):`.",
)  # fmt: skip
@click.option(
    "--ray", "on_ray", is_flag=True,
    help="Run the workers on the Ray cluster at RAY_ADDRESS; without it, on one started for this run alone.",
)  # fmt: skip
@ray_options
@click.argument("script", type=click.Path(exists=True, dir_okay=False, readable=True))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    workers: tuple[int, int] | None,
    shards: int | None,
    threads: int,
    progress: str | None,
    accept_changes: bool,
    backend: str,
    logs: Show,
    hang_after: float | None,
    max_losses: int,
    profile: str | None,
    on_ray: bool,
    script: str,
    arguments: tuple[str, ...],
    **on_cluster: Any,
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
    if profile is not None:
        try:
            local_folder(profile, "FOLDER")
        except (ValueError, OSError) as error:
            raise click.BadParameter(str(error), param_hint="'--profile'") from None
        if _profiles(profile):
            raise click.BadParameter(
                f"{profile} holds the profiles of another run, which would be added up with this one's; give another "
                "folder, or remove them",
                param_hint="'--profile'",
            )
        # The script may change its directory.
        profile = os.environ["DIST_DP_PROFILE"] = os.path.abspath(profile)
    limits = Limits(hang=hang_after, losses=max_losses)
    if on_ray:
        if shards is not None and workers is not None and workers[1] > shards:
            raise click.BadParameter(
                f"{workers[1]} workers are more than --shards {shards}: a shard is computed by one worker",
                param_hint="'-n'",
            )
        if (
            click.get_current_context().get_parameter_source("backend")
            is click.core.ParameterSource.COMMANDLINE
        ):
            raise click.UsageError(
                "--backend is for workers on this machine; those on Ray exchange over shm+tcp"
            )
        from .ray_run import run_on_ray

        program = functools.partial(launch.run_as_main, script, arguments)
        report = functools.partial(_report, script)
        _end(run_on_ray(workers, threads, limits, logs, program, report, **on_cluster))
    refuse_ray_options(click.get_current_context())
    if workers is None:
        number = 1 if mpi_environment.launched() else max(1, cores.available() // threads)
        workers = number, number
    if workers[0] != workers[1]:
        raise click.BadParameter(
            f"{workers[0]}:{workers[1]} is for --ray; give one number", param_hint="'-n'"
        )
    if workers[1] > 1:
        over = _run_workers(workers[1], threads, backend, limits, logs, script, arguments)
        if not over.code:
            _tell_if_nothing_was_measured(profile)
        _end(over)
    launch.restart_with_threads(threads)
    if launch.CONTROL in os.environ:  # one of the workers that the other branch starts
        from runtime.hosts.program import run_program

        program = functools.partial(launch.run_as_main, script, arguments)
        sys.exit(run_program(program, functools.partial(_report, script)))
    try:
        launch.run_as_main(script, arguments)
        _tell_if_nothing_was_measured(profile)
    except SystemExit as end:
        if not end.code:
            _tell_if_nothing_was_measured(profile)
        raise
    except KeyboardInterrupt as error:
        if mpi_environment.launched():
            sys.excepthook(type(error), error, error.__traceback__)  # ends all ranks
        click.echo(f"\ndist-dp: interrupted; {_RESUME}", err=True)
        sys.exit(INTERRUPTED)
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
) -> Over:
    """Run the script in several processes, each as `dist-dp run` with one worker does."""
    from runtime.hosts.local import LocalHost
    from runtime.hosts.logs import WorkerLogs

    command = [sys.executable, "-m", "dist_dp.cli", "run", "--threads", str(threads), script, *arguments]
    output = WorkerLogs(workers, sys.stdout, sys.stderr, logs)
    environment = {launch.THREADS: str(threads)}
    host = LocalHost(command, workers, backend=backend, limits=limits, environment=environment, logs=output)
    try:
        return host.run()
    finally:
        output.close()


def _profiles(folder: str) -> bool:
    """Whether a folder holds profiles of workers."""
    return any(Path(folder).glob("worker-*.json"))


def _tell_if_nothing_was_measured(folder: str | None) -> None:
    """At the end of a run with --profile whose loop is its own."""
    if folder is not None and current().worker == 0 and not _profiles(folder):
        click.echo(f"dist-dp: {nothing_measured(folder)}", err=True)


def _end(over: Over) -> NoReturn:
    """Tell how several workers ended, and end so."""
    report = over.report
    if "refused" in report:
        raise Refused(report["refused"])
    if report:
        click.echo(report["traceback"], err=True, nl=False)
        last = f", last in step {report['step']}, {report['doing']}" if report["doing"] else ""
        click.echo(
            f"dist-dp: worker {report['worker']} of {report['workers']} failed{last}; all have ended",
            err=True,
        )
        sys.exit(report["exit"])
    if over.code == INTERRUPTED:
        click.echo(f"\ndist-dp: interrupted; {_RESUME}", err=True)
    elif over.code:
        click.echo(f"dist-dp: the run was lost: {over.reason}", err=True)
    sys.exit(over.code)


def _report(script: str, error: BaseException) -> dict[str, Any]:
    """How the script failed in this worker, for `_run_workers` to tell as `_fail` does."""
    error.__traceback__ = launch.within(script, error.__traceback__)
    member = current()
    report = {
        "worker": member.worker,
        "workers": member.workers,
        "error": type(error).__name__,
        "message": str(error),
    }
    if isinstance(error, SystemExit):
        is_text = not isinstance(error.code, int)
        return {
            **report,
            "exit": 1 if is_text else error.code,
            "traceback": f"{error.code}\n" if is_text else "",
        }
    if isinstance(error, GroupBroken | Lost):  # in an exchange of the program's own, or in the place of one
        return {**report, "exit": LOST, "traceback": f"dist-dp: the run was lost: {error}; {_RESUME}\n"}
    if isinstance(error, Exception) and (refusal := _refusal(error)) is not None:
        return {**report, "refused": refusal, "exit": Refused.exit_code, "traceback": f"Error: {refusal}\n"}
    with contextlib.redirect_stderr(io.StringIO()) as told:
        sys.excepthook(type(error), error, error.__traceback__)
    return {**report, "exit": 1, "traceback": told.getvalue()}


def _fail(script: str, error: Exception) -> NoReturn:
    """End as the script did: told in a line if the call is to be put right, else with its traceback, as Python does."""
    error.__traceback__ = launch.within(script, error.__traceback__)
    if (refusal := _refusal(error)) is not None:
        if mpi_environment.launched():
            current().failed(_report(script, error))  # tells it, once, and ends the others too
            sys.exit(Refused.exit_code)
        raise Refused(refusal) from None
    sys.excepthook(type(error), error, error.__traceback__)  # of MPI's ranks, it ends all
    sys.exit(1)


def _refusal(error: Exception) -> str | None:
    """What to tell in a line of an error that says what is to be put right in the call; None for any other failure."""
    # Loaded long ago, if any of these is the case.
    from runtime.checkpoint import CheckpointDamaged
    from runtime.run_lock import RunInUse

    from ..train import RunMismatch

    if isinstance(error, RunMismatch | RunInUse | CheckpointDamaged):
        return str(error)
    if (call := _wrong_call(error)) is None:
        return None
    what = "".join(traceback.format_exception_only(error)).strip()
    return f"{what}\n  {os.path.relpath(call.filename)}:{call.lineno}: {call.line}"


def _wrong_call(error: Exception) -> traceback.FrameSummary | None:
    """The line of the program that called dist_dp with what it refused, before any step; None for any other failure."""
    from ..train import Steps

    if Steps.begun or not isinstance(error, TypeError | ValueError | LookupError | OSError):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    # Generated code (of a dataclass, say) and context managers stand between frames of ours.
    ours = [frame.filename.startswith((*_OURS, "<", contextlib.__file__)) for frame in frames]
    # The program's frames, then ours up to the one that raised: nothing of the program failed on the way.
    border = ours.index(True) if True in ours else 0
    raised_here = bool(frames) and frames[-1].filename.startswith(_OURS)
    return frames[border - 1] if border and raised_here and all(ours[border:]) else None
