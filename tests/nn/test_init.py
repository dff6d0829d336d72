"""Initialisers: the moments and bounds of what they draw, fixed by the seed; defaults of the layers."""

import math
from typing import Any

import numpy as np
import pytest

from dist_dp import nn, random
from dist_dp.nn import init
from dist_dp.random import Key, Stream


@pytest.fixture(autouse=True)
def _scope() -> Any:
    with random.scope(Key(0)):
        yield


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(np.zeros(shape, np.float32))


def _is_uniform(values: Any, bound: float) -> None:
    """Within ±bound, up to it, with the mean and variance bound²/3 of the uniform distribution."""
    n = values.size
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    assert np.abs(values).max() >= bound * (1 - 20 / n)
    assert abs(values.mean()) < 5 * bound / math.sqrt(3 * n)
    assert abs(values.var() / (bound**2 / 3) - 1) < 5 / math.sqrt(n)


def _is_normal(values: Any, std: float) -> None:
    n = values.size
    assert abs(values.mean()) < 5 * std / math.sqrt(n)
    assert abs(values.var() / std**2 - 1) < 5 * math.sqrt(2 / n)
    assert abs((np.abs(values) > 2 * std).mean() - 0.0455) < 5 * math.sqrt(0.0455 / n)


SHAPE = (60, 20, 3, 2)  # fan_in 120, fan_out 360

UNIFORM = [
    (lambda w: init.uniform_(w, -0.3, 0.3), 0.3),
    (init.xavier_uniform_, math.sqrt(6 / 480)),
    (lambda w: init.xavier_uniform_(w, gain=2.0), 2 * math.sqrt(6 / 480)),
    (init.kaiming_uniform_, math.sqrt(2) * math.sqrt(3 / 120)),
    (lambda w: init.kaiming_uniform_(w, a=math.sqrt(5)), 1 / math.sqrt(120)),
    (lambda w: init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu"), math.sqrt(2 * 3 / 360)),
    (lambda w: init.kaiming_uniform_(w, nonlinearity="tanh"), 5 / 3 * math.sqrt(3 / 120)),
]
NORMAL = [
    (init.normal_, 1.0),
    (lambda w: init.normal_(w, std=0.02), 0.02),
    (init.xavier_normal_, math.sqrt(2 / 480)),
    (init.kaiming_normal_, math.sqrt(2 / 120)),
    (lambda w: init.kaiming_normal_(w, a=1.0, mode="fan_out"), math.sqrt(1 / 360)),
]


@pytest.mark.parametrize(("fill", "bound"), UNIFORM)
def test_uniform_initialisers(fill: Any, bound: float) -> None:
    weight = _weight(*SHAPE)
    assert fill(weight) is weight
    _is_uniform(weight.data, bound)


@pytest.mark.parametrize(("fill", "std"), NORMAL)
def test_normal_initialisers(fill: Any, std: float) -> None:
    weight = _weight(*SHAPE)
    assert fill(weight) is weight
    _is_normal(weight.data, std)


def test_truncated_normal() -> None:
    values = init.trunc_normal_(_weight(100, 100), mean=1.0, std=0.5, a=0.5, b=2.0).data
    assert values.min() >= 0.5 and values.max() <= 2.0
    # Mean and variance of a normal distribution between -1 and 2 standard deviations.
    density = lambda z: math.exp(-z * z / 2) / math.sqrt(2 * math.pi)  # noqa: E731
    mass = 0.5 * (math.erf(2 / math.sqrt(2)) + math.erf(1 / math.sqrt(2)))
    shift = (density(-1) - density(2)) / mass
    spread = 1 + (-density(-1) - 2 * density(2)) / mass - shift**2
    assert abs(values.mean() - (1 + 0.5 * shift)) < 0.01
    assert abs(values.var() / (0.25 * spread) - 1) < 0.05


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5), (3, 2, 4)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    flat = init.orthogonal_(_weight(*shape), gain=2.0).data.reshape(shape[0], -1)
    small = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-5)


def test_an_orthogonal_matrix_is_drawn_evenly() -> None:
    """Without fixing the signs of QR, the first entry would almost always be negative."""
    first = [init.orthogonal_(_weight(2, 2)).data[0, 0] for _ in range(200)]
    assert 60 < sum(v > 0 for v in first) < 140


def test_constants() -> None:
    assert (init.zeros_(init.ones_(_weight(3))).data == 0).all()
    assert (init.constant_(_weight(3), 2.5).data == 2.5).all()
    np.testing.assert_array_equal(init.eye_(_weight(2, 3)).data, np.eye(2, 3))
    kernel = init.dirac_(_weight(3, 3, 5)).data
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    np.testing.assert_array_equal(nn.functional.conv1d(x, kernel, padding=2).data, x)


def test_values_are_a_function_of_the_seed_and_the_order() -> None:
    def model() -> Any:
        with random.scope(Key(3)):
            return nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2)).state_dict()

    for a, b in zip(model().values(), model().values(), strict=True):
        np.testing.assert_array_equal(a, b)
    with random.scope(Key(3)):
        one, two = nn.Linear(3, 4), nn.Linear(3, 4)
    assert (one.weight.data != two.weight.data).any()
    stream = init.normal_(_weight(5), rng=Stream(Key(1))).data
    np.testing.assert_array_equal(stream, init.normal_(_weight(5), rng=Stream(Key(1))).data)


DEFAULTS = [
    (lambda: nn.Linear(100, 300), 0.1, ("weight", "bias")),
    (lambda: nn.Conv1d(20, 300, 5), 0.1, ("weight", "bias")),
    (lambda: nn.Conv2d(8, 300, 5, groups=2), 0.1, ("weight", "bias")),
    (lambda: nn.ConvTranspose2d(300, 4, 5), 0.1, ("weight",)),
    (lambda: nn.Bilinear(100, 30, 300), 0.1, ("weight", "bias")),
    (lambda: nn.LSTM(30, 100), 0.1, ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")),
    (lambda: nn.GRUCell(30, 100), 0.1, ("weight_ih", "weight_hh", "bias_ih", "bias_hh")),
    (lambda: nn.ChildSumTreeLSTMCell(30, 100), 0.1, ("weight_ih", "weight_hh", "weight_fh", "bias")),
    (lambda: nn.BinaryTreeLSTMCell(30, 100), 0.1, ("weight_ih", "weight_left", "weight_right", "bias")),
    (lambda: nn.MultiheadAttention(100, 2), math.sqrt(6 / 400), ("in_proj_weight",)),
    (lambda: nn.MultiheadAttention(100, 2, kdim=50), math.sqrt(6 / 150), ("k_proj_weight",)),
]


@pytest.mark.parametrize(("make", "bound", "names"), DEFAULTS)
def test_layers_start_as_torchs_do(make: Any, bound: float, names: tuple[str, ...]) -> None:
    state = make().state_dict()
    for name in names:
        _is_uniform(state[name], bound)


def test_the_other_defaults() -> None:
    _is_normal(nn.Embedding(200, 50).weight.data, 1.0)
    state = nn.MultiheadAttention(8, 2).state_dict()
    assert (state["in_proj_bias"] == 0).all() and (state["out_proj.bias"] == 0).all()
    assert (nn.PReLU(3).weight.data == 0.25).all()
    norm = nn.LayerNorm(3).state_dict()
    assert (norm["weight"] == 1).all() and (norm["bias"] == 0).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: init.xavier_uniform_(_weight(3)),
            ValueError,
            r"must have at least 2 axes.*got shape \(3,\)",
        ),
        (lambda: init.orthogonal_(_weight(3)), ValueError, "must have at least 2 axes"),
        (lambda: init.eye_(_weight(3)), ValueError, "must have 2 axes"),
        (lambda: init.dirac_(_weight(3, 3)), ValueError, "must have 3 to 5 axes"),
        (
            lambda: init.kaiming_normal_(_weight(3, 3), mode="fan"),
            ValueError,
            "mode must be 'fan_in' or 'fan_out'",
        ),  # type: ignore[arg-type]
        (lambda: init.calculate_gain("gelu"), ValueError, "nonlinearity must be one of .* got 'gelu'"),
        (lambda: init.uniform_(_weight(3), 1.0, 0.0), ValueError, "low must be at most high"),
        (lambda: init.normal_(_weight(3), std=-1.0), ValueError, "std must not be negative"),
        (lambda: init.trunc_normal_(_weight(3), a=8.0, b=9.0), ValueError, r"\[a, b\] must hold a part"),
        (lambda: init.trunc_normal_(_weight(3), std=0.0), ValueError, "std must be positive, got 0.0"),
        (lambda: init.zeros_(np.zeros(3)), TypeError, "tensor must be a Tensor, got ndarray"),
    ],
)
def test_what_initialisers_refuse(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_gains() -> None:
    gains = [init.calculate_gain(n) for n in ("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu")]
    np.testing.assert_allclose(gains, [1, 1, 5 / 3, math.sqrt(2), math.sqrt(2 / 1.0001), 0.75])
