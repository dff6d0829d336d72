"""The laws that every operation obeys, run on every row of the table (`rows.py` tells what a row is).

Each law is tried on shapes drawn by Hypothesis and, always, on a 0-d and an empty one where the row has
such; arrays come read-only and in every memory layout, so an operation that writes into an input fails
wherever it is.
"""

import gc
import importlib
import random
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws.rows import Call, Draw, Row

from dist_dp import backward as sweeps
from dist_dp.backward import backward, is_new, reach
from dist_dp.debug import gradcheck
from dist_dp.functional import vmap
from dist_dp.pytree import flatten, map_leaves, unflatten
from dist_dp.tensor import Tensor

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("rows_*.py"))
ROWS: list[Row] = [row for name in FAMILIES for row in importlib.import_module(f"laws.{name}").ROWS]

every_row = pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])


@dataclass(frozen=True)
class Sample:
    """The choices behind one call of a row, from which calls with other values can be built too."""

    row: Row
    choices: tuple[int, ...]
    seed: int
    kind: str

    def call(self, variant: int = 0) -> Call:
        choices = iter(self.choices)
        return self.row.build(Draw(lambda low, high: next(choices), self.seed + variant, self.kind))


def sampled(row: Row, choose: Callable[[int, int], int], seed: int, kind: str) -> Sample:
    choices: list[int] = []

    def noted(low: int, high: int) -> int:
        choices.append(choose(low, high))
        return choices[-1]

    row.build(Draw(noted, seed, kind))
    return Sample(row, tuple(choices), seed, kind)


@st.composite
def samples(draw: Any, row: Row) -> Sample:
    kind = draw(st.sampled_from(["any", "any", "any", "0-d", "empty"]))
    seed = draw(st.integers(0, 999))
    return sampled(row, lambda low, high: draw(st.integers(low, high)), seed, kind)


def some(row: Row, count: int) -> Iterator[Sample]:
    """Samples that do not need Hypothesis: the edge cases first."""
    for i, kind in zip(range(count), ["0-d", "empty", *["any"] * count], strict=False):
        yield sampled(row, random.Random(i).randint, i, kind)


def holds(law: Callable[[Row, Sample], None], row: Row, examples: int) -> None:
    for sample in some(row, 2):
        law(row, sample)

    @settings(max_examples=examples)
    @given(samples(row))
    def drawn(sample: Sample) -> None:
        law(row, sample)

    drawn()


# ----- what the laws are made of


def is_floating(x: Any) -> bool:
    return isinstance(x, (np.ndarray, np.generic, Tensor)) and x.dtype.kind == "f"


def with_floats(call: Call, change: Callable[[Any], Any]) -> Call:
    """The same call with `change(array)` for every floating array."""
    changed = map_leaves(lambda x: change(x) if is_floating(x) else x, [call.args, call.kwargs])
    return Call(*changed[0], **changed[1])


def leaves(tree: Any) -> list[Any]:
    return flatten(tree)[0]


def floats(call: Call) -> list[Any]:
    return [x for x in leaves([call.args, call.kwargs]) if is_floating(x)]


def outputs(row: Row, call: Call) -> list[Tensor]:
    outs = leaves(row.fn(*call.args, **call.kwargs))
    assert all(type(o) is Tensor for o in outs), f"{row.name} must return Tensors, got {outs}"
    return outs


def to_float32(x: Any) -> Any:
    y = x.astype(np.float32)
    y.flags.writeable = False
    return y


def leaf(x: Any) -> Tensor:
    return Tensor(x, requires_grad=True)


def carried(outs: list[Tensor]) -> list[Any]:
    return [o.node for o in outs if o.node is not None]


# ----- the laws


@every_row
def test_values_dtypes_and_shapes_are_those_of_numpy(row: Row) -> None:
    def law(row: Row, sample: Sample) -> None:
        call = sample.call()
        check_values(row, call, np.float64, row.rtol)
        if floats(call):
            check_values(row, with_floats(call, to_float32), np.float32, row.rtol * 2e8)

    holds(law, row, examples=10)


def check_values(row: Row, call: Call, dtype: type, rtol: float) -> None:
    outs = outputs(row, call)
    if row.keeps_dtype and floats(call):
        assert all(o.dtype == dtype for o in outs if is_floating(o)), [o.dtype for o in outs]
    if row.reference is None:
        return
    wide = with_floats(call, lambda x: x.astype(np.float64))
    expected = [np.asarray(e) for e in leaves(row.reference(*wide.args, **wide.kwargs))]
    assert len(outs) == len(expected)
    for out, value in zip(outs, expected, strict=True):
        assert out.shape == value.shape
        assert out.dtype.kind == value.dtype.kind
        np.testing.assert_allclose(out.data, value, rtol=rtol, atol=rtol)


@every_row
def test_recording_changes_no_value_and_marks_what_carries_a_gradient(row: Row) -> None:
    def law(row: Row, sample: Sample) -> None:
        call = sample.call()
        plain = outputs(row, call)
        recorded = outputs(row, with_floats(call, leaf))
        for a, b in zip(plain, recorded, strict=True):
            assert a.node is None
            np.testing.assert_array_equal(a.data, b.data)
            assert b.node is None or b.node.shape == b.shape
        carries = any(b.node is not None for b in recorded)
        assert carries == (row.order > 0 and bool(floats(call)))

    holds(law, row, examples=4)


@every_row
def test_derivatives_agree_with_differences_in_every_mode(row: Row) -> None:
    def law(row: Row, sample: Sample) -> None:
        call = sample.call()
        if row.order > 0 and floats(call):
            gradcheck(lambda args, kwargs: row.fn(*args, **kwargs), call.args, call.kwargs, order=row.order)

    holds(law, row, examples=4)


@every_row
def test_gradients_have_the_dtype_of_the_input_and_repeat_to_the_bit(row: Row) -> None:
    def law(row: Row, sample: Sample) -> None:
        call = with_floats(sample.call(), lambda x: leaf(to_float32(x)))
        roots = carried(outputs(row, call))
        seeds = [(node, np.ones(node.shape, np.float32)) for node in roots if node.op is not None]
        targets = [x.node for x in floats(call)]
        first, second = (backward(seeds, targets=targets, retain_graph=True) for _ in range(2))
        for x, a, b in zip(floats(call), first, second, strict=True):
            assert a is None or (a.dtype == np.float32 and a.shape == x.shape)
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    if row.keeps_dtype:
        holds(law, row, examples=4)


@every_row
def test_gradients_are_new_where_the_sweep_takes_them_for_new(row: Row) -> None:
    def law(row: Row, sample: Sample) -> None:
        call = with_floats(sample.call(), leaf)
        outs = outputs(row, call)
        nodes = [node for node in reach(carried(outs)) if node.op is not None]
        there = [x for node in nodes for x in leaves(node.saved) if isinstance(x, np.ndarray)]
        there += [x.data for x in (*floats(call), *outs)]
        taken: list[Any] = []

        def checked(d: Any, g: Any, op: Any, gradients: Any) -> bool:
            new = is_new(d, g, op, gradients)
            if new:
                others = [x for x in leaves([g, gradients]) if isinstance(x, np.ndarray) and x is not d]
                assert not any(np.may_share_memory(d, x) for x in (*others, *there, *taken)), op
                taken.append(d)
            return new

        seeds = [(n, np.ones(n.shape)) for n in carried(outs) if n.op is not None]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweeps, "SMALL", -1)
            patch.setattr(sweeps, "is_new", checked)
            backward(seeds, retain_graph=True)
        found = [x.grad.data for x in floats(call) if x.grad is not None]
        everything = [*there, *(g for _, g in seeds), *found]
        before = [x.copy() for x in everything]
        for g in found:
            kept, g[...] = g.copy(), -7.0
            for x, old in zip(everything, before, strict=True):
                assert x is g or np.array_equal(x, old, equal_nan=x.dtype.kind == "f")
            g[...] = kept

    holds(law, row, examples=4)


@every_row
def test_reference_counts_alone_free_the_graph(row: Row) -> None:
    def graph(row: Row, sample: Sample, swept: bool) -> list[weakref.ref[Any]]:
        outs = outputs(row, with_floats(sample.call(), leaf))
        nodes = [node for node in reach(carried(outs)) if node.op is not None]
        if swept and nodes:
            backward([(n, np.ones(n.shape)) for n in carried(outs)])
        return [weakref.ref(x) for x in (*nodes, *(o.data for o in outs))]

    gc.disable()
    try:
        for sample in some(row, 3):
            for swept in (False, True):
                assert not any(ref() is not None for ref in graph(row, sample, swept))
    finally:
        gc.enable()


@every_row
def test_a_batch_is_a_loop_over_its_examples(row: Row) -> None:
    def law(row: Row, sample: Sample) -> None:
        examples, structure = [], None
        for variant in range(3):
            call = sample.call(variant)
            flat, structure = flatten((call.args, call.kwargs))
            examples.append(flat)
        arrays = [i for i, x in enumerate(examples[0]) if isinstance(x, np.ndarray)]
        if row.selects:
            arrays = [i for i in arrays if examples[0][i].dtype != np.bool_]
        for chosen in {tuple(arrays), tuple(arrays[:1]), tuple(arrays[1:])} - {()}:

            def one(*parts: Any, chosen: tuple[int, ...] = chosen) -> list[Any]:
                full = list(examples[0])
                for i, part in zip(chosen, parts, strict=True):
                    full[i] = part
                args, kwargs = unflatten(structure, full)
                return leaves(row.fn(*args, **kwargs))

            columns = [[flat[i] for flat in examples] for i in chosen]
            loop = [one(*parts) for parts in zip(*columns, strict=True)]
            got = vmap(one)(*[np.stack(column) for column in columns])
            for out, parts in zip(got, zip(*loop, strict=True), strict=True):
                expected = np.stack([o.data for o in parts])
                assert out.shape == expected.shape and out.dtype == expected.dtype
                np.testing.assert_allclose(out.data, expected, rtol=10 * row.rtol, atol=10 * row.rtol)

    if row.batched:
        holds(law, row, examples=4)


# ----- the table as a whole


def reached_ops() -> set[str]:
    """Names of all operations that some row records, in its value or in a derivative of it up to `row.order`."""
    names: set[str] = set()
    for row in ROWS:
        for sample in some(row, 8):
            call = with_floats(sample.call(), leaf)
            nodes = carried(outputs(row, call))
            targets = [x.node for x in floats(call)]
            for order in range(row.order + 1):
                names |= {node.op.name for node in reach(nodes) if node.op is not None}
                if order < row.order:
                    seeds = [(node, leaf(np.ones(node.shape))) for node in nodes]
                    targets += [seed.node for _, seed in seeds]
                    found = backward(seeds, targets=targets, create_graph=True)
                    nodes = [g.node for g in found if g is not None and g.node is not None]
    return names


def test_every_operation_with_rules_is_in_the_table(shipped_ops: dict[str, Any]) -> None:
    expected = {name for name, op in shipped_ops.items() if differentiable(op)}
    assert expected - reached_ops() == set()


# vmap computes these example by example. (Those in HELD are never applied to examples: what they hold is.)
HELD = {"append", "checkpoint", "custom_vjp", "output"}
LOOPED: set[str] = set()

# Forward mode transposes the backward rules of these, which costs more.
TRANSPOSED = {"checkpoint", "custom_vjp", "log_softmax_gradient", "qr", "softmax_gradient"}


def test_operations_without_a_batch_rule_are_known(shipped_ops: dict[str, Any]) -> None:
    missing = {name for name, op in shipped_ops.items() if op.batch is None and op.composed is None}
    assert missing - HELD == LOOPED


def test_operations_without_a_forward_rule_are_known(shipped_ops: dict[str, Any]) -> None:
    missing = {name for name, op in shipped_ops.items() if op.jvp is None and op.composed is None}
    assert {name for name in missing if differentiable(shipped_ops[name])} == TRANSPOSED


def differentiable(op: Any) -> bool:
    return op.rules is not None or op.joint is not None


def test_row_names_are_unique() -> None:
    names = [row.name for row in ROWS]
    assert sorted(names) == sorted(set(names))
