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


def _elementwise(reads: int) -> Call:
    """A function of `reads` arrays that writes one."""
    return lambda rng: ([*(normal(rng, N) for _ in range(reads)), empty(N)], [reads])


def _product(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    x, y = normal(rng, 300, 17), normal(rng, 70, 300)
    return [x, y, normal(rng, 70), empty(17, 70), 17, 300, 70, 1, 1], [3]


def _product_with_packed(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    packed = empty(300, 96)
    kernels.compiled.pack(normal(rng, 300, 70), packed, 300, 70, 0)
    return [normal(rng, 17, 300), packed, normal(rng, 70), empty(17, 70), 17, 300, 70], [3]


def _adam(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    p, g, m = (normal(rng, N) for _ in range(3))
    return [p, g, m, rng.random(N, np.float32), 0.9, 1 - 0.9, 0.999, 1 - 0.999, 1e-8, 1e-3, 0.9], [0, 2, 3]


def _sgd(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [*(normal(rng, N) for _ in range(3)), 0.9, 0.8, 1e-3, 1], [0, 2]


ROWS = 17


def columns(rng: np.random.Generator) -> int:
    """The length of rows: short or long, which some kernels take differently."""
    return int(rng.choice([59, 203]))


def _rows(reads: int) -> Call:
    """A function of `reads` matrices that writes one."""

    def call(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
        n = columns(rng)
        return [*(normal(rng, ROWS, n) for _ in range(reads)), empty(ROWS, n), n], [reads]

    return call


def _cross_entropy(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    n = columns(rng)
    return [normal(rng, ROWS, n), empty(ROWS, n), empty(ROWS), rng.integers(0, n, ROWS), n], [1, 2]


def _cross_entropy_gradient(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    target = rng.integers(0, 59, ROWS)
    return [normal(rng, ROWS, 59), normal(rng, ROWS), normal(rng, ROWS), empty(ROWS, 59), target, 59], [3]


def _attention_weights(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [normal(rng, 2, 23, 59), 59, 23, 31], [0]


def _attention_weights_gradient(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    return [normal(rng, ROWS, 59), normal(rng, ROWS, 59), normal(rng, ROWS), 59, 0.3], [0]


def _normalise(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    arrays = [normal(rng, 9, 59), normal(rng, 59), normal(rng, 59), empty(9, 59)]
    return [*arrays, empty(9), empty(9), 59, 1e-5, True], [3, 4, 5]


def _normalise_gradient(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    arrays = [normal(rng, 9, 59), normal(rng, 9, 59), normal(rng, 59), normal(rng, 9), normal(rng, 9)]
    return [*arrays, empty(9, 59), empty(59), empty(59), 59, True], [5, 6, 7]


def _sets(rng: np.random.Generator) -> tuple[int, int]:
    """How many of 6 channels of 9 examples share moments (0: one of all examples), and how many sets that gives."""
    return ((0, 6), (3, 18))[rng.integers(2)]


def _normalise_channels(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    members, sets = _sets(rng)
    arrays = [normal(rng, 9, 6, 59), normal(rng, 6), normal(rng, 6), empty(9, 6, 59)]
    return [*arrays, empty(sets), empty(sets), 59, members, 1e-5], [3, 4, 5]


def _normalise_channels_gradient(rng: np.random.Generator) -> tuple[list[Any], list[int]]:
    members, sets = _sets(rng)
    arrays = [normal(rng, 9, 6, 59), normal(rng, 9, 6, 59), normal(rng, 6)]
    moments = [normal(rng, sets) for _ in range(4)]
    return [*arrays, *moments, empty(9, 6, 59), empty(6), empty(6), 59, members], [7, 8, 9]


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
    "sgd": _sgd,
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
    "gru_step_gradient": _step([4, 5, 6], 1, 3, 1, 1, 1, 3, 3),
    "product": _product,
    "product_with_packed": _product_with_packed,
    "pack": lambda rng: ([normal(rng, 300, 70), np.zeros((300, 96), np.float32), 300, 70, 0], [1]),
    "tree_step": _step([0, 3, 4, 5], 5, 1, 1, 1, 1, 1),
    "tree_step_gradient": _step([6, 7, 8], 1, 1, 5, 1, 1, 1, 5, 1, 1),
    **{f"{kind}_gated": _elementwise(1) for kind in ("normal", "cubic", "logistic")},
    **{f"{kind}_gated_gradient": _elementwise(2) for kind in ("normal", "cubic", "logistic")},
    "relu": _elementwise(1),
    "relu_gradient": _elementwise(2),
    "normalise": _normalise,
    "normalise_gradient": _normalise_gradient,
    "normalise_channels": _normalise_channels,
    "normalise_channels_gradient": _normalise_channels_gradient,
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
