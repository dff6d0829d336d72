"""A cable is cut in the middle of training: three hosts with networks of their own, one worker on each.

Nobody is told that it was cut, and Ray itself takes a minute to find out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from networks import Host, Network, network
from ray_cluster.clusters import Node, Nodes

PROGRAM = Path(__file__).parents[1] / "faults" / "program.py"
RUN = ["-m", "dist_dp.cli", "run", "--ray", "-n", "2:3", "--strategy", "spread", "--logs", "all"]
PACE = 0.15  # seconds that a shard takes
BOUND = 10.0  # seconds from the cut until the others step again
CUT_OFF = 15.0  # seconds from the cut until the worker that is cut off has ended
SOON = 2.0  # seconds until all that is printed has arrived; less than it takes to notice a cut
STEP = re.compile(r"\[(\d)\] (\d+) \d+\n")
ENDED = re.compile(r"worker (\d) was lost: it said nothing for 5 s; generation \d+: 2 workers on 2 nodes")


@pytest.fixture(scope="module")
def digest() -> str:
    """Of the run in one process."""
    done = subprocess.run(
        [sys.executable, PROGRAM], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Network, Nodes]]:
    """A node on each of three hosts, with room for one worker."""
    with network(3) as joined, Nodes(num_cpus=1, host=joined.hosts[0]) as nodes:
        nodes.add(1, None, *joined.hosts[1:])
        yield joined, nodes


class Driver:
    """`dist-dp run --ray` on a host: each line that it prints, and when."""

    def __init__(self, host: Host, nodes: Nodes, place: Path) -> None:
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            [*host.enter, sys.executable, *RUN, str(PROGRAM), "", "0", str(PACE)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=place,
            env=nodes.environment | {"PYTHONPATH": str(PROGRAM.parents[2])},
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append((time.monotonic(), line))

    @property
    def output(self) -> str:
        return "".join(f"{when:.2f} {line}" for when, line in list(self.lines))

    def steps(self) -> list[tuple[float, int, int]]:
        """When which worker said that it was at which step."""
        found = [(when, STEP.fullmatch(line)) for when, line in list(self.lines)]
        return [(when, int(match[1]), int(match[2])) for when, match in found if match]

    def until(self, met: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < end and self.process.poll() is None, self.output
            time.sleep(0.02)

    def end(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        finally:
            self.process.kill()
            self._reader.join()


def worker(node: Node) -> int | None:
    """The process of the worker on this node, if there is one."""
    for pid in node.pids():
        try:
            if b"ray::WorkerActor" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:  # gone meanwhile
            continue
    return None


def last_words(node: Node, pid: int) -> str:
    """What a worker said to its node alone."""
    (file,) = (node.directory / "session_latest" / "logs").glob(f"worker-*-{pid}.err")
    return file.read_text()


@pytest.mark.process
@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (7.0, "was given up by the coordinator|^(?!.*this process ends)"),
        (None, "has had no word from the coordinator"),
    ],
    ids=["comes back", "stays away"],
)
def test_a_host_is_cut_off(
    seconds: float | None, said: str, cluster: tuple[Network, Nodes], digest: str, tmp_path: Path
) -> None:
    """The others go on within ten seconds, its worker ends by itself and says why, and the answer is the one answer.

    Args:
        seconds: that it lasts: longer than the others wait for its worker, but not as long as that waits for them.
        said: by its worker; if it comes back, Ray may have ended it before it could.
    """
    joined, nodes = cluster
    host, node = joined.hosts[2], nodes.nodes[2]
    cuts = joined.cuts
    driver = Driver(joined.hosts[0], nodes, tmp_path)
    try:
        driver.until(lambda: {who for _, who, step in driver.steps() if step >= 3} == {0, 1, 2}, 45.0)
        pid = worker(node)
        assert pid is not None
        joined.cut(host)
        cut = time.monotonic()
        if seconds is not None:
            time.sleep(seconds)
            joined.mend(host)
        driver.until(lambda: worker(node) != pid, cut + CUT_OFF - time.monotonic())
        gone = time.monotonic() - cut
        assert driver.end(60.0) == 0, driver.output
    finally:
        driver.end(0.0)
        joined.mend(host)

    landed = ENDED.findall(driver.output)
    assert joined.cuts - cuts == len(landed) == 1, driver.output
    stood = max(step for when, _, step in driver.steps() if when < cut + SOON)
    others = {who for _, who, _ in driver.steps()} - {int(landed[0])}
    again = [
        min(when - cut for when, who, step in driver.steps() if who == other and step > stood)
        for other in others
    ]
    print(
        f"the others stepped again {max(again):.1f} s after the cut; the worker was gone after {gone:.1f} s"
    )
    assert len(again) == 2 and max(again) <= BOUND, driver.output
    assert re.search(said, last_words(node, pid), re.DOTALL)
    assert set(re.findall(r"\] digest (\w+)", driver.output)) == {digest}
