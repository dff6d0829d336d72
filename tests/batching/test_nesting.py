"""Batches inside other things and other things inside batches."""

from __future__ import annotations

import contextvars
import threading
from typing import Any

import numpy as np
import pytest
from batching.agreement import agree

import dist_dp as dp
from dist_dp import ops
from dist_dp.nn import functional as F
from dist_dp.random import Key, scope

ONE = np.ones(2, np.float32)


@dp.cell
def double(x: Any) -> Any:
    return x * 2.0


@dp.cell
def add(x: Any, y: Any) -> Any:
    return x + y


@dp.cell
def drop(x: Any) -> Any:
    return F.dropout(x, 0.5)


@pytest.fixture
def w() -> Any:
    return dp.tensor([1.0, 2.0], requires_grad=True)


# --- dp.batched inside others -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"enabled": False}, {"max_batch": 1}], ids=str)
def test_batched_inside_batched(w: Any, options: dict[str, Any]) -> None:
    """The outer one batches what the inner ones do, and draws for each the numbers that it would draw alone."""

    def outer(n: float) -> Any:
        def inner(k: float) -> Any:
            return drop(w * k) if double(w).sum() * k * n > 7 else double(w) * dp.random.normal()

        return dp.batched(inner, [n, 2.0, 0.5], **options).sum(0) + F.dropout(w, 0.3)

    agree(outer, [1.0, 2.0, 3.0], w)


def test_the_batches_of_inner_ones_are_those_of_the_outer_one(w: Any) -> None:
    agree(lambda n: dp.batched(lambda k: double(w * k), [1.0, 2.0, n]).sum(0), [3.0, 4.0], w)
    assert dp.explain_batching().batches[double.fun.__qualname__] == [6]


@pytest.mark.parametrize(
    "transform",
    [
        dp.grad,
        lambda f: lambda x: dp.value_and_grad(f)(x)[1],
        lambda f: lambda x: dp.vjp(f, x)[1](np.float32(1.0))[0],
        lambda f: lambda x: dp.jvp(f, (x,), (ONE,))[1],
        lambda f: lambda x: dp.linearize(f, x)[1](ONE),
        lambda f: dp.grad(dp.checkpoint(f)),
        lambda f: dp.hessian(f),
        lambda f: dp.hessian(dp.checkpoint(f)),
        lambda f: dp.jacfwd(dp.grad(f)),
        lambda f: lambda x: dp.hvp(f, (x,), (ONE,)),
    ],
)
def test_inside_a_transform(transform: Any) -> None:
    def total(x: Any, enabled: bool) -> Any:
        def program(k: float) -> Any:
            y = double(x) * x * k
            return drop(add(y, y * x)) if y.sum() > 7 else y * y

        return dp.batched(program, [1.0, 2.0, 0.5], enabled=enabled).sum()

    found = []
    for enabled in (False, True):
        with scope(Key(1)):
            found.append(
                transform(lambda x, enabled=enabled: total(x, enabled))(np.array([1.0, 2.0], np.float32))
            )
    np.testing.assert_allclose(found[1].data, found[0].data, rtol=1e-5)


# --- others inside dp.batched -----------------------------------------------------------------------------------------


def test_derivatives_in_an_example(w: Any) -> None:
    agree(lambda c: dp.grad(lambda x: (double(x) * x * c * w).sum())(double(w)), [1.0, 2.0], w)
    agree(lambda c: dp.jvp(lambda x: double(x) * x * c * w, (double(w),), (ONE,))[1], [1.0, 2.0], w)
    agree(lambda c: dp.hessian(lambda x: (double(x) * x * x * c * w).sum())(w), [1.0, 2.0], w)


def test_vmap_in_an_example(w: Any) -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    agree(lambda c: dp.vmap(lambda row: row * double(w) * c)(rows).sum(0), [1.0, 2.0], w)
    agree(lambda c: dp.vmap(lambda row: ops.tanh(row) * row)(double(w * c)[None]).sum(0), [1.0, 2.0], w)


@pytest.mark.parametrize("read", [False, True])
def test_checkpoint_in_an_example(w: Any, read: bool) -> None:
    def program(c: float) -> Any:
        h = drop(w)
        if read and h.sum() > 100:
            return h
        return dp.checkpoint(lambda x: drop(double(x) * x * c))(h)

    agree(program, [1.0, 2.0, 3.0], w)


def test_custom_vjp_in_an_example(w: Any) -> None:
    @dp.custom_vjp
    def scaled(x: Any) -> Any:
        return x * 2

    scaled.defvjp(lambda x: (x * 2, None), lambda _, g: (g * 3,))
    agree(lambda c: scaled(double(w) * c), [1.0, 2.0], w)


def test_no_grad_in_an_example(w: Any) -> None:
    def program(n: float) -> Any:
        h = double(w)
        with dp.no_grad():
            target = double(h) + 1.0
            with dp.enable_grad():
                follows = double(w)
        return (target + h) * n + double(follows)

    agree(program, [1.0, 3.0], w)


def test_no_grad_in_one_example_only(w: Any) -> None:
    def program(n: int) -> Any:
        with dp.no_grad() if n == 1 else dp.enable_grad():
            y = w * 2
            z = double(w)
        return y + n + z

    agree(program, [0, 1, 2], w)
    agree(program, [1, 0, 2], w)


def test_no_grad_that_is_open_while_an_example_waits(w: Any) -> None:
    def program(n: int) -> Any:
        with dp.no_grad() if n % 2 else dp.enable_grad():
            y = double(w) * n
            if y.sum() > 3:
                y = double(y) + w
        return double(y + w)

    agree(program, range(5), w)


def test_a_leaf_made_in_an_example(w: Any) -> None:
    def program(c: float) -> Any:
        leaf = dp.tensor([c, c], requires_grad=True)
        return double(leaf) * leaf * w

    agree(program, [1.0, 2.0], w)


def test_leaves_that_come_and_go(w: Any) -> None:
    """A signature may not know a tensor by an address that another one has by now."""

    def program(n: float) -> Any:
        total = 0.0
        for k in range(1, 6):
            leaf = dp.tensor(np.full(k, n, np.float32), requires_grad=True)
            total = total + (leaf * double(np.ones(k, np.float32))).sum()
            total.item()
            del leaf
        return total

    agree(program, [1.0, 2.0])


# --- threads and contexts ---------------------------------------------------------------------------------------------


def test_threads_have_batches_of_their_own() -> None:
    w = dp.tensor([1.0, 2.0])
    start = threading.Barrier(4)
    found: dict[int, Any] = {}

    def program(n: int) -> Any:
        h = drop(w * n)
        for _ in range(n % 5):
            h = double(h) if h.sum() > 3 else h + 1.0
        return h

    def work(thread: int) -> None:
        start.wait()
        for _ in range(5):
            with scope(Key(thread)):
                out = dp.batched(program, range(20))
        found[thread] = out.data, dp.explain_batching().calls

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        with scope(Key(i)):
            expected = dp.batched(program, range(20))
        assert found[i][0].tobytes() == expected.data.tobytes()
        assert found[i][1] == dp.explain_batching().calls


def test_context_variables_are_those_of_the_example() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=-1)
    variable.set(7)
    seen = []

    def program(n: int) -> Any:
        seen.append(variable.get())
        variable.set(n)
        if double(ONE).sum() > 0:
            seen.append(variable.get() - n)
        return ONE

    dp.batched(program, range(3))
    assert seen == [7, 7, 7, 0, 0, 0] and variable.get() == 7


def test_batched_where_many_stand_for_one_already_is_refused() -> None:
    @dp.cell
    def nested(x: Any) -> Any:
        return dp.batched(lambda n: x * n, [1.0, 2.0])

    with pytest.raises(TypeError, match=r"dp\.batched inside the body of a cell"):
        nested(np.ones(2, np.float32))
    with pytest.raises(TypeError, match=r"dp\.batched inside dp\.vmap"):
        dp.vmap(lambda x: dp.batched(lambda n: x * n, [1.0]))(np.ones((3, 2), np.float32))


@pytest.mark.parametrize(
    "function",
    [
        lambda a: np.linalg.inv(a),
        lambda a: np.linalg.cholesky(a),
        lambda a: np.linalg.solve(a, np.ones((2, 1), np.float32)),
        lambda a: np.linalg.inv(F.dropout(a, 0.0)) * dp.random.bernoulli(0.5, a.shape),
    ],
)
@pytest.mark.parametrize("make", [dp.cell, lambda function: function], ids=["cell", "operation"])
def test_what_zeros_are_nothing_for(function: Any, make: Any) -> None:
    """An inverse has a form, which is found without a run on zeros."""
    step = make(function)
    matrix = dp.tensor([[2.0, 1.0], [1.0, 3.0]], requires_grad=True)
    agree(lambda n: step(add(matrix * n, np.eye(2, dtype=np.float32))), [1.0, 2.0, 3.0], matrix)


@dp.cell
def bent(x: Any, y: Any) -> Any:
    return ops.tanh(x * y)


@pytest.mark.parametrize("transform", ["checkpoint", "grad", "jvp", "inner"])
@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_a_transform_of_a_function_that_closes_over_values(
    w: Any, transform: str, read: bool, used: bool
) -> None:
    """Values that are computed already or only then, and that others use too."""

    def program(n: float) -> Any:
        h, before = bent(w * n, w), bent(w, w + n)
        if read:
            h.sum().item()

        def function(x: Any) -> Any:
            inner = dp.batched(lambda k: bent(x * k, h), [1.0, 2.0]).sum(0)
            return inner * before if before.sum().item() > -9.0 else inner

        if transform == "checkpoint":
            out = dp.checkpoint(function)(before)
        elif transform == "grad":
            out = dp.grad(lambda x: (function(x) * x).sum())(before)
        elif transform == "jvp":
            out = dp.jvp(function, (before,), (ONE,))[1]
        else:
            out = dp.checkpoint(lambda x: dp.checkpoint(function)(x * h) + h)(before)
        return out + bent(h, before) if used else out

    agree(program, [1.0, 2.0, 3.0], w)
