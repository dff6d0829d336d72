"""Events in a store that cannot append: the same lines as in a file, whatever the store refuses and whoever is lost."""

from __future__ import annotations

import itertools
import logging
import tempfile
import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import stored_events
from runtime.events import Event
from runtime.store import LocalStore, Store, store_at
from runtime.stored_events import StoredLines, read_stored_events

_numbers = itertools.count()


def fresh() -> Store:
    return store_at(f"memory://stored-events-{next(_numbers)}")


def sink_of(store: Store, every: float = 3600.0) -> StoredLines:
    return StoredLines(store, every)


steps = st.lists(st.integers(0, 20), max_size=30).map(sorted)


def events_of(numbers: list[int], kind: str = "step") -> list[Event]:
    return [Event(kind, step, {"n": n}, time=1.0) for n, step in enumerate(numbers)]


@settings(deadline=None, max_examples=100)
@given(steps, st.lists(st.integers(0, 30), max_size=4), st.sampled_from([1, 200, 1 << 20]))
def test_the_lines_are_those_emitted_however_they_were_cut_into_objects(
    numbers: list[int], flushes: list[int], part: int
) -> None:
    store = fresh()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_events, "_PART", part)
        sink = sink_of(store)
        emitted = events_of(numbers)
        for n, event in enumerate(emitted):
            sink.emit(event)
            if n in flushes:
                sink.flush()
                assert list(read_stored_events(store)) == emitted[: n + 1]
        sink.close()
    assert list(read_stored_events(store)) == emitted


@settings(deadline=None, max_examples=100)
@given(steps, steps, st.integers(0, 20), st.sampled_from([1, 200, 1 << 20]), st.booleans())
def test_truncate_after_keeps_exactly_the_steps_up_to_it(
    before: list[int], now: list[int], step: int, part: int, reopened: bool
) -> None:
    store = fresh()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_events, "_PART", part)
        sink = sink_of(store)
        emitted = events_of(sorted([*before, *now]))
        for event in emitted[: len(before)]:
            sink.emit(event)
        sink.flush()
        for event in emitted[len(before) :]:
            sink.emit(event)
        if reopened:
            sink.close()
            sink = sink_of(store)
        sink.truncate_after(step)
        more = Event("resume", step, time=2.0)
        sink.emit(more)
        sink.close()
    assert list(read_stored_events(store)) == [*(e for e in emitted if e.step <= step), more]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 30), st.sampled_from([1, 1 << 20]))
def test_a_successor_writes_what_the_lost_writer_had_not_kept_and_nothing_twice(
    stands: int, ahead: int, kept: int, part: int
) -> None:
    """Of each step two lines are emitted; some of them are in the store when the writer is lost."""
    said = [e for k in range(1, stands + ahead + 1) for e in (Event("step", k), Event("validation", k))]
    store = fresh()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_events, "_PART", part)
        lost = sink_of(store)
        for event in said[:kept]:
            lost.emit(event)
        lost.flush()
        for event in said[kept:]:
            lost.emit(event)
        successor = sink_of(store)
        known = [event for event in said if event.step <= stands]  # by the survivors
        successor.go_on_from(stands, known)
        successor.close()
    assert list(read_stored_events(store)) == known
    lost._lines.clear()
    lost.close()


def test_what_is_known_late_is_not_taken_for_where_the_lost_writer_stood() -> None:
    """The last line that it kept is of an older step: a checkpoint was written meanwhile."""
    store = fresh()
    said = events_of(list(range(5, 10)))
    lost = sink_of(store)
    for event in said:
        lost.emit(event)
    late = Event("checkpoint", 2, time=2.0)
    lost.emit(late)
    lost.close()
    successor = sink_of(store)
    successor.go_on_from(9, said)
    successor.close()
    assert [event for event in read_stored_events(store) if event.kind == "step"] == said


class Refusing(LocalStore):
    """A store that refuses writes while it is told to, and counts them."""

    away = False
    refused = 0
    slow: threading.Event | None = None

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        if self.slow is not None:
            self.slow.wait(10)
        if self.away:
            self.refused += 1
            raise OSError("no route to the store")
        super().write(name, chunks)


@pytest.fixture
def refusing() -> Any:
    with tempfile.TemporaryDirectory() as place:
        yield Refusing(place)


def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_lines_wait_while_the_store_is_away(refusing: Refusing, caplog: pytest.LogCaptureFixture) -> None:
    sink = sink_of(refusing, every=0.01)
    sink.emit(Event("step", 1))
    until(lambda: len(list(read_stored_events(refusing))) == 1)
    refusing.away = True
    sink.emit(Event("step", 2))
    until(lambda: refusing.refused >= 2)
    with pytest.raises(OSError, match="no route"):
        sink.flush()
    assert [record.levelname for record in caplog.records] == ["WARNING"], "it is said once"
    refusing.away = False
    sink.emit(Event("step", 3))
    until(lambda: len(list(read_stored_events(refusing))) == 3)
    sink.close()
    assert [event.step for event in read_stored_events(refusing)] == [1, 2, 3]


def test_what_the_store_still_refuses_at_the_end_is_said(
    refusing: Refusing, caplog: pytest.LogCaptureFixture
) -> None:
    sink = sink_of(refusing)
    sink.emit(Event("step", 1))
    refusing.away = True
    with caplog.at_level(logging.WARNING):
        sink.close()
    assert refusing.refused == 1 and "are lost (no route to the store)" in caplog.text


def test_a_step_never_waits_for_the_store(refusing: Refusing) -> None:
    refusing.slow = threading.Event()
    sink = sink_of(refusing, every=0.001)
    sink.emit(Event("step", 0))
    time.sleep(0.05)  # the thread is in the write now
    began = time.monotonic()
    for step in range(1, 100):
        sink.emit(Event("step", step))
    assert time.monotonic() - began < 1
    refusing.slow.set()
    sink.close()
    assert [event.step for event in read_stored_events(refusing)] == list(range(100))


def test_a_line_that_is_no_event_is_named() -> None:
    store = fresh()
    store.write("metrics/0000000000.jsonl", [b"nonsense\n"])
    with pytest.raises(ValueError, match=r"metrics/0000000000\.jsonl, line 1: not an event"):
        list(read_stored_events(store))


def test_a_fresh_store_has_no_events() -> None:
    assert list(read_stored_events(fresh())) == []
