"""One holder at a time, and a crash leaves no lock behind."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from runtime.run_lock import RunInUse, run_lock


def test_the_second_holder_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with run_lock(path):
        holder = f"process {os.getpid()} on {socket.gethostname()}"
        with pytest.raises(RunInUse, match=holder), run_lock(path):
            pytest.fail("two hold the lock")


def test_it_is_free_after_the_block_and_after_an_error_in_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(KeyError), run_lock(path):
        raise KeyError
    with run_lock(path):
        pass
    with run_lock(path):
        pass


def test_the_lock_of_one_that_was_lost_is_waited_for_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("runtime.run_lock._PATIENT", 0.05)
    lost = ExitStack()
    lost.enter_context(run_lock(tmp_path / "lock"))
    freed = threading.Timer(0.2, lost.close)
    freed.start()
    with run_lock(tmp_path / "lock", patience=30.0):
        freed.join()
    (said,) = caplog.messages
    assert f"lock is still held by process {os.getpid()} on" in said and "30 s at most" in said


def test_a_refused_holder_does_not_free_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with run_lock(path):
        for _ in range(2):
            with pytest.raises(RunInUse), run_lock(path):
                pass


def test_a_holder_that_has_not_named_itself_yet(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with run_lock(path):
        path.write_bytes(b"")
        with pytest.raises(RunInUse, match="another process"), run_lock(path):
            pass


# A process that holds the lock and has a forked child that goes on until its input is closed.
HOLDER = """
import os, sys
from runtime.run_lock import run_lock
with run_lock(sys.argv[1]):
    if os.fork() == 0:
        print("child", flush=True)
        sys.stdin.read()
    else:
        os.wait()
"""


@pytest.mark.process
def test_a_killed_holder_leaves_no_lock_even_if_its_child_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin and holder.stdout
    with holder.stdin, holder.stdout:  # closing its input ends the child
        assert holder.stdout.readline() == b"child\n"
        with pytest.raises(RunInUse, match=f"process {holder.pid} on"), run_lock(path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with run_lock(path):
            pass
        holder.stdin.close()
        assert holder.stdout.read() == b""  # the child was alive until now
