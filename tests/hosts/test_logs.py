"""Logs of workers: every line appears exactly once and whole, however the bytes are cut and mixed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.hosts.logs import WorkerLogs

STREAMS = ("stdout", "stderr")


class Terminal(io.TextIOWrapper):
    """A text stream over bytes that says whether it is a terminal."""

    def __init__(self, is_terminal: bool = False) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8")
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    @property
    def content(self) -> bytes:
        return self.buffer.getvalue()  # type: ignore[attr-defined, no-any-return]


def log(run: Path, worker: int) -> bytes:
    return (run / "logs" / f"worker-{worker}.log").read_bytes()


# --- laws ---------------------------------------------------------------------------------------------------------

# What lines are made of, carriage returns and bytes that are no UTF-8 among them.
pieces = st.sampled_from([b"a", b"step 3", b"\r", b"\xff\xfe", "ü".encode(), b"\x1b[2K", b""])
line_text = st.lists(pieces, max_size=4).map(b"".join)


@st.composite
def feeds(draw: st.DrawFn) -> tuple[int, dict[tuple[int, str], list[bytes]], list[tuple[int, str, bytes]]]:
    """Workers, the lines of every stream (each with a number that occurs once), and the same bytes cut and mixed."""
    workers = draw(st.integers(1, 3))
    lines: dict[tuple[int, str], list[bytes]] = {}
    rest: dict[tuple[int, str], bytes] = {}
    for worker in range(workers):
        for stream in STREAMS:
            texts = draw(st.lists(line_text, max_size=4))
            lines[worker, stream] = [
                text + f"<{worker}.{stream}.{i}>".encode() for i, text in enumerate(texts)
            ]
            rest[worker, stream] = b"".join(line + b"\n" for line in lines[worker, stream])
            if draw(st.booleans()):
                rest[worker, stream] = rest[worker, stream].removesuffix(b"\n")
    fed = []
    while any(rest.values()):
        key = draw(st.sampled_from([key for key, data in rest.items() if data]))
        size = draw(st.integers(1, len(rest[key])))
        fed.append((*key, rest[key][:size]))
        rest[key] = rest[key][size:]
    return workers, lines, fed


@given(feeds(), st.integers(0, 30))
def test_the_log_of_a_worker_holds_every_line_of_it_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, drawn: Any, known_after: int
) -> None:
    workers, lines, fed = drawn
    run = tmp_path_factory.mktemp("run")
    logs = WorkerLogs(workers, Terminal(), Terminal())
    for i, (worker, stream, data) in enumerate(fed):
        if i == known_after:
            logs.run_directory(run)
        logs.feed(worker, stream, data)
    logs.run_directory(run)
    logs.close()
    for worker in range(workers):
        expected = [*lines[worker, "stdout"], *lines[worker, "stderr"]]
        kept = log(run, worker).removesuffix(b"\n").split(b"\n") if expected else []
        assert sorted(kept) == sorted(expected)
        for stream in STREAMS:
            assert [x for x in kept if f"<{worker}.{stream}.".encode() in x] == lines[worker, stream]


@given(feeds(), st.sampled_from(["errors", "all", "first"]), st.booleans())
def test_a_terminal_shows_every_line_that_is_due_once_and_whole(
    drawn: Any, show: Any, one_terminal: bool
) -> None:
    workers, lines, fed = drawn
    streams = {s: Terminal() for s in STREAMS}
    if one_terminal:
        streams["stderr"] = streams["stdout"]
    logs = WorkerLogs(workers, streams["stdout"], streams["stderr"], show)
    for worker, stream, data in fed:
        logs.feed(worker, stream, data)
    logs.close()
    for stream in STREAMS:
        shown = streams[stream].content.split(b"\n")
        for worker in range(workers):
            prefixed = [x for x in shown if x.startswith(f"[{worker}] ".encode()) and stream.encode() in x]
            due = show == "all" or (show == "errors" and worker > 0 and stream == "stderr")
            expected = [f"[{worker}] ".encode() + x.rpartition(b"\r")[2] for x in lines[worker, stream]]
            assert prefixed == (expected if due else [])
    if show != "all" and not one_terminal:
        for stream in STREAMS:
            # All bytes of worker 0 in order; a line of another never stands within a line of it, unless that
            # is one that is drawn over.
            raw = b"".join(data for worker, s, data in fed if (worker, s) == (0, stream))
            shown = [x for x in streams[stream].content.split(b"\n") if not x.startswith((b"[1] ", b"[2] "))]
            assert b"".join(shown) == raw.replace(b"\n", b"")
            assert [x for x in lines[0, stream] if b"\r" not in x and x not in shown] == []


@given(feeds())
def test_worker_0_alone_is_shown_as_it_is(drawn: Any) -> None:
    _, _, fed = drawn
    stdout, stderr = Terminal(), Terminal()
    logs = WorkerLogs(1, stdout, stderr)
    for worker, stream, data in fed:
        if worker == 0:
            logs.feed(worker, stream, data)
            place = stdout if stream == "stdout" else stderr
            assert place.content.endswith(data)  # at once, whether or not the line has ended
    for stream, place in zip(STREAMS, (stdout, stderr), strict=True):
        assert place.content == b"".join(data for w, s, data in fed if (w, s) == (0, stream))


# --- the terminal -------------------------------------------------------------------------------------------------


def test_a_line_of_another_worker_waits_for_the_end_of_a_line_of_worker_0() -> None:
    terminal = Terminal()
    logs = WorkerLogs(2, terminal, terminal)
    logs.feed(0, "stdout", b"loading ... ")
    logs.feed(1, "stderr", b"warning\n")
    assert terminal.content == b"loading ... "
    logs.feed(0, "stdout", b"done\nnext")
    assert terminal.content == b"loading ... done\n[1] warning\nnext"


def test_a_line_that_worker_0_draws_over_is_not_waited_for() -> None:
    terminal = Terminal()
    logs = WorkerLogs(2, terminal, terminal)
    logs.feed(0, "stderr", b"\r 10%")
    logs.feed(1, "stderr", b"warning\n")
    logs.feed(0, "stderr", b"\r 20%")
    assert terminal.content == b"\r 10%\n[1] warning\n\r 20%"


def test_what_waits_is_bounded() -> None:
    terminal = Terminal()
    logs = WorkerLogs(2, terminal, terminal)
    logs.feed(0, "stdout", b"a prompt without end: ")
    for i in range(30_000):
        logs.feed(1, "stderr", b"line %d of a worker in despair\n" % i)
    assert terminal.content.startswith(b"a prompt without end: \n[1] line 0 of")
    logs.close()
    assert terminal.content.count(b"[1] line ") == 30_000


def test_lines_do_not_wait_for_another_screen() -> None:
    out, err = Terminal(), Terminal(is_terminal=True)
    logs = WorkerLogs(2, out, err)
    logs.feed(0, "stdout", b"half a line")  # into a file
    logs.feed(1, "stderr", b"warning\n")
    assert b"warning\n" in err.content


def test_both_streams_of_one_terminal_share_its_cursor() -> None:
    out, err = Terminal(is_terminal=True), Terminal(is_terminal=True)
    logs = WorkerLogs(2, out, err)
    logs.feed(0, "stdout", b"half a line")
    logs.feed(1, "stderr", b"warning\n")
    assert err.content == b""
    logs.close()
    assert b"warning\n" in err.content


def test_prefixes_are_coloured_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal, no_color, expected in [
        (True, False, b"\x1b[33m[1]\x1b[0m x\n"),
        (True, True, b"[1] x\n"),
        (False, False, b"[1] x\n"),
    ]:
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_color:
            monkeypatch.setenv("NO_COLOR", "")
        terminal = Terminal(is_terminal)
        WorkerLogs(2, terminal, terminal).feed(1, "stderr", b"x\n")
        assert terminal.content == expected


def test_a_stream_without_bytes_gets_text_cut_anywhere() -> None:
    notebook = io.StringIO()
    logs = WorkerLogs(2, notebook, notebook)
    for byte in "grün \N{BEER MUG}\n".encode() + b"\xff\n":
        logs.feed(0, "stdout", bytes([byte]))
    logs.feed(1, "stderr", "für 1\n".encode())
    assert notebook.getvalue() == "grün \N{BEER MUG}\n\N{REPLACEMENT CHARACTER}\n[1] für 1\n"


def test_a_terminal_that_went_away_does_not_end_the_run(tmp_path: Path) -> None:
    class Gone(Terminal):
        tries = 0

        def flush(self) -> None:
            type(self).tries += 1
            raise BrokenPipeError

    gone, err = Gone(), Terminal()
    logs = WorkerLogs(1, gone, err)
    logs.run_directory(tmp_path)
    for _ in range(3):
        logs.feed(0, "stdout", b"line\n")
    logs.feed(0, "stderr", b"still here\n")
    logs.close()
    assert (Gone.tries, err.content) == (1, b"still here\n")
    assert log(tmp_path, 0) == b"line\n" * 3 + b"still here\n"
    Gone.flush = Terminal.flush  # type: ignore[method-assign]  # for its end


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="show must be one of errors, all, first; got 'some'"):
        WorkerLogs(2, Terminal(), Terminal(), "some")  # type: ignore[arg-type]


# --- the files ----------------------------------------------------------------------------------------------------


def test_a_line_of_several_megabytes_is_cut_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    terminal = Terminal()
    logs = WorkerLogs(2, terminal, terminal)
    logs.run_directory(tmp_path)
    for _ in range(80):
        logs.feed(1, "stderr", b"x" * (1 << 16))
    logs.feed(1, "stderr", b"\nshort\n")
    logs.close()
    assert log(tmp_path, 1).count(b"x") == terminal.content.count(b"x") == 80 << 16
    assert max(map(len, log(tmp_path, 1).split(b"\n"))) <= (1 << 20) + (1 << 16)
    assert terminal.content.endswith(b"\n[1] short\n")


def test_before_the_run_directory_is_known_the_newest_lines_are_held(tmp_path: Path) -> None:
    logs = WorkerLogs(2, Terminal(), Terminal())
    for i in range(100_000):
        logs.feed(1, "stdout", b"line %d\n" % i)
    logs.run_directory(tmp_path)
    logs.feed(1, "stdout", b"last\n")
    logs.close()
    first, *rest, last = log(tmp_path, 1).decode().splitlines()
    assert (first, last) == ("--- more was printed before", "last")
    assert rest == [f"line {i}" for i in range(100_000 - len(rest), 100_000)]
    assert 250_000 < len(log(tmp_path, 1)) <= (1 << 18) + 5
    assert not (tmp_path / "logs" / "worker-0.log").exists()


def test_without_a_run_directory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logs = WorkerLogs(2, Terminal(), Terminal())
    logs.feed(1, "stdout", b"line\nhalf")
    logs.close()
    assert list(tmp_path.iterdir()) == []


def test_the_run_directory_is_waited_for(tmp_path: Path) -> None:
    logs = WorkerLogs(2, Terminal(), Terminal())
    logs.run_directory(tmp_path / "a")
    for worker in (0, 1):
        logs.feed(worker, "stdout", b"before\n")
    assert not (tmp_path / "a").exists()
    (tmp_path / "a").mkdir()
    logs.feed(1, "stdout", b"after\n")
    logs.close()
    assert (log(tmp_path / "a", 0), log(tmp_path / "a", 1)) == (b"before\n", b"before\nafter\n")


def test_a_worker_that_is_replaced_goes_on_in_the_same_log(tmp_path: Path) -> None:
    terminal = Terminal()
    logs = WorkerLogs(2, terminal, terminal)
    logs.run_directory(tmp_path)
    for worker in (0, 1):
        logs.started(worker)
        logs.feed(worker, "stderr", b"first\nhalf a li")
    for worker in (1, 0):
        logs.started(worker)
        logs.feed(worker, "stderr", b"again\n")
    logs.close()
    for worker in (0, 1):
        assert log(tmp_path, worker) == b"first\nhalf a li\n--- worker %d started again\nagain\n" % worker
    assert terminal.content == (
        b"first\nhalf a li" + b"\n[1] first\n[1] half a li\n[1] again\nagain\n"
    )  # what waited comes when the half line of worker 0 is ended


def test_another_launch_and_another_run_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for i in range(2):
        logs = WorkerLogs(1, Terminal(), Terminal())
        for run in ("a", "a", "b"):
            logs.run_directory(tmp_path / run)
            logs.feed(0, "stdout", b"%s%d\n" % (run.encode(), i))
        logs.close()
    assert log(tmp_path / "a", 0) == b"a0\na0\n--- continued\na1\na1\n"
    assert log(tmp_path / "b", 0) == b"b0\n--- continued\nb1\n"


@pytest.mark.parametrize("when", ["the folder", "a log"])
def test_logs_that_cannot_be_written_are_told_of_once(tmp_path: Path, when: str) -> None:
    if when == "the folder":
        (tmp_path / "logs").write_text("")
    else:
        (tmp_path / "logs" / "worker-0.log").mkdir(parents=True)
    out, err = Terminal(), Terminal()
    logs = WorkerLogs(1, out, err)
    logs.feed(0, "stdout", b"held\n")
    logs.run_directory(tmp_path)
    for _ in range(3):
        logs.feed(0, "stdout", b"line\n")
    logs.close()
    assert out.content == b"held\n" + b"line\n" * 3
    assert err.content.count(b"\n") == 1
    assert err.content.startswith(b"dist-dp: the logs of the workers are not kept (")
