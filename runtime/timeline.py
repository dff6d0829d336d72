"""What this process does when: stretches of time with names, told to whoever keeps them.

>>> class Printer:
...     def keep(self, span: Span) -> None:
...         print(span.name)
>>> with keeping(Printer()), span("exchange"), span("waiting"):
...     pass
waiting
exchange
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Span(NamedTuple):
    """A stretch of time in one thread.

    Attributes:
        name: of what was done.
        begin, end: in ns, by `time.perf_counter_ns`.
        inside: the ns of it that spans within it took.
        thread: `threading.get_ident()`.
        bytes: of the arrays that it read and wrote, where that is known.
    """

    name: str
    begin: int
    end: int
    inside: int
    thread: int
    bytes: int = 0


class Keeper(Protocol):
    """Whoever keeps spans."""

    def keep(self, span: Span) -> None:
        """Take one span, when it has ended, in its own thread."""


class _Open(threading.local):
    """Of the spans of this thread that are open, the ns that those inside took so far, the innermost last."""

    def __init__(self) -> None:
        self.inside = [0]


_keepers: tuple[Keeper, ...] = ()
_open = _Open()
_nothing = contextlib.nullcontext()


def span(name: str) -> contextlib.AbstractContextManager[object]:
    """A context that is one span. While nobody keeps them it costs next to nothing."""
    return Measured(name) if _keepers else _nothing


@contextlib.contextmanager
def keeping(keeper: Keeper) -> Iterator[None]:
    """Inside, `keeper` is told all spans of this process."""
    global _keepers
    _keepers = (*_keepers, keeper)
    try:
        yield
    finally:
        _keepers = tuple(other for other in _keepers if other is not keeper)


class Measured:
    """A span while it lasts.

    Attributes:
        bytes: to be set before it ends.
    """

    __slots__ = ("_begin", "_name", "bytes")

    def __init__(self, name: str) -> None:
        self._name, self.bytes = name, 0

    def __enter__(self) -> Measured:
        _open.inside.append(0)
        self._begin = time.perf_counter_ns()
        return self

    def __exit__(self, *_: object) -> None:
        end = time.perf_counter_ns()
        inside = _open.inside.pop()
        _open.inside[-1] += end - self._begin
        ended = Span(self._name, self._begin, end, inside, threading.get_ident(), self.bytes)
        for keeper in _keepers:
            keeper.keep(ended)
