"""The command `dist-dp submit`: run a script on a Ray cluster from outside it, as a Ray job, and show its output here.

What runs on the cluster is `python -m dist_dp.cli run --ray` with the same options. The exit code is that of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runtime.hosts.ray.cluster import ClusterError, check_version, explicit_authentication

from .refusal import FAILED, INTERRUPTED, LOST, Refused
from .run import run
from .table import in_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from ray.job_submission import JobDetails, JobSubmissionClient

_NOT_HERE = (
    "on_ray",
    "backend",
    "storage",
    "working_dir",
)  # of the options of `run`; the last two mean more here
_ANSWER = 30.0  # seconds that the job server may take to answer
_SILENCE = 30.0  # seconds without output after which it is asked whether it is still there
_PATIENCE = 60.0  # seconds that a lost connection is tried again
_LARGEST = 100 << 20  # bytes that Ray's job server accepts in a request
_HANDED_ON = [
    option for option in run.params if isinstance(option, click.Option) and option.name not in _NOT_HERE
]
_TOKEN = "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE (or RAY_AUTH_TOKEN)"


class _HandsOn(click.Command):
    """Keeps the options of `run` as they were given, to hand them on."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        given, _, _ = self.make_parser(context).parse_args(list(args))
        words = context.meta[__name__] = []
        for option in _HANDED_ON:
            value = given.get(option.name, ())
            for one in value if isinstance(value, list | tuple) else [value]:
                names = option.secondary_opts if one is False else option.opts
                words += [names[-1]] if option.is_flag else [names[-1], str(one)]
        return super().parse_args(context, args)


def _address(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter(
            f"{value!r} is no address of Ray's job server, which is that of the dashboard: http://HEAD:8265"
        )
    return value.rstrip("/")


def _storage(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if value != "none" and "://" not in value and not os.path.isabs(value):
        raise click.BadParameter(
            f"{value!r} is relative, and a job's directory is gone after it; give a URL such as s3://bucket/runs, or "
            "the absolute path of a directory that every node shares"
        )
    return value


@click.command(cls=_HandsOn, params=list(_HANDED_ON), context_settings={"allow_interspersed_args": False})
@click.option(
    "--address", callback=_address, envvar="RAY_API_SERVER_ADDRESS", required=True, metavar="URL",
    help="Ray's job server, which is where the dashboard is: http://HEAD:8265. By default $RAY_API_SERVER_ADDRESS.",
)  # fmt: skip
@click.option(
    "--working-dir", metavar="DIRECTORY|URL",
    help="What the job finds in its current directory, SCRIPT included; a URL is that of a zip file. By default the "
    "current directory. What .gitignore or .rayignore name is left out.",
)  # fmt: skip
@click.option(
    "--storage", callback=_storage, default="none", show_default=True, metavar="DIRECTORY|URL|none",
    help="Where a relative run= of SCRIPT lies: a URL, or a directory that all nodes share. With none, a relative run= "
    "is refused, because the job's own directory is gone after it.",
)  # fmt: skip
@click.option(
    "--runtime-env", type=click.Path(exists=True, dir_okay=False, readable=True), metavar="FILE",
    help="YAML of a runtime environment of Ray (pip, env_vars, excludes, ...), which is merged with the above.",
)  # fmt: skip
@click.option(
    "--follow/--no-follow", default=True, help="Show the output until the run ends; or print the job's id."
)
@click.argument("script", type=click.Path())
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def submit(
    context: click.Context,
    /,
    address: str,
    working_dir: str | None,
    storage: str,
    runtime_env: str | None,
    follow: bool,
    script: str,
    arguments: tuple[str, ...],
    **handed_on: Any,
) -> None:
    """Run SCRIPT on the Ray cluster at --address, as a Ray job, and show its output until it ends.

    The options of `dist-dp run --ray` mean the same here. The exit code is that of the run. Ctrl-C ends the showing and
    not the run; it says how to see the output again and how to stop the run.
    """
    os.environ.update(explicit_authentication(os.environ, own=False))  # Ray reads it when it is loaded
    try:
        import aiohttp  # noqa: F401
        import ray.job_submission  # noqa: F401
        import requests  # noqa: F401
    except ImportError as error:
        raise Refused(
            f"this needs Ray and its job client ({error}): pip install 'ray[default]==2.60.*'"
        ) from None
    logging.disable(logging.INFO)  # Ray's client tells of packages and connections
    environment = _environment(runtime_env, working_dir)
    script = _inside(script, environment)
    environment.setdefault("env_vars", {}).update(DIST_DP_STORAGE=storage)
    # `ray job stop` is a Ctrl-C: time to save the newest step.
    for name, value in (("RAY_JOB_STOP_SIGNAL", "SIGINT"), ("RAY_JOB_STOP_WAIT_TIME_S", "30")):
        environment["env_vars"].setdefault(name, value)
    options = context.meta[__name__]
    command = shlex.join(["python", "-m", "dist_dp.cli", "run", "--ray", *options, script, *arguments])
    with _told(address):
        client = _connect(address)
        job = client.submit_job(entrypoint=command, runtime_env=environment)
    if not follow:
        click.echo(job)
        return
    click.echo(f"dist-dp: job {job} on {address}", err=True)
    again = f"ray job logs --follow --address {address} {job}"
    try:
        details = asyncio.run(_follow(client, job, lambda text: click.echo(text, nl=False)))
    except KeyboardInterrupt:
        click.echo(
            f"\ndist-dp: the run goes on. See it with  {again}\n"
            f"         Stop it with  ray job stop --address {address} {job}",
            err=True,
        )
        sys.exit(INTERRUPTED)
    except (OSError, RuntimeError) as error:
        click.echo(f"dist-dp: lost contact with {address}: {error}. If the run goes on: {again}", err=True)
        sys.exit(LOST)
    sys.exit(_exit_code(details))


submit.params.sort(key=_HANDED_ON.__contains__)  # its own first, in --help


def _environment(file: str | None, working_dir: str | None) -> dict[str, Any]:
    """The runtime environment of the file, with the working directory that is meant."""
    import yaml  # type: ignore[import-untyped]  # Ray has it

    environment: dict[str, Any] = {}
    if file is not None:
        try:
            environment = yaml.safe_load(Path(file).read_text()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise Refused(f"--runtime-env {file} is no YAML: {' '.join(str(error).split())}") from None
        if not isinstance(environment, dict) or not isinstance(environment.get("env_vars", {}), dict):
            raise Refused(f"--runtime-env {file}: expected a mapping such as `env_vars: {{NAME: value}}`")
    environment["working_dir"] = working_dir or environment.get("working_dir", ".")
    return environment


def _inside(script: str, environment: dict[str, Any]) -> str:
    """The script's path in the working directory, which has to fit into a request."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE, get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    if "://" in environment["working_dir"]:
        return script
    top = Path(os.path.abspath(environment["working_dir"]))
    if not top.is_dir():
        raise Refused(f"--working-dir {environment['working_dir']} is no directory")
    path = Path(os.path.abspath(script))
    if not path.is_file():
        raise Refused(f"SCRIPT {script} is no file here")
    if not path.is_relative_to(top):
        raise Refused(
            f"SCRIPT {script} does not lie in the working directory {top}, which is all that the cluster gets; "
            "give a directory that holds it as --working-dir"
        )
    sizes: dict[Path, int] = {}  # of what Ray would pack

    def see(entry: Path) -> None:
        if entry.is_file():
            sizes[entry] = entry.stat().st_size

    excludes = get_runtime_env_default_excludes() + list(environment.get("excludes") or [])
    respected = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    _dir_travel(top, [_get_excludes(top, excludes)], see, include_gitignore=respected)
    if (total := sum(sizes.values())) > _LARGEST:
        shares: dict[str, int] = {}
        for entry, size in sizes.items():
            name = entry.relative_to(top).parts[0]
            shares[name] = shares.get(name, 0) + size
        most = sorted(shares, key=lambda name: -shares[name])[:3]
        raise Refused(
            f"the working directory {top} has {in_bytes(total)}, and Ray takes {in_bytes(_LARGEST)}; most is in "
            f"{', '.join(f'{name} ({in_bytes(shares[name])})' for name in most)}. Name what the run does not need in "
            f"{top}/.rayignore, or give a smaller --working-dir; large data belong on a store that the nodes reach"
        )
    if path not in sizes:
        raise Refused(
            f"SCRIPT {script} is left out of the working directory by .gitignore, .rayignore or excludes"
        )
    return str(path.relative_to(top))


@contextlib.contextmanager
def _told(address: str) -> Iterator[None]:
    """Turns what the job server refuses into a line that says what to do."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        wrong = "another token than the one given here" if "invalid" in str(error) else "a token"
        raise Refused(
            f"the cluster at {address} wants {wrong}; set {_TOKEN} to that of the cluster"
        ) from None
    except (ConnectionError, requests.ConnectionError, requests.Timeout):
        raise Refused(
            f"no Ray cluster answers at {address}; the address is that of its dashboard (port 8265 by default), which "
            "has to be reachable from here: `ray start --head --dashboard-host ...`, or a tunnel"
        ) from None
    except (RuntimeError, ValueError, TypeError) as error:
        raise Refused(f"Ray refuses the job: {' '.join(str(error).split())}") from None


def _connect(address: str) -> JobSubmissionClient:
    """A client of the job server, which has the Ray that it needs."""
    import ray
    import requests
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """Every request ends."""

        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            return super()._do_request(*args, timeout=_ANSWER, **kwargs)

    os.environ["RAY_API_SERVER_ADDRESS"] = address  # this, and RAY_ADDRESS, would win over the argument
    try:
        client = Client(address)
        there = client._do_request("GET", "/api/version").json()["ray_version"]
    except (RuntimeError, KeyError, requests.HTTPError, requests.JSONDecodeError):
        raise Refused(f"what answers at {address} is no job server of Ray") from None
    try:
        check_version(there)
    except ClusterError as error:
        raise Refused(f"of the cluster at {address}: {error}") from None
    if there != ray.__version__:
        raise Refused(
            f"the cluster at {address} has Ray {there}, and here is Ray {ray.__version__}; have the same in both: "
            f"pip install 'ray[default]=={there}'"
        )
    return client


async def _follow(client: JobSubmissionClient, job: str, show: Callable[[str], None]) -> JobDetails:
    """Show what a job puts out until it has ended; the details of how it has.

    Raises:
        OSError, RuntimeError: the job server has been away for `_PATIENCE` seconds.
    """
    import aiohttp

    shown = 0
    there = time.monotonic()
    while True:
        seen = 0
        try:
            async for text in _watched(client.tail_job_logs(job), client):
                seen += len(text)
                if seen > shown:  # a new connection begins with the first line again
                    show(text[shown - seen :])
                    shown = seen
            details = await asyncio.to_thread(client.get_job_info, job)
            if details.status.is_terminal():
                return details
            there = time.monotonic()
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            if time.monotonic() - there > _PATIENCE:
                raise OSError(error) from None
        await asyncio.sleep(0.2)  # the log may end a little before the job


async def _watched(texts: AsyncIterator[str], client: JobSubmissionClient) -> AsyncIterator[str]:
    """The same texts; in long silence it is made sure that the job server still answers."""
    while True:
        following = asyncio.ensure_future(anext(texts))
        try:
            while not (await asyncio.wait([following], timeout=_SILENCE))[0]:
                await asyncio.to_thread(client.get_version)
            yield await following
        except StopAsyncIteration:
            return
        finally:
            following.cancel()


def _exit_code(details: JobDetails) -> int:
    """The exit code for how a job has ended; what its output does not tell is told.

    Raises:
        Refused: the cluster cannot run dist_dp.
    """
    code, message = details.driver_exit_code, details.message or ""
    if details.status == "SUCCEEDED":
        return 0
    if details.status == "STOPPED":
        click.echo("dist-dp: the job was stopped", err=True)
        return INTERRUPTED
    if code is None and details.error_type == "RUNTIME_ENV_SETUP_FAILURE":
        raise Refused(f"the cluster could not set up the job's runtime environment: {message}")
    if code is None:
        click.echo(f"dist-dp: the job was lost: {message}", err=True)
        return LOST
    if code == FAILED and re.search(r"No module named '?dist_dp(?![\w.])", message):
        raise Refused(
            "dist_dp is not installed for the `python` that the cluster's nodes run jobs with; install it there, or "
            "give --runtime-env FILE that installs it, or have it in the nodes' image"
        )
    if code == 127:
        raise Refused("the cluster's head has no `python` on its PATH; start Ray there with it on the PATH")
    return int(code if code >= 0 else 128 - code)  # a signal as a shell tells it
