"""A run in a store is the run in a directory: the same answer, the same lines, the same refusals."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp.train.report import NoRun, report
from dist_dp.train.run_directory import RunDirectory
from runtime.run_lock import RunInUse
from runtime.store import store_at
from runtime.store_lock import StoreLock

_numbers = itertools.count()


@pytest.fixture
def url() -> str:
    return f"memory://run-{next(_numbers)}"


def lines(run: Any) -> list[Any]:
    """What the lines say, without times; those of checkpoints come when they are written, which differs."""
    varying = ("seconds", "exchange")
    return [
        (e.kind, e.step, {name: v for name, v in e.values.items() if name not in varying})
        for e in RunDirectory(run).events()
        if e.kind in ("start", "step", "validation", "end")
    ]


def test_it_leaves_what_a_directory_holds(train: Any, tmp_path: Path, url: str) -> None:
    assert train(url, checkpoint_every=5) == train(tmp_path / "run", checkpoint_every=5) == train()
    assert lines(url) == lines(tmp_path / "run")
    there, here = report(url), report(tmp_path / "run")
    for section in ("status", "step", "total_steps", "metrics", "digest", "model", "settings", "problems"):
        assert there[section] == here[section]


def test_it_goes_on_where_it_stopped(train: Any, url: str) -> None:
    whole = train()
    for steps in (4, 9):
        with pytest.raises(RuntimeError, match="stop here"):
            train(url, checkpoint_every=1, sinks=[_Stop(steps)])
    assert train(url) == whole
    steps = [step for kind, step, _ in lines(url) if kind == "step"]
    assert steps == list(range(1, 16))


class _Stop:
    def __init__(self, step: int) -> None:
        self._step = step

    def emit(self, event: Any) -> None:
        if event.kind == "step" and event.step == self._step:
            raise RuntimeError("stop here")

    def close(self) -> None:
        pass


def test_another_run_is_refused_by_name(train: Any, url: str) -> None:
    train(url)
    with pytest.raises(dp.RunMismatch, match=rf"{url} holds a run.*\n  settings\.seed: 11 -> 5"):
        train(url, seed=5)


def test_a_second_launch_is_refused_while_it_is_in_use(
    train: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StoreLock(store_at(url), "another launch", every=0.05):
        with pytest.raises(RunInUse, match=rf"{url} is held by process \d+ on .*: wait until it ends"):
            train(url)
        assert store_at(url).names() == ["lock"], "nothing was written"
    assert train(url).step == 15


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    train: Any, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole, store = train(url, checkpoint_every=5), store_at(url)
    newest = f"checkpoints/{max(store.names('checkpoints'))}"
    (file,) = [name for name in store.names(newest) if name.endswith(".safetensors")]
    content = bytearray(store.read(f"{newest}/{file}"))
    content[len(content) // 2] ^= 1
    store.write(f"{newest}/{file}", [content])
    assert report(url)["problems"]
    with caplog.at_level(logging.WARNING, "dist_dp"):
        assert train(url) == whole
    assert newest in caplog.text and "going on from the one before" in caplog.text
    assert np.isfinite(list(whole.metrics.values())).all()


def test_a_place_without_a_run_is_told(url: str) -> None:
    with pytest.raises(NoRun, match=rf"{url} is no run directory: it holds no manifest\.json"):
        report(url)
    with pytest.raises(NoRun, match="Protocol not known"):
        report("abc://x")
