"""`dist-dp verify`: right programs are equal however they run; a wrong one is told with step, shard and parameter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dist_dp.cli import main
from dist_dp.debug.trace import Trace, first_difference
from dist_dp.debug.verify import missing

PROGRAM = str(Path(__file__).with_name("verified.py"))


def verify(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command, as wide as its table needs."""
    return subprocess.run(
        [sys.executable, "-m", "dist_dp.cli", "verify", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=place,
        env={**os.environ, "COLUMNS": "150", "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def rows(output: str) -> list[list[str]]:
    """The cells of the table, those that are empty left out."""
    lines = [re.split(r"  +", line.strip()) for line in output.splitlines() if " " in line.strip()]
    return [line for line in lines if re.fullmatch(r"\d+|mpi", line[0])]


@pytest.mark.process
def test_a_right_program_has_one_digest_however_it_runs(tmp_path: Path) -> None:
    done = verify(
        tmp_path, PROGRAM, "-n", "1,2,3", "--backend", "shm,tcp", "--faults", "2", "--seed", "3", "--", ""
    )
    assert done.returncode == 0, done
    table = rows(done.stdout)
    assert [row[:2] for row in table] == [
        ["1", "-"],
        *(["2", "shm"], ["2", "tcp"], ["3", "shm"], ["3", "tcp"]),
        *(["1", "shm"], ["2", "shm"], ["2", "tcp"], ["3", "shm"], ["3", "tcp"]),
    ]
    assert [row[-1] for row in table] == ["reference", *["equal"] * 9]
    assert len({row[-2] for row in table}) == 1 and re.fullmatch(r"[0-9a-f]{12} [0-9a-f]{12}", table[0][-2])
    assert all(row[2] == "2 of 2" for row in table[5:]), "not every fault landed"
    assert not os.listdir(tmp_path), "the script's own run directories are left alone"


@pytest.mark.process
@pytest.mark.parametrize(
    "wrong, place",
    [
        ("gradient", r"run 1, step 2, shard 1, parameter 2.bias: its gradient, computed by worker 1"),
        ("data", r"run 1, step 2, shard 1, parameter 0.weight: its gradient, computed by worker 1"),
        ("clock", r"run 0, step 1, shard 0, parameter 0.weight: its gradient, computed by worker 0"),
    ],
)
def test_a_wrong_program_is_told_where_it_first_differs(tmp_path: Path, wrong: str, place: str) -> None:
    done = verify(tmp_path, PROGRAM, "-n", "2", "--", wrong)
    assert done.returncode == 1, done
    assert rows(done.stdout)[1][-1] == "DIFFERS"
    assert re.search(rf"^2 workers over shm: first difference: {place}$", done.stderr, re.MULTILINE), (
        done.stderr
    )


@pytest.mark.process
def test_more_workers_than_the_script_has_shards_are_left_out(tmp_path: Path) -> None:
    done = verify(tmp_path, PROGRAM, "-n", "2,3", "--", "", "2")
    assert done.returncode == 0 and "gives shards=2" in done.stdout
    assert [row[:2] for row in rows(done.stdout)] == [["1", "-"], ["2", "shm"]]


@pytest.mark.process
def test_mpi_is_used_where_it_is_and_told_where_it_is_not(tmp_path: Path) -> None:
    done = verify(tmp_path, PROGRAM, "-n", "2", "--backend", "mpi", "--faults", "1", "--", "")
    assert done.returncode == 0, done
    verdicts = [row[-1] for row in rows(done.stdout)]
    if (why := missing("mpi")) is None:
        assert verdicts == ["reference", "equal"]
    else:
        assert sorted(verdicts) == [f"not here: {why}", "reference"]


@pytest.mark.process
def test_a_script_that_fails_by_itself_is_told_as_it_is(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise OSError('no such thing')")
    done = verify(tmp_path, str(script))
    assert (
        done.returncode == 1 and "OSError: no such thing" in done.stderr and "failed already" in done.stderr
    )
    script.write_text("print('nothing to train')")
    done = verify(tmp_path, str(script))
    assert done.returncode == 2 and "trains nothing" in done.stderr


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["verify", *arguments])


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["-n", "0"], "'0' is no list of numbers of workers"),
        (["-n", "2,x"], "'2,x' is no list of numbers of workers"),
        (["--backend", "shm,smoke"], "'smoke' is not one of 'shm', 'tcp', 'shm+tcp', 'mpi'"),
        (["--faults", "-1"], "-1 is not in the range"),
        (["--shards", "0"], "0 is not in the range"),
    ],
)
def test_wrong_options(arguments: list[str], said: str) -> None:
    result = call(*arguments, PROGRAM)
    assert result.exit_code == 2 and said in result.output


def test_a_script_that_is_not_there() -> None:
    result = call("nowhere.py")
    assert result.exit_code == 2 and "nowhere.py" in result.output


# --- traces ---------------------------------------------------------------------------------------------------------


def traced(run: Path, **change: object) -> Path:
    """A trace of two steps of two shards each; `change` says what differs where."""
    import numpy as np

    trace = Trace(run, 0)
    for step in range(2):
        for shard in (1, 0):  # as two workers may come
            gradients = {name: np.full(3, 10 * step + shard, np.float32) for name in ("a", "b")}
            weight, loss = 2.0, 0.5
            if (step, shard) == change.get("at"):
                if change["what"] == "untouched":
                    del gradients["b"]
                elif change["what"] == "gradient":
                    gradients["b"][1] = np.nextafter(gradients["b"][1], np.float32(100))
                elif change["what"] == "weight":
                    weight = 3.0
                elif change["what"] == "loss":
                    loss = 0.25
            trace.shard(step, shard, weight, loss, gradients)
        arrays = {name: np.full(3, step, np.float32) for name in ("a", "b")}
        if change.get("at") == step:
            arrays["b"] += 1
        trace.after(step, arrays)
    return run


@pytest.mark.parametrize(
    "change, told",
    [
        ({}, None),
        ({"at": (1, 0), "what": "gradient"}, "step 1, shard 0, parameter b: its gradient, computed by worker 0"),
        ({"at": (0, 1), "what": "untouched"}, "step 0, shard 1, parameter b: its gradient, computed by worker 0"),
        ({"at": (0, 1), "what": "weight"}, "step 0, shard 1: its weight, 3.0 on worker 0, 2.0 in one process"),
        ({"at": (0, 0), "what": "loss"}, "step 0, shard 0: its loss, 0.25 on worker 0, 0.5 in one process"),
        ({"at": 0}, "step 0, parameter b, after the step on worker 0; all shards of it agree, so the sum or the update "
                    "differs"),
    ],
)  # fmt: skip
def test_the_first_difference_of_two_traces(
    tmp_path: Path, change: dict[str, object], told: str | None
) -> None:
    assert first_difference(traced(tmp_path / "a"), traced(tmp_path / "b", **change)) == told


def test_a_redone_step_counts_and_a_torn_line_does_not(tmp_path: Path) -> None:
    a, b = traced(tmp_path / "a"), traced(tmp_path / "b", at=(1, 0), what="loss")
    traced(b)  # done once more, right this time
    for path in (a / "trace").iterdir():
        path.write_text(path.read_text() + '{"step": 2, "sha')
    assert first_difference(a, b) == "step 1, shard 0: its loss, 0.25 on worker 0, 0.5 in one process"


def test_a_trace_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trace"):
        first_difference(traced(tmp_path / "a"), tmp_path / "b")
