"""A call of every compiled kernel: what the tests that hold for all of them call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[np.random.Generator], tuple[list[Any], list[int]]]
"""Makes arguments; says which of them are written."""

N = 1003  # no multiple of the lanes


def normal(rng: np.random.Generator, *shape: int) -> Any:
    return (3 * rng.normal(size=shape)).astype(np.float32)


def empty(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def _gated(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [normal(rng, N), empty(N), empty(N)], [1, 2]


def _gated_gradient(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [normal(rng, N), normal(rng, N), rng.random(N, np.float32), empty(N)], [3]


def _adam(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    p, g, m = (normal(rng, N) for _ in range(3))
    return [p, g, m, rng.random(N, np.float32), 0.9, 1 - 0.9, 0.999, 1 - 0.999, 1e-8, 1e-3], [0, 2, 3]


CALLS: dict[str, Call] = {
    "adam": _adam,
    **{f"{kind}_gated": _gated for kind in ("normal", "cubic", "logistic")},
    **{f"{kind}_gated_gradient": _gated_gradient for kind in ("normal", "cubic", "logistic")},
}


def results(module: Any, name: str, seed: int = 0) -> list[Any]:
    """What a kernel writes."""
    arguments, written = CALLS[name](np.random.default_rng(seed))
    getattr(module, name)(*arguments)
    return [arguments[i] for i in written]
