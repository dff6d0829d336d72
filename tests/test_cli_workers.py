"""`dist-dp run -n`: several workers tell of themselves as one program, and end with its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from mpi import launching

from dist_dp.cli import main
from dist_dp.profiling import Profile
from runtime import launch
from runtime.hosts import cores
from runtime.run_lock import run_lock

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "dist_dp.cli", "run"]

WHO = "import os, sys\nfrom runtime.member import current\nworker = current().worker\n"
TRAIN = """
import numpy as np
import dist_dp as dp
from dist_dp import nn, optim

dp.seed(0)
model = nn.Linear(3, 1)
x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)

def loss(model, batch):
    value = (model(batch) ** 2).mean()
    {end}
    return value

result = dp.fit(model, loss, optim.SGD(model.parameters(), lr=0.1), x, batch_size=4, {options})
print("ended with", result.digest)
"""


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(launch.THREADS, "1")
    for name in ("DIST_DP_PROGRESS", "DIST_DP_ACCEPT_CHANGES", "DIST_DP_PROFILE", "PYTHONUNBUFFERED"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["run", *arguments])


def write(text: str, name: str = "script.py") -> str:
    Path(name).write_text(text)
    return name


def train(options: str = "epochs=4, shards=4, progress=False", end: str = "") -> str:
    return write(TRAIN.format(options=options, end=end), "train.py")


# --- how many -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("available", "threads", "started"), [(8, 1, 8), (8, 3, 2), (8, 8, None), (2, 4, None), (1, 1, None)]
)
def test_auto_is_a_worker_for_every_so_many_cores(
    available: int, threads: int, started: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setenv(launch.THREADS, str(threads))
    monkeypatch.setattr(cores, "available", lambda: available)
    monkeypatch.setattr("dist_dp.commands.run._run_workers", lambda workers, *rest: seen.append(workers))
    monkeypatch.setattr(launch, "run_as_main", lambda *rest: seen.append(None))
    command("-n", "auto", "--threads", str(threads), write(""))
    assert seen[0] == started


def test_a_rank_of_mpi_starts_no_workers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PMI_SIZE": "4", "PMI_RANK": "1", launch.THREADS: "1"}.items():
        monkeypatch.setenv(name, value)
    result = command("-n", "2", write("print('ran')"))
    assert result.exit_code == 2
    assert "MPI has started this process as one of several workers already; leave -n out" in result.output
    seen: list[Any] = []
    monkeypatch.setattr(launch, "run_as_main", lambda *rest: seen.append(rest))
    for workers in ([], ["-n", "1"], ["-n", "auto"]):
        assert command(*workers, "script.py", "x").exit_code == 0
    assert seen == [("script.py", ("x",))] * 3


def test_options_become_the_limits_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("dist_dp.commands.run._run_workers", lambda *given: [seen.append(given), sys.exit(0)])
    command("-n", "3", write(""))
    command(
        "-n", "2", "--hang-after", "never", "--max-losses", "7", "--backend", "tcp", "script.py", "-n", "9"
    )
    command("-n", "2", "--hang-after", "1.5", "--logs", "all", "script.py")
    (_, _, _, first, _, *_), (_, _, backend, second, _, _, arguments), (_, _, _, third, logs, *_) = seen
    assert (first.hang, first.losses) == (600.0, 3)
    assert (second.hang, second.losses, backend, arguments) == (None, 7, "tcp", ("-n", "9"))
    assert (third.hang, logs) == (1.5, "all")


# --- cores --------------------------------------------------------------------------------------------------------


def test_two_threads_of_a_core_are_one(tmp_path: Path) -> None:
    for cpu in range(8):  # cpu 0 and 4 are one core, 1 and 5, ...
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert cores.physical(frozenset(range(8)), tmp_path) == 4
    assert cores.physical(frozenset({0, 4}), tmp_path) == 1
    assert cores.physical(frozenset({0, 1, 5}), tmp_path) == 2
    assert cores.physical(frozenset({0, 1, 99}), tmp_path) == 3  # not told


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"": "max 100000"}, None),
        ({"": "200000 100000"}, 2.0),
        ({"a/b": "50000 100000", "a": "max 100000"}, 0.5),
        ({"a/b": "max 100000", "a": "150000 100000"}, 1.5),
        ({"a/b": "400000 100000", "a": "300000 100000"}, 3.0),
        ({"a/b": "nonsense"}, None),
    ],
)
def test_the_least_quota_on_the_way_up_counts(
    limits: dict[str, str], expected: float | None, tmp_path: Path
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for group, text in limits.items():
        (tmp_path / group / "cpu.max").write_text(text + "\n")
    assert cores.quota("/a/b", tmp_path) == expected


def test_there_is_one_core_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "quota", lambda: 0.3)
    assert cores.available() == 1
    monkeypatch.setattr(cores, "affinity", lambda: None)  # macOS
    monkeypatch.setattr(cores, "quota", lambda: None)
    assert cores.available() == os.cpu_count()


# --- exit codes and what is said ----------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(
    ("text", "code", "stdout", "stderr"),
    [
        ("print('done')", 0, "done\n", r""),
        ("print(sys.argv, __name__)", 0, "['script.py', '-n', 'x'] __main__\n", r""),
        ("sys.exit()", 0, "", r""),
        ("sys.exit(7)", 7, "", r"dist-dp: worker [01] of 2 failed; all have ended\n"),
        (
            "sys.exit('no such data')",
            1,
            "",
            r"no such data\ndist-dp: worker [01] of 2 failed; all have ended\n",
        ),
        ("print('w', worker, file=sys.stderr)", 0, "", r"(w 0\n|\[1\] w 1\n){2}"),
        ("os.kill(os.getpid(), 9)", 3, "", r"dist-dp: the run was lost: .*\n"),
    ],
)
def test_the_exit_code_of_the_workers_is_that_of_the_command(
    text: str, code: int, stdout: str, stderr: str
) -> None:
    result = command("-n", "2", write(WHO + text), "-n", "x")
    assert (result.exit_code, result.stdout) == (code, stdout)
    assert re.fullmatch(stderr, result.stderr)


@pytest.mark.process
def test_lines_are_shown_when_they_are_printed() -> None:
    result = command("-n", "2", write(WHO + "print('early')\nif worker == 0: os.kill(os.getpid(), 9)"))
    assert result.stdout.startswith("early\n")


FAILURES = {
    "an error": "def f():\n    raise KeyError('nothing')\n\nf()\n",
    "a cause": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('worse') from e\n",
    "notes": "e = ValueError('v')\ne.add_note('in step 3')\nraise e\n",
    "a syntax error": "x = (1,\nprint(",
    "an excepthook": "import sys\nsys.excepthook = lambda *e: print('mine', e[1], file=sys.stderr)\nint('x')\n",
}


@pytest.mark.process
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_told_once_as_python_tells_it(name: str) -> None:
    script = write(FAILURES[name])
    expected = subprocess.run([sys.executable, script], capture_output=True, text=True)
    result = command("-n", "2", script)
    assert result.exit_code == expected.returncode == 1
    said = result.output.removeprefix(expected.stderr)
    assert re.fullmatch(r"dist-dp: worker [01] of 2 failed; all have ended\n", said)


@pytest.mark.process
def test_a_failure_of_one_worker_names_it() -> None:
    script = write(WHO + "import time\nif worker == 1: raise ValueError('mine')\ntime.sleep(60)")
    began = time.monotonic()
    result = command("-n", "3", script)
    assert time.monotonic() - began < 20
    assert result.exit_code == 1
    assert result.output.endswith("ValueError: mine\ndist-dp: worker 1 of 3 failed; all have ended\n")
    assert "program.py" not in result.output


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("epochs=0, shards=4", "ValueError: epochs must"),
        ("sharsd=2", "TypeError: unknown option 'sharsd'; did you mean 'shards'?"),
        ("shards=1", "ValueError: shards must be at least the number of workers, got 1 for 2 workers"),
    ],
)
def test_an_argument_that_dist_dp_refuses_is_told_once_with_the_line_that_gave_it(
    options: str, said: str
) -> None:
    result = command("-n", "2", train(options))
    assert result.exit_code == 2
    assert result.output.startswith("Error: " + said)
    assert "  train.py:15: result = dp.fit(model, loss, " in result.output.splitlines()[-1]
    assert len(result.output.splitlines()) == 2


@pytest.mark.process
def test_a_run_in_use_and_another_program_are_refused_in_a_line() -> None:
    options = "epochs=1, shards=2, run='runs/a', progress=False"
    Path("runs/a").mkdir(parents=True)
    with run_lock("runs/a/lock"):
        result = command("-n", "2", train(options))
    assert (result.exit_code, f"is held by process {os.getpid()}" in result.output) == (2, True)
    assert command("-n", "2", train(options)).exit_code == 0
    result = command("-n", "2", train(options + ", seed=1"))
    assert (result.exit_code, "settings.seed: 0 -> 1" in result.output) == (2, True)
    assert "Traceback" not in result.output


# --- one run, one answer ------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("backend", ["shm", "tcp"])
def test_several_workers_give_the_digest_of_one_once(backend: str) -> None:
    script = train()
    whole = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    result = command("-n", "3", "--backend", backend, script)
    assert (result.exit_code, result.stdout) == (0, whole)
    assert whole.startswith("ended with ")


@pytest.mark.process
def test_all_that_workers_print_is_kept_in_the_run_directory() -> None:
    text = TRAIN.format(options="epochs=2, run='runs/a', progress=False", end="")
    script = write(WHO + "print('begins', worker)\n" + text + "print('err', worker, file=sys.stderr)")
    result = command("-n", "2", script)
    assert result.exit_code == 0, result.output
    digest = Path("runs/a/digest").read_text().split()[0]
    for worker in range(2):
        kept = Path(f"runs/a/logs/worker-{worker}.log").read_text().splitlines()
        assert sorted(kept) == sorted([f"begins {worker}", f"ended with {digest}", f"err {worker}"])


@pytest.mark.process
def test_each_worker_says_what_it_did_and_for_how_long_it_waited() -> None:
    script = write(TRAIN.format(options="epochs=2, run='runs/a', shards=2, progress=False", end=""))
    result = command("-n", "2", "--profile", "found", script)
    assert result.exit_code == 0, result.output
    told = CliRunner().invoke(main, ["profile", "found"])
    assert told.exit_code == 0, told.output
    whole = Profile.load("found/trace.json")
    assert sorted(whole.seconds) == [0, 1]
    for rows in whole.rows.values():
        calls = {row.name: row.calls for row in rows}
        assert calls["step"] == calls["update"] == 10 and calls["linear"] == 10 and calls["waiting"] > 0


STOP = """
    loss.calls = getattr(loss, "calls", 0) + 1
    import sys, os, time
    if sys.argv[1:] and loss.calls == 8:
        open(f"stopped-{os.getpid()}", "w").close()
        time.sleep(60)
"""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_same_digest(number: int) -> None:
    """Both workers wait in the body of their eighth shard, two shards a step: three steps are committed."""
    whole = command(train()).stdout
    script = train("epochs=4, shards=4, run='runs/a'", end=STOP)
    arguments = [*COMMAND, "-n", "2", "--progress", "plain", script]
    with subprocess.Popen([*arguments, "stop"], stdout=-1, stderr=-1, text=True) as child:
        until = time.monotonic() + 60
        while len(list(Path().glob("stopped-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        began = time.monotonic()
        child.send_signal(number)
        stdout, stderr = child.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert (child.returncode, stdout) == (130, "")
    assert "the checkpoint of step 3 is kept" in stderr
    assert stderr.count("dist-dp: interrupted; the same command goes on from the newest checkpoint") == 1
    assert "Traceback" not in stderr
    found = json.loads(CliRunner().invoke(main, ["inspect", "--json", "runs/a"]).stdout)
    assert (found["status"], found["step"]) == ("stopped", 3)
    resumed = subprocess.run(arguments, capture_output=True, text=True)
    assert "resumed at step 3 of 20" in resumed.stderr
    assert resumed.stdout == whole != ""


# --- ranks of MPI -------------------------------------------------------------------------------------------------


def ranks(*arguments: str) -> launching.Ended:
    """`mpirun -n 2 dist-dp arguments...`."""
    Path("command.py").write_text("from dist_dp.cli import main\nmain(prog_name='dist-dp')\n")
    return launching.mpi(2, Path("command.py"), *arguments)


@pytest.mark.process
def test_every_rank_of_mpi_runs_the_script_and_the_digest_is_that_of_one_process() -> None:
    script = train()
    whole = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout
    ended = ranks("run", script)
    assert (ended.code, ended.out) == (0, whole * 2), ended.err


@pytest.mark.process
def test_what_one_rank_refuses_is_told_once_and_ends_all() -> None:
    Path("runs/a").mkdir(parents=True)
    with run_lock("runs/a/lock"):
        ended = ranks("run", train("epochs=1, shards=2, run='runs/a', progress=False"))
    assert ended.code != 0
    assert ended.err.count(f"is held by process {os.getpid()}") == 1
    assert "Traceback" not in ended.err
