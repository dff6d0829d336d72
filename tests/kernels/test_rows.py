"""Kernels over rows and channels: as close to float64 as NumPy, its special values, and nothing out of bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dp import kernels, ops
from dist_dp.ops import elementwise
from dist_dp.tensor import Tensor

pytestmark = pytest.mark.skipif(
    kernels.compiled is None, reason="there was no C compiler when dist_dp was installed"
)
random = np.random.default_rng(0)
EPS = float(np.finfo(np.float32).eps)
inf, nan = np.inf, np.nan


@contextmanager
def numpy_alone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compiled", None)
        yield


def both(function: Callable[..., Any], *arrays: Any) -> tuple[list[Any], list[Any]]:
    """The result and the gradients (against a fixed random one) with the kernels, and without."""

    def once() -> list[Any]:
        leaves = [Tensor(a.copy(), requires_grad=True) for a in arrays]
        out = function(*leaves)
        g = np.random.default_rng(1).normal(size=out.shape).astype(out.dtype)
        out.backward(g)
        return [out.data, *(x.grad.data for x in leaves)]

    with_kernels = once()
    with numpy_alone():
        return with_kernels, once()


def errors(function: Callable[..., Any], *arrays: Any) -> list[tuple[float, float]]:
    """The largest distances to float64 of the result and of each gradient: with the kernels, and without."""
    exact, _ = both(function, *(a.astype(np.float64) for a in arrays))
    ours, plain = both(function, *arrays)
    return [
        tuple(float(np.abs(x - y).max(initial=0)) for x in (one, two))
        for one, two, y in zip(ours, plain, exact, strict=True)
    ]


WEIGHTS = random.normal(size=(2, 203)).astype(np.float32)
CLASSES = random.integers(0, 83, 64)
CASES: dict[str, Callable[..., Any]] = {
    "softmax": ops.softmax,
    "log_softmax": ops.log_softmax,
    "cross_entropy": lambda x: ops.cross_entropy(x, CLASSES, reduction="none"),
    "layer_norm": lambda x: ops.layer_norm(x, x.shape[1]),
    "rms_norm": lambda x: ops.rms_norm(x, x.shape[1]),
    "group_norm": lambda x: ops.group_norm(x.reshape((4, 16, -1)), 4),
    "group_norm, weights": lambda x: ops.group_norm(x.reshape((4, 16, -1)), 4, *WEIGHTS[:, :16]),
    "group_norm, 1 entry": lambda x: ops.group_norm(x, 1, *WEIGHTS[:, : x.shape[1]]),
    "instance norm": lambda x: ops.group_norm(x.reshape((16, 4, -1)), 4, *WEIGHTS[:, :4]),
    "batch_norm": lambda x: ops.batch_norm(x.reshape((4, 16, -1)))[0],
    "batch_norm, 1 channel": lambda x: ops.batch_norm(x.reshape((64, 1, -1)), *WEIGHTS[:, :1])[0],
    "attention": lambda x: ops.scaled_dot_product_attention(x, x, x, causal=True),
}


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("columns", [83, 203])
@pytest.mark.parametrize("name", CASES)
def test_as_close_to_float64_as_numpy(name: str, columns: int, size: float) -> None:
    x = (size * random.normal(size=(64, columns))).astype(np.float32)
    for ours, plain in errors(CASES[name], x):
        assert ours <= 2 * plain + 8 * EPS


def test_layer_norm_far_from_0_as_close_as_numpy() -> None:
    x = (1e6 + random.normal(size=(64, 83))).astype(np.float32)
    for ours, plain in errors(CASES["layer_norm"], x):
        assert ours <= 2 * plain


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "cross_entropy"])
@pytest.mark.parametrize("columns", [83, 203])
def test_special_values_are_numpys(name: str, columns: int) -> None:
    x = random.normal(size=(64, columns)).astype(np.float32)
    x[0], x[1, 5], x[2, 6], x[3, 7:60], x[4, :82], x[5] = -inf, nan, inf, -inf, -inf, 3e38
    x[6, ::2] = -3e38
    ours, plain = both(CASES[name], x)
    for one, two in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(np.isfinite(one), np.isfinite(two))
        np.testing.assert_array_equal(np.isnan(one), np.isnan(two))
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 9), st.integers(1, 70), st.integers(0, 99))
def test_a_row_does_not_depend_on_the_others(rows: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, n)).astype(np.float32)
    for name in ("softmax", "log_softmax"):
        whole, alone = np.empty_like(x), np.empty_like(x)
        getattr(kernels.compiled, name)(x, whole, n)
        for r in range(rows):
            getattr(kernels.compiled, name)(x[r], alone[r], n)
        np.testing.assert_array_equal(whole, alone)
    weight, moments = rng.normal(size=(2, n)).astype(np.float32), np.empty((2, rows), np.float32)
    for centred in (False, True):
        kernels.compiled.normalise(x, *weight, whole, *moments, n, 1e-5, centred)
        for r in range(rows):
            m = np.empty((2, 1), np.float32)
            kernels.compiled.normalise(x[r], *weight, alone[r], *m, n, 1e-5, centred)
        np.testing.assert_array_equal(whole, alone)


@given(st.integers(0, 9), st.integers(1, 40), st.integers(0, 99))
def test_elementwise_ones_have_numpys_bits(rows: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, both_, own = (rng.normal(size=s).astype(np.float32) for s in ((rows, n), rows, rows))
    target, d = rng.integers(0, n, rows), np.empty((rows, n), np.float32)
    kernels.compiled.cross_entropy_gradient(p, both_, own, d, target, n)
    expected = p * both_[:, None]
    expected[np.arange(rows), target] -= own
    np.testing.assert_array_equal(d, expected)
    kernels.compiled.attention_weights_gradient(d, p, own, n, 0.3)
    np.testing.assert_array_equal(d, (expected - own[:, None]) * p * np.float32(0.3))


def test_relu_has_numpys_bits() -> None:
    x, g = random.normal(size=(2, 4096 + 5)).astype(np.float32)
    x[:6], g[2:8] = [0, -0.0, nan, inf, -inf, 1e-45], [nan, inf, -inf, 0, -0.0, 1]
    out = elementwise._relu(x)
    ours = [out, elementwise._relu_gradient(g, out)]
    with numpy_alone(), np.errstate(invalid="ignore"):  # inf * 0
        plain = [elementwise._relu(x), elementwise._relu_gradient(g, out)]
        text = [np.maximum(x, 0), g * (out > 0)]
    for one, two, three in zip(ours, plain, text, strict=True):
        np.testing.assert_array_equal(two.view(np.int32), three.view(np.int32))
        np.testing.assert_array_equal(np.isnan(one), np.isnan(two))
        some = ~np.isnan(one)
        np.testing.assert_array_equal(one[some].view(np.int32), two[some].view(np.int32))


@pytest.mark.parametrize("first", [0, 3, 40])
@pytest.mark.parametrize("keys", [1, 15, 16, 31, 40])
def test_a_query_looks_at_the_keys_up_to_its_own(keys: int, first: int) -> None:
    queries = 20
    scores = random.normal(size=(3, queries, keys)).astype(np.float32)
    weights = scores.copy()
    kernels.compiled.attention_weights(weights, keys, queries, first)
    seen = np.tri(queries, keys, first, np.bool_)
    e = np.where(seen, np.exp2(scores.astype(np.float64)), 0)
    np.testing.assert_allclose(weights, e / e.sum(-1, keepdims=True), rtol=1e-6)


@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40))
def test_transposes(matrices: int, rows: int, columns: int) -> None:
    x = random.normal(size=(matrices, rows, columns)).astype(np.float32)
    out = np.empty((matrices, columns, rows), np.float32)
    kernels.compiled.transposed(x, out, rows, columns)
    np.testing.assert_array_equal(out, x.swapaxes(1, 2))


@pytest.mark.parametrize("wrong", [-1, 5, 1 << 62])
def test_indices_out_of_range_are_refused(wrong: int) -> None:
    x, rows = np.zeros((3, 5), np.float32), np.zeros(3, np.float32)
    with pytest.raises(IndexError, match="must hold indices below 5"):
        kernels.compiled.cross_entropy(x, x.copy(), rows, np.array([0, wrong, 1]), 5)
    with pytest.raises(IndexError, match="must hold indices below 5"):
        kernels.compiled.cross_entropy_gradient(x, rows, rows, x.copy(), np.array([0, 1, wrong]), 5)


def test_sizes_that_do_not_fit_are_refused() -> None:
    x, y, c = np.zeros((4, 6), np.float32), np.zeros((4, 5), np.float32), np.zeros(3, np.float32)
    w = np.zeros(4, np.float32)
    refused = [
        ("softmax", (x, y, 6)),
        ("softmax", (x, x.copy(), 0)),
        ("softmax", (x, x.copy(), -6)),
        ("softmax", (x, x.copy(), 5)),
        ("softmax_gradient", (x, y, x.copy(), 6)),
        ("attention_weights", (x, 6, 0, 0)),
        ("attention_weights", (x, 6, 4, -1)),
        ("transposed", (x, x.copy(), 0, 6)),
        ("transposed", (x, x.copy(), 3, 6)),
        ("transposed", (x, x.copy(), 1 << 62, 6)),
        ("normalise", (x, c, c, x.copy(), np.zeros(4, np.float32), np.zeros(4, np.float32), 6, 0.0, 1)),
        (
            "normalise",
            (x, y[:0], y[:0], x.copy(), np.zeros(4, np.float32), np.zeros(4, np.float32), 6, 0.0, 1),
        ),
        ("normalise_channels", (x, c[:0], c[:0], x.copy(), c[:0], c[:0], 6, 0, 0.0)),
        ("normalise_channels", (x, c, c, x.copy(), c.copy(), c.copy(), 6, 0, 0.0)),
        ("normalise_channels", (x, w, w, x.copy(), w.copy(), w.copy(), 6, 3, 0.0)),
        ("normalise_channels", (x, w, w, x.copy(), w.copy(), w.copy(), 6, -1, 0.0)),
        ("normalise_channels", (x, w, w, x.copy(), c.copy(), c.copy(), 6, 2, 0.0)),
    ]
    for name, arguments in refused:
        with pytest.raises(ValueError, match=r"must (be|have)"):
            getattr(kernels.compiled, name)(*arguments)
