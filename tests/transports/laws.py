"""What holds for every group, whatever it exchanges over. Each law is a function that every worker of a group calls.

Laws use nothing but the group, so they run in threads, in processes and under mpirun alike. `LAWS` lists those that
need no further argument.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from transports.case import Array, Case, same

from runtime.array_fold import fold_arrays
from runtime.fold import Fold
from runtime.group import Group


def exchange(group: Group, case: Case) -> None:
    """The total has the bits of one worker that folds all shards; notes and flags come to everybody."""
    memory = case.reserve(group)
    asks = case.seed % (group.size + 1)  # the rank that asks to regroup; nobody if it is the size
    running = case.start(group, memory)
    case.say_ready(running, memory)
    total = running.finish(bytes([group.rank]) * (group.rank * 7), regroup=group.rank == asks)
    assert same(total.arrays, case.total())
    assert total.notes == [bytes([rank]) * (rank * 7) for rank in range(group.size)]
    assert total.regroup == (asks < group.size)


def exchanges(group: Group) -> None:
    """Drawn exchanges of every kind, one after another in one group."""
    chance = random.Random(f"exchanges of {group.size}")
    for _ in range(30):
        exchange(group, Case.pick(chance.randint, group.size))


def slow_readers(group: Group) -> None:
    """A total stays as it is until its reader starts the next exchange, however far the others are."""
    case = _plain(group.size, (("<f4", 3000), ("<f8", 50)))
    memory = case.reserve(group)
    for turn in range(4 * group.size):
        case = replace(case, pieces=turn % 3, seed=turn)
        running = case.start(group, memory)
        case.say_ready(running, memory)
        total = running.finish()
        if turn % group.size == group.rank:
            time.sleep(0.003)
        assert same(total.arrays, case.total()), f"turn {turn}"


def many_small_exchanges(group: Group) -> None:
    """One after another without anything between."""
    memory = group.reserve((("<i8", 3),), 1)
    for turn in range(300):
        memory.buffers[0][0][:] = [turn, group.rank, 1]
        total = group.start(memory, {(group.rank, group.rank + 1): 0}, group.size).finish()
        assert total.arrays is not None
        assert total.arrays[0].tolist() == [turn * group.size, group.size * (group.size - 1) // 2, group.size]


def nobody_contributes(group: Group) -> None:
    """Then there is no total, which is not a total of zeros; notes arrive all the same."""
    case = replace(_plain(group.size, (("<f4", 5),)), silent=frozenset(range(group.size)))
    total = case.start(group, case.reserve(group)).finish(b"note")
    assert total.arrays is None and total.notes == [b"note"] * group.size


def more_workers_than_shards(group: Group) -> None:
    """All shards on the last worker, and on the first: the others have none and get the same total."""
    for ranges in (((0, 0),) * (group.size - 1) + ((0, 3),), ((0, 3),) + ((3, 3),) * (group.size - 1)):
        exchange(group, replace(_plain(group.size, (("<f4", 100), ("<f8", 7))), shards=3, ranges=ranges))


def long_notes(group: Group) -> None:
    """Notes of any length, and of another one on each worker."""
    case = _plain(group.size, (("<f4", 50),))
    memory = case.reserve(group)
    for length in (10, 4079, 4080, 4081, 65528, 200_001):
        notes = [bytes([rank]) * (length if rank == group.size - 1 else 3) for rank in range(group.size)]
        total = case.start(group, memory).finish(notes[group.rank])
        assert same(total.arrays, case.total()) and total.notes == notes


def memories_side_by_side(group: Group) -> None:
    """Memories of equal and of different layouts do not touch each other, nor do collectives in between."""
    one = _plain(group.size, (("<f4", 500),))
    cases = [one, replace(one, seed=1), replace(one, layout=(("<f8", 7), ("<i8", 90)), seed=2)]
    memories = [case.reserve(group) for case in cases]
    for turn, memory in enumerate(memories):
        for array in memory.buffers[0]:
            array[...] = turn
    group.all_reduce(np.ones(500, "<f4"))
    for turn, memory in enumerate(memories):
        assert all((array == turn).all() for array in memory.buffers[0])
    for case, memory in zip(cases, memories, strict=True):
        assert same(case.start(group, memory).finish().arrays, case.total())


def other_operations(group: Group) -> None:
    """A memory may say that something else than addition joins the partial sums; the tree stays."""
    values = [np.random.default_rng(r).standard_normal(3000).astype("<f4") for r in range(group.size)]
    memory = group.reserve((("<f4", 3000),), 1, bucket_bytes=4096)
    for operation in (np.multiply, np.maximum, np.minimum, np.add):
        memory.operation = operation
        memory.buffers[0][0][:] = values[group.rank]
        fold: Fold[Array] = Fold(group.size, operation)
        for value in values:
            fold.push(value)
        total = group.start(memory, {(group.rank, group.rank + 1): 0}, group.size).finish()
        assert same(total.arrays, [fold.root]), operation


def all_ask_for_the_same(group: Group) -> None:
    """Workers that ask for different memory are told so, all of them."""
    if group.size > 1:
        with pytest.raises(ValueError, match="reserve"):
            group.reserve((("<f4", 10 + group.rank),), 1)
        with pytest.raises(ValueError, match="all_reduce"):
            group.all_reduce(np.zeros(group.rank + 1))
    group.barrier()


def collectives(group: Group) -> None:
    """The calls for users, against NumPy."""
    rank, size = group.rank, group.size
    arrays = [np.random.default_rng(r).standard_normal((5, 3)).astype("<f4") for r in range(size)]
    expected = np.empty(15, "<f4")
    fold_arrays({(r, r + 1): a.reshape(-1) for r, a in enumerate(arrays)}, size, expected)
    expected = expected.reshape(5, 3)
    np.testing.assert_allclose(expected, np.sum(arrays, axis=0), rtol=1e-5, atol=1e-6)
    _equal(group.all_reduce(arrays[rank]), expected)
    _equal(group.reduce_scatter(arrays[rank]), expected[rank * 5 // size : (rank + 1) * 5 // size])
    _equal(group.all_reduce(2.5), np.array(2.5 * size))
    _equal(group.all_reduce(np.arange(0)), np.arange(0))
    for r, found in enumerate(group.all_gather(np.full((rank + 1, 2), rank))):
        _equal(found, np.full((r + 1, 2), r))
    _equal(group.broadcast(arrays[rank] if rank == size - 1 else None, size - 1), arrays[size - 1])
    said = group.gather_objects({"rank": rank, "inf": float("inf"), "of": (1, [b"x" * rank])})
    assert said == [{"rank": r, "inf": float("inf"), "of": (1, [b"x" * r])} for r in range(size)]
    for length in (0, 1, 65_527, 65_528, 65_529, 300_000):
        payloads = [bytes([r]) * (length * (r + 1) % 400_000) for r in range(size)]
        assert group.gather_bytes(payloads[rank]) == payloads
    for wrong in (-1, size, True, 0.0):
        with pytest.raises(ValueError, match="rank"):
            group.broadcast(1.0, wrong)  # type: ignore[arg-type]


def messages(group: Group) -> None:
    """Round the ring, to oneself if alone: bytes of any length come whole and in order."""
    after, before = (group.rank + 1) % group.size, (group.rank - 1) % group.size
    for length in (0, 1, 1000):
        group.send(after, bytes([group.rank]) * length)
        group.send(after, memoryview(b"second"))
    for length in (0, 1, 1000):
        assert group.recv(before) == bytes([before]) * length
        assert group.recv(before) == b"second"


def large_messages(group: Group) -> None:
    """From the first worker to each of the others and back, longer than any buffer on the way."""
    if group.size == 1:
        return
    for length in (1 << 20, (1 << 20) + 1, 5_000_003):
        payload = np.random.default_rng(length).bytes(length)
        if group.rank == 0:
            for to in range(1, group.size):
                group.send(to, payload)
            for source in range(1, group.size):
                assert group.recv(source) == payload
        else:
            assert group.recv(0) == payload
            group.send(0, payload)


def barriers(group: Group) -> None:
    """Nobody passes before the last has come: what each did before is seen by all after."""
    for turn in range(50):
        if turn % group.size == group.rank:
            group.send((group.rank + 1) % group.size, bytes([turn]))
        group.barrier()
        if turn % group.size == (group.rank - 1) % group.size:
            assert group.recv((group.rank - 1) % group.size) == bytes([turn])


def late_receivers(group: Group) -> None:
    """A message is found also when its sender has long gone on to the next call, as one does who gives its state."""
    for turn in range(3):
        if group.rank == 0:
            for to in range(1, group.size):
                group.send(to, b"state" * 100)
        else:
            time.sleep(0.005)
            assert group.recv(0) == b"state" * 100
        assert group.gather_bytes(bytes([turn])) == [bytes([turn])] * group.size


LAWS: tuple[Callable[[Group], None], ...] = (
    exchanges,
    slow_readers,
    many_small_exchanges,
    nobody_contributes,
    more_workers_than_shards,
    long_notes,
    memories_side_by_side,
    other_operations,
    all_ask_for_the_same,
    collectives,
    messages,
    large_messages,
    barriers,
    late_receivers,
)


def _plain(size: int, layout: tuple[tuple[str, int], ...]) -> Case:
    """One shard a worker, and all contribute."""
    ranges = tuple((rank, rank + 1) for rank in range(size))
    return Case(layout, 4096, size, ranges, frozenset(), spare=0, pieces=0, seed=0)


def _equal(found: Array, expected: Array) -> None:
    assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
