"""No bit of a checkpoint changes unnoticed; the one before a damaged one is used, loudly."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import checkpoint
from runtime.checkpoint import CheckpointDamaged, layout
from runtime.store import Store

FILES = [layout.ARRAYS, layout.MANIFEST]
STATE = {
    "encoder.weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "encoder.bias": np.array([-0.0, np.nan]),
    "count": np.array(5),
    "empty": np.zeros((0, 2)),
    "mask": np.array([True, False, True]),
}
META = {"epoch": 3, "rate": 0.25, "name": "run é", "nested": [None, True, {"x": []}]}


def refuse(damage: CheckpointDamaged) -> None:
    raise damage


def path_of(store: Store) -> Path:
    assert store.local is not None
    return store.local


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return path_of(checkpoint.save(tmp_path_factory.mktemp("checkpoints"), 123, STATE, META, digest="0" * 64))


@pytest.mark.parametrize("name", FILES)
def test_a_flip_of_any_bit_of_any_file_is_noticed(saved: Path, name: str) -> None:
    file = saved / name
    good = file.read_bytes()
    noticed = 0
    with open(file, "r+b", buffering=0) as handle:
        for position in range(len(good)):
            # one bit of every byte; which one goes round, and Hypothesis tries the others below
            handle.seek(position)
            handle.write(bytes([good[position] ^ 1 << position % 8]))
            with pytest.raises(CheckpointDamaged, match=name):
                checkpoint.load(saved)
            handle.seek(position)
            handle.write(good[position : position + 1])
            noticed += 1
    assert noticed == len(good) > 300
    assert checkpoint.load(saved).step == 123


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_other_content_of_any_file_is_noticed(saved: Path, data: st.DataObject) -> None:
    file = saved / data.draw(st.sampled_from(FILES))
    good = file.read_bytes()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(good))] * 2)))
    bad = good[:start] + data.draw(st.binary(max_size=8) | st.just(good[:end])) + good[end:]
    try:
        file.write_bytes(bad)
        if bad == good:
            checkpoint.load(saved)
        else:
            with pytest.raises(CheckpointDamaged, match=file.name):
                checkpoint.load(saved)
    finally:
        file.write_bytes(good)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_noticed(saved: Path, name: str) -> None:
    file = saved / name
    good = file.read_bytes()
    try:
        for length in range(len(good)):
            file.write_bytes(good[:length])
            with pytest.raises(CheckpointDamaged, match=name):
                checkpoint.load(saved)
    finally:
        file.write_bytes(good)


def test_the_damaged_tensor_is_named(saved: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / saved.name))
    file = copy / layout.ARRAYS
    weight = STATE["encoder.weight"].tobytes()
    file.write_bytes(file.read_bytes().replace(weight, weight[:-1] + b"\x7f"))
    message = (
        r"arrays.safetensors, tensor 'encoder.weight' \(F32, shape \(3, 4\)\): SHA-256 is \w{64}, expected"
    )
    with pytest.raises(CheckpointDamaged, match=message) as caught:
        checkpoint.load(copy)
    assert caught.value.store.local == copy


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_damage(saved: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / saved.name))
    (copy / name).unlink()
    with pytest.raises(CheckpointDamaged, match=f"cannot be read.*{name}"):
        checkpoint.load(copy)


def test_arrays_of_another_checkpoint_are_noticed(tmp_path: Path) -> None:
    paths = [path_of(checkpoint.save(tmp_path, step, {"w": np.array([step, 1])}, None)) for step in (1, 2)]
    renamed = path_of(checkpoint.save(tmp_path, 3, {"v": np.array([1, 1])}, None))
    shutil.copy(paths[0] / layout.ARRAYS, paths[1] / layout.ARRAYS)
    with pytest.raises(CheckpointDamaged, match="tensor 'w'"):
        checkpoint.load(paths[1])
    shutil.copy(paths[0] / layout.ARRAYS, renamed / layout.ARRAYS)
    with pytest.raises(CheckpointDamaged, match=r"the header of arrays\.safetensors differs"):
        checkpoint.load(renamed)


def test_the_one_before_is_used_and_each_damaged_one_reported(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, step, {"w": np.array(step)}, None)
    (tmp_path / "step-0000000030" / layout.MANIFEST).write_bytes(b"{}")
    (tmp_path / "step-0000000020" / layout.ARRAYS).write_bytes(b"")
    reported: list[CheckpointDamaged] = []
    found = checkpoint.latest(tmp_path, reported.append)
    assert found is not None
    assert (found.step, int(found.arrays["w"])) == (10, 10)
    assert [damage.store.name for damage in reported] == ["step-0000000030", "step-0000000020"]
    assert [file in str(damage) for damage, file in zip(reported, reversed(FILES), strict=True)] == [
        True,
        True,
    ]


def test_if_all_are_damaged_it_never_starts_over(tmp_path: Path) -> None:
    for step in (10, 20):
        checkpoint.save(tmp_path, step, {}, None).write(layout.ARRAYS, [b"\0"])
    reported: list[CheckpointDamaged] = []
    with pytest.raises(CheckpointDamaged, match=r"all 2 checkpoints are damaged; restore.*\n.*20.*\n.*10"):
        checkpoint.latest(tmp_path, reported.append)
    assert len(reported) == 2


def test_one_without_a_manifest_was_never_finished_and_is_none(tmp_path: Path) -> None:
    for step in (10, 20):
        checkpoint.save(tmp_path, step, {"w": np.array(step)}, None)
    for step, found in ((20, 10), (10, None)):
        (tmp_path / layout.directory_name(step) / layout.MANIFEST).unlink()
        newest = checkpoint.latest(tmp_path, refuse)
        assert (newest and newest.step) == found
        assert [layout.step_of(store) for store in checkpoint.available(tmp_path)] == [found] * bool(found)


def test_a_checkpoint_of_format_1_is_read(saved: Path, tmp_path: Path) -> None:
    """What version 0.1 wrote: one file, the SHA-256 of each array beside its dtype and shape."""
    copy = Path(shutil.copytree(saved, tmp_path / saved.name))
    fields = json.loads((copy / layout.MANIFEST).read_bytes())
    (part,) = fields.pop("parts")
    del fields["sha256"]
    fields["format"] = 1
    for name, entry in fields["tensors"].items():
        entry["sha256"] = part["sha256"][name]
    (copy / layout.MANIFEST).write_bytes(layout.sealed(fields))
    old, new = checkpoint.load(copy), checkpoint.load(saved)
    assert (old.step, old.meta, old.digest) == (new.step, new.meta, new.digest) == (123, META, "0" * 64)
    assert [(n, a.tobytes()) for n, a in old.arrays.items()] == [
        (n, a.tobytes()) for n, a in new.arrays.items()
    ]
    (copy / layout.ARRAYS).write_bytes(
        (copy / layout.ARRAYS).read_bytes().replace(b"\0\0\x80\xbf", b"\1\0\x80\xbf")
    )
    with pytest.raises(CheckpointDamaged, match=r"encoder\.weight"):
        checkpoint.load(copy)


def test_a_damaged_one_is_replaced_when_the_run_reaches_its_step_again(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 10, {"w": np.array(1)}, None).write(layout.ARRAYS, [])
    checkpoint.save(tmp_path, 10, {"w": np.array(2)}, None)
    found = checkpoint.latest(tmp_path, refuse)
    assert found is not None
    assert found.arrays["w"] == 2


def test_another_format_is_told_from_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(layout, "FORMAT", 3)
        checkpoint.save(tmp_path, 1, {}, None)
    with pytest.raises(ValueError, match="has format 3, this version reads formats 1 and 2"):
        checkpoint.latest(tmp_path, refuse)


def test_a_checkpoint_may_be_copied_under_any_name(saved: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "best"))
    assert checkpoint.load(copy).step == 123
