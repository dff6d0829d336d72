"""Laws of sources: a batch is the examples at the indices in order, whatever holds them."""

import json
import pickle
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dp.data import DataError, Source, as_source, default_collate


class Pair(NamedTuple):
    x: object
    y: object


class Items:
    """A data set as torch and Hugging Face have them: a length, and items by Python int."""

    def __init__(self, items, bad=None):
        self.items, self.bad = items, bad

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        assert type(index) is int
        if index == self.bad:
            raise OSError(f"file {index}.png is truncated")
        return self.items[index]


class OfArray:
    """What a tensor of another library looks like."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value, dtype)


X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.arange(10)
some = st.lists(st.integers(0, 9), max_size=12).map(lambda indices: np.array(indices, np.int64))


# --- arrays


@given(some)
@settings(deadline=None, max_examples=30)
def test_arrays_of_every_structure_give_the_rows_at_the_indices(indices):
    x, y = X[indices], Y[indices]
    alone = as_source(X).take(indices)
    pair = as_source((X, Y)).take(indices)
    named = as_source(Pair(X, Y)).take(indices)
    nested = as_source({"in": (X, {"y": Y}), "out": Y}).take(indices)
    for got in (alone, pair[0], named.x, nested["in"][0]):
        assert got.dtype == np.float32 and np.array_equal(got, x)
    for got in (pair[1], named.y, nested["in"][1]["y"], nested["out"]):
        assert np.array_equal(got, y)
    assert type(pair) is tuple and type(named) is Pair and list(nested) == ["in", "out"]


def test_a_batch_may_be_written_to_without_touching_the_data():
    data = X.copy()
    as_source(data).take(np.arange(10))[:] = -1
    assert np.array_equal(data, X)


@pytest.mark.parametrize("view", [X[::-1], X[:, ::2], np.asfortranarray(X), X[:, 0]])
def test_views_are_data_too(view):
    assert np.array_equal(as_source(view).take(np.array([3, 0])), view[[3, 0]])


def test_memory_mapped_arrays_are_data_too(tmp_path):
    np.save(tmp_path / "x.npy", X)
    got = as_source(np.load(tmp_path / "x.npy", mmap_mode="r")).take(np.array([9, 1]))
    assert np.array_equal(got, X[[9, 1]]) and type(got) is np.ndarray


def test_sources_describe_themselves_in_json():
    described = as_source({"x": X, "more": (Y, Y > 3)}).describe()
    assert json.loads(json.dumps(described)) == {
        "kind": "arrays",
        "length": 10,
        "fields": {
            "x": {"shape": [4], "dtype": "float32"},
            "more.0": {"shape": [], "dtype": "int64"},
            "more.1": {"shape": [], "dtype": "bool"},
        },
    }
    assert as_source(X).describe()["fields"] == {"data": {"shape": [4], "dtype": "float32"}}
    assert len(as_source(X)) == 10 and len(as_source(Y.tolist())) == 10
    assert as_source(["a", "b"]).describe() == {"kind": "items", "length": 2}


# --- items


@given(some)
@settings(deadline=None, max_examples=30)
def test_items_give_the_batch_that_the_arrays_give(indices):
    if indices.size == 0:
        assert as_source([(1, 2)]).take(indices) == []
        return
    expected = as_source((X, Y)).take(indices)
    pairs = list(zip(X, Y.tolist(), strict=True))
    for data in (pairs, Items(pairs), [(OfArray(x), np.int64(y)) for x, y in pairs]):
        got = as_source(data).take(indices)
        assert type(got) is tuple
        for one, other in zip(got, expected, strict=True):
            assert one.dtype == other.dtype and np.array_equal(one, other)


def test_a_collate_gets_the_items_in_the_order_of_the_indices():
    trees = [("leaf", 1), ("node", ("leaf", 2), ("leaf", 3)), ("leaf", 4)]
    assert as_source(trees, collate=list).take(np.array([2, 1, 2])) == [trees[2], trees[1], trees[2]]
    assert as_source(Items(trees), collate=len).take(np.array([0, 1])) == 2


def test_a_list_of_arrays_is_a_list_of_examples():
    assert len(as_source([X, X + 1, X + 2])) == 3
    assert as_source([X, X + 1]).take(np.array([1, 0])).shape == (2, 10, 4)
    with pytest.raises(ValueError, match=r"\(10,\) and \(10, 4\).*fields of one data set go into a tuple"):
        as_source([X, Y]).take(np.array([0, 1]))


@pytest.mark.parametrize(
    "items, dtype",
    [
        ([True, False], bool),
        ([1, True], np.int64),
        ([1, 2], np.int64),
        ([1, 2.5], np.float32),
        ([0.1, 0.2], np.float32),
        ([np.float64(0.1), np.float64(0.2)], np.float64),
        ([np.uint8(1), np.uint8(2)], np.uint8),
    ],
)
def test_numbers_become_an_array_of_their_kind(items, dtype):
    got = default_collate(items)
    assert got.dtype == dtype and np.array_equal(got, np.array(items, dtype))


@pytest.mark.parametrize(
    "items", [["a", "bc"], [[1, 2], [3]], [[1, 2], [3, 4]], [None, object()], [{1}, {2, 3}], []]
)
def test_what_is_neither_array_nor_number_stays_a_list(items):
    got = default_collate(items)
    assert got == items and got is not items


def test_tuples_and_dicts_are_collated_field_by_field():
    got = default_collate([Pair({"n": 1, "text": "a"}, (X[0], ())), Pair({"text": "b", "n": 2}, (X[1], ()))])
    assert type(got) is Pair and got.x["n"].tolist() == [1, 2] and got.x["text"] == ["a", "b"]
    assert np.array_equal(got.y[0], X[:2]) and got.y[1] == ()


@pytest.mark.parametrize(
    "items, message",
    [
        ([X[0], X[0, :2]], r"^examples have different shapes, such as \(2,\) and \(4,\): pass collate="),
        ([(1, X[0]), (2, X[0, :2])], r"^examples\[1\] have different shapes"),
        ([{"a": {"b": X[0]}}, {"a": {"b": X}}], r"^examples\['a'\]\['b'\] have different shapes"),
        ([(1,), (1, 2)], "tuples of different lengths, such as 1 and 2: pass collate="),
        ([{"a": 1}, {"b": 1}], "dicts with different keys: pass collate="),
        ([1, "a"], "mixture of numbers and objects: pass collate="),
        ([(1, None), (2, X[0])], r"examples\[1\] are a mixture of arrays and objects"),
    ],
)
def test_ragged_examples_are_refused_with_their_place_and_what_to_do(items, message):
    with pytest.raises(ValueError, match=message) as caught:
        as_source(items).take(np.array([1, 0]))
    assert caught.value.__notes__ == ["while collating the examples 1, 0"]


def test_what_a_data_set_raises_names_the_index():
    source = as_source(Items(Y.tolist(), bad=7))
    assert source.take(np.array([6, 8])).tolist() == [6, 8]
    with pytest.raises(
        DataError, match=r"example 7 of an Items failed to load: OSError: file 7.png is truncated"
    ) as caught:
        source.take(np.array([6, 7, 8]))
    assert caught.value.index == 7 and isinstance(caught.value.__cause__, OSError)
    sent = pickle.loads(pickle.dumps(caught.value))
    assert str(sent) == str(caught.value) and sent.index == 7


def test_torch_data_sets():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    x, y = as_source(data).take(np.array([4, 2]))
    assert type(x) is np.ndarray and np.array_equal(x, X[[4, 2]]) and np.array_equal(y, Y[[4, 2]])


# --- sources and bad data


def test_a_source_of_the_users_own_is_taken_as_it_is():
    class Own(Source):
        def __len__(self):
            return 3

        def take(self, indices):
            return indices * 2

        def describe(self):
            return {"kind": "own", "length": 3}

    own = Own()
    assert as_source(own) is own
    with pytest.raises(ValueError, match=r"collate is for lists.* data is an Own"):
        as_source(own, collate=list)


class Unmeasured:
    def __len__(self):
        raise TypeError("sparse array length is ambiguous")

    def __getitem__(self, index):
        return index


@pytest.mark.parametrize(
    "data, error, message",
    [
        (None, TypeError, "data must be an ndarray.*got a NoneType"),
        (3, TypeError, "got an int"),
        ("text", TypeError, "got a str"),
        (b"bytes", TypeError, "got a bytes"),
        ({1, 2}, TypeError, "got a set"),
        (iter([1]), TypeError, "got a list_iterator; a stream can be read into a list"),
        (list, TypeError, "got a type"),
        (Unmeasured(), TypeError, "got an Unmeasured"),
        ([], ValueError, "data must hold at least one example, got a list of length 0"),
        (Items([]), ValueError, "got an Items of length 0"),
        (X[:0], ValueError, "at least one example, got arrays of length 0"),
        ((), ValueError, "at least one array, got an empty tuple"),
        ({}, ValueError, "at least one array, got an empty dict"),
        (np.float32(1), TypeError, "got a float32"),
        (np.zeros(()), ValueError, "examples along its first axis, got a 0-d array"),
        ((X, np.zeros(())), ValueError, "got a 0-d array 1"),
        ((X, Y[:9]), ValueError, "equally long, got lengths {'0': 10, '1': 9}"),
        ({"x": X, "y": {"z": Y[1:]}}, ValueError, "equally long, got lengths {'x': 10, 'y.z': 9}"),
        ((X, Y.tolist()), TypeError, "field '1' is a list; use np.asarray on it, or give a list of examples"),
        ({"x": X, "y": None}, TypeError, "field 'y' is a NoneType"),
    ],
)
def test_data_that_cannot_be_a_source_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        as_source(data)


@pytest.mark.parametrize(
    "data, collate, error, message",
    [
        ([1], 3, TypeError, "collate must be a function of a list of examples, got int"),
        (X, list, ValueError, "collate is for lists and data sets of items, but data is a ndarray"),
        ((X, Y), list, ValueError, "data is a tuple, which gives whole batches; leave collate out"),
    ],
)
def test_a_collate_that_cannot_be_is_refused(data, collate, error, message):
    with pytest.raises(error, match=message):
        as_source(data, collate)


@pytest.mark.parametrize("data", [X, (X, Y), Y.tolist()])
@pytest.mark.parametrize(
    "indices, error, message",
    [
        (np.array([0, 10]), IndexError, "indices must lie in 0, ..., 9, got 10"),
        (np.array([-1]), IndexError, "got -1"),
        (np.array([0.0]), TypeError, "indices must be an int or an array of ints"),
        (np.ones(10, bool), TypeError, "dtype bool"),
        (np.array([[0]]), ValueError, r"indices must have shape \(batch,\), got shape \(1, 1\)"),
        (np.array(3), ValueError, r"got shape \(\)"),
    ],
)
def test_bad_indices_are_refused(data, indices, error, message):
    with pytest.raises(error, match=message):
        as_source(data).take(indices)
