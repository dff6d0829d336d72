"""Checkpoints on a real S3 server: written in parts, verified, retired; and the server going away in the middle."""

from __future__ import annotations

import tempfile
import threading
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from store.s3 import S3Server
from train.cluster import Cluster
from train.test_workers import program

from dist_dp.train.run_directory import RunDirectory
from runtime import checkpoint
from runtime.checkpoint import CheckpointDamaged, CheckpointNotSaved, Part, Saver, layout
from runtime.store import RemoteStore, store_at

pytestmark = pytest.mark.process

STATE = {"w": np.arange(60.0).reshape(3, 20), "b": np.float32([1, 2]), "empty": np.zeros((0, 2))}


def refuse(damage: CheckpointDamaged) -> None:
    raise damage


def save_together(url: str, step: int, size: int, state: Any = STATE) -> list[Exception | None]:
    savers = [Saver() for _ in range(size)]
    for rank, saver in enumerate(savers):
        saver.save(url, step, state, {"step": step}, part=Part(rank, size, f"a{step}"), keep_last=2)
    assert all(saver.drain(60) for saver in savers)
    return [saver.finished()[0].error for saver in savers]


@pytest.mark.parametrize("size", [1, 3])
def test_what_is_saved_in_parts_comes_back_and_the_old_is_retired(s3: S3Server, url: str, size: int) -> None:
    assert checkpoint.latest(url, refuse) is None
    for step in (10, 20, 30):
        assert save_together(url, step, size) == [None] * size
    found = checkpoint.latest(url, refuse)
    assert found is not None and (found.step, found.meta) == (30, {"step": 30})
    assert {n: a.tobytes() for n, a in found.arrays.items()} == {n: a.tobytes() for n, a in STATE.items()}
    assert store_at(url).names() == ["step-0000000020", "step-0000000030"]
    for name in sorted({*found.store.names()} - {layout.MANIFEST}):
        with tempfile.NamedTemporaryFile() as file:  # a plain library reads each part
            file.write(found.store.read(name))
            file.flush()
            assert safetensors.numpy.load_file(file.name)


def test_one_that_is_torn_at_any_file_is_never_the_latest(s3: S3Server, url: str) -> None:
    assert save_together(url, 10, 3) == [None] * 3
    whole = store_at(f"{url}/step-0000000010")
    files = whole.names()
    assert len(files) == 4
    for left_out in files:
        torn = store_at(f"{url}/step-0000000020")
        for name in files:
            if name != left_out:
                torn.write(name, [whole.read(name)])
        damaged: list[CheckpointDamaged] = []
        found = checkpoint.latest(url, damaged.append)
        assert found is not None and found.step == 10
        assert len(damaged) == (
            left_out != layout.MANIFEST
        )  # without a manifest there is none, damaged or not
        store_at(url).remove("step-0000000020")


@pytest.mark.parametrize("file", ["arrays", "manifest"])
@pytest.mark.parametrize("size", [1, 2])
def test_a_server_that_goes_away_in_the_middle_costs_no_more_than_this_checkpoint(
    s3: S3Server, url: str, monkeypatch: pytest.MonkeyPatch, file: str, size: int
) -> None:
    """The line is cut when the file has begun to travel: its second 8 MiB, or its only bytes, find nobody."""
    state = {"w": np.zeros(8 << 20, np.uint32)}
    assert save_together(url, 10, size, state) == [None] * size
    write, cuts, cutting = RemoteStore.write, [], threading.Lock()

    def cut(self: RemoteStore, name: str, chunks: Any) -> None:
        def cut_on_the_way() -> Any:
            first = True
            for chunk in chunks:
                for start in range(0, len(chunk), 8 << 20):
                    yield chunk[start : start + (8 << 20)]
                    with cutting:
                        if first and not cuts:
                            cuts.append(name)
                            s3.cut()
                    first = False

        write(
            self,
            name,
            cut_on_the_way() if name.startswith(file) and not name.endswith(".json.json") else chunks,
        )

    with monkeypatch.context() as patch:
        patch.setattr(RemoteStore, "write", cut)
        errors = save_together(url, 20, size, state)
    assert len(cuts) == 1 and isinstance(errors[0], CheckpointNotSaved)
    with pytest.raises(OSError):  # nobody may take an unreachable store for an empty one
        checkpoint.latest(url, refuse)
    s3.mend()
    found = checkpoint.latest(url, refuse)
    assert found is not None and found.step == 10
    assert save_together(url, 30, size, state) == [None] * size
    found = checkpoint.latest(url, refuse)
    assert found is not None and found.step == 30
    assert store_at(url).names() == ["step-0000000010", "step-0000000030"]


def test_workers_write_their_parts_to_the_server_and_go_on_without_it(s3: S3Server, url: str) -> None:
    expected, before = program(), s3.refused
    trained: list[int] = []

    def disturbed() -> Any:
        result = program(url, checkpoint_every=1, keep_last=20, sinks=[Cutting()])
        trained.append(1)
        return result

    class Cutting:
        """The line is cut at step 4, until the third attempt to connect found it so."""

        def emit(self, event: Any) -> None:
            if event.kind == "step" and event.step == 4 and s3.refused == before:
                s3.cut()
                threading.Thread(target=mend, daemon=True).start()

        def close(self) -> None:
            pass

    def mend() -> None:
        while s3.refused < before + 3:
            pause.wait(0.05)
        s3.mend()

    pause = threading.Event()
    cluster = Cluster(3, disturbed).run(timeout=120)
    assert cluster.over is not None and cluster.over.code == 0, (cluster.over, cluster.errors)
    assert len(trained) == 3 and all(result == expected for result in cluster.results.values())
    assert s3.refused >= before + 3
    found = RunDirectory(url).newest(refuse)
    assert found is not None and (found.step, found.digest) == (10, expected[0].digest)
    assert sum(name.startswith("arrays-") for name in found.store.names()) in (0, 3)
