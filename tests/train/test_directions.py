"""Where a run lies: as it says, or below the storage that the launcher names, or nowhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dist_dp.train.directions import NOWHERE, RUN, STORAGE, directed
from dist_dp.train.run_directory import RunDirectory


def placed(run: Any) -> Any:
    return directed({"run": run})["run"]


@pytest.mark.parametrize(
    ("run", "storage", "expected"),
    [
        ("runs/a", None, "runs/a"),
        ("runs/a", "", "runs/a"),
        ("runs/a", "/shared", "/shared/runs/a"),
        ("./runs//a/", "/shared/", "/shared/runs/a"),
        (Path("runs/a"), "/shared", "/shared/runs/a"),
        ("runs/a", "s3://bucket/me", "s3://bucket/me/runs/a"),
        ("runs/a", "s3://bucket/me/", "s3://bucket/me/runs/a"),
        ("/runs/a", "/shared", "/runs/a"),
        ("/runs/a", NOWHERE, "/runs/a"),
        ("s3://bucket/a", "/shared", "s3://bucket/a"),
        ("memory://a", NOWHERE, "memory://a"),
        (None, NOWHERE, None),
        (None, "/shared", None),
    ],
)
def test_a_relative_run_lies_below_the_storage(
    run: Any, storage: str | None, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if storage is not None:
        monkeypatch.setenv(STORAGE, storage)
    assert placed(run) == expected


def test_where_there_is_no_storage_a_relative_run_is_refused_before_any_step(
    train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE, NOWHERE)
    with pytest.raises(
        ValueError, match=r"run='runs/a'.*dist-dp submit --storage DIRECTORY_OR_URL.*absolute path"
    ):
        train("runs/a")
    assert not Path("runs").exists()
    assert train(None).step == 15


def test_a_directed_run_stays_where_it_is_directed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORAGE, NOWHERE)
    monkeypatch.setenv(RUN, str(tmp_path))
    assert Path(placed("runs/a")).parent == tmp_path


def test_a_url_that_cannot_be_used_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match=r"run='abc://x/y' cannot be used: Protocol not known: abc.* s3://bucket/name"
    ):
        RunDirectory("abc://x/y")
    with pytest.raises(ValueError, match=r"a path object has lost a slash; give 's3://bucket/x'"):
        RunDirectory(Path("s3://bucket/x"))
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if it were not installed
    with pytest.raises(
        ValueError, match=r"run='gs://bucket/x' cannot be used here: .*install gcsfs.*pip install"
    ):
        RunDirectory("gs://bucket/x")


def test_what_is_no_path_is_refused() -> None:
    for wrong, error in ((3, TypeError), (b"runs", TypeError), ("", ValueError)):
        with pytest.raises(error, match="run must be the path or URL of a directory"):
            RunDirectory(wrong)  # type: ignore[arg-type]


def test_a_file_url_is_a_local_directory(tmp_path: Path) -> None:
    directory = RunDirectory(f"file://{tmp_path}/run")
    directory.create()
    assert directory.local == tmp_path / "run" and os.path.isdir(tmp_path / "run")
