"""Ray clusters for tests: one in this process (`local`), or several nodes as processes (`Nodes`).

Whatever runs, uses the token of this test run (tests/conftest.py), stays on the loopback device, keeps its files in a
directory of its own, can import what tests can, and is gone afterwards. Nothing here reads or writes what belongs to
the user (`~/.ray`), and nothing ends a process that it did not start: those of a node are known by the files that they
have open in its directory, where each writes its log.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from networks import Host

# A node is given up as dead within about two seconds, not after Ray's minute.
QUICK_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 2,
}

HERE = Host("127.0.0.2")  # for 127.0.0.1 Ray takes the address by which the machine is reached from elsewhere
_PATH = os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))
_STORE = 100 << 20  # bytes of the object store of a node
_PATIENCE = 60.0  # seconds that anything may take to start or to end


@contextmanager
def local(num_cpus: int = 4, **init: Any) -> Iterator[None]:
    """Ray in this process: `ray.init(num_cpus=..., **init)` on a new cluster, and its end."""
    with _directory() as directory:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = _python_path()
        try:
            ray.init(
                "local",
                num_cpus=num_cpus,
                include_dashboard=False,
                object_store_memory=_STORE,
                log_to_driver=False,
                _node_ip_address=HERE.address,
                _temp_dir=directory,
                **init,
            )
            try:
                yield
            finally:
                ray.shutdown()
        finally:
            del os.environ["PYTHONPATH"]
            if before is not None:
                os.environ["PYTHONPATH"] = before


def _python_path() -> str:
    return os.pathsep.join(filter(None, [_PATH, os.environ.get("PYTHONPATH")]))


@contextmanager
def _directory() -> Iterator[str]:
    """A short directory for the files of a node; at the end its processes have to be gone."""
    directory = tempfile.mkdtemp(
        prefix="dp-ray-", dir="/tmp"
    )  # names of sockets in it are limited to 107 characters
    try:
        yield directory
    finally:
        ended = _wait_until(lambda: not pids(directory), 10.0, must=False)
        for pid in pids(directory):
            _kill(pid)
        _wait_until(lambda: not pids(directory), 10.0)
        shutil.rmtree(directory)
        assert ended, "processes of the cluster outlived it; they are killed now"


@dataclass
class Node:
    """A node: its `ray start --block` process, and where its files are."""

    process: subprocess.Popen[bytes]
    directory: Path

    @property
    def output(self) -> str:
        return (self.directory / "output").read_text(errors="replace")

    def pids(self) -> list[int]:
        """The processes of the node that are there, its workers included."""
        return pids(str(self.directory))


class Nodes:
    """A cluster of nodes, each a `ray start --block` process with processes and files of its own.

    Args:
        num_cpus, resources: of the head.
        dashboard: with the dashboard, whose server also takes jobs; see `dashboard`.
        quick: notice that a node died within about two seconds; for tests that kill one.
        host: where the head is.

    Attributes:
        address: of the cluster, for `ray.init` or RAY_ADDRESS.
        dashboard: URL of the job server, or None.
        nodes: those that were started; the first is the head.
        environment: for a subprocess that uses the cluster.

    Raises:
        AssertionError: a node does not start; with what it said.
    """

    def __init__(
        self,
        num_cpus: int = 2,
        resources: dict[str, float] | None = None,
        *,
        dashboard: bool = False,
        quick: bool = False,
        host: Host = HERE,
    ) -> None:
        self._port, self._dashboard_port = free_port(), free_port()
        self._num_cpus, self._resources, self._quick, self._host = num_cpus, resources, quick, host
        self.address = f"{host.address}:{self._port}"
        self.dashboard = f"http://127.0.0.1:{self._dashboard_port}" if dashboard else None
        self.nodes: list[Node] = []
        self._open: list[Any] = []

    @property
    def environment(self) -> dict[str, str]:
        more = {} if self.dashboard is None else {"RAY_API_SERVER_ADDRESS": self.dashboard}
        return {**os.environ, "RAY_ADDRESS": self.address, **more}

    def __enter__(self) -> Nodes:
        arguments = [
            "--head",
            f"--port={self._port}",
            f"--ray-client-server-port={free_port()}",
            f"--include-dashboard={self.dashboard is not None}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self._dashboard_port}",
        ]
        if self._quick:
            arguments.append(f"--system-config={json.dumps(QUICK_HEALTH_CHECKS)}")
        try:
            head = self._start(arguments, self._num_cpus, self._resources, self._host)
            self._wait_for(head)
            if self.dashboard is not None:
                url = f"{self.dashboard}/api/version"
                self._wait(head, lambda: _answers(url))
        except BaseException:
            self.__exit__()
            raise
        return self

    def add(self, num_cpus: int = 2, resources: dict[str, float] | None = None, *hosts: Host) -> Node:
        """Start one more node, or one on each of these hosts, and wait until they have joined; the last of them."""
        arguments = [f"--address={self.address}"]
        added = [self._start(arguments, num_cpus, resources, host) for host in hosts or (HERE,)]
        for node in added:
            self._wait_for(node)
        return added[-1]

    def kill(self, node: Node) -> int:
        """End a node as a power cut does: SIGKILL to its raylet and all its processes; how many they were."""
        killed = 0
        while found := node.pids():  # what was being started meanwhile is found in the next turn
            for pid in found:
                killed += _kill(pid)
            node.process.wait(_PATIENCE)
        return killed

    def __exit__(self, *_: object) -> None:
        # The youngest first, the head last, each in the orderly way; what does not end is killed, and that is an error.
        for node in reversed(self.nodes):
            node.process.send_signal(signal.SIGTERM)
            try:
                node.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill(node)
        errors = []
        while self._open:
            try:
                self._open.pop().__exit__(None, None, None)
            except AssertionError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _start(
        self, arguments: list[str], num_cpus: int, resources: dict[str, float] | None, host: Host
    ) -> Node:
        place = _directory()
        directory = place.__enter__()
        self._open.append(place)
        with open(f"{directory}/output", "wb") as output:
            process = subprocess.Popen(
                [
                    *host.enter,
                    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments),
                    f"--num-cpus={num_cpus}",
                    f"--resources={json.dumps(resources or {})}",
                    f"--temp-dir={directory}",
                    f"--object-store-memory={_STORE}",
                    *(f"--node-ip-address={host.address}", "--min-worker-port=0", "--max-worker-port=0"),
                    *("--dashboard-agent-listen-port=0", "--disable-usage-stats"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"PYTHONPATH": _python_path()},
                preexec_fn=_end_with_parent,
            )
        node = Node(process, Path(directory))
        self.nodes.append(node)
        return node

    def _wait_for(self, node: Node) -> None:
        self._wait(node, lambda: "Ray runtime started" in node.output)

    def _wait(self, node: Node, met: Callable[[], bool]) -> None:
        try:
            _wait_until(lambda: met() or node.process.poll() is not None)
        finally:
            assert node.process.poll() is None and met(), node.output


def free_port() -> int:
    """A port that nothing listens on, outside of those that Ray gives to workers."""
    while True:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port: int = listener.getsockname()[1]
        if not 10002 <= port <= 19999:
            return port


def pids(directory: str) -> list[int]:
    """The processes, but for this one, that have a file open in a directory."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and _uses(entry, f"{directory}/")
    ]


def _uses(process: Path, place: str) -> bool:
    with suppress(OSError):  # gone meanwhile, or not ours
        for opened in (process / "fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.readlink(opened).startswith(place):
                    return True
    return False


def _end_with_parent() -> None:
    """In the child: if the tests are killed, so is the node."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5.0).close()
    except urllib.error.HTTPError as refused:  # it wants the token, and so it is there
        refused.close()
    except OSError:
        return False
    return True


def _wait_until(met: Callable[[], bool], seconds: float = _PATIENCE, must: bool = True) -> bool:
    until = time.monotonic() + seconds
    while not met():
        if time.monotonic() > until:
            assert not must, f"it did not come to pass within {seconds:g} s"
            return False
        time.sleep(0.05)
    return True
