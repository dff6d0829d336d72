"""`nn.functional`: torch's names where they differ from the operations, and modules as their functions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dp import nn
from dist_dp.nn import functional as F

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6)) * 3


def _elu(x: Any, alpha: float) -> Any:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _softmax(x: Any, axis: int) -> Any:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


MODULES: list[tuple[nn.Module, Any]] = [
    (nn.ReLU(), np.maximum(X, 0)),
    (nn.ReLU6(), np.clip(X, 0, 6)),
    (nn.LeakyReLU(0.2), np.where(X > 0, X, 0.2 * X)),
    (nn.PReLU(1, 0.3, np.float64), np.where(X > 0, X, 0.3 * X)),
    (nn.ELU(0.7), _elu(X, 0.7)),
    (nn.CELU(0.7), _elu(X / 0.7, 1.0) * 0.7),
    (nn.SELU(), 1.0507009873554805 * _elu(X, 1.6732632423543772)),
    (nn.GELU("tanh"), X / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (X + 0.044715 * X**3)))),
    (nn.SiLU(), X * _sigmoid(X)),
    (nn.Mish(), X * np.tanh(np.log1p(np.exp(X)))),
    (nn.Sigmoid(), _sigmoid(X)),
    (nn.LogSigmoid(), np.log(_sigmoid(X))),
    (nn.Tanh(), np.tanh(X)),
    (nn.Softplus(2.0), np.log1p(np.exp(2 * X)) / 2),
    (nn.Softsign(), X / (1 + np.abs(X))),
    (nn.Hardtanh(-0.5, 0.7), np.clip(X, -0.5, 0.7)),
    (nn.Hardsigmoid(), np.clip(X + 3, 0, 6) / 6),
    (nn.Hardswish(), X * np.clip(X + 3, 0, 6) / 6),
    (nn.Softmax(1), _softmax(X, 1)),
    (nn.Softmin(0), _softmax(-X, 0)),
    (nn.LogSoftmax(-1), np.log(_softmax(X, 1))),
    (nn.GLU(), X[:, :3] * _sigmoid(X[:, 3:])),
]


@pytest.mark.parametrize(("module", "expected"), [pytest.param(m, e, id=repr(m)) for m, e in MODULES])
def test_activations(module: nn.Module, expected: Any) -> None:
    np.testing.assert_allclose(module(X).data, expected, rtol=1e-10, atol=1e-12)
    assert module(X.astype(np.float32)).dtype in (np.float32, np.result_type(np.float32, expected.dtype))


def test_gelu_is_x_times_the_normal_distribution() -> None:
    draws = np.random.default_rng(1).normal(size=400_000)
    for x in (-1.0, 0.5, 2.0):
        assert abs(F.gelu(np.array(x)).item() - x * (draws < x).mean()) < 5e-3


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=3))
def test_pad_counts_axes_from_the_last(widths: list[tuple[int, int]]) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    flat = [w for pair in widths for w in pair]
    expected = np.pad(x, [(0, 0)] * (3 - len(widths)) + widths[::-1], constant_values=7)
    np.testing.assert_array_equal(F.pad(x, flat, value=7.0).data, expected)


@pytest.mark.parametrize(
    ("mode", "numpys"), [("reflect", "reflect"), ("replicate", "edge"), ("circular", "wrap")]
)
def test_modes_of_pad(mode: str, numpys: Any) -> None:
    x = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(F.pad(x, (1, 2), mode).data, np.pad(x, [(0, 0), (1, 2)], mode=numpys))


def test_one_hot_holds_integers() -> None:
    out = F.one_hot(np.array([[0, 2]]), 4)
    assert out.dtype == np.int64
    np.testing.assert_array_equal(out.data, np.eye(4, dtype=int)[[[0, 2]]])


def test_batch_norm_reads_statistics_and_writes_none() -> None:
    mean, var = np.array([1.0, 2.0]), np.array([4.0, 9.0])
    x = RNG.normal(size=(5, 2))
    np.testing.assert_allclose(F.batch_norm(x, mean, var, eps=0.0).data, (x - mean) / np.sqrt(var))
    F.batch_norm(x, mean, var, training=True)
    assert mean.tolist() == [1.0, 2.0]


def test_norms_take_torchs_arguments() -> None:
    x = RNG.normal(size=(2, 4, 3))
    np.testing.assert_array_equal(F.layer_norm(x, (3,)).data, nn.LayerNorm(3, dtype=np.float64)(x).data)
    np.testing.assert_array_equal(F.rms_norm(x, (3,)).data, nn.RMSNorm(3, dtype=np.float64)(x).data)
    np.testing.assert_array_equal(F.group_norm(x, 2).data, nn.GroupNorm(2, 4, dtype=np.float64)(x).data)


def test_attention_along_any_leading_axes() -> None:
    q, k, v = RNG.normal(size=(2, 3, 4)), RNG.normal(size=(2, 5, 4)), RNG.normal(size=(2, 5, 6))
    mask = RNG.random((3, 5)) < 0.7
    mask[:, 0] = True
    scores = np.where(mask, np.einsum("nld,nsd->nls", q, k) * 0.3, -np.inf)
    expected = _softmax(scores, -1) @ v
    np.testing.assert_allclose(F.scaled_dot_product_attention(q, k, v, mask, scale=0.3).data, expected)
    explicit = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=1e-9, scale=0.3)
    np.testing.assert_allclose(explicit.data, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: F.pad(X, (1,)), r"pad must hold two widths for each of up to 2 axes, got \(1,\)"),
        (lambda: F.pad(X, (1,) * 6), "pad must hold two widths"),
        (lambda: F.pad(X, (1, 1), "mirror"), "mode must be one of .* got 'mirror'"),
        (lambda: F.hardtanh(X, 1.0, 1.0), "min_val must be below max_val"),
        (lambda: F.glu(X, 2), "axis dim=2 must exist and have an even length"),
        (lambda: F.dropout(X, 1.5), "p must be a probability between 0 and 1"),
        (
            lambda: F.cosine_similarity(X, X[:2]),
            "cosine_similarity: input and target must have the same shape",
        ),
    ],
)
def test_what_functions_refuse(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
