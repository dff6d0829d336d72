"""A worker dies in each phase of an exchange, and in each wait: the others are released, and agree on what stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from transports.case import Array, Case, same
from transports.clusters import TRANSPORTS, run

from runtime.group import Group, GroupBroken, Total

NAMES = [name for name, t in TRANSPORTS.items() if t.most > 1]


class Died(Exception):
    """In the place of a process that is killed: it does nothing more."""


PHASES = [
    f"{place} {turn}"
    for turn in range(2)
    for place in ("before start", "after start", "between ready", "all ready", "after finish")
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_worker_dies_in_each_phase(name: str, size: int) -> None:
    landed = 0
    for phase in PHASES:
        for doomed in {0, size - 1}:
            with TRANSPORTS[name].cluster(size) as groups:
                landed += dies(groups, doomed, lambda here, phase=phase: here == phase)
    assert landed == len(PHASES) * 2


def dies(groups: Sequence[Group], doomed: int, now: Callable[[str], bool]) -> bool:
    """Let worker `doomed` die in two exchanges at the first place where `now` says so; return whether it did.

    Then nobody waits on; whoever was interrupted has the right total or none; and if any returned from `finish`, all
    survivors hold that total.
    """
    size = len(groups)
    ranges = tuple((rank, rank + 1) for rank in range(size))
    case = Case((("<f4", 400), ("<f8", 30)), 512, size, ranges, frozenset(), spare=0, pieces=0, seed=3)
    cases = [case, replace(case, seed=4)]
    held: list[list[list[Array]]] = [[] for _ in groups]

    def hold(rank: int, total: Total) -> None:
        assert total.arrays is not None
        held[rank].append([array.copy() for array in total.arrays])

    def worker(group: Group) -> None:
        def at(place: str) -> None:
            if group.rank == doomed and now(place):
                raise Died(place)

        memory = case.reserve(group)
        for turn, this in enumerate(cases):
            at(f"before start {turn}")
            exchange = this.start(group, memory)
            at(f"after start {turn}")
            exchange.ready(1)
            at(f"between ready {turn}")
            exchange.ready(len(memory.buckets))
            at(f"all ready {turn}")
            hold(group.rank, exchange.finish())
            at(f"after finish {turn}")

    results = run(groups, worker)
    if not isinstance(results[doomed], Died):
        assert results == [None] * size
        return False
    furthest = max(map(len, held))
    for group in groups:
        if group.rank == doomed:
            continue
        result = results[group.rank]
        assert isinstance(result, GroupBroken) or (result is None and len(held[group.rank]) == 2), result
        assert group.broken
        if isinstance(result, GroupBroken) and (pending := group.pending()) is not None:
            assert pending.regroup
            hold(group.rank, pending)
        assert len(held[group.rank]) >= furthest, f"worker {group.rank} is behind"
        for total, this in zip(held[group.rank], cases, strict=False):
            assert same(total, this.total())
    return True


WAITS: dict[str, Callable[[Group], object]] = {
    "gather_bytes": lambda group: group.gather_bytes(b"x"),
    "gather_bytes, long": lambda group: group.gather_bytes(bytes(300_000)),
    "barrier": lambda group: group.barrier(),
    "recv": lambda group: group.recv(0),
    "send, long": lambda group: group.send(0, bytes(50_000_000)),
    "reserve": lambda group: group.reserve((("<f4", 10),), 1),
    "all_reduce": lambda group: group.all_reduce(np.ones(3)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wait", WAITS)
def test_every_wait_can_be_aborted(name: str, wait: str) -> None:
    def worker(group: Group) -> None:
        group.barrier()
        if group.rank == 0:
            raise Died
        WAITS[wait](group)

    with TRANSPORTS[name].cluster(3) as groups:
        results = run(groups, worker)
        assert isinstance(results[0], Died)
        assert all(isinstance(result, GroupBroken) for result in results[1:]), results
        for group in groups:  # and whoever comes later does not wait at all
            with pytest.raises(GroupBroken):
                group.recv((group.rank + 1) % 3)
