"""Running a program as a worker whose launcher is told how it ended."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

from .coordinated import CoordinatedMember
from .local_worker import attach

_INTERRUPTED = 130


def run_program(
    program: Callable[[], object],
    report: Callable[[BaseException], Mapping[str, Any]],
    attach: Callable[[], CoordinatedMember] = attach,
) -> int:
    """Run `program` as this worker, and tell the launcher how it ended; returns the exit code for this process.

    An exception, or `sys.exit` with anything but 0, is a failure of the program: all workers end, with the `report` of
    it (see `runtime.member.Member.failed`); nothing is printed here. What ends the process otherwise (a signal,
    `os._exit`) is a loss: the worker is replaced.
    """
    try:
        return _run(attach(), program, report)
    except KeyboardInterrupt:  # at any time, in the midst of `attach` too
        return _INTERRUPTED


def _run(
    member: CoordinatedMember,
    program: Callable[[], object],
    report: Callable[[BaseException], Mapping[str, Any]],
) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # as on a terminal: lines come when they are printed
        sys.stdout.reconfigure(line_buffering=True)
    try:
        try:
            program()
        except SystemExit as error:
            if error.code not in (None, 0):
                raise
        member.pay()
        member.leave()
        return 0
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if member.stopped:  # and this is how the program took it
            return _INTERRUPTED
        member.failed(report(error))
        return 1
