"""`dist-dp profile`: what the workers of a run measured, as one table and one trace."""

from __future__ import annotations

from pathlib import Path

import click

from .refusal import Refused

TRACE = "trace.json"


def nothing_measured(folder: object) -> str:
    """That there is no profile in a folder, and what would write one."""
    return (
        f"there is no profile in {folder}: `dist-dp run --profile {folder} SCRIPT` measures what fit and steps do; "
        f"any other loop is measured by `with dist_dp.profile({str(folder)!r}):` in the script"
    )


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def profile(folder: Path) -> None:
    """Put together what the workers of a run measured in FOLDER (`dist-dp run --profile FOLDER`).

    Prints a table of all that they did, and writes FOLDER/trace.json for https://ui.perfetto.dev, where each worker is
    a process.
    """
    from ..profiling import Profile

    files = sorted(folder.glob("worker-*.json"))
    if not files:
        raise Refused(nothing_measured(folder))
    try:
        whole = Profile.merged(map(Profile.load, files))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(str(whole))
    try:
        whole.save(folder / TRACE)
    except OSError as error:
        raise click.ClickException(
            f"the trace cannot be written, {folder / TRACE}: {error.strerror}; copy the profiles to another folder"
        ) from None
    click.echo(f"{folder / TRACE}: {len(whole.events):,} events, for https://ui.perfetto.dev")
