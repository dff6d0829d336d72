"""The simulation of very many workers (`benchmarks.scale`): it counts what its tables say, and bits stay the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale import held_by_hosts, scratch_bytes
from benchmarks.scale_exchange import (
    Shape,
    Stuck,
    Turns,
    barrier_seconds,
    digest,
    exchange,
    partials,
    workers,
)
from benchmarks.scale_membership import LOCAL, RAY, begin, lose, steady
from runtime.fold import balanced_ranges, subtrees

ELEMENTS = 1024  # 64 blocks: each of 2, 4, 8, ... workers folds as many as the others
WHOLE = ELEMENTS * 4


def _one_process(shards: int) -> str:
    return digest(partials(0, shards, shards, ELEMENTS)[0, shards])


@settings(max_examples=30)
@given(
    size=st.integers(1, 20),
    levels=st.lists(st.integers(2, 5), max_size=3),
    by_leaders=st.booleans(),
    more=st.integers(0, 9),
    share_bytes=st.sampled_from([None, 64, 256]),
)
def test_every_shape_has_the_bits_of_one_process(
    size: int, levels: list[int], by_leaders: bool, more: int, share_bytes: int | None
) -> None:
    shape = Shape(tuple(levels), by_leaders)
    found = exchange(size, shape, shards=size + more, elements=ELEMENTS, share_bytes=share_bytes)
    assert found.digest == _one_process(size + more)


@pytest.mark.parametrize("size", [2, 8, 64])
@pytest.mark.parametrize("share_bytes", [None, 64])
def test_counts_of_the_direct_exchange(size: int, share_bytes: int | None) -> None:
    """Three small messages and two of each piece to each other worker; 2 (N-1) / N of the gradient."""
    found = exchange(size, Shape(), elements=ELEMENTS, note=100, share_bytes=share_bytes)
    pieces = 1 if share_bytes is None else WHOLE // (size * share_bytes)
    for worker in found.workers:
        counted = worker.network
        assert counted.sent == counted.came == (size - 1) * (3 + 2 * pieces)
        assert counted.gradient_bytes == 2 * (size - 1) * WHOLE // size
        assert counted.sent_bytes == counted.came_bytes == counted.gradient_bytes + 3 * 256 * (size - 1)
        assert worker.connections == size - 1


@pytest.mark.parametrize(("size", "host"), [(8, 4), (32, 8), (64, 8)])
def test_counts_of_a_hierarchy(size: int, host: int) -> None:
    """Notes and agreement go from all to all; the gradient from leader to leader alone: 2 (H-1) / H of it."""
    hosts = size // host
    found = exchange(size, Shape((host,)), elements=ELEMENTS)
    for rank, worker in enumerate(found.workers):
        leads = rank % host == 0
        # Among the leaders: room is made, opening, partials, results, closing, agreement.
        assert worker.network.sent == 2 * (size - 1) + 6 * (hosts - 1) * leads
        assert worker.network.gradient_bytes == 2 * (hosts - 1) * WHOLE // hosts * leads
        assert worker.connections == size - 1 + (hosts - 1) * leads
        assert worker.inside.gradient_bytes > 0


@pytest.mark.parametrize(("size", "host"), [(8, 4), (64, 8)])
def test_notes_by_leaders_are_no_messages_of_the_others(size: int, host: int) -> None:
    hosts = size // host
    found = exchange(size, Shape((host,), by_leaders=True), elements=ELEMENTS)
    for rank, worker in enumerate(found.workers):
        leads = rank % host == 0
        small = worker.network.sent - 6 * (hosts - 1) * leads
        # Notes are long and may take a message of their own beside the frame that announces them.
        assert small in (range(2 * (hosts - 1), 4 * (hosts - 1) + 1) if leads else (0,))
        assert worker.connections == (hosts - 1) * leads


def test_each_subtree_of_a_host_is_a_gradient_to_send() -> None:
    """Shards that do not fall on hosts as subtrees do: a host sends as many partial sums as it holds."""
    size, host, shards = 12, 4, 15
    ranges = balanced_ranges(shards, size)
    borders = [(ranges[lo][0], ranges[lo + host - 1][1]) for lo in range(0, size, host)]
    held = [len(subtrees(lo, hi, shards)) for lo, hi in borders]
    assert max(held) > 1
    found = exchange(size, Shape((host,)), shards=shards, elements=ELEMENTS * 3)
    sent = sum(worker.network.gradient_bytes for worker in found.workers)
    share, whole = WHOLE, WHOLE * 3
    assert sent == sum(of * (whole - share) for of in held) + 2 * whole


def test_partial_sums_after_the_loss_of_one() -> None:
    assert set(held_by_hosts(1000, 8, 1000)) == {1}
    assert min(held_by_hosts(1000, 8, 999)) > 1


def test_scratch_is_what_the_exchange_makes() -> None:
    size = 4
    found = exchange(size, Shape(), elements=ELEMENTS)
    (made,) = {worker.group._scratch.size for worker in found.workers}  # type: ignore[attr-defined]
    assert made == scratch_bytes(size, WHOLE)


def test_workers_that_wait_for_one_another_are_told() -> None:
    turns = Turns(3)
    made = workers(3, Shape(), turns)
    with pytest.raises(Stuck, match="3 workers wait, and nothing is under way"):
        turns.run(lambda rank: made[rank].group.recv((rank + 1) % 3))


def test_an_error_of_one_worker_is_raised() -> None:
    turns = Turns(2)
    made = workers(2, Shape(), turns)

    def work(rank: int) -> None:
        if rank == 1:
            raise LookupError("of worker 1")
        made[rank].group.barrier()

    with pytest.raises(LookupError, match="of worker 1"):
        turns.run(work)


def test_a_barrier_alone_comes_to_its_end() -> None:
    assert barrier_seconds(8, 8) > 0 < barrier_seconds(8, 1)


# --- the coordinator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [LOCAL, RAY])
@pytest.mark.parametrize("size", [1, 2, 64])
def test_a_run_forms_once(host: object, size: int) -> None:
    simulation, formed = begin(size, host)  # type: ignore[arg-type]
    assert simulation.inside == size
    assert [members for _, members in formed.spent.forms] == [size]
    assert formed.needless == 0
    assert formed.spent.told == size
    assert 0 < formed.survivors < 1


@pytest.mark.parametrize(("size", "count"), [(2, 1), (64, 1), (64, 6), (64, 32)])
def test_survivors_go_on_and_the_lost_come_back(size: int, count: int) -> None:
    it = lose(size, count)
    members = [of for _, of in it.spent.forms]
    assert members[0] == size - count
    assert members[-1] == size
    assert members == sorted(members)
    assert it.needless == 0
    assert it.survivors < 0.5 < it.everybody


@pytest.mark.parametrize("waiting", [False, True])
def test_heartbeats_are_counted(waiting: bool) -> None:
    load = steady(16, RAY, waiting)
    assert load.heartbeats == pytest.approx(32, abs=4)
    assert load.looks == pytest.approx(2, abs=0.5)
    assert load.busy < 0.5
