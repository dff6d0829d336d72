"""Every index means to a Tensor what it means to NumPy, is refused alike, and writes as NumPy does."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dist_dp import Tensor, ops, vmap
from dist_dp.debug import gradcheck
from dist_dp.ops import along


@st.composite
def indexed(draw: st.DrawFn) -> tuple[np.ndarray, Any]:
    """An array and an index for it: basic entries, integer arrays that broadcast, and masks, in any mixture."""
    x = np.arange(1.0, 1 + 48).reshape(2, 2, 3, 4)[tuple(draw(st.sampled_from([(), (0,), (1, 1), (..., 0)])))]
    width = draw(st.integers(1, 3))
    entries: list[Any] = []
    axis = 0
    while axis < x.ndim and draw(st.booleans()) | (not entries):
        n = x.shape[axis]
        kind = draw(
            st.sampled_from(
                ["int", "slice", "none", "array", "list", "column", "mask", "mask of two", "tensor"]
            )
        )
        one = st.integers(-n, n - 1)
        many = st.lists(one, min_size=width, max_size=width)
        if kind == "none":
            entries.append(None)
            continue
        if kind == "mask of two" and axis + 1 < x.ndim:
            chosen = np.zeros(x.shape[axis : axis + 2], bool)
            chosen.reshape(-1)[draw(st.permutations(range(chosen.size)))[:width]] = True
            entries.append(chosen)
            axis += 2
            continue
        if kind == "int":
            entries.append(draw(st.sampled_from([int, np.int64, np.uint8]))(draw(st.integers(0, n - 1))))
        elif kind == "slice":
            entries.append(draw(st.slices(n)))
        elif kind == "list":
            entries.append(draw(many))
        elif kind == "column":
            entries.append(np.array(draw(many))[:, None])
        elif kind == "mask":
            chosen = np.zeros(n, bool)
            chosen[draw(st.integers(0, n - 1))] = True
            entries.append(chosen)
        elif kind == "tensor":
            entries.append(Tensor(np.array(draw(many))))
        else:
            entries.append(np.array(draw(many)))
        axis += 1
    if draw(st.booleans()):
        entries.insert(draw(st.integers(0, len(entries))), Ellipsis)
    if draw(st.integers(0, 9)) == 0:
        entries.insert(draw(st.integers(0, len(entries))), draw(st.booleans()))
    return x, tuple(entries) if len(entries) != 1 or draw(st.booleans()) else entries[0]


def arrays_of(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(arrays_of, index))
    return index.data if isinstance(index, Tensor) else index


@settings(max_examples=400)
@given(indexed())
def test_every_index_means_what_it_means_to_numpy(case: tuple[np.ndarray, Any]) -> None:
    x, index = case
    try:
        expected = x[arrays_of(index)]
    except IndexError:
        for t in (Tensor(x), Tensor(x, requires_grad=True)):
            with pytest.raises(IndexError):
                t[index]
        return
    np.testing.assert_array_equal(Tensor(x)[index].data, expected, strict=True)
    t = Tensor(x, requires_grad=True)
    y = t[index]
    np.testing.assert_array_equal(y.data, expected, strict=True)
    g = np.arange(1.0, 1 + expected.size).reshape(expected.shape)
    y.backward(g)
    counted = np.zeros_like(x)
    np.add.at(counted, arrays_of(index), g)
    np.testing.assert_array_equal(t.grad.data, counted)


@settings(max_examples=200)
@given(indexed(), st.booleans())
def test_writing_and_adding_do_what_numpy_does(case: tuple[np.ndarray, Any], whole: bool) -> None:
    x, index = case
    try:
        shape = x[arrays_of(index)].shape
    except IndexError:
        return
    value = -np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    value = value if whole else value[..., :1]
    written, added = x.copy(), x.copy()
    written[arrays_of(index)] = value
    np.add.at(added, arrays_of(index), value)
    np.testing.assert_array_equal(ops.set_item(x, index, value).data, written, strict=True)
    np.testing.assert_allclose(ops.add_at(x, index, value).data, added)


@settings(max_examples=50)
@given(indexed())
def test_the_gradient_of_a_write_is_that_of_the_value_that_lasts(case: tuple[np.ndarray, Any]) -> None:
    x, index = case
    try:
        shape = x[arrays_of(index)].shape
    except IndexError:
        return
    value = -np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    gradcheck(lambda x, value: ops.set_item(x, index, value), x, value)


def test_assignment_to_a_computed_tensor_is_recorded() -> None:
    x = Tensor(np.zeros((2, 3)), requires_grad=True)
    v = Tensor(np.ones(2), requires_grad=True)
    y = x * 2
    y[:, 1] = v * 3
    y[0, [0, 2]] = 5.0
    np.testing.assert_array_equal(y.data, [[5, 3, 5], [0, 3, 0]])
    y.backward(np.ones((2, 3)))
    np.testing.assert_array_equal(x.grad.data, [[0, 0, 0], [2, 0, 2]])
    np.testing.assert_array_equal(v.grad.data, [3, 3])


def test_a_basic_index_is_a_view_of_any_shape() -> None:
    for x in (np.zeros((5,)), np.zeros((2, 3)), np.zeros((2, 1, 3, 2))[..., ::-1]):
        for index in (..., slice(None, None, 2), (None, ...), (..., slice(None, None, -1)), (slice(1), None)):
            y = Tensor(x, requires_grad=True)[index]
            assert np.shares_memory(y.data, x)


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (5, IndexError, "index 5 is out of bounds for axis 0 with size 2"),
        ((0, [0, 3]), IndexError, "index 3 is out of bounds for axis 1 with size 3"),
        ((0, [0, -4]), IndexError, "index -4 is out of bounds for axis 1 with size 3"),
        (([0, 2], ...), IndexError, "index 2 is out of bounds for axis 0 with size 2"),
        ((0, 0, 0), IndexError, "too many indices"),
        (([0], 0, 0), IndexError, "too many indices"),
        (np.ones(3, bool), IndexError, r"boolean"),
        (np.ones((2, 2), bool), IndexError, r"boolean"),
        (1.0, TypeError, "got dtype float"),
        ([0.5], TypeError, "got dtype float"),
        ((0, np.zeros(2)), TypeError, "convert with x.astype"),
        ("a", TypeError, "got dtype"),
        (slice(0.5), TypeError, "slice indices"),
        (([0, 1], [0, 1, 2]), IndexError, "broadcast"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("recorded", [False, True])
def test_a_wrong_index_is_refused(index: Any, error: Any, message: str, recorded: bool) -> None:
    x = Tensor(np.zeros((2, 3)), requires_grad=recorded)
    with pytest.raises(error, match=message):
        x[index]
    with pytest.raises(error, match=message):
        ops.set_item(x, index, 0.0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: ops.set_item(x, 0, np.zeros(2)),
            ValueError,
            r"`value` must broadcast to the shape \(3,\)",
        ),
        (lambda x: ops.set_item(x, [0], np.zeros((2, 3))), ValueError, r"`value` must broadcast"),
        (lambda x: ops.set_item(x.astype("int64"), 0, 0.5), TypeError, "does not fit a tensor of int64"),
        (lambda x: ops.take(x, [9]), IndexError, "index 9 is out of bounds"),
        (lambda x: ops.take(x, [0.0]), TypeError, "`index` must be integers"),
        (
            lambda x: ops.embedding(x, [[2]]),
            IndexError,
            "embedding: `indices` must be rows .* has 2.*; got 2",
        ),
        (lambda x: ops.embedding(x, x), TypeError, "`indices` must be integers"),
        (lambda x: ops.index_select(x, 0, [[0]]), ValueError, "one-dimensional"),
        (
            lambda x: ops.segment_sum(x, [0, 3], 3),
            IndexError,
            "index 3 is out of bounds for axis 0 with size 3",
        ),
        (lambda x: ops.segment_sum(x, [0], 3), ValueError, "one number for each row"),
        (lambda x: ops.take_along_axis(x, [0], 0), ValueError, "as many axes"),
        (
            lambda x: ops.take_along_axis(x, [[0, 3]], 1),
            IndexError,
            "index 3 is out of bounds for axis 1 with size 3",
        ),
        (lambda x: ops.gather(x, 0, [[0] * 4]), ValueError, "no longer along axes other than dim 0"),
        (lambda x: ops.gather(x, 0, [[2]]), IndexError, "index 2 is out of bounds for axis 0 with size 2"),
        (lambda x: ops.scatter_add(x, 0, [[0, 0]], [[1.0]]), ValueError, "`src` must have every element"),
        (lambda x: ops.topk(x, 4), ValueError, "`k` must be between 0 and 3"),
        (lambda x: ops.sort(x, 2), ValueError, "axis 2 is out of bounds"),
        (lambda x: ops.searchsorted(x, 1.0), ValueError, "one-dimensional"),
        (lambda x: ops.searchsorted([0.0], x, "middle"), ValueError, "`side` must be"),
        (lambda x: ops.nonzero(x[0, 0]), ValueError, "0-d"),
        (lambda x: ops.unique(x), TypeError, "unique has no gradient"),
        (lambda x: ops.one_hot([3], 3), IndexError, "from 0 to 2, got 3"),
        (lambda x: ops.one_hot([-1]), IndexError, "got -1"),
    ],
)
def test_wrong_arguments_are_refused(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call(Tensor(np.zeros((2, 3)), requires_grad=True))


# ----- sums over repeated indices


@settings(max_examples=60)
@given(
    hnp.arrays(np.int64, st.integers(0, 200), elements=st.integers(0, 6)),
    st.sampled_from([(), (1,), (3,), (64,), (300,), (2, 5)]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([0, 30, along._ROUND]),
)
def test_repeated_indices_add_in_their_order(
    ids: np.ndarray, rest: tuple[int, ...], dtype: Any, elements: int
) -> None:
    """The ways of adding rows (narrow, wide, in rounds, in blocks) give the bits of adding one row after another."""
    values = np.random.default_rng(len(ids)).standard_normal((len(ids), *rest)).astype(dtype)
    expected = np.zeros((7, *rest), dtype)
    for i, row in zip(ids, values, strict=True):
        expected[i] += row
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(along, "_ROUND", elements)
        np.testing.assert_array_equal(ops.segment_sum(values, ids, 7).data, expected, strict=True)


def test_rows_in_many_blocks_add_in_their_order() -> None:
    rng = np.random.default_rng(0)
    ids, values = rng.integers(0, 3, 3000), rng.standard_normal((3000, 20)).astype(np.float32)
    expected = np.zeros((3, 20), np.float32)
    for i, row in zip(ids, values, strict=True):
        expected[i] += row
    np.testing.assert_array_equal(ops.segment_sum(values, ids, 3).data, expected)


# ----- indices that differ between the examples of vmap


@pytest.mark.parametrize("both", [False, True])
def test_examples_of_vmap_may_index_differently(both: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 5) if both else (3, 5))
    i, j = rng.integers(-3, 3, (4, 2)), rng.integers(-5, 5, (4, 2))
    v = rng.standard_normal((4, 2))

    def read(x: Any, i: Any, j: Any, v: Any) -> tuple[Any, ...]:
        return (
            x[i],
            x[:, j],
            x[i, j],
            ops.set_item(x, (i, j), v),
            ops.add_at(x, (slice(None), j), v),
            x[i[0], 1:],
        )

    got = vmap(read, in_axes=(0 if both else None, 0, 0, 0))(Tensor(x), i, j, v)
    for k in range(4):
        expected = read(Tensor(x[k] if both else x), i[k], j[k], v[k])
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a.data[k], b.data)


def test_an_index_out_of_bounds_for_one_example_is_refused() -> None:
    with pytest.raises(IndexError, match="index 3 is out of bounds for axis 0 with size 3"):
        vmap(lambda x, i: ops.take(x, i, 0))(np.zeros((2, 3)), np.array([0, 3]))


def test_a_mask_that_differs_between_examples_is_refused() -> None:
    with pytest.raises(TypeError, match="differs between the examples of vmap"):
        vmap(lambda x, m: x[m])(np.zeros((2, 3)), np.ones((2, 3), bool))


def test_sorting_is_stable_in_both_directions_and_puts_nan_beyond_the_largest() -> None:
    ties = np.arange(200) % 2
    np.testing.assert_array_equal(ops.argsort(ties).data, np.argsort(ties, kind="stable"))
    np.testing.assert_array_equal(ops.argsort(ties, descending=True).data, np.argsort(-ties, kind="stable"))
    x = np.array([1.0, np.nan, 0.0, 1.0, 2.0])
    np.testing.assert_array_equal(ops.argsort(x).data, [2, 0, 3, 4, 1])
    np.testing.assert_array_equal(ops.argsort(x, descending=True).data, [1, 4, 0, 3, 2])
    np.testing.assert_array_equal(ops.topk(x, 3).indices.data, [1, 4, 0])


@settings(max_examples=60)
@given(st.data())
def test_many_selections_from_one_tensor_add_up_to_the_recorded_sum(data: st.DataObject) -> None:
    """Gradients of selections wait in compact form; recorded ones do not. Both are sums over the same places."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 2))
    computed = data.draw(st.booleans())
    uses = data.draw(
        st.lists(
            st.tuples(st.integers(0, 2), st.sampled_from([(), (1,), (3,), (2, 2), (0,)])),
            min_size=1,
            max_size=5,
        )
    )
    picks = [(axis, rng.integers(-x.shape[axis], x.shape[axis], shape)) for axis, shape in uses]
    gradients = []
    for create_graph in (False, True):
        leaf = Tensor(x, requires_grad=True)
        t = ops.transpose(leaf, (2, 0, 1)) if computed else leaf
        axes = [1, 2, 0] if computed else [0, 1, 2]
        loss = ops.sum(t)
        for axis, index in picks:
            loss = loss + ops.sum(ops.square(ops.take(t, index, axes[axis])))
        loss = loss + ops.sum(t * t) + ops.sum(ops.exp(t))  # whose gradients come first, in any layout
        loss.backward(create_graph=create_graph)
        gradients.append(leaf.grad.data)
    np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-12)
