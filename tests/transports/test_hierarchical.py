"""What only groups over several hosts have: what crosses the borders of a host, and how they are put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import pytest
from transports.case import Case
from transports.clusters import check, hierarchical, run, shm, solo, tcp
from transports.laws import exchange
from transports.test_abort import Died

from runtime.group import Group, GroupBroken, Total
from runtime.transports.hierarchical import HierarchicalGroup
from runtime.transports.message_passing import Buffer, Transfer


def test_between_hosts_goes_one_partial_sum_a_host() -> None:
    """Six workers on hosts of 3, 2 and 1; 12 shards, so that each host holds one or two partial sums."""
    elements = 1 << 16
    ranges = ((0, 1), (1, 3), (3, 4), (4, 5), (5, 8), (8, 12))  # of the hosts: (0, 4), (4, 8), (8, 12)
    case = Case((("<f4", elements),), None, 12, ranges, frozenset(), spare=0, pieces=0, seed=0)
    sent = [0] * 6
    with hierarchical(6) as groups:
        for group in groups:
            for links in [g._links for g in (group._everyone, group._between) if g is not None]:  # type: ignore[attr-defined]

                def counting(
                    to: int, buffers: Sequence[Buffer], rank: int = group.rank, post=links.post_send
                ) -> Transfer:
                    sent[rank] += sum(memoryview(b).nbytes for b in buffers)
                    return post(to, buffers)

                links.post_send = counting
        check(groups, lambda group: exchange(group, case))
    leaders, small = [sent[0], sent[3], sent[5]], 20_000
    for leader in leaders:
        assert abs(leader - 2 * 2 / 3 * elements * 4) < small
    assert max(sent[1], sent[2], sent[4]) < small


@pytest.mark.parametrize("place", ["before", "inside", "between", "last"])
def test_a_worker_that_dies_ends_the_groups_of_all_hosts(place: str) -> None:
    """Its links end as they do with a process, and its own host is told, as by a launcher; nobody else is."""
    case = Case((("<f4", 1000),), None, 6, tuple((r, r + 1) for r in range(6)), frozenset(), 0, 0, 0)
    landed = 0
    for doomed in range(6):
        with hierarchical(6) as groups:

            def worker(group: HierarchicalGroup, doomed: int = doomed) -> GroupBroken | Total | None:
                def die(*_: object) -> NoReturn:
                    group.abort()
                    raise Died

                memory = case.reserve(group)
                running = case.start(group, memory)
                if group.rank == doomed:
                    if place == "before":
                        group._everyone.gather_bytes = die  # type: ignore[method-assign]
                    if place == "inside":
                        group._inside.start = die  # type: ignore[method-assign]
                    if place == "between" and group._between is not None:
                        group._between.start = die  # type: ignore[method-assign]
                    if place == "last":
                        group._everyone.barrier = die  # type: ignore[method-assign]
                try:
                    return running.finish()
                except Died:
                    return None
                except GroupBroken as error:
                    return error

            results = run(groups, worker)  # type: ignore[arg-type]
            landed += results[doomed] is None
            if results[doomed] is None:
                assert all(isinstance(r, GroupBroken) for i, r in enumerate(results) if i != doomed), results
                assert all(group.broken for group in groups)
                if place != "last":
                    assert all(group.pending() is None for group in groups)
            else:
                assert all(isinstance(r, Total) for r in results), results
    assert landed == (3 if place == "between" else 6)


def test_groups_that_do_not_fit_are_refused() -> None:
    with solo(1) as (alone,), shm(2) as pair, tcp(2) as everyone:
        for hosts in ([[0], [0, 1]], [[1], [0]], [[0]], [[0, 1], []]):
            with pytest.raises(ValueError, match=r"hosts must hold the ranks 0, \.\.\., 1 in order"):
                HierarchicalGroup(pair[0], None, everyone[0], hosts)
        with pytest.raises(
            ValueError, match=r"inside: worker 0 must be \(rank, size\) \(0, 2\), is \(0, 1\)"
        ):
            HierarchicalGroup(alone, None, everyone[0], [[0, 1]])
        with pytest.raises(ValueError, match="between must be the group of the leaders, and None"):
            HierarchicalGroup(alone, None, everyone[0], [[0], [1]])
        with pytest.raises(ValueError, match="between must be the group of the leaders, and None"):
            HierarchicalGroup(pair[1], everyone[1], everyone[1], [[0, 1]])


def test_workers_that_name_different_numbers_of_shards_are_told() -> None:
    def law(group: Group) -> None:
        memory = group.reserve((("<f4", 10),), 1)
        with pytest.raises(
            RuntimeError, match=r"start: the workers name different numbers of shards: \[3, 3, 4\]"
        ):
            group.start(memory, {}, 4 if group.rank == 2 else 3).finish()
        assert (group.all_reduce(np.ones(3)) == 3).all()

    with hierarchical(3) as groups:
        check(groups, law)
