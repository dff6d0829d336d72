"""What was measured: a table by name, and a trace that Perfetto and chrome://tracing open.

The file of a profile is a trace in Chrome's event format (a complete event, `"ph": "X"`, for each span, times in µs; a
process for each worker) with the table beside it, under `otherData`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REST = "(between them)"  # Python code that is no operation


@dataclass
class Row:
    """All spans of one name in the thread that was measured.

    Attributes:
        name: of an operation, of one with `, backward`, or of what the training loop does.
        calls: how many.
        seconds: what they took themselves, without the spans within them.
        bytes: of arrays: of an operation its inputs and outputs, backward the gradient that comes to it.
    """

    name: str
    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0


@dataclass
class Profile:
    """What `dp.profile` measured; printed, a table. It is filled when the block ends.

    Attributes:
        rows: of each worker, the longest first.
        seconds: how long each worker was measured.
        events: the trace, as Chrome's format has it.
        left_out: how many spans it lacks, because there were too many.
    """

    rows: dict[int, list[Row]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that Perfetto (ui.perfetto.dev) opens, and `Profile.load`."""
        table = {
            "rows": {worker: [asdict(row) for row in rows] for worker, rows in self.rows.items()},
            "seconds": self.seconds,
            "left_out": self.left_out,
        }
        trace = {"traceEvents": self.events, "displayTimeUnit": "ms", "otherData": {"dist_dp": table}}
        Path(path).write_text(json.dumps(trace), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """What `save` wrote.

        Raises:
            ValueError: the file is none of `save`.
        """
        try:
            trace = json.loads(Path(path).read_text(encoding="utf-8"))
            table = trace["otherData"]["dist_dp"]
            rows = {int(worker): [Row(**row) for row in rows] for worker, rows in table["rows"].items()}
            seconds = {int(worker): seconds for worker, seconds in table["seconds"].items()}
            return cls(rows, seconds, trace["traceEvents"], table["left_out"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)} is no profile that dist_dp wrote") from error

    @classmethod
    def merged(cls, profiles: Iterable[Profile]) -> Profile:
        """Those of several processes as one. What one worker measured several times is added up."""
        whole = cls()
        for profile in profiles:
            for worker, rows in profile.rows.items():
                whole.rows[worker] = _added([*whole.rows.get(worker, []), *rows])
                whole.seconds[worker] = whole.seconds.get(worker, 0.0) + profile.seconds[worker]
            whole.events += profile.events
            whole.left_out += profile.left_out
        return whole

    def __str__(self) -> str:
        """The table; of several workers the sums."""
        total = sum(self.seconds.values())
        rows = _added([row for rows in self.rows.values() for row in rows])
        rows.append(Row(REST, 0, total - sum(row.seconds for row in rows)))
        width = max(len(row.name) for row in rows)
        lines = [f"{'':{width}} {'calls':>9} {'ms':>11} {'share':>7} {'MB':>10} {'GB/s':>7}"]
        for row in sorted(rows, key=lambda row: -row.seconds):
            rate = f"{row.bytes / row.seconds / 1e9:.1f}" if row.bytes and row.seconds else ""
            size = f"{row.bytes / 1e6:,.1f}" if row.bytes else ""
            lines.append(
                f"{row.name:{width}} {row.calls or '':>9} {row.seconds * 1e3:>11,.2f} "
                f"{row.seconds / total if total else 0:>7.1%} {size:>10} {rate:>7}"
            )
        workers = ", ".join(
            f"worker {worker} {seconds:.3f} s" for worker, seconds in sorted(self.seconds.items())
        )
        lines.append(f"measured: {workers}")
        if self.left_out:
            lines.append(f"the trace lacks {self.left_out:,} spans; dp.profile(spans=...) keeps more")
        return "\n".join(line.rstrip() for line in lines)


def _added(rows: Iterable[Row]) -> list[Row]:
    """The rows with those of one name added up, the longest first."""
    by_name: dict[str, Row] = {}
    for row in rows:
        one = by_name.setdefault(row.name, Row(row.name))
        one.calls += row.calls
        one.seconds += row.seconds
        one.bytes += row.bytes
    return sorted(by_name.values(), key=lambda row: -row.seconds)
