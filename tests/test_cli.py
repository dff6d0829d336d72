"""The command: exit codes, what is said, and that a script runs as under Python itself."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dist_dp import __version__
from dist_dp.cli import main
from runtime import launch
from runtime.checkpoint import Saver
from runtime.run_lock import run_lock

COMMAND = [sys.executable, "-c", "from dist_dp.cli import main; main(prog_name='dist-dp')"]
ROOT = Path(__file__).parent.parent

# A small run: 4 epochs of 5 steps; {options} and the end of `loss` are the tests' own.
TRAIN = """
import sys
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
    """What the command changes of its process is put back; NumPy's threads were set by the tests' settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("DIST_DP_THREADS", "1")
    for name in ("DIST_DP_PROGRESS", "DIST_DP_ACCEPT_CHANGES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has trained nothing yet."""
    from dist_dp.train import Steps

    monkeypatch.setattr(Steps, "begun", False)


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def environment(**variables: str) -> dict[str, str]:
    kept = {n: v for n, v in os.environ.items() if n not in (launch.THREADS, *launch.THREAD_VARIABLES)}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def write(text: str, name: str = "script.py") -> str:
    Path(name).write_text(text)
    return name


def train(options: str = "progress=False", end: str = "") -> str:
    options = options if "epochs" in options else f"epochs=4, {options}"
    return write(TRAIN.format(options=options, end=end), "train.py")


# --- running a script ---------------------------------------------------------------------------------------------


LOOK = """
'''What a script sees.'''
import json, sys, beside
class Kept: pass
print(json.dumps({
    "name": __name__, "file": __file__, "doc": __doc__, "argv": sys.argv, "path": sys.path[0],
    "main": sys.modules["__main__"].__dict__ is globals(), "module": Kept.__module__, "builtins": __builtins__.__name__,
    "names": sorted(n for n in globals() if n not in ("__annotations__", "__cached__")),
    "future": "annotations" in globals(), "beside": beside.__file__,
}))
"""


def test_a_script_sees_what_it_would_see_under_python(tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "beside.py").write_text("")
    (folder / "look.py").write_text(LOOK)
    (tmp_path / "link.py").symlink_to(folder / "look.py")
    for script in ("programs/look.py", "link.py", str(folder / "look.py")):
        arguments = [script, "--threads", "7", "-n", "a b", "--", "--help"]
        expected = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
        sys.modules.pop("beside", None)
        result = command("run", *arguments)
        assert result.exit_code == 0
        assert json.loads(result.output) == json.loads(expected.stdout)


def test_a_script_does_not_inherit_the_future_of_the_command() -> None:
    result = command("run", write("def f(x: int): pass\nprint(f.__annotations__['x'] is int)"))
    assert result.output == "True\n"


@pytest.mark.parametrize(
    ("text", "code", "output"),
    [
        ("print('done')", 0, "done\n"),
        ("import sys; sys.exit(7)", 7, ""),
        ("import sys; sys.exit()", 0, ""),
        ("import sys; sys.exit('no such data')", 1, "no such data\n"),
        ("raise SystemExit(2)", 2, ""),
    ],
)
def test_the_exit_code_of_a_script_is_that_of_the_command(text: str, code: int, output: str) -> None:
    result = command("run", write(text))
    assert (result.exit_code, result.output) == (code, output)


FAILURES = {
    "an error": "def f():\n    raise KeyError('nothing')\n\nf()\n",
    "a cause": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('worse') from e\n",
    "a context": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    int('x')\n",
    "notes": "e = ValueError('v')\ne.add_note('in step 3')\nraise e\n",
    "a syntax error": "x = (1,\nprint(",
    "a syntax error elsewhere": "import broken\n",
    "click's errors": "import click\nraise click.UsageError('mine')\n",
    "an end of file": "raise EOFError\n",
    "another library": "import json\njson.loads('{')\n",
    "a type error of a call": "import dist_dp\ndist_dp.Tensor()\n",
}


@pytest.mark.process
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_told_as_python_tells_it(name: str) -> None:
    write("x = (", "broken.py")
    script = write(FAILURES[name])
    expected = subprocess.run([sys.executable, script], env=environment(), capture_output=True, text=True)
    result = command("run", script)
    assert result.exit_code == expected.returncode == 1
    assert result.output == expected.stderr


def test_the_excepthook_of_a_script_is_used() -> None:
    text = "import sys\nsys.excepthook = lambda kind, error, tb: print(kind.__name__, error, tb.tb_lineno)\nint('x')"
    try:
        result = command("run", write(text))
    finally:
        sys.excepthook = sys.__excepthook__
    assert result.exit_code == 1
    assert result.output == "ValueError invalid literal for int() with base 10: 'x' 3\n"


def test_ctrl_c_ends_quietly() -> None:
    result = command("run", write("raise KeyboardInterrupt"))
    assert result.exit_code == 130
    assert "interrupted; the same command goes on from the newest checkpoint" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing argument 'SCRIPT'"),
        (["run", "nothing.py"], "File 'nothing.py' does not exist"),
        (["run", "."], "File '.' is a directory"),
        (["run", "--thread", "1", "script.py"], "No such option.*--thread"),
        (["run", "--threads", "0", "script.py"], "0 is not in the range x>=1"),
        (["run", "--progress", "loud", "script.py"], "'loud' is not one of 'auto', 'bar', 'plain', 'off'"),
        (["run", "-n", "0", "script.py"], "0 is not in the range 1<=x<=4096"),
        (["run", "-n", "-2", "script.py"], "-2 is not in the range"),
        (["run", "-n", "4097", "script.py"], "4097 is not in the range"),
        (["run", "-n", "many", "script.py"], "'many' is not a valid integer, nor 'auto'"),
        (["run", "-n", "1.5", "script.py"], "'1.5' is not a valid integer"),
        (["run", "-n", "", "script.py"], "'' is not a valid integer"),
        (["run", "-n", "2", "nothing.py"], "File 'nothing.py' does not exist"),
        (["run", "-n", "2", "."], "File '.' is a directory"),
        (
            ["run", "-n", "2", "--backend", "nccl", "script.py"],
            "'nccl' is not one of 'shm', 'tcp', 'shm\\+tcp'",
        ),
        (["run", "-n", "2", "--backend", "mpi", "script.py"], "started by MPI: mpirun -n 4 python SCRIPT"),
        (["run", "-n", "2", "--logs", "none", "script.py"], "'none' is not one of 'errors', 'all', 'first'"),
        (["run", "-n", "2", "--hang-after", "0", "script.py"], "'0' is no number of seconds above 0"),
        (["run", "-n", "2", "--hang-after", "nan", "script.py"], "'nan' is no number of seconds above 0"),
        (
            ["run", "-n", "2", "--hang-after", "soon", "script.py"],
            "'soon' is no number of seconds .*nor 'never'",
        ),
        (["run", "-n", "2", "--max-losses", "0", "script.py"], "0 is not in the range x>=1"),
        (["rnu", "script.py"], "No such command 'rnu'"),
        (["inspect"], "Missing argument 'RUN'"),
        (["inspect", "nothing"], "nothing is not there; expected the directory of a run"),
        (["inspect", "script.py"], "script.py is a file; expected the directory of a run"),
        (["inspect", "."], "no run directory: it holds no manifest.json"),
        (["doctor", "--yaml"], "No such option.*--yaml"),
    ],
)
def test_a_mistyped_command_is_told_in_a_line(arguments: list[str], said: str) -> None:
    write("print('ran')")
    result = command(*arguments)
    assert result.exit_code == 2
    assert re.search(said, result.output)
    assert "Traceback" not in result.output
    assert "ran" not in result.output.split()


def test_a_script_that_may_not_be_read_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *arguments, **options: False)  # root may read everything
    for workers in ("1", "2"):
        result = command("run", "-n", workers, write("print('ran')"))
        assert (result.exit_code, "is not readable" in result.output) == (2, True)


def test_one_worker_may_be_asked_for() -> None:
    assert command("run", "-n", "1", write("print('ran')")).output == "ran\n"


def test_options_reach_the_program_by_its_environment() -> None:
    script = write("import os; print(os.environ['DIST_DP_PROGRESS'], os.environ['DIST_DP_ACCEPT_CHANGES'])")
    assert command("run", "--progress", "plain", "--accept-changes", script).output == "plain 1\n"


def test_version() -> None:
    assert command("--version").output == f"dist-dp {__version__}\n"


# --- wrong arguments of the program -------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("epochs=0", "ValueError: epochs must"),
        ("shards=0", "ValueError: shards must"),
        ("sharsd=2", "TypeError: unknown option 'sharsd'; did you mean 'shards'?"),
        ("run=__file__", "NotADirectoryError: run must name a directory"),
        ("validation=7", "TypeError:"),
    ],
)
def test_an_argument_that_dist_dp_refuses_is_told_with_the_line_that_gave_it(options: str, said: str) -> None:
    result = command("run", train(options))
    assert result.exit_code == 2
    assert result.output.startswith("Error: " + said)
    assert "  train.py:16: result = dp.fit(model, loss, " in result.output.splitlines()[-1]
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("fresh")
def test_a_failure_of_the_programs_data_is_the_programs() -> None:
    data = "class Data(list):\n    def __len__(self): return nn.Linear(0, 'many')\nx = Data()  #"
    text = TRAIN.replace("x = np", data)
    Path("train.py").write_text(text.format(options="epochs=1", end=""))
    result = command("run", "train.py")
    assert result.exit_code == 1
    assert result.output.startswith("Traceback (most recent call last):\n  File ")
    assert "in __len__" in result.output


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "end",
    ["raise ValueError('mine')", "model(batch[:, :2])", "batch.nothing"],
    ids=["its own", "in dist_dp", "attribute"],
)
def test_a_failure_within_a_step_is_the_programs(end: str) -> None:
    result = command("run", train(end=end))
    assert result.exit_code == 1
    assert result.output.startswith("Traceback (most recent call last):\n  File ")
    assert 'train.py", line 16, in <module>\n' in result.output.replace("'", '"')
    assert "cli.py" not in result.output
    assert "launch.py" not in result.output
    assert "in step 0, shard 0, examples" in result.output


LOOP = """
for shard in dp.steps(model, optim.SGD(model.parameters(), lr=0.1), x, batch_size=4, progress=False):
    nn.Linear(0, "many")
"""


@pytest.mark.usefixtures("fresh")
def test_a_failure_in_the_body_of_a_loop_is_the_programs() -> None:
    result = command("run", write(TRAIN.split("result =")[0].format(end="") + LOOP))
    assert result.exit_code == 1
    assert result.output.startswith("Traceback (most recent call last):\n")


@pytest.mark.usefixtures("fresh")
def test_a_run_of_another_program_is_refused_and_every_difference_named() -> None:
    options = "run='runs/a', progress=False"
    assert command("run", train(options)).exit_code == 0
    result = command("run", train(options + ", seed=1, shuffle=False"))
    assert result.exit_code == 2
    assert "settings.seed: 0 -> 1" in result.output
    assert "settings.shuffle: true -> false" in result.output
    assert "Traceback" not in result.output


@pytest.mark.usefixtures("fresh")
def test_a_changed_program_goes_on_if_that_is_accepted() -> None:
    options = "run='runs/a', progress=False"
    assert command("run", train(options)).exit_code == 0
    changed = train(options, end="value = value * 2")
    refused = command("run", changed)
    assert refused.exit_code == 2
    assert "program.sha256" in refused.output
    assert command("run", "--accept-changes", changed).exit_code == 0


@pytest.mark.usefixtures("fresh")
def test_a_run_in_use_is_refused() -> None:
    Path("runs/a").mkdir(parents=True)
    with run_lock("runs/a/lock"):
        result = command("run", train("run='runs/a', progress=False"))
    assert result.exit_code == 2
    assert f"is held by process {os.getpid()}" in result.output
    assert "Traceback" not in result.output


# --- threads ------------------------------------------------------------------------------------------------------


class Restarted(BaseException):
    pass


def test_the_command_starts_itself_again_with_the_threads_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def execv(path: str, arguments: list[str]) -> None:
        raise Restarted(path, arguments)

    monkeypatch.setattr(os, "execv", execv)
    for name in launch.THREAD_VARIABLES:
        monkeypatch.setenv(name, "8")
    launch.restart_with_threads(1)  # a launcher was here
    with pytest.raises(Restarted) as restart:
        launch.restart_with_threads(3)
    assert restart.value.args == (sys.executable, [sys.executable, *sys.orig_argv[1:]])
    assert [os.environ[name] for name in launch.THREAD_VARIABLES] == ["3"] * len(launch.THREAD_VARIABLES)
    assert launch.blas_threads() == 3
    launch.restart_with_threads(3)


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "1.5", "²"])
def test_a_number_of_threads_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIST_DP_THREADS", value)
    with pytest.raises(ValueError, match="DIST_DP_THREADS must be a whole number above 0, got"):
        launch.blas_threads()


# --- processes ----------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_threads_stand_before_numpy_is_loaded_and_the_process_stays_the_same() -> None:
    script = write(
        "import os, sys, json; from runtime.fingerprint import fingerprint\n"
        "print(json.dumps([os.getpid(), fingerprint()['blas_threads'], os.environ['NUMEXPR_NUM_THREADS'], sys.argv]))"
    )
    for threads in ("1", "2"):
        with subprocess.Popen(
            [*COMMAND, "run", "--threads", threads, script, "-x"],
            env=environment(OMP_NUM_THREADS="5"),
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            output, _ = child.communicate(timeout=60)
        pid, used, variable, argv = json.loads(output)
        assert (pid, variable, argv) == (child.pid, threads, [script, "-x"])
        assert used in (0, int(threads))  # 0: a BLAS that does not tell


STOP = """
    loss.calls = getattr(loss, "calls", 0) + 1
    if sys.argv[1:] and loss.calls == 8:
        import signal
        signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.process
def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_same_digest() -> None:
    """The signal of Ctrl-C reaches the program in its eighth step; seven are committed."""

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "run", "--progress", "plain", script, *arguments],
            env=environment(),
            capture_output=True,
            text=True,
        )

    whole = run(train("progress=False"))
    script = train("run='runs/a'", end=STOP)
    stopped = run(script, "stop")
    errors = stopped.stderr
    assert (stopped.returncode, stopped.stdout) == (130, "")
    assert (
        "stopped at step 7 of 20; the checkpoint of step 7 is kept, the same command goes on from it"
        in errors
    )
    assert "Traceback" not in errors
    found = json.loads(command("inspect", "--json", "runs/a").output)
    assert (found["status"], found["step"], found["total_steps"]) == ("stopped", 7, 20)
    resumed = run(script)
    assert "resumed at step 7 of 20" in resumed.stderr
    assert resumed.stdout == whole.stdout != ""


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.process
@pytest.mark.parametrize("progress", ["True", "False"])
def test_a_damaged_checkpoint_is_told_once_and_the_one_before_used(finished: Path, progress: str) -> None:
    digest = (finished / "digest").read_text().split()[0]
    flip(finished / "checkpoints" / "step-0000000020" / "arrays.safetensors")
    script = train(f"run='runs/a', progress={progress}, checkpoint_every=8, validation=x")
    result = subprocess.run(
        [sys.executable, script], env=environment(DIST_DP_ACCEPT_CHANGES="1"), capture_output=True, text=True
    )
    assert result.stderr.count("checkpoint refused") == 1
    assert result.stdout == f"ended with {digest}\n"


# --- inspect ------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 20 steps with the checkpoints of steps 8, 16 and 20: here the steps wait for the disk."""
    save = Saver.save

    def waited_for(self: Saver, *arguments: Any, **options: Any) -> None:
        save(self, *arguments, **options)
        self.drain()

    monkeypatch.setattr(Saver, "save", waited_for)
    runpy.run_path(train("run='runs/a', progress=False, checkpoint_every=8, validation=x"))
    return Path("runs/a")


def inspected(run: Path) -> Any:
    result = command("inspect", "--json", str(run))
    return json.loads(result.stdout), result.exit_code


def test_inspect_tells_what_a_run_holds(finished: Path) -> None:
    digest = (finished / "digest").read_text().split()[0]
    found, code = inspected(finished)
    assert code == 0
    assert [(c["step"], c["damage"]) for c in found["checkpoints"]] == [(20, None), (16, None), (8, None)]
    assert found["digest"] == {"step": 20, "sha256": digest}
    assert found["checkpoints"][0]["digest"] == digest
    assert found["model"] == {"class": "Linear", "arrays": 2, "numbers": 4, "bytes": 16}
    assert (found["status"], found["step"], found["total_steps"]) == ("finished", 20, 20)
    assert set(found["metrics"]) == {"loss", "validation_loss"}
    assert found["settings"]["batch_size"] == 4
    assert found["problems"] == []
    shown = command("inspect", str(finished))
    assert shown.exit_code == 0
    for text in (
        "finished",
        "20 of 20",
        "Linear: 4 numbers in 2 arrays, 16 B",
        "batch_size 4",
        "validation_loss",
    ):
        assert text in shown.output


def test_inspect_changes_nothing(finished: Path) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    before = files()
    inspected(finished)
    assert {p: b for p, b in files().items() if p.name != "lock"} == {
        p: b for p, b in before.items() if p.name != "lock"
    }


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: flip(c / "arrays.safetensors"), "SHA-256 is"),
        (lambda c: (c / "arrays.safetensors").unlink(), "cannot be read"),
        (lambda c: (c / "manifest.json").write_text("{}"), "fails its own SHA-256"),
    ],
    ids=["bit flipped", "file missing", "manifest"],
)
def test_inspect_names_a_damaged_checkpoint(
    finished: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(finished / "checkpoints" / "step-0000000020")
    found, code = inspected(finished)
    assert code == 1
    assert [c["damage"] is None for c in found["checkpoints"]] == [False, True, True]
    assert said in found["checkpoints"][0]["damage"]
    assert found["problems"][0].startswith("checkpoint of step 20: ")
    shown = command("inspect", str(finished))
    assert shown.exit_code == 1
    assert "damaged" in shown.output


def test_inspect_says_who_trains_in_a_run(finished: Path) -> None:
    with run_lock(finished / "lock"):
        found, _ = inspected(finished)
        shown = command("inspect", str(finished)).output
    assert found["status"] == "running"
    assert found["in_use_by"].startswith(f"process {os.getpid()} on ")
    assert f"in use by process {os.getpid()}" in shown


def test_inspect_of_a_run_without_metrics_digest_or_checkpoints(finished: Path) -> None:
    shutil.rmtree(finished / "checkpoints")
    for name in ("metrics.jsonl", "digest", "lock"):
        (finished / name).unlink()
    found, code = inspected(finished)
    assert code == 0
    assert (found["step"], found["status"], found["digest"], found["checkpoints"]) == (0, "stopped", None, [])
    assert "no checkpoints" in command("inspect", str(finished)).output


def test_inspect_tells_of_a_metrics_file_that_is_none(finished: Path) -> None:
    (finished / "metrics.jsonl").write_text("nonsense\n")
    found, code = inspected(finished)
    assert code == 1
    assert "line 1: not an event" in found["problems"][0]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": 3}'])
def test_inspect_refuses_a_manifest_that_is_none(text: str) -> None:
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/manifest.json").write_text(text)
    result = command("inspect", "runs/a")
    assert result.exit_code == 1
    assert "manifest.json is not" in result.output
    assert "Traceback" not in result.output
