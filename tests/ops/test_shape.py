"""What looks at memory differently copies nothing; what cannot be done is said with the argument's name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dist_dp import Tensor, ops

X = np.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    "look",
    [
        lambda x: ops.reshape(x, 6, 4),
        lambda x: ops.ravel(x),
        lambda x: ops.flatten(x, 1),
        lambda x: ops.transpose(x, (2, 0, 1)),
        lambda x: ops.permute(x, 1, 0, 2),
        lambda x: ops.swapaxes(x, 0, 2),
        lambda x: ops.moveaxis(x, 0, -1),
        lambda x: ops.expand_dims(x, (0, 2)),
        lambda x: ops.squeeze(ops.expand_dims(x, 1)),
        lambda x: ops.broadcast_to(x, (5, 2, 3, 4)),
        lambda x: ops.broadcast_arrays(x, np.zeros((7, 1, 1, 1)))[0],
        lambda x: ops.flip(x, (0, 2)),
        lambda x: ops.rot90(x, 3),
        lambda x: ops.diagonal(x, 1, 1, 2),
        lambda x: ops.split(x, 2, axis=2)[1],
        lambda x: ops.array_split(x, 3, axis=2)[1],
        lambda x: ops.chunk(x, 2, axis=1)[0],
        lambda x: ops.unfold(x, 2, size=3, step=1),
        lambda x: ops.atleast_3d(x),
        lambda x: ops.meshgrid(ops.ravel(x), [1.0, 2.0])[0],
    ],
)
def test_views_share_memory(look: Callable[[Any], Tensor]) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.shares_memory(look(Tensor(x, requires_grad=True)).data, x)


def test_a_broadcast_view_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        ops.broadcast_to(np.zeros(2), (3, 2)).zero_()


def test_joining_brings_everything_to_one_dtype() -> None:
    joined = ops.concatenate([np.zeros(1, np.float32), np.zeros(1, np.int64), [1]])
    assert joined.dtype == np.float32
    assert ops.stack([np.zeros(1, np.float32), np.zeros(1)]).dtype == np.float64
    x = Tensor(np.zeros(2, np.float32), requires_grad=True)
    ops.concatenate([x, np.zeros(1)]).backward(np.ones(3))
    assert x.grad.dtype == np.float32


def test_a_sum_over_many_pieces_of_one_tensor_is_the_whole() -> None:
    x = Tensor(X, requires_grad=True)
    ops.concatenate([*ops.split(x, 3, axis=1), x], axis=1).backward(np.ones((2, 6, 4)))
    np.testing.assert_array_equal(x.grad.data, np.full(X.shape, 2.0))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.reshape(X, 5, 5), ValueError, r"product 24, .* got \(5, 5\)"),
        (
            lambda: ops.squeeze(X, 1),
            ValueError,
            r"`axis` of squeeze must have length 1, got axis 1 of shape \(2, 3, 4\)",
        ),
        (lambda: ops.expand_dims(X, 5), ValueError, "axis 5 is out of bounds"),
        (lambda: ops.transpose(X, (0, 1)), ValueError, "each of the 3 axes"),
        (lambda: ops.transpose(X, (0, 1, 1)), ValueError, "repeated axis"),
        (lambda: ops.moveaxis(X, (0, 1), 0), ValueError, "as many axes each"),
        (lambda: ops.swapaxes(X, 0, 3), ValueError, "axis2 3 is out of bounds"),
        (lambda: ops.broadcast_to(X, (2, 3)), ValueError, "broadcast"),
        (lambda: ops.unfold(X, 1, size=4), ValueError, "`size` of unfold must be between 1 and 3"),
        (lambda: ops.unfold(X, 1, size=2, step=0), ValueError, "`step` of unfold must be at least 1"),
        (lambda: ops.concatenate([]), ValueError, "`xs` of concatenate must hold at least one"),
        (lambda: ops.concatenate(1.0), TypeError, "`xs` of concatenate must be a sequence"),  # type: ignore[arg-type]
        (lambda: ops.concatenate([X, X[0]]), ValueError, "dimension"),
        (lambda: ops.concatenate([X, X], 3), ValueError, "axis 3 is out of bounds"),
        (lambda: ops.stack([X, X[0]]), ValueError, "same shape"),
        (lambda: ops.split(X, 5), ValueError, "must divide the length 2 of axis 0, got 5"),
        (lambda: ops.array_split(X, 0), ValueError, "at least 1, got 0"),
        (lambda: ops.chunk(X, 0), ValueError, "`chunks` must be at least 1"),
        (lambda: ops.flatten(X, 2, 1), ValueError, "`start_dim` must not come after `end_dim`"),
        (lambda: ops.meshgrid(X[0, 0], indexing="yx"), ValueError, "`indexing` must be"),
        (lambda: ops.repeat(X, -1), ValueError, "`repeats` must be integers from 0 on"),
        (lambda: ops.repeat(X, [1, 2, 3], 0), ValueError, "one number or 2"),
        (lambda: ops.pad(X, 1, mode="mean"), ValueError, "`mode` must be"),
        (lambda: ops.pad(X, -1), ValueError, "`pad_width` must be a number from 0 on"),
        (lambda: ops.pad(X, [(1, 1), (2, 2)]), ValueError, "a pair for each of the 3 axes"),
        (lambda: ops.pad(X, 0.5), ValueError, "`pad_width` must be"),
        (lambda: ops.roll(X, (1, 2, 3), (0, 1)), ValueError, "`shift` and `axis` must be of one length"),
        (lambda: ops.rot90(X, axes=(0, 0)), ValueError, "repeated axis"),
        (lambda: ops.tril(X[0, 0]), ValueError, "tril needs at least two axes"),
        (lambda: ops.diagonal(X[0, 0]), ValueError, "diagonal needs at least two axes"),
        (lambda: ops.diag(X), ValueError, "a vector or a matrix"),
    ],
)
def test_wrong_arguments_are_refused(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
