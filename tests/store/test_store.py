"""A store keeps the same promises on a disk and on an S3 server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store.s3 import S3Server

from runtime.store import Store, store_at

pytestmark = pytest.mark.process

BIG = 60 << 20  # more than a client sends at once


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return store_at(tmp_path / "new" if request.param == "disk" else request.getfixturevalue("url"))


def test_what_is_written_is_read_listed_and_removed(place: Store) -> None:
    assert place.names() == place.names("a") == []
    place.write("a/b/c", [b"12", memoryview(b"3"), b""])
    place.write("a/d", [])
    place.write("ab", [b"x"])
    assert place.names() == ["a", "ab"] and place.names("a") == ["b", "d"]
    assert place.read("a/b/c") == place.below("a").below("b").read("c") == b"123" and place.read("a/d") == b""
    with place.open("a/b/c") as file:
        assert file.seek(0, os.SEEK_END) == 3 and file.seek(1) == 1 and file.read() == b"23"
    assert abs(place.modified("ab") - time.time()) < 60
    place.write("ab", [b"yy"])
    assert place.read("ab") == b"yy"
    for name in ("a", "a", "nothing/there"):
        place.remove(name)
    assert place.names() == ["ab"]


@pytest.mark.parametrize("call", [Store.read, Store.open, Store.modified])
def test_what_is_not_there_is_not_found(place: Store, call: Callable[[Store, str], object]) -> None:
    place.write("a", [b"1"])
    for name in ("b", "a/b", "c/d"):
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            getattr(place, call.__name__)(name)


@pytest.mark.parametrize("size", [100, BIG])
def test_a_write_that_fails_on_the_way_leaves_what_was_there(place: Store, size: int) -> None:
    def failing() -> Iterator[bytes]:
        yield bytes(size)
        raise OSError("on the way")

    for before in ([], ["a"]):
        with pytest.raises(OSError, match="on the way"):
            place.write("a", failing())
        assert place.names() == before
        place.write("a", [b"good"])
    with pytest.raises(OSError, match="on the way"):
        place.write("a", failing())
    assert place.read("a") == b"good"
    if place.local is not None:
        assert [path.name for path in place.local.iterdir()] == ["a"]


def test_of_several_that_create_a_file_at_once_one_succeeds(place: Store) -> None:
    made, refused = [], []
    begin = threading.Barrier(6)

    def create(number: int) -> None:
        begin.wait(10)
        try:
            place.create("lock", str(number).encode())
            made.append(str(number).encode())
        except FileExistsError:
            refused.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(made) == 1 and len(refused) == 5
    assert place.read("lock") == made[0]


def test_errors_of_the_client_library_are_os_errors(s3: S3Server, url: str) -> None:
    place = store_at(url)
    place.write("a", [bytes(BIG)])
    reading, refused = place.open("a"), s3.refused
    s3.cut()
    try:
        for call in (reading.read, place.names, lambda: place.write("b", [b"1"]), lambda: place.remove("a")):
            with pytest.raises(OSError):
                call()
    finally:
        s3.mend()
    assert s3.refused > refused
    assert place.names() == ["a"]
