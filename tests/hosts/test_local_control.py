"""Messages on the control socket: whole and in order however they are cut, each with its own descriptors."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.hosts.control import Incoming, send

MESSAGES = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.binary(max_size=300)), max_size=6)


@contextmanager
def connection() -> Iterator[tuple[socket.socket, Incoming]]:
    ours, theirs = socket.socketpair()
    incoming = Incoming(theirs)
    theirs.setblocking(False)
    with ours:
        yield ours, incoming
    incoming.close()


def everything(incoming: Incoming) -> list[tuple[Any, list[int]]]:
    found = []
    while not incoming.ended:
        found += incoming.receive()
    return found


@given(MESSAGES, st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_messages_come_whole_and_in_order_however_they_are_cut(messages: list[Any], cuts: list[int]) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            for message in messages:
                send(ours, message)
        stream = b"".join(iter(lambda: theirs.recv(1 << 16), b""))
    with connection() as (ours, incoming):
        found = []
        sizes = itertools.cycle(cuts)
        while stream:
            size = next(sizes)
            ours.sendall(stream[:size])
            stream = stream[size:]
            found += incoming.receive()
    assert found == [(message, []) for message in messages]


def test_descriptors_come_with_their_message() -> None:
    pipes = [os.pipe() for _ in range(3)]
    with connection() as (ours, incoming):
        send(ours, "none")
        send(ours, "one", [pipes[0][0]])
        send(ours, "none again")
        send(ours, "two", [pipes[1][0], pipes[2][0]])
        send(ours, "nobody takes these", [pipes[0][0]])
        ours.close()
        found = everything(incoming)
        assert [(message, len(numbers)) for message, numbers in found] == [
            ("none", 0),
            ("one", 1),
            ("none again", 0),
            ("two", 2),
            ("nobody takes these", 1),
        ]
        came = [number for _, numbers in found for number in numbers]
        for number, (reading, _) in zip(came, [*pipes, pipes[0]], strict=True):
            assert os.path.sameopenfile(number, reading) and not os.get_inheritable(number)
            os.close(number)
    for number in itertools.chain(*pipes):
        os.close(number)


def test_a_message_that_does_not_fit_is_not_waited_for() -> None:
    with connection() as (ours, _):
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(10_000):
                send(ours, {"much": b"." * 10_000})


def test_a_side_that_is_gone_is_an_end() -> None:
    ours, theirs = socket.socketpair()
    send(theirs, "unread")
    incoming = Incoming(ours)
    theirs.close()
    assert everything(incoming) == [("unread", [])]
    with pytest.raises(ConnectionError):
        send(ours, "nobody hears it")
    incoming.close()
