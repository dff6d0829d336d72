"""A link that is cut, without a word from either side: two workers in networks of their own, and a cable between them.

The networks are anonymous namespaces, which end with the workers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "tcp_worker.py"
TIMEOUT = 2.0
SECONDS = 60.0  # after which a test is held to hang
PROBES = 6.0  # seconds until a link on which nothing is sent is given up: not less than 6 probes of a second


def _permitted() -> bool:
    try:
        made = subprocess.run(
            ["unshare", "--net", "ip", "link", "add", "type", "veth"], capture_output=True, timeout=10
        )
    except FileNotFoundError:
        return False
    return made.returncode == 0


class Cable:
    """Two workers, each in a namespace, and a pair of network devices."""

    def __init__(self, turns: list[int]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.workers = [
            subprocess.Popen(
                ["unshare", "--net", sys.executable, WORKER, str(rank), str(TIMEOUT), str(n)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank, n in enumerate(turns)
        ]
        self.limit = threading.Timer(SECONDS, self.kill)
        self.limit.start()

    def form(self) -> None:
        for rank in range(2):
            assert self.hear(rank) == "up"
        self.ip(
            0,
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            str(self.workers[1].pid),
        )
        for rank in range(2):
            self.ip(rank, "address", "add", f"10.0.0.{rank + 1}/24", "dev", "cable")
            self.ip(rank, "link", "set", "cable", "up")
            self.say(rank, f"10.0.0.{rank + 1}")
        addresses = [json.loads(self.hear(rank)) for rank in range(2)]
        assert [host for host, _ in addresses] == ["10.0.0.1", "10.0.0.2"]
        for rank in range(2):
            self.say(rank, json.dumps(addresses))

    def ip(self, rank: int, *words: str) -> None:
        target = ["nsenter", "--target", str(self.workers[rank].pid), "--net", "ip", *words]
        subprocess.run(target, check=True, timeout=10)

    def say(self, rank: int, line: str) -> None:
        pipe = self.workers[rank].stdin
        assert pipe is not None
        pipe.write(line + "\n")
        pipe.flush()

    def hear(self, rank: int) -> str:
        pipe = self.workers[rank].stdout
        assert pipe is not None
        return pipe.readline().strip()

    def end(self, rank: int) -> tuple[int, str]:
        """How many totals a worker holds at its end, and what it was told."""
        while (line := self.hear(rank)) == "exchanged":
            pass
        held, _, error = line.partition(" ")
        return int(held), error

    def kill(self) -> None:
        for worker in self.workers:
            worker.kill()

    def close(self) -> None:
        self.limit.cancel()
        self.kill()
        for worker in self.workers:
            worker.communicate()


@pytest.fixture
def cables() -> Iterator[list[Cable]]:
    """Those made here are taken away, whatever happened."""
    if not _permitted():
        pytest.skip("making network namespaces is not permitted here")
    made: list[Cable] = []
    yield made
    for cable in made:
        cable.close()


@pytest.mark.process
def test_a_cut_link_ends_an_exchange_within_the_deadline(cables: list[Cable]) -> None:
    cables.append(cable := Cable([-1, -1]))
    cable.form()
    for _ in range(5):
        assert cable.hear(0) == "exchanged"
    cable.ip(0, "link", "set", "cable", "down")
    cut = time.monotonic()
    ends = [cable.end(rank) for rank in range(2)]
    assert time.monotonic() - cut < TIMEOUT + 1.5
    assert all("generation 1 has ended" in error for _, error in ends)
    assert abs(ends[0][0] - ends[1][0]) <= 1 and min(ends)[0] >= 5


@pytest.mark.process
def test_a_cut_link_ends_the_wait_for_a_worker_that_has_not_begun(cables: list[Cable]) -> None:
    """Nothing is under way, so there is no deadline: the probes find out, and both are told."""
    cables.append(cable := Cable([-1, 3]))
    cable.form()
    for _ in range(3):
        assert cable.hear(0) == cable.hear(1) == "exchanged"
    time.sleep(1.5 * TIMEOUT)  # that long is no fault
    cable.ip(0, "link", "set", "cable", "down")
    cut = time.monotonic()
    assert cable.end(0) == (3, "generation 1 has ended at worker 0 of 2: the link to worker 1 has ended")
    assert time.monotonic() - cut < PROBES + 1.5
    cable.say(1, "go on")
    assert cable.end(1)[0] == 3
    assert time.monotonic() - cut < PROBES + TIMEOUT + 1.5


@pytest.mark.process
def test_an_exchange_that_begins_on_a_cut_link_is_ended(cables: list[Cable]) -> None:
    """What a worker says first is never confirmed."""
    cables.append(cable := Cable([3, 3]))
    cable.form()
    for _ in range(3):
        assert cable.hear(0) == cable.hear(1) == "exchanged"
    cable.ip(0, "link", "set", "cable", "down")
    cut = time.monotonic()
    for rank in range(2):
        cable.say(rank, "go on")
    assert [cable.end(rank)[0] for rank in range(2)] == [3, 3]
    assert time.monotonic() - cut < PROBES + 1.5
