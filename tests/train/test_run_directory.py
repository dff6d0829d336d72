"""A run directory refuses what is not its run, names every difference, and never builds on a damaged checkpoint."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import nn, optim
from dist_dp.train import run_directory
from runtime import checkpoint, store
from runtime.checkpoint import CheckpointDamaged
from runtime.run_lock import RunInUse, run_lock


@pytest.fixture
def begun(train: Any, tmp_path: Path) -> Path:
    train(tmp_path / "run", checkpoint_every=2)
    return tmp_path / "run"


def test_other_settings_are_refused_by_name(train: Any, begun: Path) -> None:
    for option, value in {
        "batch_size": 9,
        "shards": 2,
        "seed": 5,
        "shuffle": False,
        "drop_last": True,
    }.items():
        with pytest.raises(dp.RunMismatch, match=rf"settings\.{option}: .* -> {json.dumps(value)}"):
            train(begun, **{option: value})
    with pytest.raises(dp.RunMismatch, match=r"settings\.total_steps: 15 -> 20"):  # the cosine ends elsewhere
        train(begun, epochs=4)


def test_another_model_optimizer_or_data_is_refused_by_name(program: Any, begun: Path) -> None:
    make, loss, arrays = program
    settings: dict[str, Any] = {
        "batch_size": 10,
        "epochs": 3,
        "shards": 4,
        "seed": 11,
        "progress": False,
        "run": begun,
    }

    model, optimizer = make()
    with pytest.raises(dp.RunMismatch, match=r"data\.length: 46 -> 40"):
        dp.fit(model, loss, optimizer, arrays(40), **settings)

    model, _ = make()
    with pytest.raises(dp.RunMismatch, match=r"optimizer\.class: \"AdamW\" -> \"SGD\""):
        dp.fit(model, loss, optim.SGD(model.parameters(), lr=0.1), arrays(), **settings)

    model, _ = make()
    model.head = nn.Linear(6, 3, bias=False)
    optimizer = optim.AdamW(model.parameters(), lr=optim.Cosine(3e-2, warmup=3), clip_norm=1.0)
    with pytest.raises(dp.RunMismatch, match=r"model\.arrays\.head\.bias: \"float32\[3\]\" -> absent"):
        dp.fit(model, loss, optimizer, arrays(), **settings)


def test_shards_are_those_the_run_was_begun_with(train: Any, begun: Path) -> None:
    assert train(begun, shards=None).digest == train().digest


def test_a_changed_program_or_fingerprint_is_refused_unless_the_user_accepts(
    train: Any, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads((begun / "manifest.json").read_text())
    manifest["program"] = {"file": "train.py", "sha256": "0" * 64}
    manifest["fingerprint"]["numpy"] = "2.0.0"
    (begun / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        dp.RunMismatch,
        match=r"(?s)fingerprint numpy: 2\.0\.0 against.*program\.sha256.*DIST_DP_ACCEPT_CHANGES=1",
    ):
        train(begun)
    monkeypatch.setenv(run_directory.ACCEPT_CHANGES, "1")
    assert train(begun).step == 15
    with pytest.raises(dp.RunMismatch, match=r"settings\.seed"):
        train(begun, seed=5)


def test_comments_and_layout_do_not_make_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Main:
        __file__ = str(tmp_path / "train.py")

    monkeypatch.setitem(run_directory.sys.modules, "__main__", Main)
    seen = []
    for text in ("x = 1\n", "# a comment\nx   =  1\n", "x = 2\n"):
        (tmp_path / "train.py").write_text(text)
        seen.append(run_directory.program())
    assert seen[0] == seen[1] != seen[2]


def test_a_first_try_that_failed_does_not_stand_in_the_way(train: Any, program: Any, tmp_path: Path) -> None:
    make, _, arrays = program
    model, optimizer = make()

    def broken(model: Any, batch: Any) -> Any:
        raise KeyError("head")

    with pytest.raises(KeyError):
        dp.fit(model, broken, optimizer, arrays(), batch_size=23, run=tmp_path / "run", progress=False)
    assert train(tmp_path / "run") == train()


def test_a_run_whose_rates_know_no_end_may_be_prolonged(program: Any, tmp_path: Path) -> None:
    make, loss, arrays = program

    def run(epochs: int, directory: Path) -> dp.Result:
        model, _ = make()
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return dp.fit(
            model, loss, optimizer, arrays(), batch_size=10, epochs=epochs, run=directory, progress=False
        )

    run(1, tmp_path / "a")
    assert run(3, tmp_path / "a") == run(3, tmp_path / "b")


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    train: Any, begun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train()
    newest, before, *_ = checkpoint.available(begun / "checkpoints")
    assert newest.local is not None
    for file in ("arrays.safetensors", "manifest.json"):
        path = newest.local / file
        good = path.read_bytes()
        damaged = bytearray(good)
        damaged[len(good) // 2] ^= 1
        path.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dist_dp"):
            resumed = train(begun, checkpoint_every=0)
        assert resumed == whole
        assert newest.name in caplog.text and "going on from the one before" in caplog.text
    assert before.local is not None and before.local.exists()


def test_when_every_checkpoint_is_damaged_the_run_does_not_start_over(train: Any, begun: Path) -> None:
    for directory in checkpoint.available(begun / "checkpoints"):
        directory.write("manifest.json", [b"{}"])
    with pytest.raises(CheckpointDamaged):
        train(begun)


def test_training_goes_on_when_the_disk_is_full(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write, full = store.write_file, []

    def refuse(path: Path, chunks: Any) -> None:
        if "checkpoints" in path.parts and path.parent.name != "step-0000000015":
            full.append(path)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, chunks)

    monkeypatch.setattr(store, "write_file", refuse)
    result = train(tmp_path / "run", checkpoint_every=2)
    assert result == train()
    assert len(full) > 0
    assert "was not saved" in caplog.text and "No space left" in caplog.text
    assert checkpoint.load(checkpoint.available(tmp_path / "run" / "checkpoints")[0]).digest == result.digest


def test_a_second_process_is_refused_while_a_run_is_in_use(train: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with run_lock(tmp_path / "run" / "lock"), pytest.raises(RunInUse):
        train(tmp_path / "run")
    assert train(tmp_path / "run").step == 15


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_examples(program: Any, tmp_path: Path) -> None:
    make, loss, arrays = program
    x, y = arrays()
    x[17] = np.nan
    model, optimizer = make()
    with pytest.raises(
        dp.NonFiniteLoss, match=r"loss is nan at step \d+, shard \d+, examples \[.*17"
    ) as caught:
        dp.fit(model, loss, optimizer, (x, y), batch_size=10, shards=4, run=tmp_path / "run", progress=False)
    assert any("in step" in note for note in caught.value.__notes__)
    steps = optimizer.steps
    assert all(np.isfinite(p.data).all() for p in model.parameters())
    assert [c.name for c in checkpoint.available(tmp_path / "run" / "checkpoints")] == [
        f"step-{steps:010d}"
    ] * (steps > 0)


def test_a_directory_that_is_a_file_or_holds_no_manifest_is_refused(
    train: Any, begun: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="run must name a directory"):
        train(tmp_path / "file")
    (begun / "manifest.json").unlink()
    with pytest.raises(dp.RunMismatch, match="no manifest"):
        train(begun)
    (begun / "manifest.json").write_text("{torn")
    with pytest.raises(ValueError, match="not readable JSON"):
        train(begun)
