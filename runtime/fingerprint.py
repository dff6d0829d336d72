"""What decides the bits of a computation besides program, data and seed: versions, BLAS kernels, SIMD.

One run gives one answer on one build of NumPy and its BLAS and one class of CPU. The fingerprint records
these, so that a worker that would compute other bits is told apart before the first step, with the setting
that would make it agree. Matrix products change with the BLAS kernels and with the number of BLAS threads,
elementwise functions with the instruction sets NumPy uses and with the C library, ``sum`` of floats with the
version of Python (3.12).
"""

import functools
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

Fingerprint = dict[str, str | int]

# The fields that decide bits, and what to do when they differ. All others only inform.
_REMEDIES = {
    "python": "use one minor version of Python everywhere",
    "numpy": "install one version of NumPy everywhere",
    "blas": "install one build of NumPy everywhere",
    "blas_kernels": "set OPENBLAS_CORETYPE to the least of them (Haswell, say) before Python starts",
    "blas_threads": "set OPENBLAS_NUM_THREADS (MKL_NUM_THREADS, OMP_NUM_THREADS) to 1 before Python starts",
    "simd": "set NPY_DISABLE_CPU_FEATURES to those that only some hosts have before Python starts",
    "libm": "use one system image everywhere",
    "kernels": "use one version of dist_dp; the side that says numpy needs the compiled kernels (`dist-dp doctor` "
    "tells why it has none), or the side that says compiled DIST_DP_KERNELS=numpy; a run goes on only "
    "with what it was begun with",
    "machine": "use one kind of machine for a run",
    "byteorder": "use one kind of machine for a run",
}


_told: Fingerprint = {}


def tell(name: str, value: str) -> None:
    """Add a field that this module cannot find out: what the engine computes with beside NumPy."""
    _told[name] = value


def fingerprint() -> Fingerprint:
    """What this process computes with, as plain JSON values.

    ``blas_threads`` is 0 and ``blas_kernels`` is empty for a BLAS that does not tell them (Accelerate on
    macOS).

    >>> fingerprint()["byteorder"] in ("little", "big")
    True
    """
    config: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    built_with = config.get("Build Dependencies", {}).get("blas", {})
    simd = config.get("SIMD Extensions", {})
    loaded = _numpy_blas()
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "numpy": np.__version__,
        "blas": f"{built_with.get('name', 'unknown')} {loaded.get('version') or built_with.get('version')}",
        "blas_kernels": loaded.get("architecture", ""),
        "blas_threads": loaded.get("num_threads", 0),
        "simd": " ".join([*simd.get("baseline", []), *simd.get("found", [])]),
        "libm": " ".join(platform.libc_ver()).strip() or platform.release(),
        "machine": platform.machine(),
        "byteorder": sys.byteorder,
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count() or 0,
        **_told,
    }


def fingerprint_key(fingerprint: Mapping[str, str | int]) -> Fingerprint:
    """The part of a fingerprint that decides bits: two workers may share a run exactly when theirs are equal.

    >>> sorted(fingerprint_key({"numpy": "2.4.0", "cpus": 8}))
    ['numpy']
    """
    return {name: fingerprint[name] for name in _REMEDIES if name in fingerprint}


def differences(a: Mapping[str, str | int], b: Mapping[str, str | int]) -> list[str]:
    """What makes two fingerprints compute different bits: a line per field, both values and the remedy.

    >>> differences({"numpy": "2.4.0", "cpus": 8}, {"numpy": "2.3.1", "cpus": 2})
    ['numpy: 2.4.0 against 2.3.1; install one version of NumPy everywhere']
    """
    return [
        f"{name}: {a.get(name, 'unknown')} against {b.get(name, 'unknown')}; {remedy}"
        for name, remedy in _REMEDIES.items()
        if a.get(name) != b.get(name)
    ]


class PinnedThreads:
    """BLAS with a number of threads, until `restore_original_limits`."""

    def __init__(self, limiter: threadpool_limits) -> None:
        self._limiter = limiter
        blas_threads.cache_clear()

    def restore_original_limits(self) -> None:
        self._limiter.restore_original_limits()
        blas_threads.cache_clear()


def pin_blas_threads(n: int = 1) -> PinnedThreads:
    """Let every BLAS that is loaded in this process use ``n`` threads from now on, and verify that.

    Returns the limiter; ``restore_original_limits()`` on it undoes the change. A BLAS that is loaded later,
    or that cannot be seen (Accelerate on macOS), is not reached: set its environment variable for it.

    Raises
        ValueError: ``n`` below 1.
        RuntimeError: a BLAS still uses another number.

    >>> limiter = pin_blas_threads(1)
    >>> fingerprint()["blas_threads"] in (0, 1)
    True
    >>> limiter.restore_original_limits()
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n must be an int, got {n!r:.80} ({type(n).__name__})")
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    limiter = PinnedThreads(threadpool_limits(limits=n, user_api="blas"))
    unmoved = [library for library in _blas_libraries() if library["num_threads"] != n]
    if unmoved:
        limiter.restore_original_limits()
        found = ", ".join(f"{library['filepath']} uses {library['num_threads']}" for library in unmoved)
        raise RuntimeError(
            f"BLAS could not be set to {n} threads ({found}): set OPENBLAS_NUM_THREADS={n}, "
            f"MKL_NUM_THREADS={n} and OMP_NUM_THREADS={n} before Python starts"
        )
    return limiter


@functools.cache
def blas_threads() -> int:
    """How many threads NumPy's BLAS uses, 0 if it does not tell; remembered until they are pinned or restored.

    >>> pinned = pin_blas_threads(1)
    >>> blas_threads() in (0, 1)
    True
    >>> pinned.restore_original_limits()
    """
    threads: int = _numpy_blas().get("num_threads", 0)
    return threads


def _blas_libraries() -> list[dict[str, Any]]:
    return [library for library in threadpool_info() if library["user_api"] == "blas"]


def _numpy_blas() -> dict[str, Any]:
    """What threadpoolctl knows of the BLAS that NumPy calls; SciPy may have loaded another of its own."""
    libraries = _blas_libraries()
    own = [
        library
        for library in libraries
        if any(part.startswith("numpy") for part in Path(library["filepath"]).parts)
    ]
    return next(iter(own or libraries), {})
