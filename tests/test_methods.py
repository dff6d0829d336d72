"""The methods of a tensor: torch's names and NumPy's, which dialect gives which value, and calls that are refused."""

import gc
import inspect
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import Tensor, ops
from dist_dp.methods.values import same_as
from dist_dp.tensor import Extremum

A = np.array([[3.0, 1.0, 2.0], [4.0, 6.0, 5.0]])


def leaf(a: Any = A) -> Tensor:
    return dp.tensor(np.array(a), requires_grad=True)


# ----- one argument, two names

REDUCTIONS = ["sum", "mean", "prod", "var", "std", "amax", "amin", "any", "all", "logsumexp", "norm"]
REDUCTIONS += ["ptp", "count_nonzero", "argmax", "argmin"]
ALONG = ["cumsum", "cumprod", "softmax", "log_softmax", "argsort"]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_dim_and_keepdim_are_axis_and_keepdims(name: str) -> None:
    method = getattr(leaf(), name)
    expected = method(axis=1, keepdims=True)
    assert expected.shape == (2, 1)
    for out in (method(dim=1, keepdim=True), method(dim=-1, keepdims=True)):
        np.testing.assert_array_equal(out.detach(), expected.detach())
    assert method(dim=1).shape == method(axis=1).shape == (2,)
    with pytest.raises(TypeError, match=f"{name}: give either axis or dim, not both"):
        method(axis=0, dim=0)


@pytest.mark.parametrize("name", ALONG)
def test_dim_is_axis(name: str) -> None:
    method = getattr(leaf(), name)
    np.testing.assert_array_equal(method(dim=0).detach(), method(axis=0).detach())
    np.testing.assert_array_equal(method(0).detach(), method(axis=0).detach())
    with pytest.raises(TypeError, match=f"{name}: give either axis or dim, not both"):
        method(axis=0, dim=0)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sort(axis=0, dim=0),
        lambda x: x.topk(1, axis=0, dim=0),
        lambda x: x.split(1, axis=0, dim=0),
        lambda x: x.chunk(1, axis=0, dim=0),
        lambda x: x.squeeze(axis=0, dim=0),
        lambda x: x.repeat(2, axis=0, dim=0),
        lambda x: x.roll(1, axis=0, dims=0),
        lambda x: x.flip(0, dims=0),
        lambda x: x.take([0], axis=0, dim=0),
        lambda x: x.max(axis=0, dim=0),
        lambda x: x.min(0, dim=0),
        lambda x: x.median(0, dim=0),
    ],
)
def test_both_names_at_once_are_refused(call: Callable[[Tensor], Any]) -> None:
    with pytest.raises(TypeError, match="give either axis or dim, not both"):
        call(leaf())


# ----- where torch and NumPy disagree


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda x: x.std(), A.std()),
        (lambda x: x.var(1), A.var(1)),
        (lambda x: x.var(1, 1), A.var(1, ddof=1)),
        (lambda x: x.std(dim=1, correction=1), A.std(1, ddof=1)),
        (lambda x: x.std(dim=1, unbiased=True), A.std(1, ddof=1)),
        (lambda x: x.std(dim=1, unbiased=False), A.std(1)),
        (lambda x: x.repeat(2, 1), A.repeat(2, 1)),
        (lambda x: x.repeat_interleave(2, dim=0), A.repeat(2, 0)),
        (lambda x: x.size, 6),
        (lambda x: x.max(axis=1), A.max(1)),
        (lambda x: x.max(1), A.max(1)),
        (lambda x: x.median(), np.median(A)),
        (lambda x: x.median(axis=0), np.median(A, 0)),
        (lambda x: x.nonzero(), A.nonzero()),
        (lambda x: x.take([0, -1]), A.take([0, -1])),
        (lambda x: x.T, A.T),
        (lambda x: x.transpose(), A.T),
        (lambda x: x.transpose((1, 0)), A.T),
        (lambda x: x.transpose(0, 1), A.T),  # torch: exchange these two
        (lambda x: x.transpose((0, 1)), A),
    ],
)
def test_the_ndarrays_meaning_holds(call: Callable[[Any], Any], expected: Any) -> None:
    np.testing.assert_allclose(call(dp.tensor(A)), expected)


@pytest.mark.parametrize("name", ["max", "min", "median"])
def test_the_keyword_dim_asks_for_values_and_indices(name: str) -> None:
    x = leaf([[7.0, 3.0, 1.0, 7.0], [4.0, 9.0, 5.0, 4.0]])
    out = getattr(x, name)(dim=1)
    assert isinstance(out, Extremum)
    assert out.values.tolist() == {"max": [7, 9], "min": [1, 4], "median": [3, 4]}[name]
    np.testing.assert_array_equal(x.detach()[np.arange(2), out.indices], out.values.detach())
    values, _ = getattr(x, name)(dim=0, keepdim=True)
    assert values.shape == (1, 4)
    out.values.sum().backward()  # to the index alone, also among equal elements
    expected = np.zeros(x.shape)
    expected[[0, 1], out.indices.numpy()] = 1
    np.testing.assert_array_equal(x.grad, expected)


def test_a_median_with_nan_is_nan_and_says_where() -> None:
    values, indices = dp.tensor([[1.0, np.nan, 0.0], [1.0, 2.0, 3.0]]).median(dim=1)
    np.testing.assert_array_equal(values, [np.nan, 2])
    assert indices.tolist() == [1, 1]


def test_sort_and_topk_give_values_and_indices() -> None:
    x = leaf()
    for out, axis, index in (
        (x.sort(), 1, np.argsort(A)),
        (x.sort(dim=0, descending=True), 0, [[1, 1, 1], [0, 0, 0]]),
        (x.topk(2), 1, [[0, 2], [1, 2]]),
        (x.topk(1, dim=0, largest=False), 0, [[0, 0, 0]]),
    ):
        np.testing.assert_array_equal(out.indices, index)
        np.testing.assert_array_equal(out.values.detach(), np.take_along_axis(A, np.array(index), axis))


# ----- shapes


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda x: x.view(3, -1), A.reshape(3, 2)),
        (lambda x: x.view((3, 2)), A.reshape(3, 2)),
        (lambda x: x.reshape_as(dp.tensor(np.zeros(6))), A.ravel()),
        (lambda x: x.flatten(), A.ravel()),
        (lambda x: x.t(), A.T),
        (lambda x: x.mT, A.T),
        (lambda x: x.permute(1, 0), A.T),
        (lambda x: x.swapdims(0, 1), A.T),
        (lambda x: x.movedim(0, 1), A.T),
        (lambda x: x.unsqueeze(-1), A[..., None]),
        (lambda x: x.unsqueeze(0).squeeze(dim=0), A),
        (lambda x: x.expand(4, -1, 3), np.broadcast_to(A, (4, 2, 3))),
        (lambda x: x.expand_as(dp.tensor(np.zeros((4, 2, 3)))), np.broadcast_to(A, (4, 2, 3))),
        (lambda x: x.broadcast_to(4, 2, 3), np.broadcast_to(A, (4, 2, 3))),
        (lambda x: x.tile(2, 1), np.tile(A, (2, 1))),
        (lambda x: x.flip(0), A[::-1]),
        (lambda x: x.flip(dims=(0, 1)), A[::-1, ::-1]),
        (lambda x: x.flip(), A[::-1, ::-1]),
        (lambda x: x.roll(1, dims=1), np.roll(A, 1, 1)),
        (lambda x: x.diagonal(), np.diagonal(A)),
        (lambda x: x.diagonal(1, dim1=1, dim2=0), np.diagonal(A, 1, 1, 0)),
        (lambda x: x.trace(), np.trace(A)),
        (lambda x: x.tril(), np.tril(A)),
        (lambda x: x.triu(1), np.triu(A, 1)),
        (lambda x: x.unfold(1, 2, 1), np.lib.stride_tricks.sliding_window_view(A, 2, 1)),
        (lambda x: ops.stack(x.unbind(1)), A.T),
        (lambda x: ops.concatenate(x.split(2, dim=1), 1), A),
        (lambda x: x.split(2, dim=1)[1], A[:, 2:]),
        (lambda x: x.split([1, 2], 1)[1], A[:, 1:]),
        (lambda x: x.chunk(2, dim=1)[0], A[:, :2]),
        (lambda x: x.contiguous(), A),
    ],
)
def test_shapes(call: Callable[[Any], Any], expected: Any) -> None:
    np.testing.assert_array_equal(call(leaf()).detach(), expected)


def test_contiguous_copies_only_where_it_must() -> None:
    x = dp.tensor(A)
    assert np.shares_memory(x.contiguous().numpy(), x.numpy())
    assert x.T.contiguous().numpy().flags.c_contiguous


# ----- functions, dtypes, selection


@pytest.mark.parametrize("name", sorted(same_as))
def test_a_method_is_the_operation_of_its_name(name: str) -> None:
    operation = getattr(ops, same_as[name])
    x = dp.tensor([[0.25, 0.5], [0.75, 0.875]])
    if name in ("acosh", "arccosh"):
        x = 1 + x
    required = [p for p in inspect.signature(operation).parameters.values() if p.default is p.empty]
    others = (x.T,) * (len(required) - 1)
    out, expected = getattr(x, name)(*others), operation(x, *others)
    np.testing.assert_array_equal(np.array(out), np.array(expected))


def test_other_methods_are_the_operations() -> None:
    x = leaf(A / 10)
    for out, expected in (
        (x.gelu("tanh"), ops.gelu(x, "tanh")),
        (x.round(1), ops.round(x, 1)),
        (x.clamp(0.2, 0.4), ops.clip(x, 0.2, 0.4)),
        (x.clip(min=0.2), ops.clip(x, 0.2)),
        (x.clamp(max=0.4), ops.clip(x, None, 0.4)),
        (x.where(x > 0.3, -x), ops.where(x > 0.3, x, -x)),
        (x.masked_fill(x > 0.3, 0.0), ops.where(x > 0.3, 0.0, x)),
        (x.nan_to_num(), x),
        (x.take_along_axis(np.array([[0], [1]]), 1), ops.take_along_axis(x, np.array([[0], [1]]), 1)),
        (x.gather(1, np.array([[0], [1]])), ops.take_along_axis(x, np.array([[0], [1]]), 1)),
        (x.index_select(1, [2, 0]), x[:, [2, 0]]),
        (x.scatter_add(0, np.array([[1, 1, 1]]), np.ones((1, 3))), x + np.array([[0.0], [1.0]])),
        (x.isclose(x), x == x),
    ):
        np.testing.assert_array_equal(out.detach(), expected.detach())
    assert x.allclose(x) is True
    assert x.equal(x + 1) is False


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("half", "float16"),
        ("float", "float32"),
        ("double", "float64"),
        ("int", "int32"),
        ("long", "int64"),
        ("bool", "bool"),
    ],
)
def test_conversions(name: str, dtype: str) -> None:
    x = leaf()
    out = getattr(x, name)()
    assert out.dtype == x.to(dtype).dtype == x.type(dtype).dtype == x.astype(dtype).dtype == dtype
    assert out.requires_grad == (out.dtype.kind == "f")
    assert getattr(out, name)() is out
    assert dp.tensor([1]).type_as(out).dtype == dtype


def test_new_tensors_have_the_dtype() -> None:
    x = leaf()
    for made in (x.new_zeros(2, 3), x.new_ones((2, 3)), x.new_full((2, 3), 7), x.new_tensor([[1, 2, 3]] * 2)):
        assert (made.dtype, made.shape, made.requires_grad) == (x.dtype, x.shape, False)


def test_sums_in_another_dtype() -> None:
    x = dp.tensor([1.0, 2.0])
    for name in ("sum", "mean", "prod"):
        assert getattr(x, name)(dtype="float64").dtype == np.float64


# ----- in place


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("clamp_", (2.0, 4.0)),
        ("masked_fill_", (A > 3, 0.5)),
        ("pow_", (2,)),
        ("neg_", ()),
        ("abs_", ()),
        ("exp_", ()),
        ("sqrt_", ()),
        ("relu_", ()),
    ],
)
def test_in_place_methods_write_and_are_recorded(name: str, arguments: tuple[Any, ...]) -> None:
    plain = getattr(Tensor, name.removesuffix("_"), None) or Tensor.__abs__
    x = dp.tensor(A)
    memory = x.numpy()
    assert getattr(x, name)(*arguments) is x
    assert x.numpy() is memory
    np.testing.assert_array_equal(memory, plain(dp.tensor(A), *arguments))
    gradients = []
    for write in (True, False):
        w = leaf()
        y = w * 1
        y = getattr(y, name)(*arguments) if write else plain(y, *arguments)
        y.sum().backward()
        gradients.append(w.grad.numpy())
    np.testing.assert_array_equal(*gradients)
    with pytest.raises(RuntimeError, match="in-place write to a leaf"):
        getattr(leaf(), name)(*arguments)


# ----- refused


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x.split(0), ValueError, "split_size must be at least 1"),
        (lambda x: x.split([1, 1], dim=1), ValueError, "must add up to the length 3 of axis 1"),
        (lambda x: x.std(correction=1, unbiased=True), TypeError, "either correction or unbiased"),
        (lambda x: x.sum(2), ValueError, "axis 2 is out of bounds"),
        (lambda x: x.sum(out=None), TypeError, "out"),
        (lambda x: x.to("complex64"), TypeError, "`dtype` must be floating"),
        (lambda x: x.expand(4, 4), ValueError, "broadcast"),
        (lambda x: x.expand(3), ValueError, "expand needs a length for each of the 2 axes"),
    ],
)
def test_bad_calls_are_refused(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(leaf())


def python_calls(f: Callable[[], Any]) -> int:
    """How many Python functions `f` calls.

    Nothing is collected meanwhile: garbage that earlier tests left has callbacks, which would be counted too.
    """
    count = -1  # f itself

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    collecting = gc.isenabled()
    gc.disable()
    sys.setprofile(note)
    try:
        f()
    finally:
        sys.setprofile(None)
        if collecting:
            gc.enable()
    return count


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x * x,
        lambda x: x.exp(),
        lambda x: x.sum(),
        lambda x: x.mean(),
        lambda x: x.sum(1),
        lambda x: x.max(1),
        lambda x: x.clip(0.0, 1.0),
    ],
)
def test_a_small_recorded_operation_takes_few_python_calls(call: Callable[[Tensor], Tensor]) -> None:
    x = leaf()
    assert python_calls(lambda: call(x)) - 1 <= 6
