"""Making tensors: which dtype, whose memory, and what cannot be made one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import ops


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.0, "float32"),
        ([1.0, 2], "float32"),
        ([[1, 2], [3, 4]], "int64"),
        (True, "bool"),
        (np.float64(1.0), "float64"),
        (np.zeros(2), "float64"),
        (np.zeros(2, np.float16), "float16"),
        (np.zeros(2, np.int8), "int8"),
        (range(3), "int64"),
    ],
)
def test_the_dtype_of_data(data: Any, dtype: str) -> None:
    assert dp.tensor(data).dtype == dp.as_tensor(data).dtype == dtype
    assert dp.tensor(data, dtype="float64").dtype == "float64"


def test_float64_does_not_pass_through_float32() -> None:
    assert dp.tensor(0.1, dtype="float64").item() == 0.1
    assert dp.as_tensor([0.1], dtype="float64").tolist() == [0.1]


def test_tensor_copies_and_as_tensor_shares() -> None:
    a = np.zeros(3)
    assert not np.shares_memory(dp.tensor(a).numpy(), a)
    assert dp.as_tensor(a).numpy() is a
    x = dp.tensor(a, requires_grad=True)
    assert dp.as_tensor(x) is x
    assert not dp.tensor(x).requires_grad  # new data; the old gradient stays behind
    assert dp.as_tensor(x * 2, dtype="float32").requires_grad


def test_of_a_mapped_file_it_is_the_plain_array_over_its_memory(tmp_path: Path) -> None:
    a = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    np.save(tmp_path / "a.npy", a)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    weight, bias = a[:33], a[0, :33].copy()
    for x in (mapped, dp.as_tensor(mapped)):
        np.testing.assert_array_equal(ops.linear(x, weight, bias).data, ops.linear(a, weight, bias).data)
    shared = dp.as_tensor(mapped).data
    assert type(shared) is np.ndarray and np.shares_memory(shared, mapped)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ops.zeros((2, 3)), np.zeros((2, 3))),
        (ops.ones(4), np.ones(4)),
        (ops.full((2,), 0.5), np.full((2,), 0.5)),
        (ops.eye(2, 3, 1), np.eye(2, 3, 1)),
        (ops.arange(5), np.arange(5)),
        (ops.arange(1, 2, 0.25), np.arange(1, 2, 0.25)),
        (ops.arange(5, 1, -2), np.arange(5, 1, -2)),
        (ops.linspace(0, 1, 5), np.linspace(0, 1, 5)),
        (ops.linspace(0, 1, 5, endpoint=False), np.linspace(0, 1, 5, endpoint=False)),
    ],
)
def test_values_are_numpys_and_floats_float32(ours: dp.Tensor, theirs: Any) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-6)
    assert ours.dtype == (np.float32 if theirs.dtype.kind == "f" else theirs.dtype)
    assert not ours.requires_grad


def test_like_another() -> None:
    x = dp.tensor(np.ones((2, 3)))
    for made, value in ((ops.zeros_like(x), 0), (ops.ones_like(x), 1), (ops.full_like(x, 2.5), 2.5)):
        assert (made.shape, made.dtype) == (x.shape, x.dtype)
        assert (made.numpy() == value).all()
    assert ops.zeros_like(x, dtype="int32").dtype == np.int32
    assert ops.empty((2, 0)).shape == (2, 0)


def test_a_new_tensor_may_collect_a_gradient() -> None:
    for x in (
        dp.tensor(1.0, requires_grad=True),
        ops.zeros(2, requires_grad=True),
        ops.ones(2, requires_grad=True),
    ):
        assert x.requires_grad and x.is_leaf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dp.tensor("a"), "real numbers"),
        (lambda: dp.tensor(1j), "complex"),
        (lambda: dp.tensor(None), "real numbers"),
        (lambda: dp.tensor([dp.tensor(1.0)]), "stack or concatenate"),
        (lambda: dp.tensor([1, 2], requires_grad=True), "floating dtype, got int64"),
    ],
)
def test_what_cannot_be_a_tensor(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()
