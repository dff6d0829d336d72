"""Batches that are dealt out by the sizes of their examples."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from train.conftest import arrays, loss, make

import dist_dp as dp
from dist_dp.data import Batches

SIZES = st.lists(st.integers(0, 50), min_size=1, max_size=40)


@given(SIZES, st.integers(1, 6), st.integers(1, 12), st.integers(0, 3))
def test_every_example_is_in_one_shard_and_no_shard_is_much_larger(
    sizes: list[int], shards: int, batch_size: int, seed: int
) -> None:
    batches = Batches(len(sizes), batch_size, shards, seed, sizes=tuple(sizes))
    plain = Batches(len(sizes), batch_size, 1, seed)
    for step in range(batches.total_steps):
        dealt = [batches.indices(step, shard).tolist() for shard in range(shards)]
        batch = plain.indices(step, 0).tolist()
        assert sorted(itertools.chain(*dealt)) == sorted(batch)
        assert all(its == [i for i in batch if i in its] for its in dealt)  # in the order of the batch
        weights = [sum(sizes[i] for i in its) for its in dealt]
        # Each was the smallest when it got its last example, which is its smallest.
        for its, weight in zip(dealt, weights, strict=True):
            assert not its or weight - min(sizes[i] for i in its) <= min(weights)


@pytest.mark.parametrize(
    ("balance", "error", "words"),
    [
        ([1, 2], ValueError, "balance must have one size for each of the 46 examples, got 2"),
        ([1.5] * 46, TypeError, "balance must be a sequence of one whole number for each example"),
        (3, TypeError, "balance must be a sequence of one whole number for each example"),
        ([-1] * 46, ValueError, "balance must be at least 0, got -1"),
    ],
)
def test_wrong_sizes_are_refused(balance: object, error: type[Exception], words: str) -> None:
    model, optimizer = make()
    with pytest.raises(error, match=words):
        dp.fit(model, loss, optimizer, arrays(), batch_size=10, balance=balance, progress=False)  # type: ignore[arg-type]


def test_sizes_are_a_setting_of_the_run(tmp_path: object) -> None:
    def run(sizes: list[int] | None) -> dp.Result:
        model, optimizer = make()
        return dp.fit(
            *(model, loss, optimizer, arrays()),
            batch_size=10,
            shards=3,
            epochs=2,
            run=f"{tmp_path}/run",
            progress=False,
            balance=sizes,
        )

    sizes = [i % 7 for i in range(46)]
    assert run(sizes).digest == run(sizes).digest
    for others in (None, sizes[::-1]):
        with pytest.raises(dp.RunMismatch, match="balance"):
            run(others)
