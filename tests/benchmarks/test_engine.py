"""The benchmarks can be started, and the engine's goes through each of its parts."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.__main__ import main as chosen
from benchmarks.engine import PARTS, main
from benchmarks.pairs import Pair
from benchmarks.tables import Point
from benchmarks.turns import ROOT, program_environment


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_takes_its_options(name: str) -> None:
    """Read, not imported: what some of them measure beside ours is not installed."""
    tree = ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    assert [argument.arg for argument in found.args.args] == ["argv"]


@pytest.mark.parametrize("part", PARTS)
def test_a_part_makes_its_tables(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    main(["--rounds", "1", "--seconds", "0.001", "--tiny", "--only", part])
    lines = capsys.readouterr().out.splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("|---")]
    assert heads
    for i in heads:
        assert lines[i - 1].count("|") == lines[i].count("|") == lines[i + 1].count("|") > 2


def test_the_plot_is_the_same_for_the_same_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import draw

    pair = Pair(1.0, 1.2, 1.2, 1.1, 1.3)
    points = [Point("steps", "mlp", pair, 1.15), *(Point("by batch", size, pair) for size in (16, 32))]
    for name in ("one", "other"):
        draw(points, tmp_path / f"{name}.svg")
    one, other = ((tmp_path / f"{name}.svg").read_bytes() for name in ("one", "other"))
    assert one == other
    assert b"by batch" in one


@pytest.mark.process
def test_the_engine_is_what_is_measured_by_default() -> None:
    command = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(command, env=program_environment(), capture_output=True, text=True, check=True)
    assert "python -m benchmarks engine" in done.stdout


def test_a_benchmark_that_there_is_not_is_told_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        chosen(["foo"])
    assert end.value.code == 2
    assert f"no benchmark 'foo'; there are {', '.join(NAMES)}" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("name", [None, "engine", "batching", "workers"])
def test_without_torch_it_is_told_how_to_install_it(name: str | None) -> None:
    program = f"""
import importlib.metadata, sys
sys.modules["torch"] = None
version = importlib.metadata.version
def without_torch(package):
    if package == "torch":
        raise importlib.metadata.PackageNotFoundError(package)
    return version(package)
importlib.metadata.version = without_torch
from benchmarks.__main__ import main
main({[name] if name else []})
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=program_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"Error: {name or 'engine'} needs torch, which is not installed: pip install '.[bench]'\n"
    )
