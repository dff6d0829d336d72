"""Cells that several of these tests call, and what an error says of itself."""

from __future__ import annotations

import linecache
import re
import traceback
from typing import Any

import numpy as np

import dist_dp as dp
from dist_dp import ops

ONE = np.ones(2, np.float32)
TABLE = dp.tensor(np.arange(3.0))


@dp.cell
def double(x: Any) -> Any:
    return x * 2.0


@dp.cell
def look(i: Any) -> Any:
    return ops.take(TABLE, i)


@dp.cell
def times(x: Any, y: Any) -> Any:
    return x @ y


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", ()))


def lines(error: BaseException, file: str) -> list[str]:
    """The lines of `file` in the traceback, and those that the notes name."""
    shown = [f.line or "" for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    numbers = re.findall(re.escape(file) + r":(\d+)", notes(error))
    named = [linecache.getline(file, int(number)).strip() for number in numbers]
    return [*shown, *named]
