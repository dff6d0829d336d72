"""What a user sees of a run: made-up runs with made-up clocks, on streams that only say what they are."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dp.train.progress import Pace, Progress, duration
from runtime.events import Event


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("DIST_DP_PROGRESS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def step(k: int, seconds: float, per_epoch: int = 100, at: float | None = None, **metrics: float) -> Event:
    values = {"epoch": (k - 1) // per_epoch, "lr": 0.1, "examples": 32, "seconds": seconds, **metrics}
    return Event("step", k, values, k * seconds if at is None else at)


def shown(steps: int, seconds: float, per_epoch: int, first: int = 0) -> list[str]:
    stream = io.StringIO()
    progress = Progress(steps, per_epoch, stream)
    progress.emit(Event("start", first, time=first * seconds))
    for k in range(first + 1, steps + 1):
        progress.emit(step(k, seconds, per_epoch, loss=1 / k))
    progress.emit(Event("end", steps, {"digest": "ab" * 32, "loss": 1 / steps}, steps * seconds))
    progress.close()
    return stream.getvalue().splitlines()


def test_a_log_shows_the_first_step_at_once_and_then_a_line_every_five_seconds() -> None:
    lines = shown(steps=60, seconds=1.0, per_epoch=1000)
    assert lines[0] == "60 steps, 1000 an epoch"
    assert lines[1] == "step 1/60  epoch 1/1  loss 1  32 samples/s  0:59 left"
    assert [int(re.match(r"step (\d+)/", line)[1]) for line in lines[1:-2]] == list(range(1, 60, 5))  # type: ignore[index]
    assert lines[-2:] == ["done: 60 steps in 1:00  loss 0.01667", "digest " + "ab" * 32]


def test_a_log_shows_the_end_of_every_epoch() -> None:
    lines = shown(steps=12, seconds=0.5, per_epoch=4)
    assert [line.split("  ")[:2] for line in lines if line.startswith("step")] == [
        ["step 1/12", "epoch 1/3"],
        ["step 4/12", "epoch 1/3"],
        ["step 8/12", "epoch 2/3"],
        ["step 12/12", "epoch 3/3"],
    ]
    assert lines[0] == "12 steps, 4 an epoch"


def test_workers_that_are_lost_and_come_are_told() -> None:
    stream = io.StringIO()
    progress = Progress(9, 3, stream)
    progress.emit(Event("start", 0, time=0.0))
    for number, workers, newcomers in ((2, 1, 0), (3, 2, 1)):
        values = {"number": number, "workers": workers, "newcomers": newcomers, "seconds": 0.1}
        progress.emit(Event("generation", 4, values, time=1.0))
    assert stream.getvalue().splitlines()[1:] == [
        "step 4/9  generation 2: 1 worker",
        "step 4/9  generation 3: 2 workers, 1 of them new",
    ]


def test_a_run_may_end_within_an_epoch() -> None:
    assert shown(steps=6, seconds=9.0, per_epoch=4)[-3].startswith("step 6/6  epoch 2/2  loss")


@given(
    steps=st.integers(1, 400),
    seconds=st.floats(1e-5, 30.0),
    per_epoch=st.integers(1, 50),
    part=st.floats(0, 0.9),
)
def test_a_log_stays_short_whatever_the_steps_are(
    steps: int, seconds: float, per_epoch: int, part: float
) -> None:
    first = int(steps * part)
    lines = shown(steps, seconds, per_epoch, first)
    took = (steps - first) * seconds
    epochs = min(took / 0.5, steps / per_epoch)
    assert len(lines) <= 5 + took / 5 + epochs + 1
    assert any(line.startswith(f"step {first + 1}/{steps}  ") for line in lines)


def test_a_clock_that_is_set_back_does_not_silence_a_log() -> None:
    stream = io.StringIO()
    progress = Progress(1000, 1000, stream)
    progress.emit(Event("start", 0, time=9e9))
    for k in range(1, 20):
        progress.emit(step(k, 1.0, 1000, at=9e9 + k if k < 5 else k))
    assert "step 15/" in stream.getvalue()


def test_a_resumed_run_starts_from_its_step() -> None:
    lines = shown(steps=900, seconds=1.0, per_epoch=90, first=120)
    assert lines[0] == "resumed at step 120 of 900"
    assert lines[1] == "step 121/900  epoch 2/10  loss 0.008264  32 samples/s  12:59 left"
    assert lines[-2].startswith("done: 900 steps in 13:00")


START, RESUMED = Event("start", 0, time=0.0), Event("start", 3, time=0.0)
SAVED = Event("checkpoint", 4, {"digest": "aa"}, 4.0)


@pytest.mark.parametrize(
    ("events", "last"),
    [
        ((), ""),  # never began: whoever raised says why
        ((START,), "stopped at step 0 of 10"),
        ((START, step(4, 1.0)), "stopped at step 4 of 10"),
        (
            (START, step(4, 1.0), SAVED),
            "stopped at step 4 of 10; the checkpoint of step 4 is kept, the same command goes on from it",
        ),
        (
            (RESUMED,),
            "stopped at step 3 of 10; the checkpoint of step 3 is kept, the same command goes on from it",
        ),
        ((START, Event("end", 10, {"digest": "aa"}, 9.0)), "digest aa"),
    ],
)
def test_a_run_that_stops_says_where_it_stands_and_what_is_kept(events: tuple[Event, ...], last: str) -> None:
    stream = io.StringIO()
    progress = Progress(10, 5, stream)
    for event in events:
        progress.emit(event)
    progress.close()
    assert (stream.getvalue().splitlines() or [""])[-1] == last


def test_validation_is_shown_with_its_epoch() -> None:
    stream = io.StringIO()
    progress = Progress(10, 5, stream)
    for event in (START, step(5, 1.0, 5), Event("validation", 5, {"loss": 0.25, "accuracy": 1.0}, 5.5)):
        progress.emit(event)
    assert stream.getvalue().splitlines()[-1] == "validation after epoch 1  loss 0.25  accuracy 1"


def test_epochs_too_quick_for_a_log_are_left_out_with_their_validations_but_not_the_last() -> None:
    stream = io.StringIO()
    progress = Progress(100, 1, stream)
    progress.emit(START)
    for k in range(1, 101):
        progress.emit(step(k, 0.001, 1))
        progress.emit(Event("validation", k, {"loss": float(k)}, k * 0.001))
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()[1:]] == [
        "step 1/100",
        "validation after epoch 1",
        "step 100/100",
        "validation after epoch 100",
    ]


def test_a_warning_is_shown_once_before_or_within_a_run_on_every_display(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warning = Event("warning", 0, {"message": "checkpoint [b]refused[/b]"}, 0.0)
    for style, stream in (("plain", io.StringIO()), ("off", io.StringIO()), ("bar", Terminal())):
        monkeypatch.setenv("DIST_DP_PROGRESS", style)
        progress = Progress(10, 5, stream)
        progress.emit(warning)
        progress.emit(START)
        progress.emit(step(1, 1.0))
        progress.close()
        assert stream.getvalue().count("warning: checkpoint [b]refused[/b]\n") == 1, style
        if style == "off":
            assert stream.getvalue().count("\n") == 1


def test_a_bar_goes_over_one_line_and_leaves_what_was_said() -> None:
    stream = Terminal()
    progress = Progress(100, 50, stream)
    progress.emit(START)
    for k in range(1, 100):
        progress.emit(step(k, 0.01, 50, loss=0.5))
    drawn = stream.getvalue()
    assert "step 1/100  epoch 1/2  loss 0.5  3,200 samples/s  0:01 left" in drawn
    assert drawn.count("\n") == 1  # "100 steps"; all else goes over itself
    assert len(re.findall(r"step \d+/100", drawn)) <= 1 + 1.0 / 0.1 + 1
    progress.emit(step(100, 0.01, 50))
    progress.emit(Event("end", 100, {"digest": "aa", "loss": 0.5}, 1.0))
    progress.close()
    assert "done: 100 steps in 0:01  loss 0.5\n" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("\x1b[2K")  # the bar is gone
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is back


@pytest.mark.parametrize(
    ("style", "stream", "term", "bar"),
    [
        ("auto", Terminal(), "xterm", True),
        ("auto", Terminal(), "dumb", False),
        ("auto", io.StringIO(), "xterm", False),
        ("plain", Terminal(), "xterm", False),
        ("bar", io.StringIO(), "xterm", True),
    ],
)
def test_where_progress_goes(
    style: str, stream: io.StringIO, term: str, bar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIST_DP_PROGRESS", style)
    monkeypatch.setenv("TERM", term)
    progress = Progress(10, 5, stream)
    progress.emit(START)
    progress.emit(step(1, 1.0))
    progress.close()
    assert ("\x1b[?25l" in stream.getvalue()) == bar  # a live display hides the cursor
    assert any(line.startswith("step 1/10  epoch 1/2") for line in stream.getvalue().splitlines()) != bar


def test_an_unknown_style_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIST_DP_PROGRESS", "loud")
    with pytest.raises(ValueError, match="DIST_DP_PROGRESS must be one of auto, bar, plain, off; got 'loud'"):
        Progress(1, 1)


def test_it_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    Progress(1, 1).emit(Event("warning", 0, {"message": "m"}))
    assert capsys.readouterr() == ("", "warning: m\n")


@given(
    examples=st.integers(1, 1000),
    seconds=st.floats(1e-4, 100),
    between=st.floats(0, 10),
    n=st.integers(2, 30),
)
def test_the_pace_of_a_steady_run_is_exact(examples: int, seconds: float, between: float, n: int) -> None:
    pace = Pace()
    for k in range(n):
        pace.add(examples, seconds, k * (seconds + between))
    assert pace.examples_per_second == pytest.approx(examples / seconds)
    assert pace.seconds_left(7) == pytest.approx(7 * (seconds + between), rel=1e-6, abs=1e-9)


def test_the_pace_follows_a_run_that_changes_and_forgets_a_slow_start() -> None:
    pace = Pace()
    pace.add(10, 30.0, 30.0)  # the first step waits for the disk, say
    for k in range(400):
        pace.add(10, 0.5, 30.5 + k / 2)
    assert pace.examples_per_second == pytest.approx(20, rel=0.01)
    assert pace.seconds_left(100) == pytest.approx(50, rel=0.01)


@given(st.integers(0, 10**6))
def test_a_duration_reads_back(seconds: int) -> None:
    total = 0
    for part in duration(seconds).split(":"):
        total = total * 60 + int(part)
    assert total == seconds


@pytest.mark.process
def test_a_run_that_nobody_watches_does_not_load_rich() -> None:
    code = "import sys, dist_dp.train.progress as p; p.Progress(1, 1); sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL)
