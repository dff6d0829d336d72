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
from runtime.transports.hierarchical import HierarchicalGroup
from runtime.transports.shm import ShmGroup
from runtime.transports.solo import SoloGroup
from runtime.transports.tcp import Address, Listener, TcpGroup

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
    with _listeners(size) as (listeners, addresses):
        groups = at_once(size, lambda rank: TcpGroup(listeners[rank], addresses, rank, 1, b"secret", timeout))
        try:
            yield groups
        finally:
            for group in groups:
                group.close()


@contextmanager
def hierarchical(size: int) -> Iterator[Sequence[HierarchicalGroup]]:
    """Half of the workers on the first host, half of the others on the second, ...: hosts of one among them."""
    hosts: list[range] = []
    begin = 0
    while begin < size:
        hosts.append(range(begin, begin + (size - begin + 1) // 2))
        begin = hosts[-1].stop
    with ExitStack() as stack:
        inside: list[Group] = []
        for host in hosts:
            inside += [SoloGroup(1)] if len(host) == 1 else stack.enter_context(shm(len(host)))
        listeners, addresses = stack.enter_context(_listeners(size))
        groups = at_once(
            size,
            lambda rank: HierarchicalGroup.over_tcp(
                inside[rank], hosts, listeners[rank], addresses, rank, 1, b"secret"
            ),
        )
        for group in groups:
            stack.callback(group.close)
        yield groups


@contextmanager
def _listeners(size: int) -> Iterator[tuple[list[Listener], list[Address]]]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener()) for _ in range(size)]
        yield listeners, [listener.address for listener in listeners]


def at_once(size: int, make: Callable[[int], T]) -> list[T]:
    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(make, range(size)))


TRANSPORTS = {
    "solo": Transport(solo, most=1),
    "shm": Transport(shm),
    "tcp": Transport(tcp),
    "shm+tcp": Transport(hierarchical),
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
