"""Modules: what they hold under which name, their state, and what they refuse."""

import copy
import gc
import pickle
import sys
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import nn

# ----- trees of modules drawn by Hypothesis -----


@st.composite
def module_trees(draw: st.DrawFn, depth: int = 2) -> nn.Module:
    """A module with some parameters, buffers and children; now and then a parameter or child appears twice."""
    module = nn.Module()
    shapes = st.lists(st.integers(0, 3), max_size=2).map(tuple)
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    for name in draw(st.sets(st.sampled_from(["weight", "bias", "scale"]))):
        dtype = draw(st.sampled_from([np.float32, np.float64]))
        setattr(module, name, nn.Parameter(rng.normal(size=draw(shapes)).astype(dtype)))
    if draw(st.booleans()):
        module.register_buffer("seen", rng.integers(0, 9, draw(shapes)), persistent=draw(st.booleans()))
    if depth:
        for name in draw(st.sets(st.sampled_from(["left", "right", "head"]))):
            setattr(module, name, draw(module_trees(depth - 1)))
    children = list(module.children())
    if children and draw(st.booleans()):
        module.shared = children[0]
    parameters = list(module.parameters())
    if parameters and draw(st.booleans()):
        module.tied = parameters[-1]
    return module


def _shuffled(module: nn.Module) -> nn.Module:
    """A module of the same form with other values."""
    other = copy.deepcopy(module)
    for t in (*other.parameters(), *other.buffers()):
        t.data[...] = 99
    return other


@settings(max_examples=30)
@given(module_trees())
def test_a_state_dict_goes_through_a_file_unchanged(
    tmp_path_factory: pytest.TempPathFactory, module: nn.Module
) -> None:
    path = tmp_path_factory.mktemp("state") / "model.safetensors"
    other, state = _shuffled(module), module.state_dict()
    nn.save_state(module, path)
    assert nn.load_state(other, path) == ([], [])
    loaded = other.state_dict()
    assert list(loaded) == list(state)
    for name, array in state.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


@settings(max_examples=30)
@given(module_trees())
def test_every_parameter_is_named_once_and_found_by_its_name(module: nn.Module) -> None:
    named = list(module.named_parameters())
    assert len({id(p) for _, p in named}) == len(named) == len(list(module.parameters()))
    for name, parameter in named:
        owner: Any = module
        for part in name.split("."):
            owner = getattr(owner, part)
        assert owner is parameter
    repeated = list(module.named_parameters(remove_duplicate=False))
    assert {id(p) for _, p in repeated} == {id(p) for _, p in named}
    persistent = [n for n, b in module.named_buffers(remove_duplicate=False) if b.persistent]
    assert sorted(module.state_dict()) == sorted([n for n, _ in repeated] + persistent)


# ----- attributes -----


def test_attributes_may_be_set_before_and_without_the_constructor_of_the_base() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.scale = nn.Parameter([2.0])
            super().__init__()

        def forward(self, x: Any) -> Any:
            return self.scale * x

    model = Model()
    assert [name for name, _ in model.named_parameters()] == ["scale"]
    assert model(3.0).item() == 6.0


def test_order_and_names_are_torchs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            self.head = nn.Linear(2, 1)
            self.register_buffer("mean", [0.0])
            self.scale = nn.Parameter([1.0])
            self.norm = nn.BatchNorm1d(2)
            self.alias = self.head

    model = Model()
    assert [n for n, _ in model.named_parameters()] == [
        "scale",
        "head.weight",
        "head.bias",
        "norm.weight",
        "norm.bias",
    ]
    assert list(model.state_dict()) == [
        "scale",
        "mean",
        "head.weight",
        "head.bias",
        "norm.weight",
        "norm.bias",
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "alias.weight",
        "alias.bias",
    ]
    assert [n for n, _ in model.named_modules()] == ["", "head", "norm"]
    assert [n for n, _ in model.named_children()] == ["head", "norm"]
    assert [n for n, _ in model.named_parameters("model", recurse=False)] == ["model.scale"]


def test_a_parameter_is_replaced_by_a_parameter_or_none_and_by_nothing_else() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"Linear.weight is a parameter, which Tensor cannot replace"):
        layer.weight = layer.weight * 2  # type: ignore[assignment]
    model = nn.Sequential(layer)
    with pytest.raises(
        TypeError, match=r"Sequential.0 is a module, which int cannot replace|which 3 \(int\)"
    ):
        setattr(model, "0", 3)
    layer.bias = None
    layer.weight = nn.Parameter(np.ones((2, 2), np.float32))
    assert [n for n, _ in layer.named_parameters()] == ["weight"]


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ([nn.Linear(1, 1)], "nn.ModuleList"),
        ((nn.Parameter([1.0]),), "nn.ParameterList"),
        ({"a": nn.Linear(1, 1)}, "nn.ModuleDict"),
    ],
)
def test_modules_in_a_plain_container_are_refused(value: Any, advice: str) -> None:
    module = nn.Module()
    with pytest.raises(TypeError, match=f"would not be trained or saved; use .*{advice}"):
        module.items = value
    module.items = [1, 2]
    assert module.items == [1, 2]


def test_a_module_cannot_contain_itself() -> None:
    parent, child = nn.Module(), nn.Module()
    parent.child = child
    with pytest.raises(ValueError, match="cannot contain itself"):
        child.parent = parent
    with pytest.raises(ValueError, match="cannot contain itself"):
        parent.me = parent


@pytest.mark.parametrize("name", ["", "a.b", "forward", "training"])
def test_names_that_cannot_be_used(name: str) -> None:
    module = nn.Module()
    for call in (
        lambda: module.register_parameter(name, nn.Parameter([1.0])),
        lambda: module.register_buffer(name, [1.0]),
        lambda: module.add_module(name, nn.Module()),
    ):
        with pytest.raises(ValueError, match="name must be a non-empty str without a dot"):
            call()


def test_registering_checks_what_it_is_given() -> None:
    module = nn.Module()
    module.note = "taken"
    with pytest.raises(ValueError, match=r"Module.note is taken by 'taken' \(str\)"):
        module.register_buffer("note", [1.0])
    with pytest.raises(TypeError, match="must be a Parameter or None, got ndarray"):
        module.register_parameter("w", np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a Module, got function"):
        module.add_module("act", lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"name must be a str, got 3 \(int\)"):
        module.add_module(3, nn.Module())  # type: ignore[arg-type]
    module.register_parameter("none", None)
    assert list(module.state_dict()) == []


def test_parameters() -> None:
    assert nn.Parameter([1.0]).dtype == np.float32
    assert nn.Parameter(np.ones(2)).dtype == np.float64
    assert nn.Parameter(np.ones(2), dtype=np.float32).dtype == np.float32
    assert nn.Parameter([1.0]).requires_grad
    assert not nn.Parameter([1.0], requires_grad=False).requires_grad
    with pytest.raises(TypeError, match="integers and booleans carry no gradient"):
        nn.Parameter(np.arange(3))
    computed = nn.Parameter([1.0]) * 2
    assert nn.Parameter(computed).is_leaf


# ----- calls, modes, changes -----


def test_a_call_is_one_python_call_into_forward() -> None:
    class Identity(nn.Module):
        def forward(self, x: int) -> int:
            return x

    module = Identity()
    entered: list[str] = []

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and isinstance(frame.f_locals.get("self"), nn.Module):
            entered.append(frame.f_code.co_name)

    sys.setprofile(note)
    try:
        module(1)
    finally:
        sys.setprofile(None)
    assert entered == ["__call__", "forward"]


def test_forward_must_be_defined() -> None:
    class Model(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match=r"Model must define forward\(\)"):
        Model()(1)


def test_forward_hooks_see_and_may_replace_the_output() -> None:
    layer, seen = nn.Identity(), []
    remove = layer.register_forward_hook(lambda module, args, out: seen.append((module, args, out)))
    double = layer.register_forward_hook(lambda module, args, out: out * 2)
    assert layer(3) == 6
    assert seen == [(layer, (3,), 3)]
    remove()
    double()
    assert layer(3) == 3
    assert len(seen) == 1


def test_modes_reach_every_module_once() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout()))
    assert all(m.training for m in model.modules())
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    model.train()
    assert all(m.training for m in model.modules())
    with pytest.raises(TypeError, match=r"mode must be a bool, got 'eval' \(str\)"):
        model.train("eval")  # type: ignore[arg-type]


def test_apply_visits_children_first() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()))
    names: list[str] = []
    model.apply(lambda m: names.append(type(m).__name__))
    assert names == ["Linear", "ReLU", "Sequential", "Sequential"]


def test_gradients_are_cleared_and_parameters_frozen() -> None:
    layer = nn.Linear(2, 1)
    layer(np.ones((3, 2), np.float32)).sum().backward()
    assert layer.weight.grad is not None
    layer.zero_grad()
    assert layer.weight.grad is None
    layer.requires_grad_(False)
    assert not layer(np.ones((3, 2), np.float32)).requires_grad


def test_to_converts_floats_and_leaves_integers() -> None:
    norm = nn.BatchNorm1d(2).to(np.float64)
    assert norm.weight is not None and norm.running_mean is not None and norm.num_batches_tracked is not None
    assert norm.weight.dtype == norm.running_mean.dtype == np.float64
    assert norm.num_batches_tracked.dtype == np.int64
    norm(np.ones((3, 2))).sum().backward()
    assert norm.weight.grad is not None and norm.weight.grad.dtype == np.float64
    with pytest.raises(TypeError, match="dtype must be floating, got int64"):
        norm.to(np.int64)


def test_copies_are_independent_and_keep_sharing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.tied = model[0].weight
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.tied is other[0].weight
        assert other.tied is not model.tied
        assert list(other.state_dict()) == list(model.state_dict())
        other[0].weight.data[...] = 7
        assert not (model[0].weight.data == 7).any()
        assert other[0].weight.requires_grad


def test_modules_are_freed_without_the_collector() -> None:
    gc.disable()
    try:
        model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()))
        model(np.ones((1, 2), np.float32)).sum().backward()
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


# ----- state -----


def test_a_state_dict_is_a_copy() -> None:
    layer = nn.Linear(2, 2)
    before = layer.state_dict()
    kept = before["weight"].copy()
    layer.weight.data += 1
    np.testing.assert_array_equal(before["weight"], kept)


def test_everything_that_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    layer = nn.Linear(2, 3)
    before = layer.state_dict()
    wrong = {"weight": np.zeros((3, 3)), "scale": np.zeros(1)}
    with pytest.raises(ValueError) as error:
        layer.load_state_dict(wrong)
    assert str(error.value).split("\n  ") == [
        "state_dict does not fit Linear:",
        "missing: bias",
        "unexpected: scale",
        "shape of weight: expected (3, 2), got (3, 3)",
    ]
    with pytest.raises(ValueError, match="dtype of num_batches_tracked: expected int64, got float32"):
        nn.BatchNorm1d(1).load_state_dict(
            nn.BatchNorm1d(1).state_dict() | {"num_batches_tracked": np.float32(1)}
        )
    with pytest.raises(TypeError, match="state_dict must be a mapping from names to arrays, got list"):
        layer.load_state_dict([1])  # type: ignore[arg-type]
    np.testing.assert_array_equal(layer.weight.data, before["weight"])


def test_loading_without_strictness_takes_what_fits() -> None:
    layer = nn.Linear(2, 3)
    result = layer.load_state_dict({"weight": np.ones((3, 2)), "scale": np.zeros(1)}, strict=False)
    assert result.missing_keys == ["bias"]
    assert result.unexpected_keys == ["scale"]
    assert layer.weight.dtype == np.float32
    assert (layer.weight.data == 1).all()


def test_loading_writes_in_place_and_takes_anything_numpy_reads() -> None:
    class Foreign:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.full(3, 2.0)

    layer = nn.Linear(2, 3)
    memory = layer.weight.data
    layer.load_state_dict({"weight": dp.Tensor(np.ones((3, 2))), "bias": Foreign()})
    assert layer.weight.data is memory
    assert layer.bias is not None and (layer.bias.data == 2).all()


def test_a_shared_parameter_needs_one_of_its_names() -> None:
    model = nn.Module()
    model.embed, model.head = nn.Embedding(3, 2), nn.Linear(2, 3, bias=False)
    model.head.weight = model.embed.weight
    assert list(model.state_dict()) == ["embed.weight", "head.weight"]
    model.load_state_dict({"embed.weight": np.ones((3, 2))})
    assert (model.head.weight.data == 1).all()


def test_loading_is_seen_by_a_graph_that_needs_the_old_values() -> None:
    layer = nn.Linear(2, 1)
    x = dp.Tensor(np.ones((1, 2), np.float32), requires_grad=True)
    out = layer(x)
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match="load_state_dict overwrote"):
        out.backward()


# ----- text -----


def test_the_text_of_a_model_is_torchs() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ModuleList([nn.Tanh(), nn.Tanh(), nn.Dropout(0.1)]))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Linear(in_features=2, out_features=3, bias=True)\n"
        "  (1): ModuleList(\n"
        "    (0-1): 2 x Tanh()\n"
        "    (2): Dropout(p=0.1)\n"
        "  )\n"
        ")"
    )
    assert repr(nn.ModuleList()) == "ModuleList()"
