"""The law of the fold: however the shards are cut into ranges, the tree decides which values are added."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.fold import Fold, Span, balanced_ranges, combine, subtrees


def split(lo: int, hi: int) -> int:
    power = 1
    while 2 * power < hi - lo:
        power *= 2
    return lo + power


def recursive(leaves: list[Any], add: Callable[[Any, Any], Any], lo: int, hi: int) -> Any:
    """The definition: fold the node over [lo, hi)."""
    if hi - lo == 1:
        return leaves[lo]
    middle = split(lo, hi)
    return add(recursive(leaves, add, lo, middle), recursive(leaves, add, middle, hi))


def nodes(lo: int, hi: int) -> set[Span]:
    if hi - lo == 1:
        return {(lo, hi)}
    return {(lo, hi)} | nodes(lo, split(lo, hi)) | nodes(split(lo, hi), hi)


def pair(left: Any, right: Any) -> Any:
    return (left, right)


@st.composite
def cut_shards(draw: st.DrawFn, largest: int = 70) -> tuple[int, list[Span]]:
    """A number of shards and a cut of them in contiguous ranges, some of them empty."""
    shards = draw(st.integers(1, largest))
    cuts = draw(st.lists(st.integers(0, shards), max_size=9))
    borders = [0, *sorted(cuts), shards]
    return shards, list(pairwise(borders))


def fold_range(leaves: list[Any], add: Callable[[Any, Any], Any], lo: int, hi: int) -> dict[Span, Any]:
    fold = Fold(len(leaves), add, lo, hi)
    for leaf in leaves[lo:hi]:
        fold.push(leaf)
    return fold.partials()


@settings(deadline=None, max_examples=300)
@given(cut_shards(), st.randoms())
def test_every_cut_folds_to_the_tree_of_the_definition(cut: tuple[int, list[Span]], random: Any) -> None:
    shards, ranges = cut
    leaves = list(range(shards))
    gathered = [item for lo, hi in ranges for item in fold_range(leaves, pair, lo, hi).items()]
    random.shuffle(gathered)  # messages come in any order
    assert combine(dict(gathered), shards, pair) == recursive(leaves, pair, 0, shards)


@settings(deadline=None, max_examples=60)
@given(cut_shards(), st.integers(0, 2**32 - 1))
def test_float32_sums_in_place_have_the_same_bits_for_every_cut(
    cut: tuple[int, list[Span]], seed: int
) -> None:
    shards, ranges = cut
    rng = np.random.default_rng(seed)
    leaves = [
        (rng.standard_normal(5) * 10.0 ** rng.integers(-6, 6)).astype(np.float32) for _ in range(shards)
    ]
    expected = recursive(leaves, np.add, 0, shards)

    def add(left: Any, right: Any) -> Any:
        left += right
        return left

    owned = [leaf.copy() for leaf in leaves]
    gathered = {span: value for lo, hi in ranges for span, value in fold_range(owned, add, lo, hi).items()}
    assert combine(gathered, shards, add).tobytes() == expected.tobytes()


def test_the_order_of_a_float32_sum_does_matter() -> None:
    """Else the law above would hold for any order."""
    rng = np.random.default_rng(0)
    leaves = [rng.standard_normal(1000).astype(np.float32) for _ in range(7)]
    assert recursive(leaves, np.add, 0, 7).tobytes() != np.add.reduce(leaves).tobytes()


@settings(deadline=None, max_examples=200)
@given(cut_shards())
def test_subtrees_are_the_maximal_nodes_inside_the_range(cut: tuple[int, list[Span]]) -> None:
    shards, ranges = cut
    tree = nodes(0, shards)
    for lo, hi in ranges:
        inside = [node for node in tree if lo <= node[0] and node[1] <= hi]
        maximal = [a for a in inside if not any(a != b and b[0] <= a[0] and a[1] <= b[1] for b in inside)]
        assert subtrees(lo, hi, shards) == tuple(sorted(maximal))
        assert tuple(fold_range(list(range(shards)), pair, lo, hi)) == subtrees(lo, hi, shards)


@settings(deadline=None, max_examples=50)
@given(cut_shards(largest=600))
def test_a_fold_holds_few_values_at_any_time(cut: tuple[int, list[Span]]) -> None:
    shards, ranges = cut
    for lo, hi in ranges:
        held = 0

        def add(left: None, right: None) -> None:
            nonlocal held
            held -= 1

        fold: Fold[None] = Fold(shards, add, lo, hi)
        for _ in range(lo, hi):
            held += 1
            fold.push(None)
            assert held <= 2 * math.log2(shards) + 1


@given(st.integers(1, 200), st.integers(1, 200))
def test_balanced_ranges_cover_all_shards_evenly(shards: int, workers: int) -> None:
    ranges = balanced_ranges(shards, workers)
    assert len(ranges) == workers
    assert [i for lo, hi in ranges for i in range(lo, hi)] == list(range(shards))
    lengths = [hi - lo for lo, hi in ranges]
    assert max(lengths) - min(lengths) <= 1


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 12), st.sets(st.tuples(st.integers(-1, 13), st.integers(-1, 13)), max_size=5))
def test_combine_takes_exactly_the_partitions_into_nodes(shards: int, spans: set[Span]) -> None:
    covered = [i for lo, hi in sorted(spans) for i in range(lo, hi)]
    good = spans <= nodes(0, shards) and covered == list(range(shards))
    if good:
        combine(dict.fromkeys(spans), shards, pair)
    else:
        with pytest.raises(ValueError, match="partials"):
            combine(dict.fromkeys(spans), shards, pair)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 2), (3, 4)], r"shards \[2, 3\) are missing"),
        ([(0, 2)], r"shards \[2, 4\) are missing"),
        ([(2, 4)], r"shards \[0, 2\) are missing"),
        ([], r"shards \[0, 4\) are missing"),
        ([(0, 2), (1, 2), (2, 4)], r"overlap at shard 1"),
        ([(0, 1), (1, 3), (3, 4)], r"\[1, 3\) is no subtree of the tree over 4 shards"),
        ([(0, 4), (4, 8)], r"\[4, 8\) is no subtree"),
        ([(0, 4), (4, 4)], r"\[4, 4\) is no subtree"),
    ],
)
def test_wrong_coverage_is_named(spans: list[Span], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine(dict.fromkeys(spans), 4, pair)


def test_a_fold_says_when_it_has_too_few_or_too_many_leaves() -> None:
    fold = Fold(5, pair, 1, 3)
    fold.push("b")
    with pytest.raises(ValueError, match=r"\[1, 3\) misses its leaves from 2 on"):
        fold.partials()
    fold.push("c")
    assert fold.partials() == {(1, 2): "b", (2, 3): "c"}
    with pytest.raises(ValueError, match=r"\[1, 3\) is complete"):
        fold.push("d")
    with pytest.raises(ValueError, match=r"shards \[0, 1\) are missing"):
        _ = fold.root


@pytest.mark.parametrize(
    "call",
    [
        lambda: subtrees(0, 0, 0),
        lambda: subtrees(-1, 2, 4),
        lambda: subtrees(3, 2, 4),
        lambda: subtrees(0, 5, 4),
        lambda: Fold(0, pair),
        lambda: Fold(4, pair, 0, 5),
        lambda: combine({}, 0, pair),
        lambda: balanced_ranges(0, 1),
        lambda: balanced_ranges(1, 0),
    ],
)
def test_numbers_outside_their_range_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="must"):
        call()
