"""The fold of arrays has the bits of the tree, however the shards were cut into spans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.array_fold import fold_arrays
from runtime.fold import Fold, Span, combine, subtrees

SHARDS = st.integers(1, 12)


@given(data=st.data(), shards=SHARDS, dtype=st.sampled_from(["<f4", "<f8", "<f2", "<c8", "<i4"]))
def test_it_is_the_fold_of_whole_arrays(data: st.DataObject, shards: int, dtype: str) -> None:
    size = data.draw(st.sampled_from([0, 1, 5, (1 << 15) - 1, 1 << 15, (1 << 16) + 3]), "size")
    cuts = sorted(data.draw(st.lists(st.integers(0, shards), max_size=4), "cuts"))
    silent = data.draw(st.frozensets(st.integers(0, shards - 1)), "silent")
    rng = np.random.default_rng(shards)

    def add(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
        return (b if a is None else a) if a is None or b is None else a + b

    whole: Fold[np.ndarray | None] = Fold(shards, add)
    values: dict[Span, np.ndarray | None] = {}
    for lo, hi in zip([0, *cuts], [*cuts, shards], strict=True):
        part: Fold[np.ndarray | None] = Fold(shards, add, lo, hi)
        for shard in range(lo, hi):
            leaf = None
            if shard not in silent:
                leaf = (rng.standard_normal(size) * 10.0 ** rng.integers(-3, 4, size)).astype(dtype)
                leaf[::7] = -0.0
            part.push(leaf)
            whole.push(leaf)
        values |= part.partials()
    before = {span: array.copy() for span, array in values.items() if array is not None}
    out = np.full(size, 99, dtype)

    assert fold_arrays(values, shards, out) == (len(silent) < shards)
    expected = np.full(size, 99, dtype) if whole.root is None else whole.root
    assert out.tobytes() == expected.tobytes()
    for span, array in before.items():
        assert values[span].tobytes() == array.tobytes()  # type: ignore[union-attr]


@given(shards=SHARDS, cut=st.integers(0, 12))
def test_a_piece_of_the_arrays_may_be_folded_alone(shards: int, cut: int) -> None:
    rng = np.random.default_rng(shards)
    spans = [*subtrees(0, cut % shards, shards), *subtrees(cut % shards, shards, shards)]
    values = {span: rng.standard_normal(70_000) for span in spans}
    out = np.empty(70_000)
    for lo, hi in ((0, 1), (1, 40_001), (40_001, 70_000)):
        fold_arrays({span: array[lo:hi] for span, array in values.items()}, shards, out[lo:hi])
    assert out.tobytes() == combine(values, shards, lambda a, b: a + b).tobytes()


def test_spans_that_do_not_cover_the_shards_are_refused() -> None:
    for spans in ([(0, 1)], [(0, 2), (1, 2)], [(0, 3)], [(1, 2)]):
        for _ in range(2):
            with pytest.raises(ValueError, match="partials"):
                fold_arrays({span: np.zeros(3) for span in spans}, 2, np.zeros(3))
