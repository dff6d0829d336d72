"""`dist-dp inspect`: what a run directory holds."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from .refusal import Refused
from .table import in_bytes, print_table


@click.command()
@click.argument("run", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def inspect(run: str, as_json: bool) -> None:
    """Tell what the run directory RUN holds, and verify its checkpoints.

    The exit code is 1 if anything in it is damaged.
    """
    from ..train.report import NoRun, report

    try:
        found = report(run)
    except NoRun as error:
        raise Refused(str(error)) from None
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
    size = f"{model['numbers']:,} numbers in {model['arrays']} arrays, {in_bytes(model['bytes'])}"
    about = {
        "status": status,
        "steps done": f"{found['step']:,}{total}",
        "model": f"{model['class']}: {size}",
        **{name: _flat(found[name]) for name in ("optimizer", "data", "settings", "program", "version")},
        "metrics": _flat({n: f"{v:.6g}" if isinstance(v, float) else v for n, v in found["metrics"].items()}),
        "digest": digest["sha256"] if digest else "none yet",
        "of step": f"{digest['step']:,}" if digest else "",
    }
    print_table(rows=((name, text) for name, text in about.items() if text))
    if not found["checkpoints"]:
        click.echo("no checkpoints")
    else:
        rows = (
            (
                f"{entry['step']:,}",
                in_bytes(entry["bytes"]),
                f"damaged: {entry['damage']}" if entry["damage"] else "ok",
            )
            for entry in found["checkpoints"]
        )
        print_table("checkpoint", "size", "verified", rows=rows)
    for problem in found["problems"]:
        click.echo(f"warning: {problem}", err=True)


def _flat(value: Any) -> str:
    """A JSON value in a line: `batch_size 32, shards 4`."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_flat(entry)}" for name, entry in value.items())
    if isinstance(value, list):
        return f"({'; '.join(map(_flat, value))})"
    return value if isinstance(value, str) else json.dumps(value)
