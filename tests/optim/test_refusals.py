"""What optimizers refuse: each message names the argument, what was expected and what came."""

import math
from typing import Any

import numpy as np
import pytest
from optim.problem import parameters

from dist_dp import Tensor, optim

P = parameters([(2,), (3,)])


class Model:
    def parameters(self) -> list[Tensor]:
        return P


def exhausted() -> Any:
    generator = (p for p in P)
    list(generator)
    return generator


PARAMS: list[tuple[Any, type[Exception], str]] = [
    (Model(), TypeError, r"got a model \(Model\); pass model.parameters\(\)"),
    (exhausted(), ValueError, "params is empty.*a generator was passed that was read before"),
    ([], ValueError, "params is empty"),
    (P[0], TypeError, r"got a single tensor; pass \[p\]"),
    ({"weight": P[0]}, TypeError, "a list of parameters or of groups, got dict"),
    (None, TypeError, "got NoneType"),
    ([P[0], P[1], P[0]], ValueError, "a parameter stands in them twice"),
    ([{"params": [P[0]]}, {"params": P}], ValueError, "a parameter stands in them twice"),
    ([np.ones(3)], TypeError, "params must be tensors, got ndarray"),
    ([("weight", P[0])], TypeError, "got a tuple; pass model.parameters"),
    ([Tensor([1.0])], TypeError, r"of shape \(1,\) has requires_grad=False.*Leave frozen parameters out"),
    ([P[0] * 2], TypeError, "was computed from others"),
    ([{"params": []}], ValueError, "a group is empty"),
    (
        [{"params": [P[0]], "learning_rate": 1}],
        ValueError,
        r"unknown options \['learning_rate'\]; Adam knows",
    ),
    ([{"lr": 1.0}], TypeError, 'a dict with an entry "params"'),
    ([{"params": [P[0]]}, P[1]], TypeError, 'a dict with an entry "params"'),
]


@pytest.mark.parametrize(("params", "error", "message"), PARAMS)
def test_wrong_parameters(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optim.Adam(params)


def test_a_single_tensor_may_stand_in_a_group() -> None:
    assert optim.Adam([{"params": P[1]}]).param_groups[0]["params"] == [P[1]]


OPTIONS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("Adam", {"lr": -1e-3}, ValueError, "lr must be a number >= 0, got -0.001"),
    ("Adam", {"lr": math.nan}, ValueError, "lr must be a number >= 0, got nan"),
    ("Adam", {"lr": math.inf}, ValueError, "lr must be a number >= 0, got inf"),
    ("Adam", {"lr": "0.1"}, TypeError, r"lr must be a number >= 0, got '0.1' \(str\)"),
    ("Adam", {"lr": True}, TypeError, r"lr must be a number >= 0, got True \(bool\)"),
    ("Adam", {"lr": None}, TypeError, "lr must be a number >= 0, got None"),
    ("Adam", {"lr": lambda step: 0.1}, TypeError, "or a dist_dp.optim.schedule.Schedule, got a function"),
    ("Adam", {"betas": (0.9, 1.0)}, ValueError, r"betas\[1\] must be a number >= 0 and < 1, got 1.0"),
    ("Adam", {"betas": 0.9}, TypeError, r"betas must be two numbers in \[0, 1\), got 0.9"),
    ("Adam", {"betas": (0.9,)}, TypeError, "betas must be two numbers"),
    ("Adam", {"eps": -1e-8}, ValueError, "eps must be a number >= 0"),
    ("AdamW", {"weight_decay": -0.1}, ValueError, "weight_decay must be a number >= 0, got -0.1"),
    ("SGD", {"momentum": -0.9}, ValueError, "momentum must be a number >= 0"),
    ("SGD", {"momentum": "0.9"}, TypeError, "momentum must be a number >= 0, got '0.9'"),
    ("SGD", {"dampening": math.nan}, ValueError, "dampening must be"),
    ("SGD", {"nesterov": True}, ValueError, "nesterov needs momentum > 0 and dampening = 0, got 0.0 and 0.0"),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "nesterov needs"),
    ("RMSprop", {"alpha": 1.5}, ValueError, "alpha must be a number >= 0 and < 1, got 1.5"),
    ("RMSprop", {"eps": None}, TypeError, "eps must be a number"),
    ("RMSprop", {"momentum": math.inf}, ValueError, "momentum must be"),
    ("Adagrad", {"lr_decay": -1}, ValueError, "lr_decay must be a number >= 0, got -1"),
    ("Adagrad", {"initial_accumulator_value": -1}, ValueError, "initial_accumulator_value must be"),
    ("Adagrad", {"eps": "x"}, TypeError, "eps must be a number"),
    ("Lion", {"betas": (-0.1, 0.9)}, ValueError, r"betas\[0\] must be a number"),
    ("LAMB", {"betas": (0.9, "x")}, TypeError, r"betas\[1\] must be a number"),
    ("LAMB", {"eps": math.nan}, ValueError, "eps must be a number >= 0"),
    ("SGD", {"clip_norm": 0}, ValueError, "clip_norm must be a number > 0, got 0"),
    ("SGD", {"clip_norm": "1"}, TypeError, "clip_norm must be a number > 0"),
    ("SGD", {"clip_value": -1.0}, ValueError, "clip_value must be a number > 0, got -1.0"),
]


@pytest.mark.parametrize(("name", "options", "error", "message"), OPTIONS)
def test_wrong_hyperparameters(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(optim, name)(P, **options)


def test_hyperparameters_of_a_group_are_checked_too() -> None:
    with pytest.raises(ValueError, match="weight_decay must be a number >= 0"):
        optim.SGD([{"params": P, "weight_decay": -1}])


def test_unknown_keywords_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match="learning_rate"):
        optim.SGD(P, learning_rate=0.1)  # type: ignore[call-arg]
