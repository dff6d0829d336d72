"""How workers find each other over TCP: whoever cannot prove to belong is refused, and disturbs nobody."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest
from transports.clusters import at_once, check

from runtime.group import GroupBroken
from runtime.transports import tcp
from runtime.transports.tcp import Listener, TcpGroup

SECRET, GENERATION = b"the secret of this run", 7


@pytest.fixture
def listeners() -> Iterator[list[Listener]]:
    with Listener() as first, Listener() as second, Listener() as third:
        yield [first, second, third]


def form(listeners: list[Listener], **different: Any) -> list[TcpGroup]:
    def make(rank: int) -> TcpGroup:
        given = {"generation": GENERATION, "secret": SECRET, **different}
        return TcpGroup(listeners[rank], [x.address for x in listeners], rank, **given)

    return at_once(len(listeners), make)


def works(groups: list[TcpGroup]) -> None:
    try:
        check(
            groups,
            lambda group: group.gather_bytes(bytes([group.rank])) == [b"\0", b"\1", b"\2"] or pytest.fail(),
        )
    finally:
        for group in groups:
            group.close()


# --- strangers --------------------------------------------------------------------------------------------------------


def hello(
    dialer: int = 0, listener: int = 1, generation: int = GENERATION, name: bytes = b"", version: bytes = b""
) -> bytes:
    digest = hashlib.sha256(name).digest()
    nonce = secrets.token_bytes(32)
    return tcp._HELLO.pack(version or tcp._VERSION, generation, digest, dialer, listener, nonce)


def prove(secret: bytes, role: bytes, greeting: bytes, nonce: bytes) -> bytes:
    return hmac.digest(secret, role.ljust(16, b"\0") + greeting + nonce, "sha256")


def answered(connection: socket.socket, greeting: bytes) -> bytes:
    """What a listener says to a hello that it likes: its nonce and its proof."""
    connection.sendall(greeting)
    answer = connection.recv(64, socket.MSG_WAITALL)
    assert len(answer) == 64
    return answer


def says(words: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(words)


def proves(proof: Callable[[bytes, bytes], bytes], **greeting: Any) -> Callable[[socket.socket], None]:
    def stranger(connection: socket.socket) -> None:
        words = hello(**greeting)
        connection.sendall(proof(words, answered(connection, words)))

    return stranger


def replays(connection: socket.socket) -> None:
    """Says what a worker said to prove itself in a former forming of this generation."""
    connection.sendall(_overheard())


STRANGERS: dict[str, Callable[[socket.socket], None]] = {
    "silence": says(b""),
    "garbage": says(bytes(range(256)) * 4),
    "a web browser": says(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    "half a hello": says(hello()[:50]),
    "a hello and then silence": says(hello()),
    "a hello and then garbage without end": says(hello() + bytes(1_000_000)),
    "another version": says(hello(version=b"dist_dp tcp 0".ljust(16, b"\0"))),
    "an old generation": says(hello(generation=GENERATION - 1)),
    "a generation to come": says(hello(generation=GENERATION + 1)),
    "another name": says(hello(name=b"other")),
    "a rank that dials nobody": says(hello(dialer=1)),
    "a rank that does not exist": says(hello(dialer=4_000_000_000)),
    "who wants another": says(hello(listener=2)),
    "no proof": proves(lambda words, answer: bytes(32)),
    "the proof reflected": proves(lambda words, answer: answer[32:]),
    "the proof of a wrong secret": proves(
        lambda words, answer: prove(b"wrong", b"dialer", words, answer[:32])
    ),
    "the proof of the wrong side": proves(
        lambda words, answer: prove(SECRET, b"listener", words, answer[:32])
    ),
    "the proof for another nonce": proves(lambda words, answer: prove(SECRET, b"dialer", words, bytes(32))),
    "half a proof": proves(lambda words, answer: prove(SECRET, b"dialer", words, answer[:32])[:16]),
    "a replay": replays,
}


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("kind", STRANGERS)
def test_a_stranger_is_refused_and_the_group_forms(
    listeners: list[Listener], kind: str, leaves: bool
) -> None:
    """The stranger is there before the worker of rank 0 dials rank 1."""
    with socket.create_connection(listeners[1].address) as stranger, ThreadPoolExecutor(3) as threads:
        stranger.settimeout(10)
        addresses = [x.address for x in listeners]
        makes = [
            threads.submit(TcpGroup, listeners[rank], addresses, rank, GENERATION, SECRET) for rank in (1, 2)
        ]
        with suppress(BrokenPipeError, ConnectionResetError):  # refused before it had said all
            STRANGERS[kind](stranger)
        if leaves:
            stranger.close()
        groups = [TcpGroup(listeners[0], addresses, 0, GENERATION, SECRET), *(m.result() for m in makes)]
        works(groups)
        if not leaves:
            heard = b""
            with suppress(ConnectionResetError):
                while part := stranger.recv(100):
                    heard += part
            if kind.startswith("a hello") or kind == "a replay":
                assert len(heard) in (0, 64)  # a challenge at most, which may be lost with the link
            else:
                assert heard == b""


def _overheard() -> bytes:
    """What the dialer says in a handshake that succeeds."""
    said = b""
    with Listener() as first, Listener() as second, socket.create_server(("127.0.0.1", 0)) as between:

        def listen() -> None:
            nonlocal said
            outer, _ = between.accept()
            with outer, socket.create_connection(second.address) as inner:
                for size, source, to in (
                    (tcp._HELLO.size, outer, inner),
                    (64, inner, outer),
                    (32, outer, inner),
                    (1, inner, outer),
                ):
                    part = source.recv(size, socket.MSG_WAITALL)
                    assert len(part) == size
                    to.sendall(part)
                    said += part if source is outer else b""

        tap = threading.Thread(target=listen)
        tap.start()
        addresses = [first.address, between.getsockname()[:2]]
        pair = [first, second]
        groups = at_once(2, lambda rank: TcpGroup(pair[rank], addresses, rank, GENERATION, SECRET))
        tap.join()
        for group in groups:
            group.close()
    return said


def test_a_silent_stranger_is_dropped_while_the_group_forms(
    listeners: list[Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "_PATIENCE", 0.1)
    addresses = [x.address for x in listeners]
    with socket.create_connection(listeners[2].address) as stranger, ThreadPoolExecutor(1) as threads:
        stranger.settimeout(10)
        last = threads.submit(TcpGroup, listeners[2], addresses, 2, GENERATION, SECRET)
        assert stranger.recv(1) == b"" and not last.done()
        first = at_once(2, lambda rank: TcpGroup(listeners[rank], addresses, rank, GENERATION, SECRET))
        works([*first, last.result()])


def test_more_strangers_than_are_listened_to_at_once(listeners: list[Listener]) -> None:
    strangers = [socket.create_connection(listeners[1].address) for _ in range(2 * tcp._STRANGERS)]
    try:
        works(form(listeners))
    finally:
        for stranger in strangers:
            stranger.close()


# --- those who listen must prove themselves too -----------------------------------------------------------------------


@pytest.mark.parametrize("answer", [bytes(64), b"", b"400 Bad Request", bytes(100_000)], ids=len)
def test_an_impostor_who_listens_learns_nothing(answer: bytes) -> None:
    """It hears hellos, which hold no proof; the worker tries again until its time is over."""
    heard: list[int] = []

    def impostor(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                try:
                    words = connection.recv(tcp._HELLO.size, socket.MSG_WAITALL)
                    connection.sendall(answer)
                    if len(answer) < 64:
                        connection.shutdown(socket.SHUT_WR)
                    words += connection.recv(1000, socket.MSG_WAITALL)
                except ConnectionResetError:
                    pass
                heard.append(len(words))

    with Listener() as listener, socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=impostor, args=(server,))
        thread.start()
        with pytest.raises(
            GroupBroken, match=r"generation 7 was not formed at worker 0: workers \[1\] are not conn"
        ):
            TcpGroup(
                listener, [listener.address, server.getsockname()[:2]], 0, GENERATION, SECRET, timeout=0.3
            )
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert len(heard) >= 2 and set(heard) == {tcp._HELLO.size}


@pytest.mark.parametrize("different", [{"secret": b"wrong"}, {"generation": 8}, {"name": "leaders"}])
def test_who_is_of_another_group_is_refused_by_both(
    listeners: list[Listener], different: dict[str, Any]
) -> None:
    addresses = [x.address for x in listeners[:2]]

    def make(rank: int) -> GroupBroken:
        given = {"generation": GENERATION, "secret": SECRET, "timeout": 0.3, **(different if rank else {})}
        with pytest.raises(GroupBroken, match="not connected in time") as raised:
            TcpGroup(listeners[rank], addresses, rank, **given)
        return raised.value

    assert len(at_once(2, make)) == 2


# --- forming ----------------------------------------------------------------------------------------------------------


def test_listeners_serve_one_generation_after_another(listeners: list[Listener]) -> None:
    """A worker of the former generation that dials late is refused; workers may come in any order."""
    for generation in range(3):
        late = socket.create_connection(listeners[1].address)
        late.sendall(hello(generation=generation - 1) if generation else b"")
        works(form(listeners, generation=generation))
        with closing(late):
            assert late.recv(100) == b""


def test_two_groups_of_one_generation_over_the_same_listeners(listeners: list[Listener]) -> None:
    def make(rank: int) -> list[TcpGroup]:
        addresses = [x.address for x in listeners]
        names = ["everyone", "leaders"]
        return [TcpGroup(listeners[rank], addresses, rank, 1, SECRET, name=name) for name in names]

    for groups in zip(*at_once(3, make), strict=True):
        works(list(groups))


def test_who_is_not_there_yet_is_waited_for(listeners: list[Listener]) -> None:
    """Nobody listens at the address of worker 1 when worker 0 dials it first."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        address = reserved.getsockname()[:2]
    addresses = [listeners[0].address, address]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(TcpGroup, listeners[0], addresses, 0, GENERATION, SECRET)
        time.sleep(0.1)
        late = Listener.__new__(Listener)
        late.socket = socket.create_server(address)
        late.socket.setblocking(False)
        with (
            late,
            closing(TcpGroup(late, addresses, 1, GENERATION, SECRET)) as second,
            closing(first.result()) as group,
        ):
            group.send(1, b"here")
            assert second.recv(0) == b"here"


def test_forming_can_be_cancelled(listeners: list[Listener]) -> None:
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    addresses = [x.address for x in listeners]
    begin = time.monotonic()
    with pytest.raises(GroupBroken, match=r"workers \[1, 2\] are missing when it was given up"):
        TcpGroup(listeners[0], addresses, 0, GENERATION, SECRET, cancelled=stop.is_set)
    assert time.monotonic() - begin < 5


def test_a_listener_is_bound_to_its_interface_alone() -> None:
    with Listener("127.0.0.1") as listener:
        host, port = listener.address
        assert host == "127.0.0.1" and listener.socket.getsockname() == ("127.0.0.1", port)
        socket.create_connection(listener.address).close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=1)


def test_bad_arguments_are_named(listeners: list[Listener]) -> None:
    with pytest.raises(
        OSError, match=r"interface: cannot listen on '192\.0\.2\.1', give an address of this host"
    ):
        Listener("192.0.2.1")
    addresses = [x.address for x in listeners]
    with pytest.raises(ValueError, match="secret: must not be empty"):
        TcpGroup(listeners[0], addresses, 0, GENERATION, b"")
    with pytest.raises(ValueError, match=r"rank must be in 0, \.\.\., 2, one for each address, got 3"):
        TcpGroup(listeners[0], addresses, 3, GENERATION, SECRET)


def test_links_are_made_for_small_messages_and_probed(listeners: list[Listener]) -> None:
    groups = form(listeners, timeout=12.0)
    try:
        for group in groups:
            for link in group._links._links.values():  # type: ignore[attr-defined]
                get = link.socket.getsockopt
                assert get(socket.IPPROTO_TCP, socket.TCP_NODELAY) and get(
                    socket.SOL_SOCKET, socket.SO_KEEPALIVE
                )
                if hasattr(socket, "TCP_USER_TIMEOUT"):
                    assert get(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000
                    found = [socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT]
                    assert [get(socket.IPPROTO_TCP, option) for option in found] == [4, 2, 4]
    finally:
        for group in groups:
            group.close()
