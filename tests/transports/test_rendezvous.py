"""Workers that were started apart find the best group, whoever is where; and nothing waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transports.clusters import at_once, check

from runtime.fold import Fold
from runtime.group import Group, GroupBroken
from runtime.transports import rendezvous
from runtime.transports.hierarchical import HierarchicalGroup
from runtime.transports.shm import ShmGroup
from runtime.transports.solo import SoloGroup
from runtime.transports.tcp import Listener, TcpGroup

linux = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is handed over through /proc")


def joined(nodes: Sequence[str], **options: Any) -> list[Group | GroupBroken]:
    """What each worker gets, in a thread each."""
    listeners = [Listener() for _ in nodes]
    addresses = [listener.address for listener in listeners]

    def join(rank: int) -> Group | GroupBroken:
        try:
            return rendezvous.join(listeners[rank], addresses, nodes, rank, 7, b"secret", **options)
        except GroupBroken as error:
            return error

    try:
        return at_once(len(nodes), join)
    finally:
        for listener in listeners:
            listener.close()


def reduces(groups: Sequence[Group]) -> None:
    """The sum in the tree's order, and everything closed afterwards."""
    values = [np.random.default_rng(rank).standard_normal(1000).astype("f4") for rank in range(len(groups))]
    fold: Fold[Any] = Fold(len(groups), np.add)
    for value in values:
        fold.push(value)

    def law(group: Group) -> None:
        assert group.generation == 7
        assert group.all_reduce(values[group.rank]).tobytes() == fold.root.tobytes()
        group.barrier()

    check(groups, law)
    for group in groups:
        group.close()


@linux
@given(counts=st.lists(st.integers(1, 3), min_size=1, max_size=3))
@settings(max_examples=12)
def test_the_group_fits_the_nodes(counts: list[int]) -> None:
    nodes = [f"node {i}" for i, count in enumerate(counts) for _ in range(count)]
    groups = joined(nodes)
    if len(nodes) == 1:
        kind: type[Group] = SoloGroup
    elif len(counts) == 1:
        kind = ShmGroup
    else:
        kind = TcpGroup if max(counts) == 1 else HierarchicalGroup
    assert all(isinstance(group, kind) for group in groups)
    reduces(groups)  # type: ignore[arg-type]


def test_a_worker_that_cannot_open_the_file_makes_its_node_use_tcp(monkeypatch) -> None:
    refused = []
    open_ = rendezvous._open

    def refuse(path: str, token: bytes) -> int | None:
        if not refused:
            refused.append(path)
            return None
        return open_(path, token)

    monkeypatch.setattr(rendezvous, "_open", refuse)
    groups = joined(["here"] * 3)
    assert len(refused) == 1 and all(isinstance(group, TcpGroup) for group in groups)
    reduces(groups)  # type: ignore[arg-type]


@linux
def test_only_the_file_with_the_token_is_opened(tmp_path) -> None:
    token = b"t" * 32
    (tmp_path / "file").write_bytes(token)
    with open(tmp_path / "file", "rb") as wrong:  # no shared memory, though it holds the token
        assert rendezvous._open(f"/proc/{os.getpid()}/fd/{wrong.fileno()}", token) is None
    descriptor = ShmGroup.new_file(2)
    path = f"/proc/{os.getpid()}/fd/{descriptor}"
    assert rendezvous._open(path, token) is None
    os.pwrite(descriptor, token, os.fstat(descriptor).st_size - len(token))
    opened = rendezvous._open(path, token)
    assert opened is not None and os.path.samestat(os.fstat(opened), os.fstat(descriptor))
    os.close(opened)
    os.close(descriptor)
    assert rendezvous._open(path, token) is None


def test_no_descriptor_is_left(tmp_path) -> None:
    def opened() -> int:
        return len(os.listdir("/dev/fd"))

    reduces(joined(["a", "a", "b"]))  # type: ignore[arg-type]  # what is opened once only
    before = opened()
    reduces(joined(["a", "a", "b"]))  # type: ignore[arg-type]
    assert opened() == before


def test_ranks_of_a_node_must_follow_each_other() -> None:
    with Listener() as listener:
        with pytest.raises(ValueError, match=r"must follow each other, got .*'b', 'a'.*number the workers"):
            rendezvous.join(listener, [listener.address] * 3, ["a", "b", "a"], 0, 1, b"secret")
        with pytest.raises(ValueError, match="nodes: one for each of the 2 addresses, got 1"):
            rendezvous.join(listener, [listener.address] * 2, ["a"], 0, 1, b"secret")


@pytest.mark.parametrize("how", ["cancelled", "timeout"])
def test_a_worker_that_stands_still_while_the_file_is_handed_over(how: str, monkeypatch) -> None:
    """The last of three is connected, and says nothing any more."""
    goes_on, asked = threading.Event(), []
    gather = TcpGroup.gather_objects

    def stands_still(group: TcpGroup, value: Any) -> list[Any]:
        if group.rank == 2:
            asked.append(value)
            goes_on.wait(20.0)
        return gather(group, value)

    monkeypatch.setattr(TcpGroup, "gather_objects", stands_still)
    options = {"cancelled": lambda: bool(asked)} if how == "cancelled" else {"timeout": 0.5}
    begin, results = time.monotonic(), []
    thread = threading.Thread(target=lambda: results.extend(joined(["here"] * 3, **options)))
    thread.start()
    while not asked:
        time.sleep(0.01)
    thread.join(0.7)
    goes_on.set()
    thread.join(20.0)
    assert len(asked) == 1 and len(results) == 3
    assert all(isinstance(result, GroupBroken) for result in results), results
    assert time.monotonic() - begin < 15


@linux
@pytest.mark.process
@pytest.mark.parametrize("nodes", ["aaa", "aab"])
@pytest.mark.parametrize("place", ["rendezvous", "exchange"])
def test_a_worker_that_is_killed_ends_the_group_of_all(nodes: str, place: str) -> None:
    """Nobody aborts here but the workers themselves."""
    landed = 0
    for doomed in range(len(nodes)):
        script = str(Path(__file__).with_name("rendezvous_worker.py"))
        workers = [
            subprocess.Popen(
                [sys.executable, script, nodes, str(rank), place if rank == doomed else ""],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(len(nodes))
        ]
        try:
            addresses = [worker.stdout.readline().strip() for worker in workers]  # type: ignore[union-attr]
            for worker in workers:
                worker.stdin.write(" ".join(addresses) + "\n")  # type: ignore[union-attr]
                worker.stdin.flush()  # type: ignore[union-attr]
            outputs = [worker.communicate(timeout=30)[0] for worker in workers]
            killed = workers[doomed].returncode == -signal.SIGKILL
            landed += killed
            for rank, worker in enumerate(workers):
                if not (killed and rank == doomed):
                    assert worker.returncode == 0
                    assert outputs[rank] == ("broken\n" if killed else "ended\n"), (rank, doomed)
        finally:
            for worker in workers:
                worker.kill()
                worker.communicate()
    # With two nodes, the last worker hands no file over.
    assert landed == (2 if (nodes, place) == ("aab", "rendezvous") else 3)
