"""Checkpoints that several workers write together: any number of parts is one state; torn ones do not exist."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import checkpoint, store
from runtime.checkpoint import (
    CheckpointDamaged,
    CheckpointNotSaved,
    Outcome,
    Part,
    Saver,
    layout,
    saver,
    writer,
)
from runtime.digest import digest

DTYPES = ["?", "i1", "i8", "u2", "f2", "f4", "f8", ">f4"]

arrays_of_any_kind = st.builds(
    lambda dtype, shape, seed: (
        np.random.default_rng(seed).integers(0, 2 if dtype == "?" else 256, shape).astype(dtype)
    ),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 5), max_size=3).map(tuple),
    st.integers(0, 99),
)
states = st.dictionaries(
    st.sampled_from(["a", "b", "c.d", "a[0:2]", "a[0:2]'", "ü"]), arrays_of_any_kind, max_size=6
)


@pytest.fixture(autouse=True)
def no_sync() -> Iterator[None]:
    """Durability is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def refuse(damage: CheckpointDamaged) -> None:
    raise damage


def outcome(one: Saver) -> Outcome:
    assert one.drain(30)
    (found,) = one.finished()
    return found


def save_together(
    root: Path, step: int, state: dict[str, Any], size: int, attempt: str = "aa"
) -> list[Outcome]:
    savers = [Saver() for _ in range(size)]
    for rank, one in enumerate(savers):
        one.save(root, step, state, {"size": size}, part=Part(rank, size, attempt), digested="")
    return [outcome(one) for one in savers]


@settings(deadline=None, max_examples=60)
@given(states, st.integers(1, 9))
def test_the_parts_tile_the_bytes_in_nearly_equal_shares(state: dict[str, Any], size: int) -> None:
    tensors = writer.tensors_of(state)
    seen = dict.fromkeys(tensors, 0)
    total = sum(array.nbytes for array in state.values())
    for rank in range(size):
        held = layout.pieces(tensors, rank, size)
        assert len({piece.key for piece in held}) == len(held)
        for piece in held:
            assert piece.lo == seen[piece.name]  # in order, without gap or overlap
            seen[piece.name] = piece.hi
        bytes_held = sum((piece.hi - piece.lo) * tensors[piece.name].itemsize for piece in held)
        assert abs(bytes_held - total / size) < 8 + 1
    assert seen == {name: tensor.count for name, tensor in tensors.items()}


@settings(deadline=None, max_examples=40)
@given(states, st.integers(1, 5))
def test_any_number_of_parts_reads_back_equal_and_each_part_is_plain_safetensors(
    state: dict[str, Any], size: int
) -> None:
    with tempfile.TemporaryDirectory() as root:
        ended = save_together(Path(root), 7, state, size)
        assert [o.error for o in ended] == [None] * size
        found = checkpoint.latest(root, refuse)
        assert found is not None
        assert len(found.store.names()) == size + 1  # the parts and the manifest
        pieces: dict[str, Any] = {}
        for name in found.store.names():
            if name != layout.MANIFEST:
                pieces |= safetensors.numpy.load(found.store.read(name))
    assert (found.step, found.meta, found.digest) == (7, {"size": size}, digest(state))
    assert ended[0].digest == digest(state) and {o.digest for o in ended[1:]} <= {None}
    assert found.arrays.keys() == state.keys()
    for name, array in state.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert (found.arrays[name].dtype, found.arrays[name].shape) == (native.dtype, native.shape)
        assert found.arrays[name].tobytes() == native.tobytes()
    assert sum(array.nbytes for array in pieces.values()) == sum(array.nbytes for array in state.values())


STATE = {"w": np.arange(40.0).reshape(8, 5), "b": np.arange(5, dtype=np.float32), "n": np.array([3])}


def earlier(root: Path) -> None:
    checkpoint.save(root, 5, {"w": np.zeros(1)}, None)


def step_of_latest(root: Path) -> int:
    found = checkpoint.latest(root, refuse)
    assert found is not None
    return found.step


@pytest.mark.parametrize("missing", range(1, 4))
def test_with_a_part_missing_there_is_no_checkpoint_and_the_one_before_is_the_latest(
    tmp_path: Path, missing: int
) -> None:
    """Never completed later either: neither with the parts of another attempt, nor with those of another size."""
    earlier(tmp_path)
    savers = {rank: Saver() for rank in range(4) if rank != missing}
    for rank, one in savers.items():
        one.save(tmp_path, 10, STATE, None, part=Part(rank, 4, "one"))
        if rank:
            assert outcome(one).error is None
    late = Saver()
    for part in (Part(missing, 4, "other"), Part(1, 2, "one")):
        late.save(tmp_path, 10, {name: array + 1 for name, array in STATE.items()}, None, part=part)
        assert outcome(late).error is None
    assert not savers[0].drain(0.1)
    assert step_of_latest(tmp_path) == 5
    savers[0].give_up()
    error = outcome(savers[0]).error
    assert isinstance(error, CheckpointNotSaved)
    assert f"of 4 parts, which the workers write together, {missing + 1} did not come" in str(error)
    assert step_of_latest(tmp_path) == 5
    late.save(tmp_path, 10, STATE, None, part=Part(missing, 4, "one"))  # comes when it was given up
    assert outcome(late).error is None
    assert step_of_latest(tmp_path) == 5
    checkpoint.save(tmp_path, 15, STATE, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000000005", "step-0000000015"]


def test_parts_that_are_all_there_are_a_checkpoint_though_it_was_given_up(tmp_path: Path) -> None:
    savers = [Saver() for _ in range(3)]
    for rank in (2, 1):
        savers[rank].save(tmp_path, 10, STATE, None, part=Part(rank, 3, "a"))
        assert outcome(savers[rank]).error is None
    savers[0].save(tmp_path, 10, STATE, None, part=Part(0, 3, "a"))
    savers[0].give_up()
    assert outcome(savers[0]).error is None
    assert step_of_latest(tmp_path) == 10


def test_parts_that_never_come_are_waited_for_so_long_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saver, "_SECONDS_FOR_PARTS", 0.2)
    one = Saver()
    one.save(tmp_path, 10, STATE, None, part=Part(0, 3, "a"))
    ended = outcome(one)
    assert "2, 3 did not come" in str(ended.error) and 0.2 <= ended.seconds < 10
    assert list(tmp_path.iterdir()) == []  # its space is given back


@pytest.mark.parametrize("rank", range(3))
def test_a_disk_that_refuses_one_part_costs_this_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    write, refused = store.write_file, []

    def full(path: Path, chunks: Any) -> None:
        if f"arrays-{rank + 1}-of-3" in path.name and ".json" not in path.name:
            refused.append(path)
            raise OSError(28, "No space left on device")
        write(path, chunks)

    monkeypatch.setattr(store, "write_file", full)
    earlier(tmp_path)
    savers = [Saver() for _ in range(3)]
    for number in (2, 1, 0):
        savers[number].save(tmp_path, 10, STATE, None, part=Part(number, 3, "a"))
        if number:
            error = outcome(savers[number]).error
            assert ("No space left" in str(error)) == (number == rank)
    savers[0].give_up("No space left on it")  # whoever is told by the other worker
    assert "No space left" in str(outcome(savers[0]).error)
    assert len(refused) == 1
    assert step_of_latest(tmp_path) == 5


def test_every_state_of_a_save_on_the_way_leaves_the_former_or_the_new(tmp_path: Path) -> None:
    """A kill at any moment: after each file that gets its name, what is there is what a reader finds."""
    looks: list[int] = []
    rename = store.rename
    earlier(tmp_path / "run")

    def looked(source: Path, target: Path) -> None:
        with lock:
            rename(source, target)
            copy = tmp_path / f"copy-{len(looks)}"
            shutil.copytree(tmp_path / "run", copy, ignore=lambda _, names: [n for n in names if n[0] == "."])
            looks.append(step_of_latest(copy))

    lock = threading.Lock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "rename", looked)
        assert [o.error for o in save_together(tmp_path / "run", 10, STATE, 3)] == [None] * 3
    assert looks == [5] * 5 + [10]  # three parts, two words that they are there, the manifest


@pytest.mark.parametrize("size", [1, 3])
def test_a_step_saved_again_in_parts_replaces_it(tmp_path: Path, size: int) -> None:
    checkpoint.save(tmp_path, 10, STATE, None)
    again = {name: array + 1 for name, array in STATE.items()}
    for attempt in ("a", "b"):
        save_together(tmp_path, 10, again, size, attempt)
        found = checkpoint.latest(tmp_path, refuse)
        assert found is not None and found.arrays["w"].tolist() == again["w"].tolist()
        assert len(found.store.names()) == size + 1


def flip_the_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, flip_the_last_byte, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("part", range(3))
def test_a_damaged_part_is_named(tmp_path: Path, damage: Callable[[Path], Any], part: int) -> None:
    save_together(tmp_path, 10, STATE, 3)
    name = Part(part, 3, "aa").file
    damage(tmp_path / "step-0000000010" / name)
    with pytest.raises(CheckpointDamaged, match=name):
        checkpoint.load(tmp_path / "step-0000000010")


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_plain_library_reads_it_as_the_documentation_says(tmp_path: Path, size: int) -> None:
    save_together(tmp_path, 10, STATE, size)
    text = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    snippet = next(block for block in text.split("```") if "safetensors.numpy as st" in block).removeprefix(
        "python"
    )
    assert snippet.count("runs/digits/checkpoints/step-0000001000") == 1
    found: dict[str, Any] = {}
    exec(snippet.replace("runs/digits/checkpoints/step-0000001000", str(tmp_path / "step-0000000010")), found)
    assert {n: (a.shape, a.tobytes()) for n, a in found["arrays"].items()} == {
        n: (a.shape, a.tobytes()) for n, a in STATE.items()
    }


# --- the saver --------------------------------------------------------------------------------------------------------


class Gate:
    """A disk that takes nothing until it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.opened = threading.Event()
        write = store.write_file

        def waiting(path: Path, chunks: Any) -> None:
            assert self.opened.wait(30)
            write(path, chunks)

        patch.setattr(store, "write_file", waiting)


def test_the_step_does_not_wait_and_what_it_changes_is_not_in_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, one, w = Gate(monkeypatch), Saver(), np.zeros(1000)
    one.save(tmp_path, 10, {"w": w}, None)
    w += 1
    assert one.busy and one.finished() == []
    with pytest.raises(RuntimeError, match="still being written"):
        one.save(tmp_path, 20, {"w": w}, None)
    gate.opened.set()
    assert outcome(one).error is None and not one.busy
    assert checkpoint.load(tmp_path / "step-0000000010").arrays["w"].sum() == 0


def test_the_copy_takes_the_same_memory_from_save_to_save_and_only_that_of_its_part(tmp_path: Path) -> None:
    state = {"w": np.zeros((30, 100)), "b": np.zeros(1)}
    one, addresses = Saver(), set()
    for step in range(3):
        one.save(tmp_path, step, state, None, part=Part(1, 3, f"a{step}"))
        assert outcome(one).error is None
        addresses.add(one._memory.__array_interface__["data"][0])
        assert one._memory.nbytes == 30 * 100 * 8 / 3
    assert len(addresses) == 1


def test_arguments_are_refused_before_anything_is_begun(tmp_path: Path) -> None:
    one = Saver()
    for change in ({"step": -1}, {"arrays": {"w": [1.0]}}, {"meta": {1: 2}}, {"keep_last": 0}):
        arguments: dict[str, Any] = {
            "root": tmp_path / "new",
            "step": 1,
            "arrays": {},
            "meta": None,
            **change,
        }
        with pytest.raises((TypeError, ValueError)):
            one.save(**arguments)
        assert not one.busy
    assert not (tmp_path / "new").exists()


def test_what_must_be_kept_first_is_kept_before_there_is_a_checkpoint(tmp_path: Path) -> None:
    there: list[bool] = []
    one = Saver()
    keep = {"first": lambda: there.append(bool(checkpoint.available(tmp_path)))}
    one.save(tmp_path, 1, STATE, None, digested="", then=lambda d: there.append(d == digest(STATE)), **keep)
    assert outcome(one).error is None and there == [False, True]

    def refused() -> None:
        raise OSError("the store is away")

    one.save(tmp_path, 2, STATE, None, first=refused)
    assert isinstance(outcome(one).error, CheckpointNotSaved)
    assert step_of_latest(tmp_path) == 1
