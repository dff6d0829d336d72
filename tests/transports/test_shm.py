"""What only the shared-memory transport has: its file, its words, and processes that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from transports.clusters import check, shm
from transports.test_abort import Died, dies

from runtime.group import Group
from runtime.transports.shm import ShmGroup

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_a_worker_dies_at_every_word_that_it_writes(size: int, after: bool) -> None:
    """Just before the word or just after: each is a moment at which the others see something else."""
    for doomed in {0, size - 1}:
        landed = 0
        while _dies_at_word(size, doomed, landed, after):
            landed += 1
        # Of reserve one; of each exchange: started, one bucket, all buckets, the note, folded.
        assert landed == 1 + 2 * 5


def _dies_at_word(size: int, doomed: int, word: int, after: bool) -> bool:
    with shm(size) as groups:
        publish, left = groups[doomed].segment.publish, word

        def dying(place: int, value: int) -> None:
            nonlocal left
            left -= 1
            if left < 0 and not after:
                raise Died
            publish(place, value)
            if left < 0:
                raise Died

        groups[doomed].segment.publish = dying  # type: ignore[method-assign]
        return dies(groups, doomed, lambda place: False)


@pytest.mark.parametrize("portable", [False, True])
def test_the_file_has_no_name(portable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if portable:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptor = ShmGroup.new_file(2)
    try:
        assert os.fstat(descriptor).st_nlink == 0
        assert not os.get_inheritable(descriptor)
        groups = [ShmGroup(descriptor, rank, 2) for rank in range(2)]
        check(groups, lambda group: group.all_reduce(np.ones(10_000)))
    finally:
        os.close(descriptor)


def test_memory_that_nobody_uses_is_used_again() -> None:
    descriptor = ShmGroup.new_file(2)
    groups = [ShmGroup(descriptor, rank, 2) for rank in range(2)]

    def size() -> int:
        return os.fstat(descriptor).st_size

    def reduce(group: Group) -> None:
        for _ in range(20):
            group.all_reduce(np.ones(100_000))

    bare = size()
    check(groups, reduce)
    assert (
        size() - bare < 3 * 3 * 900_000
    )  # two regions of three arrays each: the last one and the one before
    kept: list[object] = []
    check(groups, lambda group: kept.append(group.reserve((("<f8", 100_000),), 1)))
    check(groups, reduce)
    assert size() - bare < 4 * 3 * 900_000
    kept.clear()
    check(groups, lambda group: group.all_reduce(1.0))
    check(groups, lambda group: group.all_reduce(1.0))
    check(groups, lambda group: group.all_reduce(1.0))
    assert size() - bare < 3 * 900_000
    os.close(descriptor)


@contextmanager
def processes(size: int, doomed: int, place: str) -> Iterator[tuple[ShmGroup, list[subprocess.Popen[str]]]]:
    """Workers that run `shm_worker.py`, and a group of this process over their file; all are gone at the end."""
    program = Path(__file__).with_name("shm_worker.py")
    descriptor = ShmGroup.new_file(size)
    group = ShmGroup(descriptor, 0, size)
    command = [sys.executable, str(program), str(descriptor)]
    with ExitStack() as stack:
        workers = []
        for rank in range(size):
            worker = subprocess.Popen(
                [*command, str(rank), str(size), place if rank == doomed else ""],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[descriptor],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            workers.append(stack.enter_context(worker))
            stack.callback(worker.kill)
            late = threading.Timer(60, worker.kill)  # so that a worker that hangs fails the test
            late.start()
            stack.callback(late.cancel)
        os.close(descriptor)
        yield group, workers
        group.close()


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().rstrip()


@pytest.mark.process
def test_a_process_is_killed_in_each_phase() -> None:
    landed = 0
    for place in ("reserve", "start 2", "ready 2", "finish 2", "before folded", "after folded"):
        with processes(3, 1, place) as (group, workers):
            assert _line(workers[1]) == "here"
            workers[1].kill()
            landed += workers[1].wait() == -9
            group.abort()  # any process that has the file may
            for rank in (0, 2):
                assert _line(workers[rank]) == "stopped"
            held = [workers[rank].communicate("\n", timeout=20)[0].split() for rank in (0, 2)]
            assert [worker.returncode for worker in workers] == [0, -9, 0]
            assert held[0] == held[1], f"{place}: the survivors do not hold the same"
            exchanges = {"reserve": 0, "after folded": 3}.get(place, 2)
            assert held[0] == ["held", str(exchanges), "files", "0"], place
    assert landed == 6


@pytest.mark.process
def test_more_workers_than_cores_progress() -> None:
    size = min(12, 3 * (os.cpu_count() or 2))
    with processes(size, 0, "") as (_, workers):
        for worker in workers:
            assert worker.communicate(timeout=60)[0].split() == ["held", "200", "files", "0"]
            assert worker.returncode == 0
