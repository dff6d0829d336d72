"""Events survive in files: what was emitted is read back, kills and resumes included."""

import errno
import json
import math
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import store
from runtime.events import Event, JsonLines, Tee, read_events

values = st.one_of(
    st.floats(), st.integers(), st.text().filter(lambda text: text not in ("NaN", "Infinity", "-Infinity"))
)
events = st.builds(
    Event,
    kind=st.text(max_size=5),
    step=st.integers(0, 30),
    values=st.dictionaries(st.text(max_size=3), values, max_size=3),
    time=st.floats(0, 2e9),
)


def write_all(path: Path, emitted: list[Event]) -> None:
    sink = JsonLines(path)
    for event in emitted:
        sink.emit(event)
    sink.close()


def same(a: list[Event], b: list[Event]) -> bool:
    # repr tells -0.0 from 0.0 and lets NaN equal NaN
    return repr(a) == repr(b)


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is not strict JSON")


@settings(deadline=None, max_examples=50)
@given(st.lists(events, max_size=4))
def test_what_is_emitted_is_read_back_from_strict_json(emitted: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "metrics.jsonl"
        write_all(path, emitted)
        assert same(list(read_events(path)), emitted)
        lines = path.read_text().split("\n")
        assert len(lines) == len(emitted) + 1
        for line in lines[:-1]:
            json.loads(line, parse_constant=refuse_constant)


def test_an_event_is_in_the_file_once_emit_returns(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "metrics.jsonl")
    sink.emit(Event("train", 1, {"loss": 0.5}))
    assert [event.values for event in read_events(tmp_path / "metrics.jsonl")] == [{"loss": 0.5}]
    sink.close()


def test_what_a_full_disk_refuses_is_written_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    sink.emit(Event("step", 1))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
        sink.emit(Event("step", 2))
        sink.emit(Event("step", 3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [event.step for event in read_events(path)] == [1], "the second is torn"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    sink.emit(Event("step", 4))
    sink.close()
    assert [event.step for event in read_events(path)] == [1, 2, 3, 4]


def test_a_torn_last_line_is_left_out_and_dropped_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    emitted = [Event("train", step, {"loss": step / 3, "name": "é\n"}, time=1.0) for step in range(3)]
    write_all(path, emitted)
    whole = path.read_bytes()
    more = Event("train", 9, time=2.0)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        complete = emitted[: whole[:length].count(b"\n")]
        assert same(list(read_events(path)), complete)
        write_all(path, [more])
        assert same(list(read_events(path)), [*complete, more])


@settings(deadline=None, max_examples=40)
@given(st.lists(events, max_size=6), st.integers(0, 30))
def test_truncate_after_keeps_exactly_the_steps_up_to_it(emitted: list[Event], step: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "metrics.jsonl"
        write_all(path, emitted)
        sink = JsonLines(path)
        sink.truncate_after(step)
        more = Event("resume", step, time=3.0)
        sink.emit(more)
        sink.close()
        assert same(list(read_events(path)), [*(e for e in emitted if e.step <= step), more])
        assert [file.name for file in Path(directory).iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("primitive", ["write_file", "rename"])
def test_truncate_after_killed_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, primitive: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    emitted = [Event("train", step, time=1.0) for step in (0, 3, 1, 2)]  # not to be cut off in one piece
    write_all(path, emitted)

    def torn(*arguments: Any) -> None:
        if primitive == "write_file":
            arguments[0].write_bytes(b'{"ti')
        raise KeyboardInterrupt

    sink = JsonLines(path)
    with monkeypatch.context() as patch:
        patch.setattr(store, primitive, torn)
        with pytest.raises(KeyboardInterrupt):
            sink.truncate_after(1)
    assert same(list(read_events(path)), emitted)
    sink.truncate_after(1)  # the leftover is no obstacle
    sink.close()
    assert same(list(read_events(path)), [emitted[0], emitted[2]])


def test_the_last_events_are_cut_off_without_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    path = tmp_path / "metrics.jsonl"
    emitted = [Event("train", step, time=1.0) for step in range(4)]
    write_all(path, emitted)
    sink = JsonLines(path)
    monkeypatch.setattr(store, "write_file", full)
    sink.truncate_after(1)
    sink.emit(emitted[2])
    sink.close()
    assert same(list(read_events(path)), emitted[:3])


@pytest.mark.parametrize(
    "line", [b"{}", b"nonsense", b"[1]", b'{"kind": 1, "step": 0, "values": {}, "time": 0}']
)
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    write_all(path, [Event("train", 0)])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not an event"):
        list(read_events(path))


class Recorder:
    def __init__(self, fail: bool = False) -> None:
        self.seen: list[Event] = []
        self.closed = False
        self.fail = fail

    def emit(self, event: Event) -> None:
        self.seen.append(event)

    def close(self) -> None:
        self.closed = True
        if self.fail:
            raise OSError("cannot close")


def test_tee_hands_everything_to_every_sink_and_closes_all() -> None:
    sinks = [Recorder(), Recorder(fail=True), Recorder()]
    tee = Tee(sinks)
    event = Event("train", 1)
    tee.emit(event)
    with pytest.raises(OSError, match="cannot close"):
        tee.close()
    assert [sink.seen for sink in sinks] == [[event]] * 3
    assert all(sink.closed for sink in sinks)


def test_events_carry_the_time() -> None:
    assert Event("a", 0).time <= Event("b", 0).time
    assert math.isfinite(Event("a", 0).time)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Event(3, 0), TypeError, "kind must be a string"),  # type: ignore[arg-type]
        (lambda: Event("a", 1.5), TypeError, "step must be an int"),  # type: ignore[arg-type]
        (lambda: Event("a", -1), ValueError, "step must not be negative"),
        (lambda: Event("a", 0, {"loss": [1]}), TypeError, r"values\['loss'\].*got list"),  # type: ignore[dict-item]
        (lambda: Event("a", 0, {1: 2}), TypeError, "names must be strings"),  # type: ignore[dict-item]
    ],
)
def test_bad_events_are_refused_at_once(
    make: Callable[[], Event], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()
