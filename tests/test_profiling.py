"""`dp.profile`: what it counts, that nothing changes by it, and what it writes."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import nn, optim
from dist_dp.cli import main
from dist_dp.profiling.profiles import Row
from dist_dp.tape import INTERPRET, mode
from runtime import timeline


def trained(epochs: int = 2, **options: Any) -> str:
    """The digest of a run over a few examples."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)).astype(np.float32), rng.integers(0, 3, 12)
    dp.seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 3))

    def loss(model: nn.Module, batch: Any) -> Any:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    result = dp.fit(
        model,
        loss,
        optim.Adam(model.parameters()),
        (x, y),
        batch_size=4,
        epochs=epochs,
        progress=False,
        **options,
    )
    return result.digest


PROGRAMS = st.lists(st.sampled_from(["tanh", "exp", "multiply", "sum"]), min_size=1, max_size=12)


@given(PROGRAMS)
def test_every_operation_is_counted_once_forward_and_once_backward(names: list[str]) -> None:
    x = dp.tensor(np.linspace(0.1, 0.4, 3), requires_grad=True)
    with dp.profile() as profile:
        y = x
        for name in names:
            y = y * x if name == "multiply" else getattr(y, name)() if name != "exp" else (y * 0.1).exp()
        y.sum().backward()
    expected = {name: names.count(name) for name in ("tanh", "exp", "multiply", "sum")}
    expected["multiply"] += expected["exp"]
    expected["sum"] += 1
    calls = {row.name: row.calls for row in profile.rows[0]}
    assert calls == {
        f"{name}{way}": count for name, count in expected.items() if count for way in ("", ", backward")
    }
    assert sum(row.seconds for row in profile.rows[0]) <= profile.seconds[0]


def test_a_run_ends_with_the_same_bits_and_says_what_its_loop_did() -> None:
    with dp.profile() as profile:
        measured = trained()
    assert measured == trained()
    calls = {row.name: row.calls for row in profile.rows[0]}
    assert calls["step"] == calls["update"] == calls["data, waiting"] == 6
    assert calls["linear"] == calls["linear, backward"] == 12


def test_batched_programs_and_transformations_keep_their_bits() -> None:
    w = dp.tensor(np.linspace(-1, 1, 4), requires_grad=True)

    @dp.cell
    def add(x: Any, y: Any) -> Any:
        return dp.numpy.tanh(x * w + y)

    def program(n: int) -> Any:
        total = np.zeros(4)
        for i in range(n):
            total = add(np.full(4, float(i)), total)
        return total.sum()

    def both() -> list[Any]:
        w.grad = None
        dp.batched(program, [1, 3, 2]).sum().backward()
        second = dp.hessian(lambda x: (x**3).sum())(np.arange(3.0))
        return [w.grad.numpy(), dp.vmap(lambda x: x @ w)(np.eye(4)).detach().numpy(), second.numpy()]

    plain = both()
    with dp.profile() as profile:
        measured = both()
    for one, other in zip(plain, measured, strict=True):
        np.testing.assert_array_equal(one, other)
    calls = {row.name: row.calls for row in profile.rows[0]}
    assert calls["tanh"] == calls[f"{add.fun.__qualname__}, batch"] == 3


def test_the_spans_of_a_thread_lie_within_each_other_or_apart(tmp_path: Path) -> None:
    with dp.profile(tmp_path):
        trained(run=tmp_path / "run", checkpoint_every=2)
    (path,) = tmp_path.glob("worker-*.json")
    trace = json.loads(path.read_text())
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {"step", "update", "linear", "exchange", "data, loading", "checkpoint, write"} <= {
        s["name"] for s in spans
    }
    threads = {span["tid"] for span in spans}
    assert len(threads) >= 3  # computing, loading, writing
    for thread in threads:
        its = sorted(
            (round(s["ts"] * 1000), round((s["ts"] + s["dur"]) * 1000)) for s in spans if s["tid"] == thread
        )
        for (_, end), (begin, later) in itertools.pairwise(its):
            # 512 ns: times since 1970 in µs are rounded so far
            assert begin >= end - 512 or later <= end + 512


def test_of_the_spans_beyond_the_limit_the_number_is_told() -> None:
    x = dp.tensor([1.0])
    with dp.profile(spans=3) as profile:
        for _ in range(10):
            x = x + 1.0
    assert sum(event["ph"] == "X" for event in profile.events) == 3 and profile.left_out == 7
    assert profile.rows[0][0].calls == 10
    assert "lacks 7 spans" in str(profile)


def test_nothing_is_measured_outside_the_block_also_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), dp.profile() as profile:
        _ = dp.tensor([1.0]) + 1.0
        raise ZeroDivisionError
    _ = dp.tensor([1.0]) + 1.0
    assert mode.state != INTERPRET and mode.watch is None
    assert isinstance(timeline.span("later").__enter__(), type(None))
    assert [(row.name, row.calls) for row in profile.rows[0]] == [("add", 1)]


def test_a_profile_inside_another_one_counts_its_part() -> None:
    x = dp.tensor([1.0], requires_grad=True)
    with dp.profile() as whole:
        y = x * 2.0
        with dp.profile() as part:
            (y * y).backward()
        _ = x + 1.0
    calls = [{row.name: row.calls for row in profile.rows[0]} for profile in (whole, part)]
    assert calls == [
        {"multiply": 2, "multiply, backward": 2, "add": 1},
        {"multiply": 1, "multiply, backward": 2},
    ]


def test_time_within_a_span_is_counted_once() -> None:
    spans: list[timeline.Span] = []

    class Keeper:
        def keep(self, span: timeline.Span) -> None:
            spans.append(span)

    together = threading.Barrier(3)  # a thread that begins when another one has ended may be given its ident

    def work() -> None:
        together.wait()
        with timeline.span("outer"):
            for _ in range(3):
                with timeline.span("inner"), timeline.span("innermost"):
                    time.sleep(0.001)

    with timeline.keeping(Keeper()):
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for ident in {span.thread for span in spans}:
        its = [span for span in spans if span.thread == ident]
        outer = its[-1]
        assert outer.name == "outer"
        assert sum(s.end - s.begin - s.inside for s in its) == outer.end - outer.begin
        assert outer.inside == sum(s.end - s.begin for s in its if s.name == "inner")


ROWS = st.lists(
    st.builds(
        Row, st.text(max_size=4), st.integers(0, 9), st.floats(0, 9, allow_nan=False), st.integers(0, 1 << 40)
    ),
    max_size=5,
    unique_by=lambda row: row.name,
)


@given(st.dictionaries(st.integers(0, 9), st.tuples(ROWS, st.floats(0, 99)), max_size=4))
def test_profiles_are_read_as_they_were_written_and_add_up(
    tmp_path_factory: Any, workers: dict[int, tuple[list[Row], float]]
) -> None:
    folder = tmp_path_factory.mktemp("profiles")
    profiles = [
        dp.Profile({n: rows}, {n: seconds}, [{"ph": "M", "pid": n}]) for n, (rows, seconds) in workers.items()
    ]
    for n, profile in enumerate(profiles):
        profile.save(folder / f"{n}.json")
    whole = dp.Profile.merged(dp.Profile.load(folder / f"{n}.json") for n in range(len(profiles)))
    assert whole.seconds == {n: seconds for n, (_, seconds) in workers.items()}
    assert {n: sorted(rows, key=str) for n, rows in whole.rows.items()} == {
        n: sorted(rows, key=str) for n, (rows, _) in workers.items()
    }
    assert whole.events == [{"ph": "M", "pid": n} for n in workers]
    str(whole)


def test_workers_write_theirs_and_the_command_puts_them_together(tmp_path: Path) -> None:
    for _ in range(2):
        with dp.profile(tmp_path):
            trained(1)
    said = CliRunner().invoke(main, ["profile", str(tmp_path)], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    assert "linear, backward" in said.output and "trace.json" in said.output
    whole = dp.Profile.load(tmp_path / "trace.json")
    assert {row.name: row.calls for row in whole.rows[0]}["step"] == 6


def test_bad_folders_are_told_in_a_line(tmp_path: Path) -> None:
    nothing = CliRunner().invoke(main, ["profile", str(tmp_path)])
    assert nothing.exit_code == 2 and "there is no profile in" in nothing.output
    (tmp_path / "worker-0.json").write_text('{"traceEvents": []}')
    other = CliRunner().invoke(main, ["profile", str(tmp_path)])
    assert other.exit_code == 1 and "is no profile that dist_dp wrote" in other.output
    script = tmp_path / "script.py"
    script.write_text("")
    again = CliRunner().invoke(main, ["run", "--profile", str(tmp_path), str(script)])
    assert again.exit_code == 2 and "the profiles of another run" in again.output


@pytest.mark.parametrize("command", [True, False], ids=["command", "call"])
@pytest.mark.parametrize(
    ("folder", "error", "said"),
    [
        ("afile", FileExistsError, "is a file|File exists"),
        ("afile/x", NotADirectoryError, "'afile/x' (Not a directory); give another one"),
        ("", ValueError, "must be the path of a local folder, got ''"),
        ("s3://b/x", ValueError, "must be the path of a local folder, got 's3://b/x'"),
        ("locked", PermissionError, "'locked' (Permission denied); give another one"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_before_anything_starts(
    folder: str,
    error: type[Exception],
    said: str,
    command: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def locked(dir: str) -> None:  # root may write everywhere
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.chdir(tmp_path)
    Path("afile").touch()
    Path("script.py").write_text("print('ran')")
    if folder == "locked":
        monkeypatch.setattr("tempfile.TemporaryFile", locked)
    if command:
        result = CliRunner().invoke(main, ["run", "--profile", folder, "script.py"])
        assert result.exit_code == 2
        told = result.output
        assert "Invalid value for '--profile': " in told and "ran" not in told.split()
    else:
        with pytest.raises(error, match=r"^folder must be ") as raised, dp.profile(folder):
            pass
        told = str(raised.value)
    assert any(part in told for part in said.split("|"))
    assert {path.name for path in tmp_path.iterdir()} <= {"afile", "script.py", "locked"}


def test_what_is_no_path_is_refused() -> None:
    with pytest.raises(TypeError, match="folder must be the path of a local folder, got 3"), dp.profile(3):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="must be the path of a local"), dp.profile(Path("s3://b/x")):
        pass


def test_a_profile_that_cannot_be_written_at_the_end_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    with dp.profile(folder) as profile:
        _ = dp.tensor([1.0]) + 1.0
        folder.rmdir()
    told = capsys.readouterr().err
    assert told.startswith("warning: the profile is lost, ") and told.count("\n") == 1
    assert [row.name for row in profile.rows[0]] == ["add"]


def test_the_table_is_printed_also_where_the_trace_cannot_be_written(tmp_path: Path) -> None:
    with dp.profile(tmp_path):
        _ = dp.tensor([1.0]) + 1.0
    (tmp_path / "trace.json").mkdir()
    result = CliRunner().invoke(main, ["profile", str(tmp_path)])
    assert result.exit_code == 1
    assert "add " in result.output
    assert result.output.splitlines()[-1].startswith("Error: the trace cannot be written, ")


LOOPS = {
    "by hand": ("", True),
    "by hand, and an exit": ("raise SystemExit(0)", True),
    "measured": ("with dp.profile('folder'): w * w", False),
    "failed": ("raise SystemExit(7)", False),
}


@pytest.mark.process
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", LOOPS)
def test_a_run_that_measured_nothing_says_so(name: str, workers: str, tmp_path: Path) -> None:
    end, expected = LOOPS[name]
    (tmp_path / "script.py").write_text(f"import dist_dp as dp\nw = dp.tensor([1.0])\n{end}\n")
    command = [
        *(sys.executable, "-m", "dist_dp.cli"),
        *("run", "-n", workers, "--profile", "folder", "script.py"),
    ]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == (7 if name == "failed" else 0), done.stderr
    told = done.stderr.count("measures what fit and steps do; any other loop is measured by `with")
    assert told == expected


def test_threads_of_the_trace_have_names(tmp_path: Path) -> None:
    with dp.profile() as profile:
        trained(run=tmp_path / "run", checkpoint_every=2)
    names = {e["tid"]: e["args"]["name"] for e in profile.events if e["name"] == "thread_name"}
    by_thread: dict[str, set[str]] = {}
    for event in profile.events:
        if event["ph"] == "X":
            by_thread.setdefault(names[event["tid"]], set()).add(event["name"])
    assert {"step", "update", "linear"} <= by_thread["main thread"]
    assert by_thread["loading ahead"] == {"data, loading"}
    assert by_thread["writing checkpoints"] == {"checkpoint, write"}
