"""Which calls may run as one batch: what DyNet got wrong, one test each, and what it refused to put together.

DyNet compares 32-bit hashes of signatures that were written by hand for each operation. Numbers in brackets are those
of its issues.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from batching.agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import nn, ops

NAN = float("nan")
X = np.array([[0.5, -1.0], [2.0, 0.25], [-0.5, 3.0]])


ONE = np.ones(2, np.float32)


@dp.cell
def double(x: Any) -> Any:
    return x * 2.0


@dp.cell
def add(x: Any, y: Any) -> Any:
    return x + y


# --- constants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "constants",
    [
        (1.1, 1.3),
        (1, 1.0),
        (1, True),
        (1.0, True),
        (0.0, -0.0),
        (0, -0.0),
        (NAN, 1.0),
        (NAN, 0.0),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "operation",
    [
        lambda x, c: x + c,
        lambda x, c: c - x,
        lambda x, c: x * c,
        lambda x, c: x / (c + 2),
        lambda x, c: ops.power(ops.abs(x), c),
        lambda x, c: ops.maximum(x, c),
        lambda x, c: ops.where(x > 0, x, c),
    ],
)
def test_float_constants_are_told_apart(operation: Any, constants: Sequence[Any]) -> None:
    """[555]: constants were cast to int, so x + 1.1 and x + 1.3 were one batch."""
    agree(lambda c: operation(double(X[0]), c), [*constants, constants[0]])


def test_equal_constants_share_a_batch() -> None:
    """A NaN too, though it does not equal itself."""
    for word in ("1.1", "0.0", "-0.0", "nan", "3.0"):
        assert agree(lambda i, word=word: double(X[i]) * float(word), range(3)) == [3, 3], word


@given(
    st.lists(
        st.sampled_from([1.1, 1.3, 1, 1.0, True, False, 0, 0.0, -0.0, NAN, 2, -2.5]), min_size=1, max_size=8
    )
)
@settings(max_examples=50)
def test_any_mix_of_constants(constants: list[Any]) -> None:
    agree(lambda c: 1 / (double(X[0]) * c + 0.125) if c == c and c != 0 else double(X[1]) * c, constants)


def test_the_type_of_a_constant_decides_the_dtype_of_the_result() -> None:
    whole = np.array([1, 2])

    def program(c: Any) -> Any:
        y = double(np.ones(2)).astype(np.int64) * whole * c
        return ops.astype(y, np.float64) + (10 if y.dtype == np.float64 else 0)

    agree(program, [1, 1.0, True, 1.5, np.float32(1), np.int32(1)])


def test_numbers_in_a_cell_are_values_and_not_signatures() -> None:
    @dp.cell
    def scaled(x: Any, number: Any) -> Any:
        return x * ops.astype(number, x.dtype)[:, None]

    agree(lambda c: scaled(X[0], c), [1.1, 1.3, 0.0, -0.0, NAN, 1e30])
    assert dp.explain_batching().batches[scaled.fun.__qualname__] == [6]
    agree(lambda c: scaled(X[0], c), [1, 1.0, 2, np.float32(3), np.int16(4), np.float64(0.1)])


def test_static_arguments_of_a_cell_are_told_apart_by_type() -> None:
    @dp.cell
    def kind_of(x: Any, static: Any) -> Any:
        return x * {bool: 2.0, str: 3.0, type(None): 4.0, tuple: 5.0, list: 6.0}[type(static)]

    examples = [True, "1", None, (), [], False, "", (), None]
    agree(lambda s: kind_of(X[0], s), examples)
    assert sorted(dp.explain_batching().batches[kind_of.fun.__qualname__]) == [1, 1, 1, 1, 1, 2, 2]


def test_static_arguments_that_are_equal_but_of_another_type() -> None:
    class Level(enum.IntEnum):
        ONE = 1

    factor = {bool: 2.0, Level: 3.0, np.bool_: 4.0, str: 5.0, np.str_: 6.0}

    @dp.cell
    def scaled(x: Any, static: Any) -> Any:
        return x * factor[type(static)]

    for words in ([True, Level.ONE, np.True_], ["a", np.str_("a")]):
        agree(lambda s: scaled(X[0], s), words)
        agree(lambda s: scaled(X[0], s), words[::-1])


def test_keys_of_a_dict_are_told_apart_by_type() -> None:
    @dp.cell
    def scaled(x: Any) -> Any:
        return x[1] * (2.0 if type(next(iter(x))) is int else 3.0)

    agree(lambda key: scaled({key: X[0]}), [1, True])


def test_complex_zeros_are_told_apart() -> None:
    @dp.cell
    def scaled(x: Any, z: complex) -> Any:
        return x * (2.0 if np.signbit(z.imag) else 3.0)

    agree(lambda z: scaled(X[0], z), [complex(0, 0.0), complex(0, -0.0)])


def test_lengths_and_nestings_of_arguments_are_told_apart() -> None:
    @dp.cell
    def combined(parts: Any) -> Any:
        if isinstance(parts, dict):
            return parts["a"] - parts["b"]
        flat = [p[0] * 2 if isinstance(p, (list, tuple)) else p for p in parts]
        return sum(flat[1:], flat[0]) * (2 if isinstance(parts, tuple) else 3)

    a, b, c = X
    examples = [
        [a, b], (a, b), [a, b, c], [[a], b], [a, [b]], [(a,), b], {"a": a, "b": b}, {"b": b, "a": a}, [a, b], (c, b)
    ]  # fmt: skip
    agree(combined, examples)


def test_a_list_that_changes_after_the_call() -> None:
    """A stack that grows, and an entry that is no value: a call has them as they were."""

    @dp.cell
    def fold(stack: list[Any], table: dict[str, Any]) -> Any:
        first, *values = stack
        total = sum(values) + sum(table.values())
        return -total if first == "minus" else total

    def program(x: float) -> Any:
        stack, table = ["plus", ONE * x], {"a": ONE}
        found = [fold(stack, table)]
        stack[0] = "minus"
        found.append(fold(stack, table))
        stack.append(ONE * x)
        table["b"] = found[0]
        found.append(fold(stack, table))
        stack.clear()
        return ops.stack(found)

    agree(program, [1.0, 2.0, 3.0])


def test_positions_and_keywords() -> None:
    @dp.cell
    def minus(x: Any, y: Any) -> Any:
        return x - y

    agree(lambda f: f(), [
        lambda: minus(X[0], X[1]),
        lambda: minus(X[0], y=X[1]),
        lambda: minus(y=X[0], x=X[1]),
        lambda: minus(x=X[1], y=X[0]),
    ])  # fmt: skip


def test_shapes_and_dtypes_are_told_apart() -> None:
    """Elementwise operations had the operation as their signature, whatever the shapes."""
    rows = [X[0], X[0][:1], X[0].astype(np.float32), X[:1], np.float64(2.0), X[1], X[1].astype(np.float32)]
    agree(lambda x: (double(x) + x).sum().astype(np.float64), rows)
    agree(lambda x: ops.tanh(double(x) * x).mean().astype(np.float64), rows)


def test_axes_and_other_parameters_are_told_apart() -> None:
    square = np.arange(4.0).reshape(2, 2)
    agree(lambda axis: double(square).sum(axis), [0, 1, 0, -1])
    agree(lambda keep: double(square).sum(0, keepdims=keep).reshape((-1,)), [True, False, 1, 0])
    agree(
        lambda i: double(square)[i].sum(),
        [0, 1, True, (0, 1), slice(0, 1), slice(0, 2), np.array([1, 1]), ...],
    )
    agree(lambda axes: double(square).transpose(axes), [(0, 1), (1, 0), (0, 1)])
    agree(lambda high: ops.clip(double(square), -1, high), [1, 2, 1.5, 1.0])


def test_zeros_of_both_signs_as_a_parameter() -> None:
    def program(low: float) -> Any:
        return ops.copysign(1.0, ops.clip(double(X[0]) * 0 - 0.0, low, 5.0))

    agree(program, [0.0, -0.0])


def test_two_cells_with_one_body_are_two_cells() -> None:
    def make(k: float) -> Any:
        return dp.cell(lambda x: x * k)

    cells = [make(2.0), make(3.0)]
    assert agree(lambda i: cells[i % 2](X[0]), range(4)) == [2, 2]


def test_a_method_of_two_objects_is_two_signatures() -> None:
    class Scale(nn.Module):
        def __init__(self, k: float) -> None:
            super().__init__()
            self.k = nn.Parameter(np.array(k))

        @dp.cell
        def forward(self, x: Any) -> Any:
            return x * self.k

    a, b = Scale(2.0), Scale(5.0)
    assert agree(lambda m: m(X[1]), [a, b, a], a.k, b.k) == [2, 1]


# --- what goes into a batch -------------------------------------------------------------------------------------------


def test_a_shared_input_that_was_itself_batched() -> None:
    """[1258]: wrong values where an input that several calls shared came out of a batch."""
    w = dp.tensor(X[:2].copy(), requires_grad=True)

    def program(i: int) -> Any:
        shared = double(w[i % 2])
        left, right = add(shared, X[i % 3]), add(shared, shared)
        return add(add(left, right), add(shared, left)) * shared

    agree(program, range(5), w)


def test_a_value_shared_by_all_examples() -> None:
    w = dp.tensor(X[0].copy(), requires_grad=True)
    agree(lambda i: add(w, X[i]) * (w + w) @ w, range(3), w)
    made: list[Any] = []

    def program(i: int) -> Any:
        if i == 0:  # this example makes it, the others use it
            made[:] = [double(w)]
        return add(made[0], X[i]) * made[0]

    agree(program, range(3), w)


def test_rows_that_come_twice_in_a_gather() -> None:
    """Their gradients add up."""
    w = dp.tensor(X.copy(), requires_grad=True)

    def program(picks: Sequence[int]) -> Any:
        rows = [double(w[i]) for i in range(3)]
        return sum(add(rows[i], rows[j]) * X[i] for i in picks for j in picks)

    agree(program, [(0, 0, 2), (2, 2, 2), (1, 0, 1), (2, 1, 0)], w)


@pytest.mark.parametrize(
    "order", [(0, 1, 2), (2, 1, 0), (1, 1, 1), (0, 2, 1), (1, 2, 2), (0, 0, 1), (2, 0, 2)]
)
def test_inputs_in_any_order(order: Sequence[int]) -> None:
    """Rows side by side are used in place, others gathered; a first and last that fit do not make them neighbours."""
    w = dp.tensor(X.copy(), requires_grad=True)

    def program(_: int) -> Any:
        rows = [double(w[i]) for i in range(3)]
        return ops.stack([add(rows[i], X[k]) for k, i in enumerate(order)] + rows)

    assert agree(program, [0], w)[:2] == [3, 3]


def test_gradients_of_a_value_with_many_users() -> None:
    """[1666]: the gradient of a value that several batches used was overwritten and not added to."""
    w = dp.tensor(X[0].copy(), requires_grad=True)

    def program(n: int) -> Any:
        h = double(w)
        parts = [h]
        for k in range(n):
            parts.append(add(parts[k // 2], h) * (0.5 + k))
        return sum(parts)

    agree(program, [0, 1, 4, 7], w)


def test_one_value_twice_in_a_call() -> None:
    w = dp.tensor(X[0].copy(), requires_grad=True)
    agree(lambda k: add(double(w) * k, double(w) * k) + add(w, w), [1.0, 2.0], w)

    def same(k: float) -> Any:
        h = double(w) * k
        return add(h, h) * h

    agree(same, [1.0, 2.0], w)


def test_some_inputs_are_values_and_some_are_arrays_or_parameters() -> None:
    w = dp.tensor(X[0].copy(), requires_grad=True)

    def program(i: int) -> Any:
        return add([X[1], w, double(w), dp.tensor(X[2]), double(X[0])][i % 5], double(w))

    agree(program, range(10), w)


def test_integers_are_gathered_as_integers() -> None:
    table = dp.tensor(X.copy(), requires_grad=True)

    @dp.cell
    def look(i: Any) -> Any:
        return table[i]

    @dp.cell
    def after(i: Any) -> Any:
        return (i + 1) % 3

    def program(i: int) -> Any:
        a = after(i)
        return look(a) * look(after(a)) + look(double(X[0]).argmax())

    agree(program, range(3), table)


def test_operations_of_different_examples_are_one_batch() -> None:
    """Also where DyNet had no signature: 54 of its 123 operations."""
    for op in (ops.softmax, ops.cumsum, ops.sort, ops.logsumexp, ops.argmax, ops.prod, ops.std, ops.median):
        sizes = agree(lambda i, op=op: op(double(X[i]), 0), range(3))
        assert set(sizes) == {3}, op


@pytest.mark.parametrize("enabled", [True, False])
def test_static_arguments_are_seen_as_they_are(enabled: bool) -> None:
    @dp.cell(static=["width"])
    def widened(x: Any, width: int = 1) -> Any:
        assert type(width) is int
        return ops.concatenate([x] * width, 1).sum(1)

    @dp.cell
    def outer(x: Any) -> Any:
        return widened(x, 3)

    out = dp.batched(lambda n: widened(ONE, n) + widened(ONE, width=n), [1, 3, 1], enabled=enabled)
    assert out.tolist() == [4.0, 12.0, 4.0]
    assert dp.batched(lambda n: outer(ONE * n), [1.0, 2.0], enabled=enabled).tolist() == [6.0, 12.0]


def test_static_names_must_be_arguments() -> None:
    with pytest.raises(ValueError, match=r"static must name arguments of .*, got 'width'"):
        dp.cell(lambda x: x, static=["width"])


@pytest.mark.parametrize("read", [True, False], ids=["computed", "pending"])
def test_a_body_takes_what_differs_between_examples_as_an_argument(read: bool) -> None:
    """A value of one example that reached the body by closure would be that of all others too."""

    def program(n: float) -> Any:
        h = double(ONE * np.float32(n))
        if read:
            h.sum().item()

        @dp.cell
        def step(x: Any) -> Any:
            return x + h

        return step(ONE)

    for _ in range(2):  # and nothing is left behind
        with pytest.raises(RuntimeError, match="give it what differs between them as an argument"):
            dp.batched(program, [1.0, 2.0])
    assert dp.batched(lambda n: double(ONE * n), [1.0]).tolist() == [[2.0, 2.0]]
