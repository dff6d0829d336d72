"""The compiled steps of recurrent networks against those in NumPy: values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dist_dp import kernels, ops
from dist_dp.backward import backward
from dist_dp.ops.tree import tree_lstm
from dist_dp.tensor import Tensor

pytestmark = pytest.mark.skipif(
    kernels.compiled is None, reason="there was no C compiler when dist_dp was installed"
)

N, H, F, T = 5, 19, 7, 6
LENGTHS = np.array([6, 0, 3, 1, 6])


def _lstm(**options: Any) -> Callable[..., Any]:
    return lambda x, w, u, b, h, c: ops.lstm(x, w, u, b, b, h, c, **options)


def _gru(**options: Any) -> Callable[..., Any]:
    return lambda x, w, u, b, h: ops.gru(x, w, u, b, b, h, **options)


def _recurrent(gates: int, states: int) -> list[tuple[int, ...]]:
    return [(T, N, F), (gates * H, F), (gates * H, H), (gates * H,), *[(N, H)] * states]


CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "lstm": (_lstm(), _recurrent(4, 2)),
    "lstm lengths": (_lstm(lengths=LENGTHS, reverse=True), _recurrent(4, 2)),
    "gru": (_gru(), _recurrent(3, 1)),
    "gru lengths": (_gru(lengths=LENGTHS), _recurrent(3, 1)),
    "gru biases that are every second number": (
        lambda x, w, u, b: ops.gru(x, w, u, b[::2], b[::2]),
        [*_recurrent(3, 0)[:3], (6 * H,)],
    ),
    "gru without biases": (lambda x, w, u: ops.gru(x, w, u), _recurrent(3, 0)[:3]),
    "cell": (ops.lstm_cell, [(2, N, 4 * H), (2, N, H)]),
    "tree": (
        lambda x, hl, cl, hr, cr, wl, wr: tree_lstm(x, (hl, cl), (hr, cr), wl, wr),
        [(N, 5 * H), *[(N, H)] * 4, (5 * H, H), (5 * H, H)],
    ),
    "tree right": (
        lambda x, h, c, w: tree_lstm(x, None, (h, c), w.detach(), w),
        [(5 * H,), (H,), (H,), (5 * H, H)],
    ),
    "leaf": (lambda x, w: tree_lstm(x + 0 * w[:, 0], None, None, w, w), [(5 * H,), (5 * H, H)]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_compiled_steps_agree_with_numpy(name: str) -> None:
    fn, shapes = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [(0.5 * rng.normal(size=shape)).astype(np.float32) for shape in shapes]

    def computed() -> list[Any]:
        inputs = [Tensor(a, requires_grad=True) for a in arrays]
        outs = fn(*inputs)
        random = np.random.default_rng(1)
        roots = [(o.node, random.normal(size=o.shape).astype(np.float32)) for o in outs]
        return [*(o.data for o in outs), *backward(roots, targets=[x.node for x in inputs])]

    compiled = computed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compiled", None)
        plain = computed()
    for one, two in zip(compiled, plain, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
