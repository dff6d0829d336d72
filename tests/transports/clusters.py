"""Groups of every transport, ready for use in one process: a thread for each worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from runtime.group import Group, GroupBroken
from runtime.transports.shm import ShmGroup
from runtime.transports.solo import SoloGroup
from runtime.transports.tcp import Listener, TcpGroup

T = TypeVar("T")

SECONDS = 30.0  # after which a law is held to hang


@dataclass(frozen=True)
class Transport:
    """How to make the groups of one generation, by rank, and how many workers may be in it."""

    cluster: Callable[[int], AbstractContextManager[Sequence[Group]]]
    most: int = 6


@contextmanager
def solo(size: int) -> Iterator[Sequence[Group]]:
    assert size == 1
    yield [SoloGroup()]


@contextmanager
def shm(size: int) -> Iterator[Sequence[ShmGroup]]:
    descriptor = ShmGroup.new_file(size)
    groups = [ShmGroup(descriptor, rank, size, generation=1) for rank in range(size)]
    os.close(descriptor)
    try:
        yield groups
    finally:
        for group in groups:
            group.close()


@contextmanager
def tcp(size: int, timeout: float = 30.0) -> Iterator[Sequence[TcpGroup]]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener()) for _ in range(size)]
        addresses = [listener.address for listener in listeners]
        with ThreadPoolExecutor(size) as threads:
            groups = list(
                threads.map(
                    lambda rank: TcpGroup(listeners[rank], addresses, rank, 1, b"secret", timeout),
                    range(size),
                )
            )
        for group in groups:
            stack.callback(group.close)
        yield groups


TRANSPORTS = {
    "solo": Transport(solo, most=1),
    "shm": Transport(shm),
    "tcp": Transport(tcp),
}
"""A new transport is registered here, and every law is run over it."""


def run(groups: Sequence[Group], work: Callable[[Group], T]) -> list[T | BaseException]:
    """What `work` returned or raised on every worker, each in a thread of its own.

    Whoever raises ends the generation for all, as a launcher would when a process is gone.

    Raises:
        AssertionError: somebody still waits after SECONDS: aborts did not release him, or nobody aborted.
    """
    results: list[T | BaseException] = [AssertionError("did not end")] * len(groups)

    def thread(rank: int) -> None:
        try:
            results[rank] = work(groups[rank])
        except BaseException as error:
            results[rank] = error
            for group in groups:
                group.abort()

    threads = [threading.Thread(target=thread, args=(rank,), daemon=True) for rank in range(len(groups))]
    for t in threads:
        t.start()
    for t in threads:
        t.join(SECONDS)
    hung = [rank for rank, t in enumerate(threads) if t.is_alive()]
    assert not hung, f"workers {hung} hang"
    return results


def check(groups: Sequence[Group], law: Callable[[Group], object]) -> None:
    """Run a law on every worker; raise the error that ended it, if any did."""
    errors = [r for r in run(groups, law) if isinstance(r, BaseException)]
    for error in sorted(errors, key=lambda e: isinstance(e, GroupBroken)):
        raise error
