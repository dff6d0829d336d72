"""Ctrl-C and SIGTERM at a launcher: what they ask it, and Ctrl-C at a worker that was started in the background."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def handed_to(stop: Callable[[str], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM call `stop` meanwhile, with what was asked in words.

    They come to the main thread alone: in another one nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def asked(number: int, frame: Any) -> None:
        stop("interrupted" if number == signal.SIGINT else "asked to end by SIGTERM")

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def hear_interrupts() -> None:
    """Let SIGINT raise KeyboardInterrupt again, where a shell that started this in the background had it ignored.

    It is how a launcher asks the program to end.
    """
    with contextlib.suppress(ValueError):  # not the main thread
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
