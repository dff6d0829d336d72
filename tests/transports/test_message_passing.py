"""What the exchange over links does beyond the laws: deaths at every message, deadlines, calls that do not fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from transports import laws
from transports.case import Case
from transports.clusters import check, run, tcp
from transports.test_abort import Died, dies

from runtime.group import Group, GroupBroken, Memory
from runtime.transports import message_passing
from runtime.transports.message_passing import Buffer, MessageGroup, Transfer


@pytest.fixture
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(message_passing, "PIECE_BYTES", 0)
    monkeypatch.setattr(message_passing, "SHARE_BYTES", 256)
    monkeypatch.setattr(message_passing, "SMALL_BYTES", 0)


@pytest.mark.parametrize("eager", [256, message_passing.EAGER])
@pytest.mark.parametrize("size", [2, 3])
def test_more_pieces_than_the_window(
    many_pieces: None, monkeypatch: pytest.MonkeyPatch, size: int, eager: int
) -> None:
    monkeypatch.setattr(message_passing, "EAGER", eager)
    ranges = tuple((rank, rank + 2) for rank in range(0, 2 * size, 2))
    case = Case(
        (("<f4", 3001), ("<f8", 70)), 2000, 2 * size, ranges, frozenset({1}), spare=0, pieces=0, seed=0
    )
    with tcp(size) as groups:
        for pieces in range(4):
            check(groups, lambda group, pieces=pieces: laws.exchange(group, replace(case, pieces=pieces)))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_a_worker_dies_at_every_message_that_it_sends(many_pieces: None, size: int, after: bool) -> None:
    """Just before or after it is on its way. The others are not told: they find out from the ended links."""
    for doomed in {0, size - 1}:
        landed = 0
        while _dies_at_message(size, doomed, landed, after):
            landed += 1
        # To each other worker: in reserve one; in each of two exchanges opening, closing, agreement; and between
        # these the partials of 2 + 2 pieces and the results of as many, less those without elements for somebody.
        assert landed >= (size - 1) * (1 + 2 * (3 + 4))


def _dies_at_message(size: int, doomed: int, message: int, after: bool) -> bool:
    with tcp(size) as groups:
        links, left = groups[doomed]._links, message
        post = links.post_send

        def dying(to: int, buffers: list[Buffer]) -> Transfer:
            nonlocal left
            left -= 1
            if left < 0 and not after:
                raise Died
            transfer = post(to, buffers)
            while left < 0 and not transfer.done and to not in links.lost:
                links.progress(0.01)
            if left < 0:
                raise Died
            return transfer

        links.post_send = dying  # type: ignore[method-assign]
        for group in groups:
            if group.rank != doomed:
                group.abort = lambda: None  # type: ignore[method-assign]
        return dies(groups, doomed, lambda place: False)


def test_buckets_are_exchanged_before_finish(many_pieces: None) -> None:
    case = Case((("<i8", 1000),), 800, 2, ((0, 1), (1, 2)), frozenset(), spare=0, pieces=0, seed=0)

    def law(group: Group) -> None:
        memory = case.reserve(group)
        expected = case.total()
        assert expected is not None
        running = case.start(group, memory)
        running.ready(len(memory.buckets) - 1)
        totals = memory.totals[0]  # type: ignore[attr-defined]
        until = time.monotonic() + 10
        while not (totals[400:] == expected[0][400:]).all() and time.monotonic() < until:
            time.sleep(0.001)
        np.testing.assert_array_equal(totals[400:], expected[0][400:])
        group.rank == 0 and time.sleep(0.01)
        assert running.finish().arrays is not None
        assert group._flight is None  # type: ignore[attr-defined]

    with tcp(2) as groups:
        check(groups, law)


def test_an_exchange_that_is_not_finished_ends_with_the_group() -> None:
    case = Case((("<i8", 100_000),), 80_000, 2, ((0, 1), (1, 2)), frozenset(), spare=0, pieces=0, seed=0)
    with tcp(2) as groups:

        def law(group: Group) -> None:
            running = case.start(group, case.reserve(group))
            running.ready(1)
            with pytest.raises(RuntimeError, match="gather_bytes: an exchange is in flight"):
                group.barrier()

        check(groups, law)
        flights = [group._flight for group in groups]
    assert [flight is not None and flight.is_alive() for flight in flights] == [False, False]


def test_all_send_first_and_receive_then() -> None:
    """Round the ring and both ways, longer than any buffer on the way: nobody waits for ever."""

    def law(group: Group) -> None:
        size, rank = group.size, group.rank
        peers = [(rank + 1) % size, (rank - 1) % size]
        for to in peers:
            group.send(to, bytes([rank]) * 20_000_000)
        for source in reversed(peers):
            assert group.recv(source) == bytes([source]) * 20_000_000
        group.barrier()

    for size in (2, 3):
        with tcp(size) as groups:
            check(groups, law)


# --- deadlines --------------------------------------------------------------------------------------------------------

TIMEOUT = 0.2


def _silent_after(group: MessageGroup, size: int) -> None:
    """Send the others the first bytes of something, and then nothing."""
    transfers = [group._links.post_send(to, [bytes(size)]) for to in range(group.size) if to != group.rank]
    while not all(transfer.done for transfer in transfers):
        group._links.progress(0.1)


WAITS: dict[str, Callable[[Group], object]] = {
    "gather_bytes": lambda group: group.gather_bytes(b""),
    "recv": lambda group: group.recv(1),
    "send": lambda group: group.send(1, bytes(1_000_000)),
    "start": lambda group: group.start(group.reserve((), 0), {}, 1).finish(),
}


@pytest.mark.parametrize("wait", WAITS)
def test_a_worker_that_falls_silent_within_a_message_is_lost(wait: str) -> None:
    def worker(group: Group) -> float:
        assert isinstance(group, MessageGroup)
        if group.rank == 1:
            _silent_after(group, 100)
            return 0.0
        begin = time.monotonic()
        with pytest.raises(GroupBroken, match=r"nothing moved for 0\.2 s"):
            WAITS[wait](group)
        return time.monotonic() - begin

    with tcp(2, TIMEOUT) as groups:
        seconds = run(groups, worker)[0]
    assert isinstance(seconds, float), seconds
    assert TIMEOUT <= seconds < TIMEOUT + 1


def test_a_worker_that_falls_silent_after_all_have_begun_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message is under way, but all are known to be in `finish`."""
    landed = []

    def worker(group: Group) -> None:
        assert isinstance(group, MessageGroup)
        memory = group.reserve((("<i4", 1000),), 1)  # of whatever values
        running = group.start(memory, {(group.rank, group.rank + 1): 0}, 2)
        if group.rank == 1:
            running._open(True)  # type: ignore[attr-defined]
            group._links.progress(0)
            landed.append("opened")
            return
        with pytest.raises(GroupBroken, match="nothing moved"):
            running.finish()

    with tcp(2, TIMEOUT) as groups:
        check(groups, worker)
    assert landed == ["opened"]


@pytest.mark.parametrize("wait", ["exchange", "gather", "send"])
def test_a_worker_that_begins_late_is_not_lost(wait: str) -> None:
    def worker(group: Group) -> None:
        memory = group.reserve((("<i4", 1_000_000),), 1)  # of whatever values
        if group.rank == 1:
            time.sleep(3 * TIMEOUT)
        if wait == "exchange":
            assert group.start(memory, {(group.rank, group.rank + 1): 0}, 2).finish().arrays is not None
        elif wait == "gather":
            assert len(group.gather_bytes(bytes(5_000_000))[1]) == 5_000_000
        elif group.rank == 0:
            group.send(1, bytes(5_000_000))
        else:
            assert len(group.recv(0)) == 5_000_000

    with tcp(2, TIMEOUT) as groups:
        check(groups, worker)


# --- calls that do not fit --------------------------------------------------------------------------------------------


Call = Callable[[Group, list[Memory]], object]


def _exchange(number: int, shards: int) -> Call:
    return lambda group, memories: group.start(memories[number], {}, shards).finish()


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        (
            (lambda g, _: g.barrier(), _exchange(0, 1)),
            "make the same calls in the same order",
        ),
        (
            (lambda g, _: g.recv(1), lambda g, _: g.barrier()),
            "waits for send of worker 1, which is at gather_bytes",
        ),
        ((_exchange(0, 1), _exchange(0, 2)), "the same memory and number of shards"),
        ((_exchange(0, 1), _exchange(1, 1)), "the same memory and number of shards"),
    ],
)
def test_workers_that_call_something_else_are_told(calls: tuple[Call, ...], said: str) -> None:
    def worker(group: Group) -> None:
        calls[group.rank](group, [group.reserve((), 0), group.reserve((), 0)])

    with tcp(2) as groups:
        errors = run(groups, worker)
        assert all(isinstance(error, RuntimeError) for error in errors), errors
        assert any(said in str(error) for error in errors), errors
        assert all(group.broken for group in groups)


def test_a_group_says_who_is_gone() -> None:
    with tcp(3) as groups:
        groups[2].abort()
        with pytest.raises(
            GroupBroken, match="generation 1 has ended at worker 0 of 3: the link to worker 2 has ended"
        ):
            groups[0].recv(2)
        with pytest.raises(GroupBroken, match="link to worker"):
            groups[1].barrier()
        assert all(group.broken for group in groups)


def test_a_timeout_must_be_above_zero() -> None:
    with (
        tcp(1) as (group,),
        pytest.raises(ValueError, match="timeout must be a number of seconds above 0, got 0"),
    ):
        MessageGroup(group._links, 1, timeout=0)
