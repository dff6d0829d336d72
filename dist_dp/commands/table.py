"""Tables and sizes on the terminal."""

from __future__ import annotations

from collections.abc import Iterable


def in_bytes(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.4g} {unit}"


def print_table(*columns: str, rows: Iterable[tuple[str, ...]]) -> None:
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
