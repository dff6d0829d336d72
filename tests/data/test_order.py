"""Laws of the keyed order: a bijection for every n, unbiased, and cheap for an n far beyond memory."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dp.data import Permutation, order
from dist_dp.random import Key

# Small tables, so that the network is met at sizes where every position can be looked at.
sizes = st.one_of(st.integers(0, 40), st.integers(0, 5000), st.sampled_from([order._TABLE, order._TABLE + 1]))


def excess(counts):
    """Pearson's chi-square of `counts` against equal ones, in standard deviations above its mean."""
    expected, degrees = counts.sum() / counts.size, counts.size - 1
    return ((((counts - expected) ** 2) / expected).sum() - degrees) / (2 * degrees) ** 0.5


@given(sizes, st.integers(0, 2**64))
@settings(deadline=None, max_examples=60)
def test_every_position_has_one_example_and_back(n, seed):
    for table in (0, order._TABLE):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(order, "_TABLE", table)
            p = Permutation(n, Key(seed))
        positions = np.arange(n)
        examples = p[positions]
        assert len(p) == n and examples.dtype == np.int64
        assert np.array_equal(np.sort(examples), positions)
        assert np.array_equal(p.inverse(examples), positions)


@given(st.integers(1, 10**12), st.data())
@settings(deadline=None, max_examples=30)
def test_any_stretch_of_a_large_order_is_found_alone(n, data):
    p = Permutation(n, Key(5, n))
    start = data.draw(st.integers(0, n - 1))
    positions = np.arange(start, min(n, start + 50))
    examples = p[positions]
    assert examples.min() >= 0 and examples.max() < n and len(set(examples.tolist())) == positions.size
    assert p.inverse(examples).tolist() == positions.tolist()
    assert p[start] == examples[0] and p.inverse(p[start]) == start
    assert type(p[start]) is int and type(p.inverse(start)) is int


@pytest.mark.parametrize("n", [100, 100_000])
def test_equal_keys_give_equal_orders_and_different_keys_different_ones(n):
    positions = np.arange(100)
    orders = {
        tuple(Permutation(n, Key(seed, "order", epoch))[positions]) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25
    assert tuple(Permutation(n, Key(0, "order", 0))[positions]) in orders


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_every_example_comes_at_every_position_equally_often(n):
    orders = np.array([Permutation(n, Key(1, n, k))[np.arange(n)] for k in range(4000)])
    assert all(abs(excess(np.bincount(orders[:, i], minlength=n))) < 4 for i in range(n))


def test_every_order_of_four_comes_equally_often():
    orders = np.array([Permutation(4, Key(2, k))[np.arange(4)] for k in range(6000)])
    _, counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)
    assert counts.size == 24 and abs(excess(counts)) < 4


def test_a_large_order_is_unbiased_over_keys():
    n, bins = order._TABLE + 1, 32
    positions = np.array([0, 1, n // 2, n - 1])
    found = np.array([Permutation(n, Key(3, k))[positions] for k in range(2000)])
    for column in (*found.T, (found[:, 1] - found[:, 0]) % n):
        assert abs(excess(np.bincount(column * bins // n, minlength=bins))) < 4


def test_a_large_order_has_no_serial_dependence():
    # Neighbours in the order, and positions that share a digit of the network, fall independently.
    n, bins = 300_000, 16
    examples = Permutation(n, Key(4))[np.arange(n)] * bins // n
    for lag in (1, 547, 548):
        pairs = np.bincount(examples[:-lag] * bins + examples[lag:], minlength=bins**2)
        assert abs(excess(pairs)) < 4


def test_indices_of_any_shape_and_the_order_of_none():
    for n in (10, 100_000):
        p = Permutation(n, Key(0))
        grid = np.array([[1, 2], [3, 9]], np.uint8)
        assert p[grid].shape == (2, 2) and p.inverse(p[grid]).tolist() == grid.tolist()
        assert p[np.zeros(0, int)].shape == (0,)
        assert p[[3, 1]].tolist() == [p[3], p[1]]
    assert len(Permutation(0, Key(0))) == 0


def test_repr():
    assert repr(Permutation(7, Key(0, "order", 1))) == "Permutation(7, Key(0, 'order', 1))"


@pytest.mark.parametrize("n", [10, 100_000])
@pytest.mark.parametrize(
    "index, error, message",
    [
        (-1, IndexError, "must lie in 0, ..., 9.*, got -1"),
        ([0, 100_000], IndexError, "got 100000"),
        (np.uint64(2**63), IndexError, "got 9223372036854775808"),
        (1.0, TypeError, "must be an int or an array of ints, got 1.0 of dtype float64"),
        ([True], TypeError, "dtype bool"),
        (slice(2), TypeError, "dtype object"),
    ],
)
def test_bad_positions_and_examples_are_refused(n, index, error, message):
    p = Permutation(n, Key(0))
    with pytest.raises(error, match=f"position .*{message}"):
        p[index]
    with pytest.raises(error, match=f"example .*{message}"):
        p.inverse(index)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((-1, Key(0)), ValueError, "n must be at least 0, got -1"),
        ((2.0, Key(0)), TypeError, "n must be an int, got 2.0"),
        ((True, Key(0)), TypeError, "n must be an int, got True"),
        ((3, 0), TypeError, "key must be a dist_dp.random.Key, got int"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Permutation(*arguments)
