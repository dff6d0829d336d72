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


ROWS = 17  # of 59 entries


def _rows(reads: int) -> Call:
    """A function of `reads` matrices that writes one."""
    return lambda rng: ([*(normal(rng, ROWS, 59) for _ in range(reads)), empty(ROWS, 59), 59], [reads])


def _cross_entropy(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [normal(rng, ROWS, 59), empty(ROWS, 59), empty(ROWS), rng.integers(0, 59, ROWS), 59], [1, 2]


def _cross_entropy_gradient(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    target = rng.integers(0, 59, ROWS)
    return [normal(rng, ROWS, 59), normal(rng, ROWS), normal(rng, ROWS), empty(ROWS, 59), target, 59], [3]


def _attention_weights(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [normal(rng, 2, 23, 59), 59, 23, 31], [0]


def _attention_weights_gradient(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [normal(rng, ROWS, 59), normal(rng, ROWS, 59), normal(rng, ROWS), 59, 0.3], [0]


def _normalise(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    arrays = [normal(rng, 9, 2, 59), normal(rng, 2, 59), normal(rng, 2, 59), empty(9, 2, 59)]
    return [*arrays, empty(9, 2), empty(9, 2), 59, 1e-5, True], [3, 4, 5]


def _normalise_gradient(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    arrays = [
        normal(rng, 9, 2, 59),
        normal(rng, 9, 2, 59),
        normal(rng, 2, 59),
        normal(rng, 9, 2),
        normal(rng, 9, 2),
    ]
    return [*arrays, empty(9, 2, 59), empty(2, 59), empty(2, 59), 59, True], [5, 6, 7]


def _batch_norm(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    arrays = [normal(rng, 9, 3, 59), normal(rng, 3), normal(rng, 3), empty(9, 3, 59)]
    return [*arrays, empty(3), empty(3), 59, 1e-5], [3, 4, 5]


def _batch_norm_gradient(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    arrays = [normal(rng, 9, 3, 59), normal(rng, 9, 3, 59), *(normal(rng, 3) for _ in range(5))]
    return [*arrays, empty(9, 3, 59), empty(3), empty(3), 59], [7, 8, 9]


def _transposed(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [normal(rng, 2, 23, 19), empty(2, 19, 23), 23, 19], [1]


CALLS: dict[str, Call] = {
    "adam": _adam,
    **{f"{kind}_gated": _gated for kind in ("normal", "cubic", "logistic")},
    **{f"{kind}_gated_gradient": _gated_gradient for kind in ("normal", "cubic", "logistic")},
    "relu": lambda rng: ([normal(rng, N), empty(N)], [1]),
    "relu_gradient": lambda rng: ([normal(rng, N), normal(rng, N), empty(N)], [2]),
    "normalise": _normalise,
    "normalise_gradient": _normalise_gradient,
    "batch_norm": _batch_norm,
    "batch_norm_gradient": _batch_norm_gradient,
    "softmax": _rows(1),
    "softmax_gradient": _rows(2),
    "log_softmax": _rows(1),
    "log_softmax_gradient": _rows(2),
    "cross_entropy": _cross_entropy,
    "cross_entropy_gradient": _cross_entropy_gradient,
    "attention_weights": _attention_weights,
    "attention_weights_gradient": _attention_weights_gradient,
    "transposed": _transposed,
}


def results(module: Any, name: str, seed: int = 0) -> list[Any]:
    """What a kernel writes."""
    arguments, written = CALLS[name](np.random.default_rng(seed))
    getattr(module, name)(*arguments)
    return [arguments[i] for i in written]
