"""The command `dist-dp verify`: run a script several ways, show a table of digests, tell where they first differ."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from ..debug.verify import Outcome, Way


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    numbers = value.split(",")
    if not all(n.isascii() and n.isdigit() and int(n) > 0 for n in numbers):
        raise click.BadParameter(f"{value!r} is no list of numbers of workers, such as 1,2,4")
    return tuple(dict.fromkeys(map(int, numbers)))


def _backends(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    from ..debug.verify import BACKENDS

    for backend in value.split(","):
        if backend not in BACKENDS:
            raise click.BadParameter(f"{backend!r} is not one of {', '.join(map(repr, BACKENDS))}")
    return tuple(dict.fromkeys(value.split(",")))


@click.command()
@click.option(
    "-n", "--workers", callback=_numbers, default="1,2,3", show_default=True, metavar="NUMBERS",
    help="Numbers of workers to try.",
)  # fmt: skip
@click.option(
    "--backend", callback=_backends, default="shm", show_default=True, metavar="NAMES",
    help="What they exchange over: shm, tcp, shm+tcp, mpi; several with commas.",
)  # fmt: skip
@click.option(
    "--faults", type=click.IntRange(min=0), default=0, show_default=True,
    help="Run each way on this machine once more, with so many workers killed or stopped at random.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Decides what is broken where.")
@click.option(
    "--shards", type=click.IntRange(min=1),
    help="Shards per step where SCRIPT gives none. By default the largest number of workers.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="BLAS threads of each worker."
)
@click.argument("script", type=click.Path(exists=True, dir_okay=False, readable=True))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def verify(
    workers: tuple[int, ...],
    backend: tuple[str, ...],
    faults: int,
    seed: int,
    shards: int | None,
    threads: int,
    script: str,
    arguments: tuple[str, ...],
) -> None:
    """Run SCRIPT several ways and compare what comes out, bit by bit.

    First as one plain process, then with several workers over each backend, then with faults. Every run is from the
    beginning, in a temporary directory in place of what SCRIPT gives as run=. Arguments of SCRIPT follow after --.

    The exit code is 0 if all digests are equal. Where one is not, the first step, shard and parameter that differ are
    told.
    """
    from rich.console import Console

    from ..debug.verify import Verifier, Way

    console = Console()
    with tempfile.TemporaryDirectory(prefix="dist-dp-verify-") as root:
        verifier = Verifier(script, arguments, Path(root), shards or max(workers), threads)
        with console.status("one process"):
            reference = verifier.run(Way(1, None))
        if reference.code:
            click.echo(reference.output, err=True, nl=False)
            click.echo(
                "dist-dp: one plain process failed already; there is nothing to compare with", err=True
            )
            sys.exit(2 if reference.code == 2 else 1)
        if not any(reference.digests):
            raise click.UsageError(f"{script} trains nothing: there are no steps of dist_dp in it")
        if max(workers) > reference.shards:
            click.echo(
                f"{script} gives shards={reference.shards}: more workers than that cannot share a step and are left out"
            )
            workers = tuple(n for n in workers if n <= reference.shards)
        table = _table()
        _add(table, reference, "reference")
        different: list[Way] = []
        wrong = []
        ways = _ways(workers, backend, faults, seed, reference.steps[0], table)
        for way in ways:
            with console.status(_named(way)):
                outcome = verifier.run(way)
            verdict = "equal" if outcome.digests == reference.digests else "DIFFERS"
            if outcome.code:
                verdict = f"FAILED: exit code {outcome.code}"
                wrong.append(f"{_named(way)}:\n{outcome.output}")
            elif verdict == "DIFFERS":
                different.append(way)
            _add(table, outcome, verdict)
        console.print(table)
        if different:
            with console.status("looking for the first difference"):
                wrong.append(f"{_named(different[0])}: first difference: {verifier.explain(different[0])}\n")
        for text in wrong:
            click.echo(text, nl=False, err=True)
    if not ways:
        click.echo("dist-dp: nothing was compared", err=True)
    sys.exit(1 if wrong or not ways else 0)


def _ways(
    workers: tuple[int, ...], backends: tuple[str, ...], faults: int, seed: int, steps: int, table: Table
) -> list[Way]:
    """What to run; what cannot be run here gets its row at once."""
    from runtime.faults import drawn
    from runtime.hosts.local import BACKENDS as LOCAL

    from ..debug.verify import Way, missing

    here = []
    for backend in backends:
        if (why := missing(backend)) is None:
            here.append(backend)
        else:
            table.add_row("", backend, "", "", "", "", "", f"not here: {why}")
    ways = [Way(n, backend) for n in workers if n > 1 for backend in here]
    local = [backend for backend in here if backend in LOCAL]
    if faults:
        for n in workers:
            for backend in local if n > 1 else local[:1]:  # one worker exchanges nothing
                ordered = tuple(drawn(seed + len(ways), n, steps, faults))
                ways.append(Way(n, backend, ordered))
    return ways


def _named(way: Way) -> str:
    text = f"{way.workers} worker{'s' * (way.workers > 1)} over {way.backend}"
    return f"{text}, {len(way.faults)} faults" if way.faults else text


def _table() -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)  # 80 columns are enough
    for name in ("workers", "backend", "faults", "generations", "steps", "seconds"):
        table.add_column(
            name, justify="right" if name in ("workers", "steps", "seconds") else "left", no_wrap=True
        )
    table.add_column("digest", min_width=12)  # one of each run of the script
    table.add_column("verdict", overflow="fold", min_width=9)
    return table


def _add(table: Table, outcome: Outcome, verdict: str) -> None:
    way = outcome.way
    table.add_row(
        str(way.workers),
        way.backend or "-",
        f"{outcome.landed} of {len(way.faults)}" if way.faults else "",
        str(outcome.generations or ""),
        f"{sum(outcome.steps):,}",
        f"{outcome.seconds:.1f}",
        " ".join(digest[:12] or "none" for digest in outcome.digests),
        verdict,
    )
