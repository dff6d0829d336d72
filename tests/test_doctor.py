"""`dist-dp doctor`: what decides the bits here, and what is wrong."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dist_dp import __version__
from dist_dp.cli import main
from dist_dp.kernels import build


def command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_doctor_tells_what_decides_bits_here() -> None:
    result = command("doctor", "--json")
    found = json.loads(result.output)
    assert result.exit_code == 0
    assert found["wrong"] == []
    assert found["versions"]["dist_dp"] == __version__
    assert set(found["extras"]) == {"ray", "mpi4py"}
    assert found["fingerprint"]["byteorder"] == sys.byteorder
    assert 1 <= found["cores"]["available"] <= found["cores"]["logical"]
    assert found["extras"]["mpi4py"] is None or "MPI" in found["mpi"]["library"]
    shown = command("doctor").output
    for name in (
        *found["versions"],
        *found["fingerprint"],
        *found["threads"],
        *found["cores"],
        "ray",
        "mpi4py",
    ):
        assert name in shown


def test_doctor_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(n: int) -> None:
        raise RuntimeError("BLAS could not be set to 1 threads")

    monkeypatch.setattr("runtime.fingerprint.pin_blas_threads", refuse)
    monkeypatch.setattr("dist_dp.commands.doctor._CORE", ("numpy", "no-such-package"))
    result = command("doctor")
    assert result.exit_code == 1
    assert "Error: no-such-package is not installed\n" in result.output
    assert "Error: wrong: BLAS could not be set to 1 threads\n" in result.output


@pytest.mark.parametrize(
    ("compiled", "why_not", "said"),
    [
        (None, "DIST_DP_KERNELS=numpy", "NumPy: DIST_DP_KERNELS=numpy"),
        (None, "not compiled when dist_dp was installed: ...", "NumPy: not compiled when"),
        (None, "cannot be loaded: file too short", "wrong: NumPy: cannot be loaded: file too short"),
        (SimpleNamespace(source=build.digest()), "", "ok: compiled"),
        (SimpleNamespace(source="old"), "", "wrong: stale, compiled from other sources (old) than those"),
    ],
)
def test_doctor_has_a_verdict_on_the_kernels(
    compiled: Any, why_not: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dist_dp.kernels.compiled", compiled)
    monkeypatch.setattr("dist_dp.kernels.why_not", why_not)
    result = command("doctor", "--json")
    found = json.loads(result.output)
    assert found["kernels"].startswith(said)
    assert found["wrong"] == ([found["kernels"]] if said.startswith("wrong") else [])
