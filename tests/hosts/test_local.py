"""Real workers under the launcher of one machine: what it survives, how soon, and what is left when it ends."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts.local_launcher import WORKER

from runtime.coordinator import Limits, Over
from runtime.hosts.local import LocalHost

PROGRAM, LAUNCHER = (
    str(Path(__file__).with_name(name)) for name in ("local_program.py", "local_launcher.py")
)
ROOT = Path(__file__).parents[2]
OP = re.compile(r"op (\d+) size (\d+) pid (\d+) at (\d+\.\d+)")


class Heard:
    """Takes the output of workers, and lets a test act on a line: `act(worker, op, size, pid)` for each op."""

    def __init__(self, act: Callable[[int, int, int, int], None] = lambda *_: None) -> None:
        self.act = act
        self.lines: list[tuple[int, str, str]] = []
        self.ops: list[tuple[int, int, int, int, float]] = []  # worker, op, size, pid, time
        self.directories: list[str] = []
        self._rest: dict[Any, bytes] = {}

    def started(self, worker: int) -> None:
        pass

    def run_directory(self, path: str) -> None:
        self.directories.append(path)

    def feed(self, worker: int, stream: str, data: bytes) -> None:
        *lines, self._rest[worker, stream] = (self._rest.get((worker, stream), b"") + data).split(b"\n")
        for line in map(bytes.decode, lines):
            self.lines.append((worker, stream, line))
            if match := OP.fullmatch(line):
                op, size, pid = map(int, match.groups()[:3])
                self.ops.append((worker, op, size, pid, float(match[4])))
                self.act(worker, op, size, pid)

    def text(self, stream: str) -> str:
        return "".join(f"{line}\n" for _, s, line in self.lines if s == stream)


def launch(
    workers: int,
    *arguments: str,
    heard: Heard | None = None,
    command: list[str] | None = None,
    **options: Any,
) -> tuple[Over, Heard]:
    """Run the program, for half a minute at most; what it wrote to stderr must be nothing."""
    heard = heard or Heard()
    host = LocalHost(
        command or [*WORKER, PROGRAM, *arguments],
        workers,
        logs=heard,  # type: ignore[arg-type]
        environment={"PYTHONPATH": str(ROOT)},
        **options,
    )
    too_late = [threading.Timer(30.0, host.stop, ["the test took too long"]) for _ in range(2)]
    for timer in too_late:
        timer.start()
    try:
        over = host.run()
    finally:
        for timer in too_late:
            timer.cancel()
    assert "too long" not in over.reason
    return over, heard


def once(
    when: Callable[[int, int, int, int], bool], what: Callable[[int], object]
) -> tuple[Heard, list[Any]]:
    """Do something to the process of the first op that is so; the list holds (pid, time) of what was done."""
    done: list[Any] = []

    def act(worker: int, op: int, size: int, pid: int) -> None:
        if not done and when(worker, op, size, pid):
            done.append((pid, time.monotonic()))
            what(pid)

    return Heard(act), done


def send(number: int) -> Callable[[int], None]:
    return lambda pid: os.kill(pid, number)


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def check_replaced(heard: Heard, workers: int, last: int, pid: int) -> None:
    """The worker of `pid` was replaced, and nothing was left out or done by a wrong number."""
    number = next(w for w, _, _, p, _ in heard.ops if p == pid)
    pids = {w: {p for v, _, _, p, _ in heard.ops if v == w} for w in range(workers)}
    assert {w: len(p) for w, p in pids.items()} == {w: 1 + (w == number) for w in range(workers)}
    for worker in set(range(workers)) - {number}:
        assert [op for w, op, *_ in heard.ops if w == worker] == list(range(1, last + 1))
    sizes = [size for w, _, size, *_ in heard.ops if w != number]
    assert set(sizes) == {workers - 1, workers} and sizes[0] == sizes[-1] == workers


# --- starting, ending -------------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("backend", ["shm", "tcp", "shm+tcp"])
@pytest.mark.parametrize("workers", [1, 2, 5])  # more than there are cores, perhaps
def test_workers_form_a_group_and_add(workers: int, backend: str) -> None:
    over, heard = launch(workers, "3", backend=backend)
    assert over == Over(0, over.reason)
    assert sorted((w, op, size) for w, op, size, *_ in heard.ops) == [
        (w, op, workers) for w in range(workers) for op in (1, 2, 3)
    ]
    assert heard.text("stderr") == ""


@pytest.mark.process
def test_four_workers_start_within_a_second_and_a_half() -> None:
    begun = time.monotonic()
    _, heard = launch(4, "1")
    assert max(at for *_, at in heard.ops) - begun < 1.5


@pytest.mark.process
@pytest.mark.parametrize("text", ["print('hello')", "import sys; print('hello'); sys.exit(0)"])
def test_a_script_without_distributed_calls_runs_once_in_every_worker(tmp_path: Path, text: str) -> None:
    script = tmp_path / "plain.py"
    script.write_text(text)
    over, heard = launch(3, command=[*WORKER, str(script)])
    assert over.code == 0 and sorted(heard.lines) == [(w, "stdout", "hello") for w in range(3)]


@pytest.mark.process
def test_the_environment_of_workers(tmp_path: Path) -> None:
    script = tmp_path / "environment.py"
    script.write_text(
        "import os, subprocess, sys\n"
        "from runtime.member import current\n"
        "print(current().worker, current().workers, current().backend, os.environ['OMP_NUM_THREADS'])\n"
        "current().began('runs/x')\n"
        "inner = 'from runtime.member import current; print(type(current()).__name__)'\n"
        "print(subprocess.run([sys.executable, '-c', inner], capture_output=True, text=True).stdout.strip())\n"
    )
    over, heard = launch(2, command=[*WORKER, str(script)])
    assert over.code == 0 and heard.directories == ["runs/x"] * 2
    assert sorted(heard.lines) == sorted(
        (w, "stdout", line) for w in range(2) for line in (f"{w} 2 shm 1", "SoloMember")
    )


@pytest.mark.process
@pytest.mark.parametrize(
    "text, code, said",
    [
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
        ("import sys; sys.exit(5)", 1, "SystemExit: 5"),
        ("import sys; sys.exit('sorry')", 1, "SystemExit: sorry"),
        ("1 +", 1, "SyntaxError"),
        ("import os; os._exit(5)", 3, "exit code 5"),
        ("import os; os.abort()", 3, "SIGABRT"),
    ],
)
def test_how_programs_end(tmp_path: Path, text: str, code: int, said: str) -> None:
    script = tmp_path / "ends.py"
    script.write_text(text)
    over, heard = launch(2, command=[*WORKER, str(script)])
    assert over.code == code and re.search(said, over.reason), over
    assert not heard.lines, heard.text("stderr")


@pytest.mark.process
def test_what_a_worker_said_last_is_heard_however_long_it_is(tmp_path: Path) -> None:
    script = tmp_path / "says.py"
    script.write_text(
        "import os\n"
        "from runtime.member import current\n"
        "current().failed({'error': 'Long', 'message': '.' * 1_000_000})\n"
        "os._exit(0)\n"
    )
    over, _ = launch(1, command=[*WORKER, str(script)])
    assert over.code == 1 and (over.report["error"], over.report["message"]) == ("Long", "." * 1_000_000)


@pytest.mark.process
def test_a_command_that_cannot_be_started() -> None:
    over, _ = launch(2, command=["/nowhere/python"])
    assert over.code == 3 and "could not be started" in over.reason and "/nowhere/python" in over.reason


@pytest.mark.process
def test_an_exception_in_one_worker_ends_all_with_one_report() -> None:
    over, heard = launch(3, "50", "raises")
    assert over.code == 1
    assert over.report["error"] == "ZeroDivisionError" and over.report["message"] == "op 3 went wrong"
    frames = re.findall(r'File "(.*)", line', over.report["traceback"])
    assert frames and set(frames) == {PROGRAM}
    assert heard.text("stderr") == "" and "done" not in heard.text("stdout")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"workers": True}, "workers must be an int, got True"),
        ({"workers": 2.0}, "workers must be an int, got 2.0"),
        ({"backend": "smoke"}, "backend must be one of shm, tcp, shm.tcp, got 'smoke'"),
    ],
)
def test_bad_arguments(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        LocalHost(["true"], **{"workers": 1, "logs": Heard(), **wrong})


# --- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("victim, backend", [(0, "shm"), (2, "shm"), (0, "tcp"), (1, "shm+tcp")])
def test_a_killed_worker_is_replaced_and_the_others_go_on_at_once(victim: int, backend: str) -> None:
    heard, killed = once(lambda worker, op, *_: worker == victim and op == 20, send(signal.SIGKILL))
    over, _ = launch(3, "150", "slowly", heard=heard, backend=backend)
    assert over.code == 0 and len(killed) == 1
    ((pid, at),) = killed
    check_replaced(heard, 3, 150, pid)
    assert min(t for _, _, size, _, t in heard.ops if size == 2) - at < 0.5  # benchmarks say how soon
    assert min(t for w, _, _, p, t in heard.ops if w == victim and p != pid) - at < 2.0
    assert heard.text("stderr") == ""


@pytest.mark.process
def test_a_stopped_worker_is_ended_and_replaced() -> None:
    heard, stopped = once(lambda worker, op, *_: worker == 1 and op == 20, send(signal.SIGSTOP))
    over, _ = launch(2, "300", "slowly", heard=heard, limits=Limits(heartbeat=1.0))
    assert over.code == 0 and len(stopped) == 1
    ((pid, at),) = stopped
    assert ended(pid)
    check_replaced(heard, 2, 300, pid)
    assert 0.4 < min(t for _, _, size, _, t in heard.ops if size == 1) - at < 2.0


@pytest.mark.process
def test_a_worker_that_hangs_is_ended_and_replaced() -> None:
    heard, noted = once(lambda worker, op, *_: worker == 1 and op == 3, lambda pid: None)
    over, _ = launch(2, "100", "hangs", heard=heard, limits=Limits(hang=1.5))
    assert over.code == 0
    ((pid, _),) = noted
    assert ended(pid)
    check_replaced(heard, 2, 100, pid)


@pytest.mark.process
def test_a_worker_whose_heartbeats_are_held_back_by_work_is_left_alone() -> None:
    over, heard = launch(2, "5", "keeps_the_lock", limits=Limits(heartbeat=0.6))
    assert over.code == 0
    assert [size for _, _, size, *_ in heard.ops] == [2] * 10
    times = [at for w, _, _, _, at in heard.ops if w == 0]
    assert max(b - a for a, b in itertools.pairwise(times)) > 1.0, "the lock was not held for long"


@pytest.mark.process
@pytest.mark.parametrize("pidfd", [True, False])
def test_a_child_that_holds_the_sockets_of_a_dead_worker_delays_nothing(
    pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    heard, killed = once(lambda worker, op, *_: worker == 1 and op == 20, send(signal.SIGKILL))
    over, _ = launch(2, "150", "forks", heard=heard)
    assert over.code == 0 and len(killed) == 1
    ((pid, at),) = killed
    check_replaced(heard, 2, 150, pid)
    assert min(t for _, _, size, _, t in heard.ops if size == 1) - at < 0.5
    assert heard.text("stderr") == "" and "this process was forked from worker 1" in heard.text("stdout")


# --- the launcher's end -----------------------------------------------------------------------------------------------


class Launcher:
    """A launcher in a process of its own, its workers in the middle of their ops; `pids` are theirs."""

    def __init__(self, workers: int, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, LAUNCHER, str(workers), PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self.process.stdout is not None
        self.pids: dict[str, int] = {}
        for line in self.process.stdout:
            if match := OP.search(line):
                self.pids[match[3]] = int(match[3])
            if len(self.pids) == workers:
                break

    def end(self, *signals: int, apart: float = 0.5) -> tuple[int, str, str, float]:
        """Send signals; the exit code, what was still written to stdout and stderr, and the seconds it took."""
        begun = time.monotonic()
        for i, number in enumerate(signals):
            time.sleep(apart if i else 0.0)
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err, time.monotonic() - begun


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_workers_by_themselves(number: int) -> None:
    launcher = Launcher(3, "100000", "slowly")
    code, out, err, seconds = launcher.end(number)
    assert code == 130 and seconds < 1.5 and "over 130" in out
    assert err == "" and all(map(ended, launcher.pids.values()))


@pytest.mark.process
def test_ctrl_c_ends_workers_that_take_no_notice_and_workers_that_are_stopped() -> None:
    launcher = Launcher(3, "100000", "stubborn")
    os.kill(next(iter(launcher.pids.values())), signal.SIGSTOP)
    code, out, _, seconds = launcher.end(signal.SIGINT)
    assert code == 130 and 1.0 < seconds < 2.5 and out.count("] interrupted") == 2
    assert all(map(ended, launcher.pids.values()))


@pytest.mark.process
def test_a_second_ctrl_c_ends_them_at_once() -> None:
    launcher = Launcher(2, "100000", "stubborn")
    code, out, _, seconds = launcher.end(signal.SIGINT, signal.SIGINT)
    assert code == 130 and seconds < 1.2 and out.count("] interrupted") == 2
    assert all(map(ended, launcher.pids.values()))


@pytest.mark.process
def test_a_killed_launcher_takes_its_workers_along_and_their_memory() -> None:
    launcher = Launcher(3, "100000", "slowly")
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in launcher.pids.values()]
    files = {line.split(maxsplit=5)[5] for text in maps for line in text.splitlines() if " rw-s " in line}
    assert files and all(file.endswith("(deleted)") for file in files), (
        "memory with a name could be left behind"
    )
    os.kill(next(iter(launcher.pids.values())), signal.SIGSTOP)  # heartbeats are looked for much later
    launcher.end(signal.SIGKILL)
    until = time.monotonic() + 2.0
    while not all(map(ended, launcher.pids.values())) and time.monotonic() < until:
        time.sleep(0.02)
    assert all(map(ended, launcher.pids.values()))


@pytest.mark.process
def test_it_runs_in_a_thread_and_is_stopped_from_another() -> None:
    heard = Heard()
    host = LocalHost(
        [*WORKER, PROGRAM, "100000", "slowly"],
        2,
        logs=heard,  # type: ignore[arg-type]
        environment={"PYTHONPATH": str(ROOT)},
    )
    ended_as: list[Over] = []
    thread = threading.Thread(target=lambda: ended_as.append(host.run()))
    thread.start()
    while len({pid for *_, pid, _ in list(heard.ops)}) < 2 and thread.is_alive():
        time.sleep(0.01)
    host.stop("the notebook wants it")
    thread.join(5.0)
    assert ended_as == [Over(130, "the notebook wants it")]
    assert all(ended(pid) for *_, pid, _ in heard.ops)


@pytest.mark.process
def test_what_goes_wrong_in_the_launcher_leaves_no_worker_behind() -> None:
    def act(worker: int, op: int, size: int, pid: int) -> None:
        if op == 10:
            raise OSError("no space left on device")

    heard = Heard(act)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="no space"):
        launch(2, "100000", "slowly", heard=heard)
    assert len({pid for *_, pid, _ in heard.ops}) == 2 and all(ended(pid) for *_, pid, _ in heard.ops)
    assert signal.getsignal(signal.SIGINT) is before
