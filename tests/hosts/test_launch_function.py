"""`launch`: a function goes to workers and its results come back, as if it had been called here."""

from __future__ import annotations

import functools
import linecache
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from runtime.hosts import shipped
from runtime.member import Lost, current

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Nothing of a call stays behind, however it ended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    assert list(tmp_path.glob("dist_dp-*")) == []


# --- results ------------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_results_come_in_the_order_of_workers() -> None:
    here = {"offset": 10}

    def fn(x: int, *, y: int = 0) -> Any:
        here["offset"] += 1  # of a copy
        worker = current().worker
        return worker, x + y + here["offset"], os.environ["OPENBLAS_NUM_THREADS"], np.full(1 << 17, worker)

    results = dp.launch(fn, 1, y=5, workers=3, threads=2)
    assert [result[:3] for result in results] == [(worker, 17, "2") for worker in range(3)]
    assert [result[3].sum() for result in results] == [0, 1 << 17, 2 << 17]
    assert here == {"offset": 10}


TRAIN = """
import numpy as np
import dist_dp as dp
from dist_dp import nn, optim

class Found:
    def __init__(self, digest): self.digest = digest

x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)

def loss(model, batch):
    return (model(batch) ** 2).mean()

def train(rate):
    dp.seed(0)
    model = nn.Linear(3, 1)
    options = dict(batch_size=4, epochs=2, shards=4, progress=False)
    return Found(dp.fit(model, loss, optim.SGD(model.parameters(), lr=rate), x, **options).digest)

print("once")
whole = train(0.1)
found = dp.launch(train, 0.1, workers=2) + dp.launch(train, 0.1, workers=3, backend="tcp")
assert all(type(f) is Found and f.digest == whole.digest for f in found), found
print(len(found), whole.digest != dp.launch(train, 0.2)[0].digest)
"""


@pytest.mark.process
@pytest.mark.parametrize("how", ["a script", "at a prompt"])
def test_a_main_program_without_a_guard_trains_to_the_digest_of_one_process(how: str) -> None:
    Path("script.py").write_text(TRAIN)
    result = subprocess.run(
        [sys.executable, "script.py"] if how == "a script" else [sys.executable],
        input="" if how == "a script" else TRAIN,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.stdout, result.stderr) == ("once\n5 True\n", "")


@pytest.mark.process
def test_output_is_shown_by_the_rules_of_logs(capfd: pytest.CaptureFixture[str]) -> None:
    def fn() -> None:
        print("result")
        print("warning", file=sys.stderr)

    dp.launch(fn)
    out, err = capfd.readouterr()
    assert out == "result\n"
    assert sorted(err.splitlines()) == ["[1] warning", "warning"]


@pytest.mark.process
def test_a_function_of_a_module_that_workers_cannot_import() -> None:
    module = types.ModuleType("made_here_only")
    exec("def twice(x): return 2 * thrice(x)\ndef thrice(x): return 3 * x", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        assert dp.launch(module.twice, 7) == [42, 42]
    finally:
        del sys.modules[module.__name__]


@pytest.mark.process
def test_modules_are_found_where_they_are_found_here(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("library").mkdir()
    Path("library/beside_me.py").write_text("def twice(x): return 2 * x")
    monkeypatch.syspath_prepend(Path("library").absolute())
    assert dp.launch(lambda x: __import__("beside_me").twice(x), 7) == [14, 14]


@pytest.mark.process
def test_from_a_thread_and_a_partial() -> None:
    found: list[Any] = []
    fn = functools.partial(lambda workers, x: (workers, x), workers="an argument of that name")
    thread = threading.Thread(target=lambda: found.extend(dp.launch(fn, x=1, workers=1)))
    thread.start()
    thread.join(60)
    assert found == [("an argument of that name", 1)]


# --- errors -------------------------------------------------------------------------------------------------------


class Other(Exception):
    """Its class takes other arguments than it keeps."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


@pytest.mark.process
def test_an_error_is_raised_here_as_if_it_had_happened_here() -> None:
    def fn(kind: str) -> None:
        if current().worker == 1:
            if kind == "its own class":
                raise Other(1, 2)
            if kind == "an errno":
                Path("nothing there").read_text()
            if kind == "notes":
                error = KeyError("k")
                error.add_note("in step 3")
                raise error
            if kind == "cannot be sent":
                error = ValueError("mine")
                error.lock = threading.Lock()  # type: ignore[attr-defined]
                raise error
            sys.exit("enough")
        time.sleep(60)

    with pytest.raises(Other, match="1 and 2") as own:
        dp.launch(fn, "its own class")
    assert (own.value.a, own.value.b) == (1, 2)
    with pytest.raises(FileNotFoundError) as errno:
        dp.launch(fn, "an errno")
    assert (errno.value.errno, errno.value.filename) == (2, "nothing there")
    with pytest.raises(KeyError) as notes:
        dp.launch(fn, "notes")
    assert notes.value.__notes__[0] == "in step 3"
    with pytest.raises(RuntimeError, match="ValueError: mine") as unsent:
        dp.launch(fn, "cannot be sent")
    with pytest.raises(SystemExit, match="enough"):
        dp.launch(fn, "exit")

    for error in (own, errno, notes, unsent):
        text = error.value.__notes__[-1]
        assert text.startswith("in worker 1:\nTraceback (most recent call last):\n")
        assert f'File "{__file__}", line ' in text
        assert "in fn" in text
        assert "shipped.py" not in text
        assert "program.py" not in text


@pytest.mark.process
def test_a_traceback_shows_the_lines_of_a_notebook() -> None:
    source = "def fn():\n    raise ValueError('mine')  # in a cell\n"
    linecache.cache["<cell 3>"] = (len(source), None, source.splitlines(keepends=True), "<cell 3>")
    names: dict[str, Any] = {}
    exec(compile(source, "<cell 3>", "exec"), names)
    try:
        with pytest.raises(ValueError, match="mine") as error:
            dp.launch(names["fn"])
    finally:
        del linecache.cache["<cell 3>"]
    assert "  File \"<cell 3>\", line 2, in fn\n    raise ValueError('mine')  # in a cell\n" in "".join(
        traceback.format_exception(error.value)
    )


lock = threading.Lock()


def with_a_global() -> Any:
    return [lock for _ in range(3)]


class Holder:
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def method(self) -> None: ...


def cannot_be_sent() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], str]]:
    mine = threading.Lock()

    def closure() -> Any:
        return mine

    def indirect() -> Any:
        return closure()

    return {
        "closure": (closure, (), "fn -> mine (used by closure) (_thread.lock)"),
        "indirect": (
            indirect,
            (),
            "fn -> closure (used by indirect) -> mine (used by closure) (_thread.lock)",
        ),
        "argument": (len, ([0, {"a": mine}],), "args[0][1]['a'] (_thread.lock)"),
        "attribute": (len, (Holder(Holder(mine)),), "args[0].inner.inner (_thread.lock)"),
        "method": (Holder(mine).method, (), "fn.__self__.inner (_thread.lock)"),
        "partial": (functools.partial(len, x=mine), (), "fn.keywords['x'] (_thread.lock)"),
        "default": (lambda x=mine: x, (), "fn.__defaults__[0] (_thread.lock)"),
        "generator": (len, ((i for i in range(3)),), "args[0] (builtins.generator)"),
    }


@pytest.mark.parametrize("name", cannot_be_sent())
def test_what_cannot_be_sent_is_named_before_any_process_starts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fn, args, said = cannot_be_sent()[name]
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(TypeError) as error:
        dp.launch(fn, *args)
    assert str(error.value).startswith(f"{said} cannot be sent to the workers: cannot pickle ")
    assert str(error.value).endswith("; make it inside the function, or leave it out")


def test_a_global_that_cannot_be_sent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(with_a_global, "__module__", "__main__")  # as in a script
    with pytest.raises(
        TypeError, match=r"fn -> lock \(used by with_a_global\) \(_thread.lock\) cannot be sent"
    ):
        dp.launch(with_a_global)


@pytest.mark.process
def test_a_result_that_cannot_be_sent_is_named() -> None:
    with pytest.raises(TypeError, match=r"result\['k'\]\[1\] \(_thread.lock\) cannot be sent to the caller"):
        dp.launch(lambda: {"k": [1, threading.Lock()]})


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"fn": 7}, TypeError, "fn must be a function, got 7 (int)"),
        ({"workers": 0}, ValueError, "workers must be from 1 to 4096, got 0"),
        ({"workers": -3}, ValueError, "workers must be from 1 to 4096, got -3"),
        ({"workers": 5000}, ValueError, "workers must be from 1 to 4096, got 5000"),
        ({"workers": "auto"}, TypeError, "workers must be an int, got 'auto' (str)"),
        ({"workers": True}, TypeError, "workers must be an int, got True (bool)"),
        ({"threads": 0}, ValueError, "threads must be from 1 to 4096, got 0"),
        ({"threads": 1.5}, TypeError, "threads must be an int, got 1.5 (float)"),
        ({"backend": "nccl"}, ValueError, "backend must be one of shm, tcp, shm+tcp, got 'nccl'"),
    ],
)
def test_wrong_arguments_are_refused_before_any_process_starts(
    arguments: dict[str, Any], error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    fn = arguments.pop("fn", len)
    with pytest.raises(error) as raised:
        dp.launch(fn, **arguments)
    assert said in str(raised.value)


def test_under_mpi_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped.mpi_environment, "launched", lambda: True)
    with pytest.raises(RuntimeError, match="this process is itself one of several workers"):
        dp.launch(len)


# --- losses -------------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_within_a_worker_it_is_refused_and_a_loss_is_made_good() -> None:
    def nest() -> Any:
        return dp.launch(len, "x")

    with pytest.raises(RuntimeError, match="this process is itself one of several workers"):
        dp.launch(nest)

    def die_once() -> int:
        if current().worker == 1:
            if not os.path.exists("died"):
                Path("died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            Path("again").touch()
        while not os.path.exists("again"):
            time.sleep(0.01)
        return current().worker

    assert dp.launch(die_once) == [0, 1]
    assert Path("died").exists()
    with pytest.raises(Lost, match="lost"):
        dp.launch(lambda: os.kill(os.getpid(), signal.SIGKILL))


INTERRUPTED = """
import os, time
import dist_dp as dp

def wait():
    open(f"waits-{os.getpid()}", "w").close()
    time.sleep(60)

try:
    dp.launch(wait, workers=3)
except KeyboardInterrupt:
    print("interrupted here")
"""


@pytest.mark.process
def test_ctrl_c_ends_the_workers_and_is_raised_here() -> None:
    Path("script.py").write_text(INTERRUPTED)
    with subprocess.Popen(
        [sys.executable, "script.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as caller:
        until = time.monotonic() + 60
        while len(waiting := list(Path().glob("waits-*"))) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        began = time.monotonic()
        caller.send_signal(signal.SIGINT)
        output, _ = caller.communicate(timeout=60)
    assert time.monotonic() - began < 10  # without a signal it would take a minute
    assert (caller.returncode, output) == (0, "interrupted here\n")
    assert len(waiting) == 3
    for file in waiting:
        with pytest.raises(ProcessLookupError):
            os.kill(int(file.name.partition("-")[2]), 0)
