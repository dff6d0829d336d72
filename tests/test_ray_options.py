"""The options of `dist-dp run --ray`: what makes no sense is refused before anything is started."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from dist_dp.cli import main
from dist_dp.commands.ray_run import storage_of_workers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "--backend", "tcp"], "--backend is for workers on this machine"),
        (["--storage", "runs"], "--storage is for workers on Ray; give --ray too"),
        (["--no-wait"], "--wait is for workers on Ray"),
        (["-n", "2:4"], "2:4 is for --ray"),
        (["--ray", "-n", "4:2"], "at least 4 workers are more than at most 2"),
        (["--ray", "--resources", "disk"], "'disk' is not NAME=AMOUNT"),
        (["--ray", "--resources", "CPU=2"], "give --cpus-per-worker"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text("")
    result = CliRunner().invoke(main, ["run", *options, str(script)])
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_workers_find_the_storage_whatever_directory_they_are_in() -> None:
    assert storage_of_workers("runs") == os.path.abspath("runs")
    assert storage_of_workers("") == os.getcwd()
    assert storage_of_workers("none") == "none"
