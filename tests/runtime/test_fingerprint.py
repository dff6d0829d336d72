"""The fingerprint tells apart what computes other bits, and says how to make it agree."""

import json
import os
import platform
import subprocess
import sys
from typing import Any

import pytest
import threadpoolctl  # type: ignore[import-untyped]

from runtime import fingerprint as module
from runtime.fingerprint import differences, fingerprint, fingerprint_key, pin_blas_threads

INFORMS = {"python_version", "platform", "cpus"}


def loaded_blas() -> list[dict[str, Any]]:
    return [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


def test_it_is_plain_json_and_splits_in_what_decides_and_what_informs() -> None:
    found = fingerprint()
    assert json.loads(json.dumps(found)) == found
    assert set(found) - set(fingerprint_key(found)) == INFORMS
    assert all(found[name] != "" for name in ("python", "numpy", "blas", "simd", "libm", "machine"))


def test_only_what_decides_bits_makes_a_difference() -> None:
    here = fingerprint()
    assert differences(here, dict(here)) == []
    for name, value in here.items():
        there = {**here, name: f"not {value}"}
        lines = differences(here, there)
        if name in INFORMS:
            assert lines == []
        else:
            assert len(lines) == 1
            assert lines[0].startswith(f"{name}: {value} against not {value}; ")
        assert (fingerprint_key(here) == fingerprint_key(there)) == (name in INFORMS)


def test_a_missing_field_is_a_difference() -> None:
    here = fingerprint()
    without = {name: value for name, value in here.items() if name != "simd"}
    assert [line.split(":")[0] for line in differences(without, here)] == ["simd"]
    assert "unknown against" in differences(without, here)[0]


def test_threads_are_pinned_and_given_back() -> None:
    before = [library["num_threads"] for library in loaded_blas()]
    limiter = pin_blas_threads(2)
    again = pin_blas_threads(1)
    assert [library["num_threads"] for library in loaded_blas()] == [1] * len(before)
    assert fingerprint()["blas_threads"] == (1 if before else 0)
    again.restore_original_limits()
    assert [library["num_threads"] for library in loaded_blas()] == [2] * len(before)
    limiter.restore_original_limits()
    assert [library["num_threads"] for library in loaded_blas()] == before


def test_a_blas_that_does_not_obey_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = pin_blas_threads(2)
    deaf = {"user_api": "blas", "num_threads": 8, "filepath": "/lib/libdeaf.so"}
    monkeypatch.setattr(module, "threadpool_info", lambda: [deaf])
    with pytest.raises(
        RuntimeError, match=r"libdeaf\.so uses 8.*OPENBLAS_NUM_THREADS=1.*before Python starts"
    ):
        pin_blas_threads(1)
    assert {library["num_threads"] for library in loaded_blas()} <= {2}  # as before the attempt
    limiter.restore_original_limits()


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        pin_blas_threads(0)


def test_numpys_own_blas_is_taken_among_several(monkeypatch: pytest.MonkeyPatch) -> None:
    def blas(path: str, architecture: str) -> dict[str, Any]:
        return {
            "user_api": "blas",
            "num_threads": 1,
            "filepath": path,
            "architecture": architecture,
            "version": "1",
        }

    libraries = [
        {"user_api": "openmp", "num_threads": 2, "filepath": "/site-packages/numpy.libs/libgomp.so"},
        blas("/site-packages/scipy.libs/libopenblas.so", "Zen"),
        blas("/site-packages/numpy.libs/libopenblas.so", "Haswell"),
    ]
    monkeypatch.setattr(module, "threadpool_info", lambda: libraries)
    assert fingerprint()["blas_kernels"] == "Haswell"
    monkeypatch.setattr(module, "threadpool_info", lambda: libraries[:2])
    assert fingerprint()["blas_kernels"] == "Zen"
    monkeypatch.setattr(module, "threadpool_info", list)
    assert fingerprint()["blas_threads"] == 0


@pytest.mark.process
@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64")
    or not any(library["internal_api"] == "openblas" for library in loaded_blas()),
    reason="needs OpenBLAS with kernels for several x86 CPUs",
)
def test_the_kernels_in_use_are_told() -> None:
    script = "from runtime.fingerprint import fingerprint; print(fingerprint()['blas_kernels'])"
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Nehalem", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (result.stdout.strip(), result.returncode) == ("Nehalem", 0), result.stderr


def test_of_kernels_it_is_told_which_side_is_to_change() -> None:
    (told,) = differences({"kernels": "compiled abc"}, {"kernels": "numpy"})
    assert "the side that says numpy needs the compiled kernels" in told
    assert "or the side that says compiled DIST_DP_KERNELS=numpy" in told
    assert told.endswith("a run goes on only with what it was begun with")
