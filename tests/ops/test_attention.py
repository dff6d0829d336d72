"""Attention where the table of laws does not go: many pieces, kept and recomputed scores, hard scores, errors."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from ops.fused import agree, leaf

from dist_dp import ops
from dist_dp.ops import attention

random = np.random.default_rng(0)
attend = ops.scaled_dot_product_attention


def heads(*lead: int, n: int, m: int, size: float = 1.0) -> list[Any]:
    return [random.normal(size=(*lead, n, 4)) * size, *(random.normal(size=(*lead, m, w)) for w in (4, 3))]


@pytest.mark.parametrize("kept", [0, 1 << 22])
@pytest.mark.parametrize("piece", [1, 300, 1 << 17])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_fused_is_composed_for_pieces_of_any_size(size: float, causal: bool, piece: int, kept: int) -> None:
    with patch.object(attention, "_PIECE", piece), patch.object(attention, "_KEPT", kept):
        agree(lambda q, k, v: attend(q, k, v, causal=causal), *heads(2, 3, n=5, m=7, size=size), rtol=1e-8)
        agree(lambda q, k, v: attend(q, k, v, causal=causal), *heads(1, n=70, m=70, size=size), rtol=1e-8)


@pytest.mark.parametrize("kept", [0, 1 << 22])
def test_gradient_of_an_added_mask(kept: int) -> None:
    with patch.object(attention, "_PIECE", 30), patch.object(attention, "_KEPT", kept):
        for shape in ((5, 7), (3, 1, 7), (2, 3, 5, 7), (7,)):
            agree(attend, *heads(2, 3, n=5, m=7), random.normal(size=shape))


@pytest.mark.parametrize("size", [1.0, 1000.0])
@pytest.mark.parametrize("as_numbers", [False, True])
def test_masked_keys_do_not_exist(as_numbers: bool, size: float) -> None:
    q, k, v = heads(2, n=3, m=6, size=size)
    k[:, 4:] *= 1000  # large scores where nothing may look
    seen = np.arange(6) < 4
    mask = np.where(seen, 0, -np.inf) if as_numbers else seen
    alone = attend(q, k[:, :4], v[:, :4])
    np.testing.assert_allclose(attend(q, k, v, mask).data, alone.data, rtol=1e-9)
    agree(lambda q, k, v: attend(q, k, v, mask), q, k, v, rtol=1e-8)


@pytest.mark.parametrize("mask", [np.zeros((3, 6), bool), np.full((3, 6), -np.inf)])
def test_a_query_that_may_look_nowhere_gets_0_and_gives_no_gradient(mask: Any) -> None:
    mask = mask.copy()
    mask[1] = True if mask.dtype == bool else 0.0
    inputs = [leaf(x) for x in heads(2, n=3, m=6)]
    out = attend(*inputs, mask)
    assert (out.data[:, [0, 2]] == 0).all() and (out.data[:, 1] != 0).all()
    out.sum().backward()
    assert all(np.isfinite(x.grad.data).all() for x in inputs)
    assert (inputs[0].grad.data[:, [0, 2]] == 0).all()


def test_a_later_key_changes_no_earlier_query() -> None:
    q, k, v = heads(2, 2, n=130, m=130)
    before = attend(q, k, v, causal=True).data
    k[..., 100:, :], v[..., 100:, :] = 1e6, np.nan
    np.testing.assert_allclose(attend(q, k, v, causal=True).data[..., :64, :], before[..., :64, :], rtol=1e-9)


def test_heads_cut_from_one_matrix_join_again_without_a_copy() -> None:
    x = random.normal(size=(2, 5, 3, 4)).astype(np.float32)
    q = leaf(x).transpose(0, 2, 1, 3)
    out = attend(q, q, q)
    assert out.dtype == np.float32
    assert np.shares_memory(out.transpose(0, 2, 1, 3).reshape(2, 5, 12).data, out.data)


def test_no_keys_and_no_queries() -> None:
    q, k, v = heads(2, n=3, m=0)
    np.testing.assert_array_equal(attend(q, k, v).data, np.zeros((2, 3, 3)))
    assert attend(k, q, np.zeros((2, 3, 5))).shape == (2, 0, 5)


@pytest.mark.parametrize(
    ("shapes", "mask", "message"),
    [
        (((3,), (3,), (3,)), None, "`q`, `k` and `v` must have the same leading axes and two more"),
        (((2, 3, 4), (3, 4), (3, 4)), None, "the same leading axes"),
        (((2, 3, 4), (3, 3, 4), (3, 3, 4)), None, "the same leading axes"),
        (((3, 4), (3, 5), (3, 4)), None, "`q` and `k` must have vectors of one length, got 4 and 5"),
        (((3, 4), (3, 4), (2, 4)), None, "`k` and `v` must be equally many, got 3 and 2"),
        (((3, 4), (2, 4), (2, 4)), np.zeros((3, 3)), r"`mask` must broadcast to \(3, 2\), got \(3, 3\)"),
        (
            ((3, 4), (2, 4), (2, 4)),
            np.zeros((1, 3, 2)),
            r"`mask` must broadcast to \(3, 2\), got \(1, 3, 2\)",
        ),
    ],
)
def test_errors(shapes: Any, mask: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attend(*map(np.zeros, shapes), mask)
