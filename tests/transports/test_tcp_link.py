"""A link that is cut, without a word from either side: two workers with networks of their own, and a cable between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from networks import Network, network

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "tcp_worker.py"
TIMEOUT = 2.0
SECONDS = 60.0  # after which a test is held to hang
PROBES = 6.0  # seconds until a link on which nothing is sent is given up: not less than 6 probes of a second


class Cable:
    """Two workers, each on a host, connected to each other."""

    def __init__(self, joined: Network, turns: list[int]) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.joined = joined
        self.workers = [
            subprocess.Popen(
                [*host.enter, sys.executable, WORKER, str(rank), str(TIMEOUT), str(n), host.address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank, (host, n) in enumerate(zip(joined.hosts, turns, strict=True))
        ]
        self.limit = threading.Timer(SECONDS, self.kill)
        self.limit.start()

    def form(self) -> None:
        addresses = [json.loads(self.hear(rank)) for rank in range(2)]
        assert [address for address, _ in addresses] == [host.address for host in self.joined.hosts]
        for rank in range(2):
            self.say(rank, json.dumps(addresses))

    def cut(self) -> float:
        """Cut it; returns when."""
        self.joined.cut(self.joined.hosts[0])
        return time.monotonic()

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
def cable() -> Iterator[Callable[[list[int]], Cable]]:
    """A cable whose workers take part in so many exchanges before they wait; taken away whatever happened."""
    with network(2) as joined:
        made: list[Cable] = []

        def make(turns: list[int]) -> Cable:
            made.append(Cable(joined, turns))
            made[0].form()
            return made[0]

        yield make
        for each in made:
            each.close()


@pytest.mark.process
def test_a_cut_link_ends_an_exchange_within_the_deadline(cable: Callable[[list[int]], Cable]) -> None:
    link = cable([-1, -1])
    for _ in range(5):
        assert link.hear(0) == "exchanged"
    cut = link.cut()
    ends = [link.end(rank) for rank in range(2)]
    assert time.monotonic() - cut < TIMEOUT + 1.5
    assert all("generation 1 has ended" in error for _, error in ends)
    assert abs(ends[0][0] - ends[1][0]) <= 1 and min(ends)[0] >= 5


@pytest.mark.process
def test_a_cut_link_ends_the_wait_for_a_worker_that_has_not_begun(
    cable: Callable[[list[int]], Cable],
) -> None:
    """Nothing is under way, so there is no deadline: the probes find out, and both are told."""
    link = cable([-1, 3])
    for _ in range(3):
        assert link.hear(0) == link.hear(1) == "exchanged"
    time.sleep(1.5 * TIMEOUT)  # that long is no fault
    cut = link.cut()
    assert link.end(0) == (3, "generation 1 has ended at worker 0 of 2: the link to worker 1 has ended")
    assert time.monotonic() - cut < PROBES + 1.5
    link.say(1, "go on")
    assert link.end(1)[0] == 3
    assert time.monotonic() - cut < PROBES + TIMEOUT + 1.5


@pytest.mark.process
def test_an_exchange_that_begins_on_a_cut_link_is_ended(cable: Callable[[list[int]], Cable]) -> None:
    """What a worker says first is never confirmed."""
    link = cable([3, 3])
    for _ in range(3):
        assert link.hear(0) == link.hear(1) == "exchanged"
    cut = link.cut()
    for rank in range(2):
        link.say(rank, "go on")
    assert [link.end(rank)[0] for rank in range(2)] == [3, 3]
    assert time.monotonic() - cut < PROBES + 1.5
