"""`dist-dp run --ray`: the driver of workers on a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from runtime import launch
from runtime.coordinator import Limits, Over

from ..train.directions import NOWHERE, STORAGE
from .refusal import INTERRUPTED, Refused

if TYPE_CHECKING:
    from runtime.hosts.logs import Show


def storage_of_workers(given: str) -> str:
    """Where relative run= of a script lie, for workers, whose current directory is another one: by default here.

    >>> storage_of_workers("s3://bucket/runs"), storage_of_workers("/shared/../runs")
    ('s3://bucket/runs', '/runs')
    """
    return given if given == NOWHERE or "://" in given else os.path.abspath(given)


def run_on_ray(
    workers: tuple[int, int] | None,
    threads: int,
    limits: Limits,
    logs: Show,
    program: Callable[[], object],
    report: Callable[[BaseException], Any],
    *,
    cpus_per_worker: float | None,
    resources: dict[str, float],
    strategy: str,
    wait: bool,
    storage: str | None,
    working_dir: str | None,
) -> Over:
    """Run a script on the cluster at RAY_ADDRESS; how it ended."""
    from runtime.hosts.logs import WorkerLogs
    from runtime.hosts.ray.cluster import ClusterError, connected, fitting, in_a_job

    environment = launch.for_workers(threads)
    environment[STORAGE] = storage_of_workers(
        storage or environment.get(STORAGE) or (NOWHERE if in_a_job() else "")
    )
    bundle = {"CPU": cpus_per_worker or float(threads), **resources}
    try:
        with connected(os.environ.get("RAY_ADDRESS"), working_dir, _say) as directory:
            from runtime.hosts.ray.host import RayHost

            least, most = workers or [fitting(bundle)] * 2
            output = WorkerLogs(most, sys.stdout, sys.stderr, logs)
            try:
                return RayHost(
                    program,
                    report,
                    least=least,
                    most=most,
                    bundle=bundle,
                    strategy=strategy,
                    directory=directory,
                    limits=limits,
                    environment=environment,
                    logs=output,
                    wait=wait,
                    say=_say,
                ).run()
            finally:
                output.close()
    except ClusterError as error:
        raise Refused(str(error)) from None
    except KeyboardInterrupt:  # before there was anything to be interrupted
        return Over(INTERRUPTED, "interrupted")


def _say(line: str) -> None:
    click.echo(f"dist-dp: {line}", err=True)
