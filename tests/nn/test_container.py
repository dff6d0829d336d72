"""Containers: order, names, and what they hold."""

from typing import Any

import numpy as np
import pytest

from dist_dp import nn


def _names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_children()]


def test_sequential_applies_in_order_and_slices() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = np.ones((5, 3), np.float32)
    np.testing.assert_array_equal(model(x).data, model[2](model[:2](x)).data)
    assert isinstance(model[:2], nn.Sequential)
    assert model[-1] is model[2]
    assert len(model) == 3
    named = nn.Sequential({"first": nn.Linear(3, 4), "last": nn.Tanh()})
    assert _names(named) == ["first", "last"]
    assert named(x).shape == (5, 4)


def test_lists_keep_their_numbers_through_every_change() -> None:
    a, b, c, d = (nn.Linear(1, n) for n in range(1, 5))
    layers = nn.ModuleList([a, b])
    layers.append(c)
    layers.insert(1, d)
    assert list(layers) == [a, d, b, c]
    assert _names(layers) == ["0", "1", "2", "3"]
    del layers[0]
    layers[0] = a
    assert list(layers) == [a, b, c]
    assert _names(layers) == ["0", "1", "2"]
    assert list(layers.extend([d])[1:]) == [b, c, d]
    del layers[1:]
    assert list(layers) == [a]
    with pytest.raises(IndexError):
        layers[1]


def test_dicts() -> None:
    a, b = nn.Linear(1, 1), nn.Linear(1, 2)
    heads = nn.ModuleDict({"a": a})
    heads["b"] = b
    assert list(heads.items()) == [("a", a), ("b", b)]
    assert list(heads.keys()) == ["a", "b"] and list(heads.values()) == [a, b]
    assert "a" in heads and "c" not in heads and len(heads) == 2
    assert heads.pop("a") is a
    del heads["b"]
    assert list(heads) == []
    heads.update([("c", a)])
    assert list(heads.state_dict()) == ["c.weight", "c.bias"]


def test_parameter_containers_make_parameters() -> None:
    scales = nn.ParameterList([np.ones(2, np.float32), [1.0]])
    assert list(scales.state_dict()) == ["0", "1"]
    assert all(p.requires_grad for p in scales)
    assert repr(scales) == (
        "ParameterList(\n  (0): Parameter of float32 (2,)\n  (1): Parameter of float32 (1,)\n)"
    )
    table = nn.ParameterDict({"w": [1.0]})
    table["b"] = [2.0, 3.0]
    assert [(n, p.shape) for n, p in table.named_parameters()] == [("w", (1,)), ("b", (2,))]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: nn.Sequential(lambda x: x), TypeError, "Sequential holds Modules, got function"),
        (
            lambda: nn.ModuleList(nn.Linear(1, 1)),
            TypeError,
            "ModuleList takes an iterable of Modules, got Linear",
        ),
        (lambda: nn.ModuleList([3]), TypeError, "ModuleList holds Modules, got int"),
        (lambda: nn.ModuleDict({"a.b": nn.Tanh()}), ValueError, "without a dot"),
        (lambda: nn.ModuleDict({"keys": nn.Tanh()}), ValueError, "does not use itself, got 'keys'"),
        (lambda: nn.ModuleDict({"a": 1}), TypeError, "ModuleDict.a must be a Module, got 1"),
        (lambda: nn.ModuleDict({"a": nn.Tanh()})["b"], KeyError, r"ModuleDict has no 'b'; it has \['a'\]"),
        (lambda: nn.ParameterList([np.arange(2)]), TypeError, "integers and booleans carry no gradient"),
    ],
)
def test_what_containers_refuse(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
