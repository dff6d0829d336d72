"""`dist-dp submit` to a Ray of two nodes: digests, exit codes, what is shown, how it is stopped, and bad input."""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient
from ray_cluster import clusters

from dist_dp.train.report import report

HERE = Path(__file__).parent
PROGRAM = "submitted_program.py"
SUBMIT = [sys.executable, str(HERE.parents[1] / "cluster" / "submit.py")]  # which is the command, as a script


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        # Jobs call `python`.
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        with clusters.Nodes(num_cpus=2, dashboard=True) as nodes:
            nodes.add(num_cpus=2)
            yield nodes


@pytest.fixture
def directory(tmp_path):
    """The working directory of those who submit."""
    directory = tmp_path / "here"
    directory.mkdir()
    shutil.copy(HERE / PROGRAM, directory)
    return directory


class Submission(subprocess.Popen):
    """`dist-dp submit WORDS` in a process of its own, and what it tells."""

    def __init__(self, directory, *words, **environment):
        super().__init__(
            [*SUBMIT, *map(str, words)],
            cwd=directory,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self):
        """(exit code, standard output, standard error)"""
        try:
            out, err = self.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.communicate()
        return self.returncode, out, err


def test_runs_end_with_the_digest_and_the_exit_code(cluster, directory, tmp_path):
    plain = subprocess.run(
        [sys.executable, PROGRAM], cwd=directory, capture_output=True, text=True, check=True
    )
    # A cluster where dist_dp is not installed, as far as its `python` knows.
    (tmp_path / "bin").mkdir()
    bare = tmp_path / "bin" / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    (directory / "bare.yaml").write_text(json.dumps({"env_vars": {"PATH": f"{bare.parent}:/usr/bin:/bin"}}))
    address = ("--address", cluster.dashboard)
    storage = ("--storage", tmp_path / "runs")
    code, out, err = Submission(directory, *address, *storage, "-n", 2, PROGRAM, "--run", "r").end()
    assert code == 0, (out, err)
    assert out.split()[-1] == plain.stdout.split()[-1]
    assert "step 12/12" in out
    assert report(tmp_path / "runs" / "r")["digest"]["sha256"] == plain.stdout.split()[-1]
    assert not (directory / "r").exists()

    runs = {  # at the same time, to take less of it
        "failing": Submission(directory, *address, PROGRAM, "--fail"),
        "nowhere": Submission(directory, *address, PROGRAM, "--run", "r"),
        "not installed": Submission(directory, *address, "--runtime-env", "bare.yaml", PROGRAM),
    }
    ended = {name: run.end() for name, run in runs.items()}

    code, out, err = ended["failing"]
    assert code == 1, (out, err)
    assert "ArithmeticError: meant to fail" in out

    code, out, err = ended["nowhere"]
    assert code == 2, (out, err)
    assert "--storage" in out

    code, out, err = ended["not installed"]
    assert code == 2, (out, err)
    assert "dist_dp is not installed" in err
    assert "Traceback" not in err


def test_ctrl_c_ends_the_showing_and_a_stop_saves_the_newest_step(cluster, directory, tmp_path):
    run = Submission(
        directory,
        *("--address", cluster.dashboard, "--storage", tmp_path / "runs"),
        *(PROGRAM, "--run", "r", "--epochs", "1000", "--pause", "0.02"),
    )
    with run:
        for line in run.stdout:
            if line.startswith("step"):
                break
        run.send_signal(signal.SIGINT)
        code, _, err = run.end()
    assert code == 130
    job = re.search(rf"ray job stop --address {cluster.dashboard} (\S+)", err)[1]
    client = JobSubmissionClient(cluster.dashboard)
    assert client.get_job_status(job) == "RUNNING"
    assert client.stop_job(job)
    until = time.monotonic() + 60
    while not client.get_job_status(job).is_terminal():
        assert time.monotonic() < until
        time.sleep(0.1)
    assert client.get_job_status(job) == "STOPPED"
    assert report(tmp_path / "runs" / "r")["checkpoints"]


def test_without_following_the_id_is_told(cluster, directory):
    code, out, err = Submission(
        directory, "--address", cluster.dashboard, "--no-follow", "--resources", "far=1", "--no-wait", PROGRAM
    ).end()
    assert code == 0, err
    client = JobSubmissionClient(cluster.dashboard)
    details = client.get_job_info(out.strip())
    words = "run --ray --resources far=1 --no-wait submitted_program.py"
    assert details.entrypoint == f"python -m dist_dp.cli {words}"
    assert os.environ["RAY_AUTH_TOKEN"] not in json.dumps(details.runtime_env)
    client.stop_job(out.strip())


@contextlib.contextmanager
def server(answer):
    """A server that answers every GET with this; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            listener.shutdown()
            thread.join()


def _large(directory):
    (directory / "data").mkdir()
    with open(directory / "data" / "numbers", "wb") as file:
        file.truncate(101 << 20)


def _ignored(directory):
    (directory / ".rayignore").write_text("*.py\n")


def _broken(directory):
    (directory / "broken.yaml").write_text("env_vars: [")


_VERSION = '{"version": "4", "ray_version": "%s"}'
BAD = {  # words, environment, what is prepared, what the message says
    "no cluster": (["--address", "http://127.0.0.1:9", PROGRAM], {}, None, "no Ray cluster answers.*8265"),
    "no URL": (["--address", "head:8265", PROGRAM], {}, None, "http://HEAD:8265"),
    "wrong token": ([PROGRAM], {"RAY_AUTH_TOKEN": "0" * 64}, None, "another token.*RAY_AUTH_TOKEN_PATH"),
    "no token": ([PROGRAM], {"RAY_AUTH_MODE": "disabled"}, None, "wants a token.*RAY_AUTH_MODE=token"),
    "too large": ([PROGRAM], {}, _large, r"101 MiB.*100 MiB.*data \(101 MiB\).*rayignore.*--working-dir"),
    "left out": ([PROGRAM], {}, _ignored, r"left out.*\.rayignore"),
    "outside": (["../elsewhere.py"], {}, None, "is no file"),
    "elsewhere": (["--working-dir", "/usr/bin", PROGRAM], {}, None, "does not lie in the working directory"),
    "no directory": (["--working-dir", "nowhere", PROGRAM], {}, None, "nowhere is no directory"),
    "malformed N": (["-n", "4:x", PROGRAM], {}, None, "4:x"),
    "N upside down": (["-n", "4:2", PROGRAM], {}, None, "4:2"),
    "relative storage": (["--storage", "runs", PROGRAM], {}, None, "relative.*s3://"),
    "broken YAML": (["--runtime-env", "broken.yaml", PROGRAM], {}, _broken, "is no YAML"),
    "no such pip": (["--runtime-env", "pip.yaml", PROGRAM], {}, None, "pip.yaml"),
    "not Ray": ([PROGRAM], {"answer": "hello"}, None, "no job server of Ray"),
    "old Ray": ([PROGRAM], {"answer": _VERSION % "2.9.3"}, None, "2.9.3 is not the version"),
    "other Ray": ([PROGRAM], {"answer": _VERSION % "2.60.99"}, None, r"pip install 'ray\[default\]==2.60.99'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_a_line_and_leaves_nothing(cluster, directory, name):
    words, environment, prepare, message = BAD[name]
    environment = dict(environment)
    client = JobSubmissionClient(cluster.dashboard)
    before = len(client.list_jobs())
    if prepare is not None:
        prepare(directory)
    with contextlib.ExitStack() as stack:
        address = cluster.dashboard
        if (answer := environment.pop("answer", None)) is not None:
            address = stack.enter_context(server(answer.encode()))
        code, out, err = Submission(directory, *words, RAY_API_SERVER_ADDRESS=address, **environment).end()
    assert code == 2, err
    assert out == ""
    assert re.search(message, err, re.DOTALL)
    assert "Traceback" not in err
    assert len(client.list_jobs()) == before
