"""What `explain_batching` says: what was batched, what was not and why, and which lines read values."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from batching.agreement import agree
from batching.cells import ONE, double
from batching.programs import Parameters, Program, function, parameters, programs
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import ops
from dist_dp.nn import functional as F

W = dp.tensor([1.0, 2.0], requires_grad=True)
M = dp.tensor(np.eye(2, dtype=np.float32) + 1, requires_grad=True)
TAPE = "it looks at the tape of its own example"


def line_of(mark: str, function: Callable[..., Any]) -> int:
    """The line of `function` that ends with this comment."""
    lines, start = inspect.getsourcelines(function)
    return start + next(i for i, line in enumerate(lines) if line.rstrip().endswith(mark))


# --- what ran one by one ----------------------------------------------------------------------------------------------


@dp.custom_vjp
def scaled(x: Any) -> Any:
    return x * 2


scaled.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 3,))

LEFT_OUT: list[tuple[str, Callable[[Any], Any]]] = [
    ("checkpoint", lambda h: dp.checkpoint(double)(h)),
    ("custom_vjp", lambda h: scaled(h)),
    ("grad", lambda h: dp.grad(lambda x: (double(x) * x).sum())(h)),
    ("grad", lambda h: dp.value_and_grad(lambda x: (double(x) * x).sum())(h)[1]),
    ("vjp", lambda h: dp.vjp(double, h)[1](ONE)[0]),
    ("jvp", lambda h: dp.jvp(double, (h,), (ONE,))[1]),
    ("linearize", lambda h: dp.linearize(double, h)[1](ONE)),
    ("jacobian", lambda h: dp.jacobian(double)(h)),
    ("jvp", lambda h: dp.hvp(lambda x: (x * x * x).sum(), (h,), (ONE,))),
]


@pytest.mark.parametrize(("name", "call"), LEFT_OUT)
def test_what_looks_at_its_own_tape_is_named(name: str, call: Any) -> None:
    dp.batched(lambda n: call(double(W * n)), [1.0, 2.0, 3.0])
    report = dp.explain_batching()
    assert report.alone[name, TAPE] == 3
    assert sum(why == TAPE for _, why in report.alone) == 1
    assert f"{name} ran one by one 3 times: {TAPE}" in repr(report)


def test_operations_that_cannot_be_batched_are_named() -> None:
    odd = ops.Op("test_odd", lambda x: x * x.sum(), vjp=(lambda g: g,))
    try:
        dp.batched(lambda n: ops.apply(odd, (double(W) * n,)) * len(np.nonzero(double(W))[0]), [1.0, 2.0])
    finally:
        del ops.table["test_odd"]
    assert dp.explain_batching().alone == {
        ("test_odd", "it has no batch rule for these inputs"): 2,
        ("nonzero", "how many there are depends on the values"): 2,
    }


def test_operations_on_plain_arrays_are_named() -> None:
    dp.batched(lambda n: double(ops.tanh(ONE * n)), [1.0, 2.0])
    assert dp.explain_batching().alone == {("tanh", "its inputs are plain arrays, no recorded values"): 2}


def test_operations_on_parameters_and_different_numbers_are_named() -> None:
    dp.batched(lambda n: double(W * n) + W * 2.0, [1.0, 3.0, 1.0])  # two numbers, and one
    why = "its inputs are parameters and numbers, other ones each time"
    assert dp.explain_batching().alone == {("multiply", why): 3}


def test_what_all_examples_share_is_computed_once_and_so_not_one_by_one() -> None:
    dp.batched(lambda n: double(W.reshape(1, 2)[0]) * n, [1.0, 2.0])
    assert not dp.explain_batching().alone


def test_a_program_that_was_not_batched_says_so() -> None:
    dp.batched(lambda n: double(W) * n, [1.0, 2.0])
    dp.batched(lambda n: double(W) * n, [1.0, 2.0, 3.0], enabled=False)
    report = dp.explain_batching()
    assert report.calls == 0 and report.alone == {("the program", "enabled=False"): 3}


# --- which lines read values ------------------------------------------------------------------------------------------


def reads(n: int) -> Any:
    h = double(ONE * n)
    for _ in range(n):
        h = double(h)
        if h.sum() < 0:  # every step
            break
    known = h.sum().item() if n else 0  # not of the first example
    return h * float(h[0].numpy() > known) + np.max(h.tolist())  # twice, of which the second is known


def test_lines_that_waited_for_values_are_counted() -> None:
    dp.batched(reads, range(4))
    expected = {
        "# every step": 6,
        "# not of the first example": 3,
        "# twice, of which the second is known": 4,
    }
    report = dp.explain_batching()
    assert report.reads == {(__file__, line_of(mark, reads)): times for mark, times in expected.items()}
    assert f"{__file__}:{line_of('# every step', reads)} read a value 6 times" in repr(report)


def test_a_read_is_one_of_the_users_lines_not_of_a_library() -> None:
    def program(n: int) -> Any:
        np.testing.assert_array_equal(double(ONE * n), ONE * 2 * n)  # this line
        return double(ONE)

    dp.batched(program, range(3))
    assert dp.explain_batching().reads == {(__file__, line_of("# this line", program)): 3}


def test_only_some_lines_are_shown() -> None:
    source = (
        "def f(double, x):\n"
        + "".join(f"    double(x * {k}).sum().item()\n" for k in range(9))
        + "    return x"
    )
    space: dict[str, Any] = {}
    exec(compile(source, "<many>", "exec"), space)
    dp.batched(lambda n: space["f"](double, ONE * n), range(2))
    report = dp.explain_batching()
    assert len(report.reads) == 9 and len(re.findall("read a value 2 times", repr(report))) == 5
    assert repr(report).endswith("and 4 more lines read values")


SILENT: list[Callable[[Any], Any]] = [
    lambda h: h @ M,
    lambda h: M @ h,
    lambda h: h @ h,
    lambda h: np.vdot(h, W),
    lambda h: F.linear(h, M, W),
    lambda h: np.where(h > 0, h, 0.0),
    lambda h: dp.numpy.where(h, h, W),
    lambda h: ops.where(h > 0, W, np.zeros(2, np.float32)),
    lambda h: np.clip(h, h - 1, 3.0),
    lambda h: F.kl_div(F.log_softmax(h, -1), F.softmax(h, -1)),
    lambda h: F.binary_cross_entropy_with_logits(h, ops.sigmoid(h)),
    lambda h: F.cross_entropy(h, h.argmax(), weight=ONE),
    lambda h: h[h.argmax()],
    lambda h: (M * h)[h.argmax(), 0],
    lambda h: F.softmax(ops.where(h > 1, h, -np.inf), -1),
    lambda h: np.take_along_axis(h, np.argsort(h), 0),
    lambda h: F.dropout(h, 0.5),
]


@pytest.mark.parametrize("call", SILENT)
def test_tensor_code_reads_no_values(call: Any) -> None:
    agree(lambda n: call(double(W * n)), [1.5, 2.0, 3.0])
    report = dp.explain_batching()
    assert not report.reads and report.flushes == 1
    assert max(map(max, report.batches.values())) >= 3


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "loss", [F.cross_entropy, lambda x, *a, **k: F.nll_loss(F.log_softmax(x, -1), *a, **k)]
)
def test_a_loss_with_weights_of_classes(loss: Any, reduction: str) -> None:
    """The array of weights is another one in every example: a copy."""
    weight = np.array([0.5, 2.0], np.float32)
    agree(lambda n: loss(W * n, n % 2, weight=weight, reduction=reduction), [1, 2, 3], W)
    agree(lambda n: loss(double(W) * n, double(W).argmin(), weight=weight, reduction=reduction), [1, 2, 3], W)
    name = "cross_entropy" if loss is F.cross_entropy else "nll_loss"
    assert dp.explain_batching().alone[name, "it has no batch rule for these inputs"] == 3


# --- laws -------------------------------------------------------------------------------------------------------------


def leaves(examples: int) -> Parameters:
    return Parameters(*[dp.tensor(x, requires_grad=True) for x in parameters(np.float32, examples)])


@given(program=programs(random=False), wave=st.integers(1, 3))
@settings(max_examples=30)
def test_the_report_of_waves_is_that_of_their_examples_together(program: Program, wave: int) -> None:
    examples = range(len(program.examples))
    fun = function(program, leaves(len(examples)))
    with dp.no_grad():
        dp.batched(fun, examples, wave=wave)
        whole = dp.explain_batching()
        parts = []
        for first in range(0, len(examples), wave):
            dp.batched(fun, examples[first : first + wave])
            parts.append(dp.explain_batching())
    assert whole.flushes == sum(part.flushes for part in parts)
    assert whole.alone == sum((part.alone for part in parts), Counter())
    assert whole.reads == sum((part.reads for part in parts), Counter())
    for name, sizes in whole.batches.items():
        assert sizes == [size for part in parts for size in part.batches.get(name, [])]


@given(program=programs(random=False), limit=st.integers(1, 3))
@settings(max_examples=30)
def test_a_limit_of_batches_changes_neither_reads_nor_calls(program: Program, limit: int) -> None:
    fun = function(program, leaves(len(program.examples)))
    found = []
    for options in ({}, {"max_batch": limit}):
        dp.batched(fun, range(len(program.examples)), **options)
        report = dp.explain_batching()
        found.append((report.calls, report.flushes, report.reads, report.alone, report.kinds))
        assert report.flushes == 0 or report.flushes <= 1 + sum(report.reads.values())
    assert found[0] == found[1]


def test_backward_of_waves_leaves_the_report_as_it_was() -> None:
    loss = dp.batched(lambda n: double(W * n), [1.0, 2.0, 3.0], wave=1).sum()
    before = repr(dp.explain_batching())
    loss.backward()
    assert repr(dp.explain_batching()) == before
    W.grad = None
