"""State dicts: torch's form, exact round trips, refusals; hyperparameters that are changed while training."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optim.problem import IDS, RULES, SHAPES, parameters, take_step, values

from dist_dp import optim

every_rule = pytest.mark.parametrize(("kind", "options"), RULES, ids=IDS)
Kind = type[optim.Optimizer]
Rounds = list[set[int]]


def state_arrays(optimizer: optim.Optimizer) -> list[tuple[Any, ...]]:
    state = optimizer.state_dict()["state"]
    return [
        (i, name, np.asarray(v).tobytes()) for i, entry in state.items() for name, v in sorted(entry.items())
    ]


@every_rule
@settings(max_examples=8)
@given(before=st.lists(st.sets(st.integers(0, len(SHAPES) - 1)), max_size=3))
def test_a_loaded_state_continues_bit_for_bit(kind: Kind, options: dict[str, Any], before: Rounds) -> None:
    params = parameters()
    optimizer = kind([{"params": params[:2]}, {"params": params[2:], "lr": 0.3}], **options)
    for step, touched in enumerate(before):
        take_step(optimizer, params, step, touched)
    others = parameters(seed=1)
    for other, p in zip(others, params, strict=True):
        other.data[...] = p.data
    resumed = kind([{"params": others[:2]}, {"params": others[2:]}], lr=7.0)
    resumed.load_state_dict(optimizer.state_dict())
    assert state_arrays(resumed) == state_arrays(optimizer)
    for step in range(10, 12):
        take_step(optimizer, params, step)
        take_step(resumed, others, step)
    assert values(others) == values(params)
    assert resumed.steps == optimizer.steps
    assert resumed.describe() == optimizer.describe()


def test_a_state_dict_is_a_copy() -> None:
    params = parameters()
    optimizer = optim.Adam(params)
    take_step(optimizer, params, 0)
    saved = optimizer.state_dict()
    before = saved["state"][0]["exp_avg"].copy()
    take_step(optimizer, params, 1)
    assert np.array_equal(saved["state"][0]["exp_avg"], before)


NAMES = [
    ("SGD", {}, set()),
    ("SGD", {"momentum": 0.9}, {"momentum_buffer"}),
    ("Adam", {}, {"exp_avg", "exp_avg_sq"}),
    ("AdamW", {}, {"exp_avg", "exp_avg_sq"}),
    ("RMSprop", {}, {"square_avg"}),
    ("RMSprop", {"momentum": 0.9, "centered": True}, {"square_avg", "momentum_buffer", "grad_avg"}),
    ("Adagrad", {}, {"sum"}),
    ("Lion", {}, {"exp_avg"}),
    ("LAMB", {}, {"exp_avg", "exp_avg_sq"}),
]


@pytest.mark.parametrize(("name", "options", "expected"), NAMES)
def test_names_are_torchs(name: str, options: dict[str, Any], expected: set[str]) -> None:
    params = parameters([(2, 3), (4,)])
    saved = getattr(optim, name)([{"params": params[1:]}, {"params": params[:1]}], **options).state_dict()
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1]]
    assert set(saved["state"]) == {0, 1}
    for entry, shape in zip(saved["state"].values(), [(4,), (2, 3)], strict=True):
        assert set(entry) == {"step", *expected}
        assert all(entry[key].shape == shape for key in expected)


def test_a_state_dict_of_torchs_sgd_is_understood() -> None:
    """It counts no steps, names parameters as it likes, and knows options that we do not."""
    params = parameters([(2,), (3,)], np.float64)
    params[0].data[...] = 0
    optimizer = optim.SGD(params, lr=1.0)
    group = {"params": [7, 9], "lr": 0.5, "momentum": 0.5, "dampening": 0, "foreach": None}
    optimizer.load_state_dict(
        {"state": {7: {"momentum_buffer": np.array([2.0, 4.0])}}, "param_groups": [group]}
    )
    params[0].grad = np.zeros(2)
    optimizer.step()
    np.testing.assert_array_equal(params[0].data, [-0.5, -1.0])


def broken_states() -> dict[str, tuple[Any, type[Exception], str]]:
    params = parameters([(2, 3), (4,)])
    good = optim.Adam(params).state_dict()
    shapes, names, groups = (optim.Adam(params).state_dict() for _ in range(3))
    shapes["state"][1]["exp_avg_sq"] = np.zeros((2, 2))
    del names["state"][0]["exp_avg"]
    groups["param_groups"] *= 2
    negative = {**good, "param_groups": [{**good["param_groups"][0], "lr": -1.0}]}
    return {
        "shape": (shapes, ValueError, r"exp_avg_sq of parameter 1 has shape \(2, 2\), expected \(4,\)"),
        "name": (names, ValueError, "no 'exp_avg' of parameter 0.*another optimizer's"),
        "groups": (groups, ValueError, r"groups of \[2, 2\] parameters, this optimizer has \[2\]"),
        "range": (negative, ValueError, "lr must be a number >= 0"),
        "form": ([1, 2], TypeError, "state_dict must be what state_dict"),
    }


@pytest.mark.parametrize("what", broken_states())
def test_a_state_that_does_not_fit_is_refused_and_nothing_is_loaded(what: str) -> None:
    state, error, message = broken_states()[what]
    params = parameters([(2, 3), (4,)])
    optimizer = optim.Adam(params)
    take_step(optimizer, params, 0)
    before = (state_arrays(optimizer), optimizer.describe(), optimizer.steps)
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(state)
    assert (state_arrays(optimizer), optimizer.describe(), optimizer.steps) == before


# --- hyperparameters in the groups --------------------------------------------------------------------------------


def test_a_hyperparameter_assigned_in_a_group_takes_effect() -> None:
    (p,) = parameters([(2,)], np.float64)
    optimizer = optim.SGD([p], lr=1.0)
    for name, value, expected in (
        ("lr", 0.25, -0.25),
        ("lr", np.float32(2.0), -2.0),
        ("weight_decay", 3.0, -8.0),
    ):
        p.data[...] = 0 if name == "lr" else 1
        optimizer.param_groups[0][name] = value
        p.grad = np.ones(2)
        optimizer.step()
        np.testing.assert_allclose(p.data, expected if name == "lr" else 1 - 2.0 * (1 + 3.0))


def test_momentum_can_be_switched_on() -> None:
    (p,) = parameters([(2,)], np.float64)
    p.data[...] = 0
    optimizer = optim.SGD([p], lr=1.0)
    for momentum in (0.0, 0.5, 0.5):
        optimizer.param_groups[0]["momentum"] = momentum
        p.grad = np.ones(2)
        optimizer.step()
    np.testing.assert_allclose(p.data, -(1 + 1 + 1.5))


@pytest.mark.parametrize("lr", [-1.0, float("nan"), "0.1"])
def test_a_wrong_rate_assigned_in_a_group_is_refused_before_anything_moves(lr: Any) -> None:
    params = parameters([(2,), (3,)])
    optimizer = optim.Adam([{"params": [p]} for p in params])
    optimizer.param_groups[1]["lr"] = lr
    before = values(params)
    with pytest.raises((TypeError, ValueError), match="lr must be a number >= 0"):
        take_step(optimizer, params, 0)
    assert values(params) == before
    assert optimizer.steps == 0


# --- schedules ----------------------------------------------------------------------------------------------------


def test_schedules_are_asked_with_the_step_and_the_length_of_the_run() -> None:
    (p,) = parameters([(1,)], np.float64)
    optimizer = optim.SGD([p], lr=optim.LinearDecay(1.0))
    assert optimizer.uses_total_steps
    with pytest.raises(
        ValueError, match=r"LinearDecay must know how long the run is.*optimizer\.total_steps"
    ):
        optimizer.step()
    optimizer.total_steps = 4
    rates = []
    for _ in range(4):
        rates.append(optimizer.rate(optimizer.param_groups[0]))
        optimizer.step()
    assert rates == [1.0, 0.75, 0.5, 0.25]


def test_what_a_plateau_saw_is_saved_and_its_object_stays_the_users() -> None:
    params = parameters([(2,), (3,)])

    def made() -> tuple[optim.Plateau, optim.Optimizer]:
        plateau = optim.Plateau(0.5, factor=0.5, patience=0)
        return plateau, optim.SGD([{"params": [p]} for p in params], lr=plateau)

    plateau, optimizer = made()
    assert len(optimizer.schedules) == 1
    for loss in (1.0, 2.0):
        plateau.observe(loss)
    saved, seen = optimizer.state_dict(), plateau.state()
    plateau.observe(2.0)
    other, resumed = made()
    resumed.load_state_dict(saved)
    assert resumed.schedules[0] is other and len(resumed.schedules) == 1
    assert other.state() == seen != plateau.state()
    other.observe(2.0)
    assert [resumed.rate(g) for g in resumed.param_groups] == [0.125, 0.125]


def test_a_schedule_is_described_by_its_repr() -> None:
    optimizer = optim.SGD(parameters([(2,)]), lr=optim.Cosine(0.1, warmup=10))
    assert optimizer.describe()["groups"][0]["lr"] == "Cosine(lr=0.1, warmup=10, floor=0.0, total=None)"
    assert not optim.SGD(parameters([(2,)]), lr=optim.Cosine(0.1, total=9)).uses_total_steps
