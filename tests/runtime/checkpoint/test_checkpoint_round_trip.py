"""What is saved comes back bit for bit, in a file that others can read; retention keeps what it says."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import checkpoint, store
from runtime.checkpoint import CheckpointDamaged, layout

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">f4", ">i8"]


@st.composite
def any_array(draw: st.DrawFn) -> Any:
    """An array of any bits (NaN payloads, negative zeros), any shape down to 0-d and empty, any layout."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = int(np.prod(shape, dtype=int))
    if dtype.kind == "b":
        bits = bytes(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    else:
        bits = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
    array = np.frombuffer(bits, dtype).reshape(shape)
    layouts = [array, array.T, np.asfortranarray(array).reshape(shape)]
    if array.ndim:
        layouts += [np.repeat(array, 2, axis=-1)[..., ::2], array[::-1]]
    return draw(st.sampled_from(layouts))


names = st.text(min_size=1, max_size=6) | st.sampled_from(["encoder.0.weight", "a.b", "ünï"])
states = st.dictionaries(names, any_array(), max_size=5)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def refuse(damage: CheckpointDamaged) -> None:
    raise damage


def native(array: Any) -> Any:
    return array.astype(array.dtype.newbyteorder("="))


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk where durability is not what is tested."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@settings(deadline=None, max_examples=60)
@given(states, plain, st.integers(0, 10**12), st.none() | st.text())
def test_everything_comes_back_bit_for_bit(
    state: dict[str, Any], meta: Any, step: int, digest: str | None
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "run" / "checkpoints"
        saved = checkpoint.save(root, step, state, meta, digest=digest)
        assert checkpoint.available(root) == [saved]
        found = checkpoint.load(saved)
        others = safetensors.numpy.load(saved.read(layout.ARRAYS))
    assert (found.step, found.meta, found.digest, found.store) == (step, meta, digest, saved)
    assert repr(found.meta) == repr(meta)  # 1 is not 1.0, nor 0.0 -0.0
    assert found.arrays.keys() == others.keys() == state.keys()
    for name, array in state.items():
        for read in (found.arrays[name], others[name]):
            assert (read.dtype, read.shape) == (native(array).dtype, array.shape)
            assert read.tobytes() == native(array).tobytes()
        assert found.arrays[name].flags.writeable
        assert found.arrays[name].flags.c_contiguous


def test_no_checkpoint_is_none_not_an_error(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "absent", refuse) is None
    assert checkpoint.available(tmp_path / "absent") == []
    (tmp_path / "notes").mkdir()
    assert checkpoint.latest(tmp_path, refuse) is None


def test_the_newest_is_by_step_not_by_time(tmp_path: Path) -> None:
    for step in (9, 10_000_000_000, 10, 2):
        checkpoint.save(tmp_path, step, {}, None)
    found = checkpoint.latest(tmp_path, refuse)
    assert found is not None
    assert found.step == 10_000_000_000
    assert [layout.step_of(path) for path in checkpoint.available(tmp_path)] == [10_000_000_000, 10, 9, 2]


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        saved = checkpoint.save(tmp_path, 7, {"w": np.array(value)}, {"value": value})
        found = checkpoint.load(saved)
        assert len(saved.names()) == 2
        assert found.arrays["w"].tolist() == found.meta["value"] == value
        assert [file.name for file in tmp_path.iterdir()] == ["step-0000000007"]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12, unique=True).map(sorted),
    st.integers(1, 4),
    st.none() | st.integers(1, 7),
)
def test_retention_keeps_the_last_and_every_nth(steps: list[int], last: int, every: int | None) -> None:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        for count, step in enumerate(steps, start=1):
            checkpoint.save(directory, step, {}, None, keep_last=last, keep_every=every)
            done = steps[:count]
            expected = {s for s in done if every is not None and s % every == 0} | set(done[-last:])
            assert {layout.step_of(path) for path in checkpoint.available(directory)} == expected
        assert len(list(Path(directory).iterdir())) == len(expected)


def test_later_steps_stay_and_do_not_push_out_the_one_just_saved(tmp_path: Path, no_sync: None) -> None:
    """A run that resumed from step 10 because 20 and 30 are damaged must not lose what it saves next."""
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, {}, None)
    checkpoint.save(tmp_path, 15, {}, None, keep_last=1)
    assert [layout.step_of(path) for path in checkpoint.available(tmp_path)] == [30, 20, 15]


def test_an_array_in_file_order_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays: dict[str, Any] = {"w": np.ones((50, 3)), "b": np.zeros(4, np.float32)}
    written: list[memoryview] = []
    write = store.write_file

    def spy(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
        kept = list(chunks)
        written.extend(chunk for chunk in kept if isinstance(chunk, memoryview))
        write(path, kept)

    monkeypatch.setattr(store, "write_file", spy)
    checkpoint.save(tmp_path, 1, arrays, None)
    assert len(written) == 2
    assert all(
        np.shares_memory(np.frombuffer(chunk, np.uint8), arrays[name])
        for chunk, name in zip(written, "wb", strict=True)
    )


def test_tensors_are_aligned_in_the_file(tmp_path: Path) -> None:
    arrays = {"a": np.ones(3, bool), "b": np.ones(5, "f2"), "c": np.ones(1), "d": np.ones(1, "f4")}
    data = checkpoint.save(tmp_path, 1, arrays, None).read(layout.ARRAYS)
    size = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8 : 8 + size]).items():
        assert (8 + size + entry["data_offsets"][0]) % arrays[name].itemsize == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"step": -1}, ValueError, "step must be at least 0, got -1"),
        ({"step": 1.0}, TypeError, "step must be an int, got 1.0"),
        ({"keep_last": 0}, ValueError, "keep_last must be at least 1, got 0"),
        ({"keep_every": 0}, ValueError, "keep_every must be at least 1, got 0"),
        ({"arrays": {"w": [1.0]}}, TypeError, r"arrays\['w'\] must be a NumPy array, got list"),
        ({"arrays": {1: np.zeros(1)}}, TypeError, "names must be strings, got 1"),
        ({"arrays": {"__metadata__": np.zeros(1)}}, ValueError, "__metadata__"),
        ({"arrays": {"w": np.zeros(1, complex)}}, TypeError, "dtypes BOOL.*got complex128"),
        ({"arrays": {"w": np.array(["x"])}}, TypeError, "got <U1"),
        ({"arrays": {"w": np.zeros(1, "i4,f4")}}, TypeError, r"arrays\['w'\]"),
        ({"arrays": {"w": np.array([None])}}, TypeError, "got object"),
        ({"meta": {"a": (1, 2)}}, TypeError, "meta must be plain JSON: dicts with string keys"),
        ({"meta": {1: 2}}, TypeError, "meta must be plain JSON"),
        ({"meta": {"a": np.zeros(1)}}, TypeError, "meta must be plain JSON.*ndarray"),
        ({"meta": {"a": float("nan")}}, ValueError, "meta must be plain JSON"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"root": tmp_path / "new", "step": 1, "arrays": {}, "meta": None, **change}
    with pytest.raises(error, match=message):
        checkpoint.save(**arguments)
    assert not (tmp_path / "new").exists()
