"""Trees come apart and together again, whatever is nested in what."""

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dp.pytree import flatten, flatten_like, map_leaves, paths, unflatten

Pair = namedtuple("Pair", "first second")

trees = st.recursive(
    st.integers() | st.none() | st.text(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


def looked_up(tree: Any, path: str) -> Any:
    return eval(f"tree{path}", {"tree": tree})


@given(trees)
def test_a_tree_is_its_structure_and_its_leaves(tree: Any) -> None:
    leaves, structure = flatten(tree)
    again = unflatten(structure, leaves)
    assert again == tree and type(again) is type(tree)
    assert structure.size == len(leaves) and None not in leaves
    assert flatten(again)[1] == structure
    assert flatten_like(structure, tree, "tree") == leaves
    assert [looked_up(tree, path) for path in paths(structure)] == leaves
    assert flatten(map_leaves(repr, tree))[0] == [repr(leaf) for leaf in leaves]


def test_dicts_are_matched_by_key() -> None:
    _, structure = flatten({"a": 1, "b": 2})
    assert flatten_like(structure, {"b": 20, "a": 10}, "t") == [10, 20]
    assert flatten_like(structure, OrderedDict(b=20, a=10), "t") == [10, 20]


def test_a_prefix_stands_for_everything_below() -> None:
    _, structure = flatten({"a": [1, 2], "b": (3, {"c": 4})})
    assert flatten_like(structure, {"a": 0, "b": (None, 5)}, "t", prefix=True) == [0, 0, None, 5]
    assert flatten_like(structure, 7, "t", prefix=True) == [7] * 4


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": 1}, r"t must be nested as a dict with keys \['a', 'b'\], got a dict with keys \['a'\]"),
        ({"a": [1], "b": 2}, r"t\['a'\] must be nested as a list of 2, got a list of 1"),
        ({"a": (1, 2), "b": 2}, r"t\['a'\] must be nested as a list of 2, got a tuple of 2"),
        ({"a": 5, "b": 2}, r"t\['a'\] must be nested as a list of 2, got int"),
        (None, "got None"),
    ],
)
def test_a_tree_that_does_not_match_is_refused_with_its_place(tree: Any, message: str) -> None:
    _, structure = flatten({"a": [1, 2], "b": 3})
    with pytest.raises(ValueError, match=message):
        flatten_like(structure, tree, "t")


def test_leaves_must_fill_the_places() -> None:
    _, structure = flatten([1, 2])
    with pytest.raises(ValueError, match="2 places, got 3 leaves"):
        unflatten(structure, [1, 2, 3])
