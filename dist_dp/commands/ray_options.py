"""The options of `dist-dp run --ray` and `dist-dp submit`: what a worker needs, and where its files are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click


def _resources(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    resources = {}
    for value in values:
        name, equals, text = value.partition("=")
        try:
            amount = float(text)
        except ValueError:
            amount = math.nan
        if not (name and equals and 0 < amount < math.inf):
            raise click.BadParameter(
                f"{value!r} is not NAME=AMOUNT with an amount above 0, as in accelerator=0.5"
            )
        if name in ("CPU", "memory"):
            raise click.BadParameter(
                f"{name} is no custom resource" + "; give --cpus-per-worker" * (name == "CPU")
            )
        resources[name] = amount
    return resources


_OPTIONS = (
    click.option(
        "--cpus-per-worker", type=click.FloatRange(min=0, min_open=True), metavar="NUMBER",
        help="With --ray: CPUs of the cluster that each worker takes. By default as many as --threads.",
    ),
    click.option(
        "--resources", callback=_resources, multiple=True, metavar="NAME=AMOUNT",
        help="With --ray: a custom resource that each worker takes. May be given several times.",
    ),
    click.option(
        "--strategy", type=click.Choice(["pack", "spread"]), default="pack", show_default=True,
        help="With --ray: place the workers on few nodes, or on many.",
    ),
    click.option(
        "--wait/--no-wait", default=True, show_default=True,
        help="With --ray: wait for room on the cluster, or fail if there is none.",
    ),
    click.option(
        "--storage", metavar="DIRECTORY|URL",
        help="With --ray: where relative run= of SCRIPT lie: a directory that all nodes share, or a URL as s3://bucket/runs.",
    ),
    click.option(
        "--working-dir", type=click.Path(exists=True, file_okay=False), metavar="DIRECTORY",
        help="With --ray: send this directory to the nodes, and run there. By default the present one, unless all "
        "nodes are this machine. What .gitignore and .rayignore name is not sent.",
    ),
)  # fmt: skip


def ray_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def refuse_ray_options(context: click.Context) -> None:
    """Raise UsageError if one of them was given to a run that is not on Ray."""
    for name in ("cpus_per_worker", "resources", "strategy", "wait", "storage", "working_dir"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} is for workers on Ray; give --ray too")
