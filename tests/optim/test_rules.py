"""Every update rule against its formula, written down once more in float64 for one parameter at a time."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optim.problem import IDS, RULES, gradients, parameters

from dist_dp import optim
from dist_dp.optim.clip import NORM_BLOCK

State = dict[str, Any]


def sgd(p: Any, g: Any, s: State, t: int, lr: float, h: dict[str, Any]) -> Any:
    g = g + h["weight_decay"] * p
    if h["momentum"] == 0:
        return p - lr * g
    s["momentum_buffer"] = g if t == 1 else h["momentum"] * s["momentum_buffer"] + (1 - h["dampening"]) * g
    return p - lr * (g + h["momentum"] * s["momentum_buffer"] if h["nesterov"] else s["momentum_buffer"])


def moments(g: Any, s: State, t: int, h: dict[str, Any]) -> Any:
    b1, b2 = h["betas"]
    s["exp_avg"] = b1 * s.get("exp_avg", 0) + (1 - b1) * g
    s["exp_avg_sq"] = b2 * s.get("exp_avg_sq", 0) + (1 - b2) * g**2
    return s["exp_avg"] / (1 - b1**t) / (np.sqrt(s["exp_avg_sq"] / (1 - b2**t)) + h["eps"])


def adam(p: Any, g: Any, s: State, t: int, lr: float, h: dict[str, Any]) -> Any:
    return p - lr * moments(g + h["weight_decay"] * p, s, t, h)


def adamw(p: Any, g: Any, s: State, t: int, lr: float, h: dict[str, Any]) -> Any:
    return p - lr * h["weight_decay"] * p - lr * moments(g, s, t, h)


def lamb(p: Any, g: Any, s: State, t: int, lr: float, h: dict[str, Any]) -> Any:
    u = moments(g, s, t, h) + h["weight_decay"] * p
    length, norm = np.sqrt(np.sum(p**2)), np.sqrt(np.sum(u**2))
    return p - lr * (length / norm if length > 0 and norm > 0 else 1) * u


def rmsprop(p: Any, g: Any, s: State, t: int, lr: float, h: dict[str, Any]) -> Any:
    g = g + h["weight_decay"] * p
    s["square_avg"] = h["alpha"] * s.get("square_avg", 0) + (1 - h["alpha"]) * g**2
    variance = s["square_avg"]
    if h["centered"]:
        s["grad_avg"] = h["alpha"] * s.get("grad_avg", 0) + (1 - h["alpha"]) * g
        variance = variance - s["grad_avg"] ** 2
    d = g / (np.sqrt(variance) + h["eps"])
    if h["momentum"]:
        d = s["momentum_buffer"] = h["momentum"] * s.get("momentum_buffer", 0) + d
    return p - lr * d


def adagrad(p: Any, g: Any, s: State, t: int, lr: float, h: dict[str, Any]) -> Any:
    g = g + h["weight_decay"] * p
    s["sum"] = s.get("sum", h["initial_accumulator_value"]) + g**2
    return p - lr / (1 + (t - 1) * h["lr_decay"]) * g / (np.sqrt(s["sum"]) + h["eps"])


def lion(p: Any, g: Any, s: State, t: int, lr: float, h: dict[str, Any]) -> Any:
    b1, b2 = h["betas"]
    m = s.get("exp_avg", 0)
    s["exp_avg"] = b2 * m + (1 - b2) * g
    return p - lr * (np.sign(b1 * m + (1 - b1) * g) + h["weight_decay"] * p)


FORMULAS: dict[type, Callable[..., Any]] = {
    optim.SGD: sgd,
    optim.Adam: adam,
    optim.AdamW: adamw,
    optim.RMSprop: rmsprop,
    optim.Adagrad: adagrad,
    optim.Lion: lion,
    optim.LAMB: lamb,
}

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=6)


@pytest.mark.parametrize(("kind", "options"), RULES, ids=IDS)
@settings(max_examples=15)
@given(data=st.data(), shapes=shapes)
def test_a_rule_is_its_formula(
    kind: type[optim.Optimizer], options: dict[str, Any], data: Any, shapes: Any
) -> None:
    """For any shapes, groups, learning rates, clipping and participation, in parameters, state and update counts."""
    params = parameters(shapes, np.float64)
    n = len(params)
    cut = data.draw(st.integers(0, n - 1))
    other = {**options, "lr": options["lr"] / 3}
    groups = [{"params": params[:cut], **options}, {"params": params[cut:], **other}]
    clip_norm = data.draw(st.sampled_from([None, 0.5, 1e6]))
    clip_value = data.draw(st.sampled_from([None, 0.75]))
    optimizer = kind(
        [g for g in groups if g["params"]], **options, clip_norm=clip_norm, clip_value=clip_value
    )
    expected = [p.data.copy() for p in params]
    states: list[State] = [{} for _ in params]
    counts = [0] * n
    for step in range(data.draw(st.integers(1, 4))):
        touched = data.draw(st.sets(st.integers(0, n - 1)))
        grads = gradients(params, step)
        optimizer.zero_grad()
        for i in touched:
            params[i].grad = grads[i]
        optimizer.step()
        norm = math.sqrt(sum(float(np.sum(grads[i] ** 2)) for i in touched))
        for i in touched:
            g = grads[i] if clip_norm is None else grads[i] * min(1, clip_norm / (norm + 1e-6))
            g = g if clip_value is None else np.clip(g, -clip_value, clip_value)
            counts[i] += 1
            lr = options["lr"] if i < cut else other["lr"]
            expected[i] = FORMULAS[kind](expected[i], g, states[i], counts[i], lr, optimizer.defaults)
    saved = optimizer.state_dict()["state"]
    for i, p in enumerate(params):
        np.testing.assert_allclose(p.data, expected[i], rtol=1e-10, atol=1e-12)
        assert saved[i]["step"] == counts[i]
        for name, value in states[i].items():
            np.testing.assert_allclose(saved[i][name], value, rtol=1e-10, atol=1e-12, err_msg=name)


def test_lamb_moves_a_parameter_of_length_zero_by_the_plain_direction() -> None:
    (p,) = parameters([(4,)], np.float64)
    p.data[...] = 0
    optimizer = optim.LAMB([p], lr=0.1, eps=0.0)
    p.grad = np.array([1.0, -2.0, 3.0, -4.0])
    optimizer.step()
    np.testing.assert_allclose(p.data, [-0.1, 0.1, -0.1, 0.1])


def test_lamb_measures_a_parameter_of_several_blocks_whole() -> None:
    (p,) = parameters([(2 * NORM_BLOCK + 5,)], np.float64)
    optimizer = optim.LAMB([p], lr=0.1, weight_decay=0.2)
    (g,) = gradients([p], 0)
    expected = lamb(p.data, g, {}, 1, 0.1, optimizer.defaults)
    p.grad = g
    optimizer.step()
    np.testing.assert_allclose(p.data, expected, rtol=1e-10)


def test_a_diverging_update_gives_nan_without_a_warning() -> None:
    (p,) = parameters([(2,)])
    optimizer = optim.Adam([p])
    p.grad = np.float32([1e30, np.inf])
    optimizer.step()
    assert np.isnan(p.data[1])
