"""Where a batched program is not yet what it is one by one. Each of these is to be repaired, and then moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from batching.programs import Parameters, Program, function, parameters, programs
from hypothesis import given

import dist_dp as dp
from dist_dp import ops

ONE = np.ones(2, np.float32)


def known(reason: str, raises: Any = AssertionError) -> Any:
    return pytest.mark.xfail(strict=True, reason=reason, raises=raises)


@dp.cell
def double(x: Any) -> Any:
    return x * 2.0


@dp.cell
def add(x: Any, y: Any) -> Any:
    return x + y


def agree(fun: Any, examples: Any, *leaves: Any) -> None:
    found = []
    for enabled in (False, True):
        for leaf in leaves:
            leaf.grad = None
        out = dp.batched(fun, examples, enabled=enabled)
        if leaves:
            out.sum().backward()
        found.append([out.data, *[leaf.grad.data for leaf in leaves]])
    for expected, got in zip(*found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


# --- writes -----------------------------------------------------------------------------------------------------------


@known(
    "Tensor._update records binary(op, self, other) with self as input and then makes self its result, so the call "
    "waits for itself; calls recorded before see the new value. Lazy._become must leave the old value to them (hand "
    "them a twin).",
    (AttributeError, AssertionError),
)
def test_a_value_that_is_not_computed_is_written_in_place() -> None:
    def program(n: float) -> Any:
        h = double(ONE * np.float32(n))
        before = double(h)
        h += 1.0
        h[0] = 7.0
        return add(before, h)

    agree(program, [1.0, 2.0])


@known("the same, after the value was read", (AttributeError, AssertionError))
def test_a_value_that_is_computed_is_written_in_place() -> None:
    def program(n: float) -> Any:
        h = double(ONE * np.float32(n))
        before = double(h)
        assert h.sum().item() == 4 * n
        h *= 3.0
        return add(before, h)

    agree(program, [1.0, 2.0])


@known("random programs with writes", Exception)
@given(program=programs(writes=True))
def test_random_programs_with_writes(program: Program) -> None:
    start = parameters(np.float64, len(program.examples))
    found = []
    for enabled in (False, True):
        with dp.random.scope(dp.random.Key(3)):
            p = Parameters(*[dp.tensor(x) for x in start])
            found.append(dp.batched(function(program, p), range(len(program.examples)), enabled=enabled).data)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("make", [lambda: np.ones(2, np.float32), lambda: dp.tensor(ONE.copy())])
@pytest.mark.parametrize(
    "call", [lambda x: add(x, ONE), lambda x: double(ONE) * x], ids=["cell", "operation"]
)
@known(
    "a call keeps the array of the user and reads it when it is computed; it must keep a copy or see the write"
)
def test_an_array_is_written_after_a_call_with_it(make: Any, call: Any) -> None:
    def program(n: float) -> Any:
        buffer = make()
        y = call(buffer)
        buffer += 5.0
        return add(y, buffer)

    agree(program, [1.0, 2.0])


@known("Recorder._at_once hands out one Tensor for all examples, and one of them writes into it")
def test_one_example_writes_into_what_it_computed_of_a_parameter() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    def program(n: int) -> Any:
        y = w * 2
        if n == 0:
            y[0] = 100.0
        return y + n

    agree(program, [0, 1])


# --- gradients --------------------------------------------------------------------------------------------------------


@known(
    "a call under no_grad inside an example is computed when recording is on: the mode is no part of its signature"
)
def test_no_grad_in_an_example() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    def program(n: float) -> Any:
        h = double(w)
        with dp.no_grad():
            target = double(h) + 1.0
        return (target + h) * n

    agree(program, [1.0, 3.0], w)


@known("the same in Recorder._at_once: what is remembered may have been computed under no_grad", RuntimeError)
def test_no_grad_in_one_example_only() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    def program(n: int) -> Any:
        with dp.no_grad() if n == 0 else dp.enable_grad():
            y = w * 2
        return y + n

    agree(program, [0, 1], w)


@known("the node that checkpoint leaves refers to calls that are recorded, not computed", AttributeError)
def test_checkpoint_in_an_example() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)
    agree(lambda c: dp.checkpoint(lambda r: double(r) * r * c)(double(w)), [1.0, 2.0], w)


@known(
    "refused as closing over a tensor that carries a gradient: its result shares a block with others",
    ValueError,
)
def test_custom_vjp_in_an_example() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    @dp.custom_vjp
    def scaled(x: Any) -> Any:
        return x * 2

    scaled.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 3,))
    agree(lambda c: scaled(double(w) * c), [1.0, 2.0], w)


@known("a value that carries no gradient has a node if its block has one", RuntimeError)
def test_a_detached_value_becomes_an_array() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)
    agree(lambda c: double(w) * double(w).detach().numpy() * c, [1.0, 2.0], w)


@known("a parameter that the result does not depend on has a gradient of zeros: it is in the same block")
def test_a_parameter_that_was_only_looked_at_has_no_gradient() -> None:
    """An optimizer would move it: weight decay, moments (section 2, rule 4 of the design)."""
    w, policy = dp.tensor([1.0, 2.0], requires_grad=True), dp.tensor([0.5, 1.0], requires_grad=True)
    out = dp.batched(lambda c: double(w) if (double(policy) * c).sum() > 2 else w, [1.0, 2.0])
    out.sum().backward()
    assert policy.grad is None


# --- values of another dp.batched -------------------------------------------------------------------------------------


@pytest.mark.parametrize("computed", [True, False])
@known(
    "Recorder.column takes the row of a Lazy of another recorder from its own block: wrong values, or an error",
    (AssertionError, IndexError, ValueError),
)
def test_values_kept_from_one_batched_and_used_in_the_next(computed: bool) -> None:
    kept: list[Any] = []

    def first(n: int) -> Any:
        kept.append(double(ONE * np.float32(n)))
        return kept[-1] if computed else ONE

    dp.batched(first, [1, 2, 3])
    agree(lambda i: add(double(ONE), kept[i]), [2, 0, 1])


# --- signatures -------------------------------------------------------------------------------------------------------


@known("parameters of an operation are compared by == and type: 0.0 and -0.0 are one")
def test_zeros_of_both_signs_as_a_parameter() -> None:
    def program(low: float) -> Any:
        return ops.copysign(1.0, ops.clip(double(ONE) * -1, low, 5.0))

    agree(program, [0.0, -0.0])


@known("a cell is tried with 2 rows: a result that lost the batch and has 2 for its first axis passes")
@pytest.mark.parametrize("width", [2, 3])
def test_a_result_without_the_batch_that_happens_to_fit(width: int) -> None:
    @dp.cell
    def summed(x: Any) -> Any:
        return x.sum(0)

    with pytest.raises(ValueError, match="batch on their first axis"):
        dp.batched(lambda _: summed(np.ones(width)), range(width))
        raise AssertionError("passed")


# --- errors -----------------------------------------------------------------------------------------------------------


@known(
    "_Examples.run throws into self.waiting, which is empty while values are computed and examples resumed"
)
def test_what_suspended_examples_have_open_is_closed_when_a_batch_fails() -> None:
    closed = []

    @dp.cell
    def look(i: Any) -> Any:
        return ops.take(dp.tensor(np.arange(3.0)), i)

    def program(n: int) -> Any:
        try:
            return look(n) if look(n).item() > 1 else look(n + 1)
        finally:
            closed.append(n)

    with pytest.raises(IndexError):
        dp.batched(program, [0, 1, 7, 2])
    assert sorted(closed) == [0, 1, 2, 7]


@known("list(examples) speaks for itself", AssertionError)
def test_examples_that_are_no_sequence() -> None:
    with pytest.raises(TypeError) as caught:
        dp.batched(double, 3)  # type: ignore[arg-type]
    assert "examples" in str(caught.value)


@known("_form says the number of leaves only: a dict of 1 leaves and a dict of 1 leaves")
def test_results_with_different_keys() -> None:
    with pytest.raises(ValueError) as caught:
        dp.batched(lambda n: {n: ONE}, ["apple", "pear"])
    assert "apple" in str(caught.value) and "pear" in str(caught.value)
