"""A call of every compiled kernel: what the tests that hold for all of them call."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dist_dp import kernels
from dist_dp.ops import direct
from dist_dp.ops.geometry import Geometry

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


def _direct(function: Callable[..., Any], *shapes: tuple[int, ...], written: list[int]) -> Call:
    """The arguments with which a convolution of `ops/direct.py` calls its kernel."""

    def call(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
        arrays = [normal(rng, *shape) for shape in shapes]
        calls: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            recorder = SimpleNamespace(
                correlate=lambda *a: calls.append(a), correlate_weights=lambda *a: calls.append(a)
            )
            patch.setattr(kernels, "compiled", recorder)
            function(*arrays)
        for i in (*written, -1):  # the last is memory for the kernel
            calls[0][i][:] = 0
        return list(calls[0]), written

    return call


_GEOMETRY = Geometry((2, 1), ((1, 0), (2, 2)), (1, 2), 2)


def _unpool(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    layout = np.array([3, 7, 9, 3, 3, 2, 3, 2, 3, 1, 1], np.int64)
    return [layout, normal(rng, 3, 7, 9), normal(rng, 3, 3, 3), normal(rng, 3, 3, 3), empty(3, 7, 9)], [4]


def _add_rows(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [normal(rng, 5, 19), rng.integers(-5, 5, 33), normal(rng, 33, 19)], [0]


BATCH, HIDDEN = 3, 37


def _step(written: list[int], *widths: int | None) -> Call:
    """A step of a recurrent network: arrays of BATCH rows of so many units each, and for None one without rows."""

    def call(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
        shapes = [(HIDDEN,) if width is None else (BATCH, width * HIDDEN) for width in widths]
        return [*(normal(rng, *shape) for shape in shapes), HIDDEN], written

    return call


CALLS: dict[str, Call] = {
    "adam": _adam,
    "add_rows": _add_rows,
    "unpool": _unpool,
    "correlate": _direct(
        lambda x, w, b: direct.convolve(x, w, b, _GEOMETRY),
        (3, 4, 9, 17),
        (20, 2, 3, 2),
        (20,),
        written=[7],
    ),
    "correlate_weights": _direct(
        lambda x, g: direct.weight_gradient(x, g, (3, 2), _GEOMETRY),
        (3, 4, 9, 17),
        (3, 20, 4, 19),
        written=[5],
    ),
    "lstm_step": _step([1, 3, 4, 5], 4, 4, 1, 1, 1, 1),
    "lstm_step_gradient": _step([5, 6], 1, 1, 4, 1, 1, 1, 4),
    "gru_step": _step([2, 4, 5], 3, None, 3, 1, 1, 1),
    "gru_step_gradient": _step([4, 5], 1, 3, 1, 1, 1, 4),
    "tree_step": _step([0, 3, 4, 5], 5, 1, 1, 1, 1, 1),
    "tree_step_gradient": _step([6, 7, 8], 1, 1, 5, 1, 1, 1, 5, 1, 1),
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
