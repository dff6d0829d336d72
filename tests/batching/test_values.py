"""Values that are written to, kept, and looked at."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from batching.agreement import agree
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp

ONE = np.ones(2, np.float32)


@dp.cell
def double(x: Any) -> Any:
    return x * 2.0


@dp.cell
def add(x: Any, y: Any) -> Any:
    return x + y


@pytest.fixture
def w() -> Any:
    return dp.tensor([1.0, 2.0], requires_grad=True)


# --- writes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [False, True])
def test_a_value_is_written_in_place(w: Any, read: bool) -> None:
    def program(n: float) -> Any:
        h = double(w * n)
        before = double(h)
        if read:
            assert h.sum().item() == 6 * n
        h += 1.0
        between = add(h, h)
        h[0] = 7.0
        h *= before
        h[1:] = between[:1] * n
        return add(before, h) * between

    agree(program, [1.0, 2.0], w)


def test_two_names_of_a_value_see_a_write(w: Any) -> None:
    def program(n: float) -> Any:
        h = double(w * n)
        states = {"h": h, "all": [h, h]}
        h += 1.0
        return states["h"] * states["all"][1]

    agree(program, [1.0, 2.0], w)


def test_a_result_of_several_is_written_in_place(w: Any) -> None:
    @dp.cell
    def both(x: Any) -> Any:
        return x * 2.0, {"y": x + 1.0}

    def program(n: float) -> Any:
        a, rest = both(w * n)
        sum_ = add(a, rest["y"])
        a += rest["y"]
        rest["y"] *= 3.0
        return add(a, rest["y"]) * sum_

    agree(program, [1.0, 2.0], w)


@given(st.lists(st.sampled_from(["+=", "*=", "[0]=", "read", "use"]), max_size=8), st.booleans())
@settings(max_examples=50)
def test_any_order_of_writes_and_uses(todo: list[str], again: bool) -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    def program(n: float) -> Any:
        h, out = double(w * n), double(w)
        for what in todo:
            if what == "+=":
                h += 1.5
            elif what == "*=":
                h *= out
            elif what == "[0]=":
                h[0] = out[1]
            elif what == "read":
                h.sum().item()
            else:
                out = add(h, out)
        return out * h if again else out

    agree(program, [1.0, 2.0], w)


@pytest.mark.parametrize("make", [lambda: np.ones(2, np.float32), lambda: dp.tensor(ONE.copy())])
@pytest.mark.parametrize(
    "call", [lambda x: add(x, ONE), lambda x: double(ONE) * x], ids=["cell", "operation"]
)
def test_an_array_is_written_after_a_call_with_it(make: Any, call: Any) -> None:
    def program(n: float) -> Any:
        buffer = make()
        y = call(buffer)
        buffer += 5.0
        return add(y, buffer)

    agree(program, [1.0, 2.0])


def test_one_example_writes_into_what_it_computed_of_a_parameter(w: Any) -> None:

    def program(n: int) -> Any:
        y = w * 2
        if n == 0:
            y[0] = 100.0
        return y + n

    agree(program, [0, 1])


# --- values that are kept, and looked at ------------------------------------------------------------------------------


def test_values_that_are_read_after_batched_has_returned(w: Any) -> None:
    kept: list[Any] = []

    def program(n: float) -> Any:
        kept.append((double(w * n), double(double(w * n))))  # the second one is asked for by nobody
        return kept[-1][0] * 2

    out = dp.batched(program, [1.0, 2.0, 3.0])
    assert [second.sum().item() for _, second in kept] == [12, 24, 36]
    assert [first.tolist() for first, _ in kept] == [[2, 4], [4, 8], [6, 12]]
    loss = out.sum() + sum((a * b).sum() for a, b in kept)
    loss.backward()
    assert w.grad.tolist() == [24 + 16 * 14, 24 + 32 * 14]
    assert repr(kept[0][0]).startswith("tensor([2., 4.]")
    assert kept[0][0].detach().numpy().tolist() == [2, 4]


def test_a_value_that_is_kept_is_asked_for_in_another_thread(w: Any) -> None:
    kept: list[Any] = []
    dp.batched(lambda n: (kept.append(double(double(w * n))), ONE)[1], [1.0, 2.0])
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append([k.tolist() for k in kept]))
    thread.start()
    thread.join()
    assert seen == [[[4, 8], [8, 16]]]


def test_an_example_looks_at_a_value_in_every_way(w: Any) -> None:
    def program(n: float) -> Any:
        h = double(w * n)
        assert (h.shape, h.ndim, h.size, len(h), h.dtype, h.nbytes) == ((2,), 1, 2, 2, np.float32, 8)
        a, b = h
        read = [
            h[0].item(),
            float(h[1].detach()),
            *h.tolist(),
            h.sum().item(),
            int(h.argmax()),
            bool(h.sum() > 1),
        ]
        assert read == [2 * n, 4 * n, 2 * n, 4 * n, 6 * n, 1, True]
        assert f"tensor([{2 * n:g}." in repr(h)
        return np.stack([a, b, np.maximum(h[0], 3.0), np.tanh(h).sum()])

    agree(program, [1.0, 2.0], w)


def test_nothing_runs_until_it_is_needed(w: Any) -> None:
    ran: list[int] = []

    @dp.cell
    def counted(x: Any) -> Any:
        ran.append(len(x))
        return x * 2.0

    def program(n: float) -> Any:
        counted(counted(w * n))  # nobody asks for it
        tried = len(ran)
        out = counted(w)
        assert len(ran) == tried
        return out

    dp.batched(program, [1.0, 2.0, 3.0])
    assert ran[-1] == 3 and dp.explain_batching().batches[counted.fun.__qualname__] == [3]


def test_a_detached_value_becomes_an_array(w: Any) -> None:
    agree(lambda c: double(w) * double(w).detach().numpy() * c, [1.0, 2.0], w)


def test_a_parameter_that_was_only_looked_at_has_no_gradient(w: Any) -> None:
    """An optimizer would move it: weight decay, moments (section 2, rule 4 of the design)."""
    policy = dp.tensor([0.5, 1.0], requires_grad=True)
    out = dp.batched(lambda c: double(w) if (double(policy) * c).sum() > 2 else w, [1.0, 2.0])
    out.sum().backward()
    assert policy.grad is None


@pytest.mark.parametrize("computed", [True, False])
def test_values_kept_from_one_batched_and_used_in_the_next(computed: bool) -> None:
    kept: list[Any] = []

    def first(n: int) -> Any:
        kept.append(double(ONE * np.float32(n)))
        return kept[-1] if computed else ONE

    dp.batched(first, [1, 2, 3])
    agree(lambda i: add(double(ONE), kept[i]), [2, 0, 1])


def test_a_value_of_parameters_alone_is_written_twice() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)

    def program(n: float) -> Any:
        y = w * 1.0
        y[0] = double(w)[1] * n
        y += double(w)
        return y

    agree(program, [1.0, 2.0], w)


def test_values_of_two_batched_in_one_batch() -> None:
    w = dp.tensor([1.0, 2.0], requires_grad=True)
    for enabled in (False, True):
        kept: list[Any] = []

        def first(n: float, kept: list[Any] = kept) -> Any:
            kept.append(double(w * n))
            return kept[-1]

        def second(i: int, kept: list[Any] = kept) -> Any:
            return double(kept[i] if i != 1 else double(w * 5.0))

        dp.batched(first, [1.0, 2.0, 3.0], enabled=enabled)
        w.grad = None
        out = dp.batched(second, range(3), enabled=enabled)
        out.sum().backward()
        assert out.tolist() == [[4, 8], [20, 40], [12, 24]] and w.grad.tolist() == [36, 36]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_value_is_copied(copied: Any) -> None:
    """As a beam search does with the states of its hypotheses."""

    def program(n: float) -> Any:
        h = double(ONE * np.float32(n))
        return h * copied(h)

    agree(program, [1.0, 2.0])


def test_the_run_on_zeros_leaves_buffers_as_they_are() -> None:
    norm = dp.nn.BatchNorm1d(2)

    @dp.cell
    def normal(x: Any) -> Any:
        return norm(x)

    dp.batched(lambda n: normal(ONE * np.float32(n)), [1.0, 2.0, 3.0])
    assert int(norm.num_batches_tracked) == 1


def test_a_small_result_does_not_hold_the_block() -> None:
    def chain(n: float) -> Any:
        h = np.ones(1000) * n
        for _ in range(50):
            h = double(h)
        return h

    out = dp.batched(chain, [1.0, 2.0]).data
    assert (out if out.base is None else out.base).nbytes <= 8 * out.nbytes


def test_a_write_into_the_result_does_not_change_what_was_kept() -> None:
    kept: list[Any] = []

    def program(n: float) -> Any:
        kept.append(double(ONE * np.float32(n)))
        return kept[-1]

    out = dp.batched(program, [1.0, 2.0])
    out += 10.0
    assert [h.tolist() for h in kept] == [[2, 2], [4, 4]]


def test_leaves_that_come_and_go_for_long() -> None:
    def program(n: float) -> Any:
        one, total = double(ONE[:1]), 0.0
        for k in range(3000):
            leaf = dp.tensor(np.full(1 + k % 5, n, np.float32), requires_grad=True)
            total += (leaf * one).sum().item()
        return total

    with dp.no_grad():
        agree(program, [1.0])
