"""`dist-dp run --ray` on a cluster whose nodes come and go, and what it says where there is none."""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from faults.launching import LAST_STEP, PROGRAM
from ray_cluster.clusters import Node, Nodes, free_port

from runtime.events import read_events

pytestmark = pytest.mark.process

RUN = [sys.executable, "-m", "dist_dp.cli", "run", "--ray", "--logs", "all"]


@pytest.fixture(scope="module")
def expected() -> str:
    """The digest of the undisturbed one-process run."""
    whole = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, check=True)
    return whole.stdout.splitlines()[-1].removeprefix("digest ")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A head without room for workers."""
    with Nodes(num_cpus=0, quick=True) as nodes:
        yield nodes


class Driver:
    """The command in a process of its own; its output goes into a file."""

    def __init__(self, place: Path, cluster: Nodes, *arguments: str, **environment: str) -> None:
        self._path = place / f"output-{time.monotonic_ns()}"
        with open(self._path, "w", encoding="utf-8") as output:
            self.process = subprocess.Popen(
                [*RUN, *arguments],
                cwd=place,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=cluster.environment | {"DIST_DP_STORAGE": str(place)} | environment,
            )

    @property
    def output(self) -> str:
        return self._path.read_text(encoding="utf-8")

    def until(self, pattern: str, seconds: float = 60.0) -> int:
        """Wait for a line; where it ends."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.output, re.MULTILINE)) is None:
            assert time.monotonic() < end and self.process.poll() is None, self.output
            time.sleep(0.05)
        return found.end()

    def end(self, seconds: float = 60.0) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.output) from None
        finally:
            self.process.kill()
            self.process.wait()


def actors(nodes: list[Node]) -> list[int]:
    """The processes of our actors on these nodes."""
    found = []
    for node in nodes:
        for pid in node.pids():
            try:
                if " ".join(psutil.Process(pid).cmdline()).startswith(("ray::Worker", "ray::Coord")):
                    found.append(pid)
            except psutil.Error:
                continue
    return found


def until(met: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end
        time.sleep(0.1)


def node_ids(cluster: Nodes) -> dict[str, bool]:
    """Of all nodes that the cluster has had, whether each is alive."""
    code = "import ray; ray.init(log_to_driver=False); print({n['NodeID']: n['Alive'] for n in ray.nodes()})"
    told = subprocess.run(
        [sys.executable, "-c", code], env=cluster.environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found = re.findall(r"'(\w+)': (True|False)", told.stdout)
    return {node: alive == "True" for node, alive in found}


def drain(cluster: Nodes, node: str, seconds: int) -> None:
    arguments = [
        *("drain-node", "--address", cluster.address, "--node-id", node),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "preempted"),
        *("--deadline-remaining-seconds", str(seconds)),
    ]
    subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments], env=cluster.environment, check=True
    )


def test_nodes_come_and_go_are_drained_and_all_lost(cluster: Nodes, expected: str, tmp_path: Path) -> None:
    before = set(node_ids(cluster))
    first = cluster.add(1)
    (first_id,) = set(node_ids(cluster)) - before
    pace = tmp_path / "pace"
    pace.write_text("0.5")  # the run must not end before all has happened
    driver = Driver(tmp_path, cluster, "-n", "1:3", PROGRAM, "run", "1", str(pace))
    try:
        driver.until(r"^\[0\] 2 0$")
        # Two come: shared memory between them, sockets to the first.
        second = cluster.add(2)
        driver.until(r"generation \d+: 3 workers on 2 nodes")
        driver.until(r"^\[2\] ")
        # They are gone at once.
        assert cluster.kill(second) > 0
        alone = driver.until(r"generation \d+: 1 worker$")
        third = cluster.add(1)
        driver.until(r"generation \d+: 2 workers on 2 nodes")
        # The first is preempted: it is left in time, and nothing is done again.
        drain(cluster, first_id, 30)
        told = driver.until(r"is being drained")
        driver.until(r"is being drained(.*\n)*.*generation \d+: 1 worker$", 20.0)
        driver.until(r"is being drained(.*\n)*.*generation \d+: 1 worker$(.*\n)*(\[\d\] .*\n){4}")
        done = re.findall(r"^\[\d\] (\d+ \d+)$", driver.output[told:], re.MULTILINE)
        assert len(done) == len(set(done)), driver.output
        cluster.kill(first)
        # Nobody is left: it waits, and goes on from the newest checkpoint.
        assert cluster.kill(third) > 0
        driver.until(r"waiting: there is no room for 1 of at least 1 workers \(1 CPU each")
        fourth = cluster.add(2)
        driver.until(r"waiting: (.*\n)*.*generation \d+: 2 workers")  # nothing else takes its room
        (tmp_path / "faster").write_text("0")
        (tmp_path / "faster").replace(pace)
        assert driver.end() == 0, driver.output
    finally:
        driver.process.kill()
    output = driver.output
    assert alone and f"digest {expected}" in output, output
    assert "Traceback" not in output and "raylet" not in output
    steps = [event.step for event in read_events(tmp_path / "run" / "metrics.jsonl") if event.kind == "step"]
    assert steps == list(range(1, LAST_STEP + 1))
    until(lambda: not actors([fourth, cluster.nodes[0]]))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_nothing_outlives_the_driver(cluster: Nodes, tmp_path: Path, number: int, code: int) -> None:
    alive = [node for node in cluster.nodes if node.process.poll() is None]
    if len(alive) == 1:
        alive.append(cluster.add(2))
    driver = Driver(tmp_path, cluster, "-n", "2", PROGRAM, "run", "1", "0.3")
    driver.until(r"^\[0\] 1 0$")
    assert actors(alive)
    driver.process.send_signal(number)
    assert driver.end(20.0) == code, driver.output
    until(lambda: not actors(alive), 20.0)
    assert "Traceback" not in driver.output


def test_no_room_and_no_wait(cluster: Nodes, tmp_path: Path) -> None:
    driver = Driver(tmp_path, cluster, "-n", "64", "--no-wait", PROGRAM)
    assert driver.end() == 2
    assert re.search(r"^Error: there is no room for \d+ of at least 64 workers", driver.output, re.MULTILINE)
    assert "Traceback" not in driver.output


def test_no_cluster_at_the_address(cluster: Nodes, tmp_path: Path) -> None:
    address, begun = f"127.0.0.1:{free_port()}", time.monotonic()
    driver = Driver(tmp_path, cluster, PROGRAM, RAY_ADDRESS=address)
    assert driver.end() == 2
    assert time.monotonic() - begun < 15.0
    (line,) = driver.output.splitlines()
    assert line.startswith(f"Error: there is no Ray cluster at '{address}'") and "ray start --head" in line


def test_a_wrong_token(cluster: Nodes, tmp_path: Path) -> None:
    begun = time.monotonic()
    driver = Driver(tmp_path, cluster, PROGRAM, RAY_AUTH_TOKEN=secrets.token_hex(32))
    assert driver.end() == 2, driver.output
    assert time.monotonic() - begun < 20.0
    line = driver.output.splitlines()[-1]  # Ray itself warns before
    assert "does not take this driver" in line and "RAY_AUTH_TOKEN" in line
    assert "Traceback" not in driver.output
