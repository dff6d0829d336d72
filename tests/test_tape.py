"""The tape and its sweeps: depth, memory, order, events, writes in place, modes, and the cost of recording."""

import contextlib
import gc
import math
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import backward as sweeps
from dist_dp import nn, ops, optim
from dist_dp.backward import backward, forward, reach
from dist_dp.ops.core import Op, apply
from dist_dp.tape import Leaf, Node, writes
from dist_dp.tensor import Tensor


def leaf(*values: float) -> Tensor:
    return Tensor(np.array(values), requires_grad=True)


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# (2 x, x^2) in one operation.
both = Op(
    "test_both",
    lambda x: (2 * x, x * x),
    joint=lambda g, need, x: (g[0] * 2 + g[1] * (2 * x),),
    outputs=2,
)


# ----- depth -----


DEPTH = 200_000


def deep(x: Tensor) -> Tensor:
    y = x
    for _ in range(DEPTH // 2):
        y = (y * 1.00001) + 0.001
    return y


def test_a_deep_graph_is_swept_in_both_directions_and_freed() -> None:
    x = leaf(1.0)
    y = deep(x)
    assert sum(1 for node in reach([y.node]) if node.op is not None) == DEPTH
    (tangent,) = forward({x.node: np.ones(1)}, [y.node], create_graph=False)
    y.backward(np.ones(1))
    expected = 1.00001 ** (DEPTH // 2)
    np.testing.assert_allclose([tangent[0], x.grad.data[0]], expected, rtol=1e-8)


def test_a_deep_graph_is_dropped_without_a_backward_pass() -> None:
    node = weakref.ref(deep(leaf(1.0)).node)
    assert node() is None


# ----- memory -----


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("create_graph", [False, True])
def test_dropping_the_loss_frees_everything_without_the_collector(swept: bool, create_graph: bool) -> None:
    def graph() -> list[weakref.ref[Any]]:
        x = leaf(0.5, 0.25)
        two, square = apply(both, (x,))
        h = ops.exp(two) * square
        loss = (h + ops.sin(h) * x)[0]
        alive = [loss, h, two]
        found = [weakref.ref(t.data) for t in alive]
        found += [weakref.ref(n) for n in reach([loss.node])]
        if swept and create_graph:
            (g,) = backward([(loss.node, Tensor(np.ones(())))], targets=[x.node], create_graph=True)
            found += [weakref.ref(n) for n in reach([g.node])]
        elif swept:
            loss.backward()
        return found

    with collector_off():
        assert [ref() for ref in graph() if ref() is not None] == []


def test_saved_arrays_die_as_the_backward_pass_goes() -> None:
    x = leaf(0.1)
    saved: list[weakref.ref[Any]] = []
    alive: list[int] = []
    y = x
    for _ in range(5):
        y = ops.tanh(y)
        saved.append(weakref.ref(y.data))
        y.register_hook(lambda g: alive.append(sum(ref() is not None for ref in saved)))
    node, shape = y.node, y.shape
    del y
    with collector_off():
        backward([(node, np.ones(shape))])
    assert alive == [5, 4, 3, 2, 1]
    assert all(ref() is None for ref in saved)


# ----- a graph is used once, or kept -----


def test_a_second_backward_pass_is_refused_and_names_the_operation() -> None:
    y = ops.exp(leaf(1.0))
    y.backward()
    with pytest.raises(RuntimeError, match=r"already freed at exp .*retain_graph=True"):
        y.backward()


def test_retain_graph_allows_it_and_gradients_add_up() -> None:
    x = leaf(1.0)
    y = ops.exp(x)
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.data, 2 * np.e)


def test_create_graph_gives_gradients_that_are_differentiated_again() -> None:
    x = leaf(2.0)
    y = x * x * x
    y.backward(create_graph=True)
    first = x.grad
    x.grad = None
    first.backward(np.ones(1))
    np.testing.assert_allclose([first.data[0], x.grad.data[0]], [12.0, 12.0])


def test_backward_through_an_operation_with_unused_outputs() -> None:
    for used, expected in (((0,), 2.0), ((1,), 6.0), ((0, 1), 8.0)):
        x = leaf(3.0)
        outs = apply(both, (x,))
        total = outs[used[0]] * 1
        for i in used[1:]:
            total = total + outs[i]
        total.backward()
        np.testing.assert_allclose(x.grad.data, expected)


def test_targets_are_ends() -> None:
    x = leaf(3.0)
    y = x * 2
    z = y * x
    seeds = [(z.node, np.ones(1))]
    of_y, of_x = backward(seeds, targets=[y.node, x.node], retain_graph=True)
    assert (of_y[0], of_x[0]) == (3.0, 6.0)
    assert backward(seeds, targets=[x.node])[0][0] == 12.0
    assert x.grad is None


# ----- writes in place -----


def test_a_write_to_a_saved_array_is_refused_and_names_operation_and_tensor() -> None:
    x = leaf(1.0, 2.0)
    h = x * 1
    y = h * h
    with dp.no_grad():
        h[0] = 5.0
    with pytest.raises(
        RuntimeError, match=r"multiply .* saved its input 'y', float64 \(2,\), which x\[.*\] = v"
    ):
        y.backward(np.ones(2))


def test_a_write_to_a_saved_output_is_refused() -> None:
    y = ops.exp(leaf(1.0))
    z = y * 1
    y.detach().add_(1.0)
    with pytest.raises(RuntimeError, match=r"exp .* saved its output, .* which add_ overwrote"):
        z.backward()


def test_a_write_to_any_view_of_the_memory_counts_and_beside_it_does_not() -> None:
    buffer = np.zeros(10)
    first, second = Tensor(buffer[:5], requires_grad=True), Tensor(buffer[5:])
    y = ops.sin(first)
    writes.note(buffer[5:], "the optimizer")
    (y * 1).backward(np.ones(5), retain_graph=True)
    writes.note(buffer[4:6], "the optimizer")
    with pytest.raises(RuntimeError, match="which the optimizer overwrote"):
        y.backward(np.ones(5))
    assert second.requires_grad is False


def test_a_write_before_recording_is_none_of_its_business() -> None:
    x = leaf(1.0)
    with dp.no_grad():
        x[0] = 2.0
    y = x * x
    with dp.no_grad():
        leaf(1.0)[0] = 3.0  # a later write, somewhere else
    y.backward()
    assert x.grad.data[0] == 4.0


def test_a_recorded_write_keeps_the_gradients_of_both_values() -> None:
    x, v = leaf(1.0, 2.0), leaf(5.0)
    y = x * 3
    z = y * y  # needs the old y
    y[0] = v[0]
    (z + y).backward(np.ones(2))
    np.testing.assert_allclose(x.grad.data, [18.0, 36.0 + 3.0])
    np.testing.assert_allclose(v.grad.data, [1.0])


# ----- leaves: accumulation, sinks, events, hooks -----


def test_a_sink_receives_the_gradient_and_what_comes_later() -> None:
    flat = np.full(4, 7.0)
    x = leaf(1.0, 2.0)
    x.node.sink = flat[1:3]
    (x * 2).backward(np.ones(2))
    np.testing.assert_array_equal(flat, [7, 2, 2, 7])
    (x * 3).backward(np.ones(2))
    np.testing.assert_array_equal(flat, [7, 5, 5, 7])
    assert x.grad.data.base is flat or x.grad.data is x.node.sink
    x.grad = None
    (x * 3).backward(np.ones(2))
    np.testing.assert_array_equal(flat, [7, 3, 3, 7])


def test_a_gradient_shares_no_memory_with_another() -> None:
    x, y = leaf(1.0), leaf(2.0)
    (x + y).backward(np.ones(1))
    x.grad.data[0] = 50.0
    assert y.grad.data[0] == 1.0


def test_an_unused_leaf_has_no_gradient() -> None:
    x, unused = leaf(1.0), leaf(1.0)
    (x * 1).backward()
    assert unused.grad is None


def test_ready_fires_once_per_leaf_at_its_last_contribution() -> None:
    shared, early, late, hooked = leaf(1.0), leaf(2.0), leaf(3.0), leaf(4.0)
    hooked.register_hook(lambda g: g * 10)
    loss = ((shared * early) * hooked) * (shared * late) * shared
    expected = {}
    loss.backward(retain_graph=True)
    for x in (shared, early, late, hooked):
        expected[x.node] = x.grad.data.copy()
        x.grad = None
    events: list[Leaf] = []

    def ready(node: Leaf) -> None:
        events.append(node)
        np.testing.assert_array_equal(node.grad, expected[node])  # nothing is still to come

    loss.backward(on_ready=ready)
    assert sorted(map(id, events)) == sorted(map(id, expected))
    assert events.index(late.node) < events.index(early.node) < len(events)


def test_ready_fires_for_a_leaf_to_which_no_gradient_came() -> None:
    cut = Op("test_cut", lambda x: x * 1, joint=lambda g, need: (None,))
    x, y = leaf(1.0), leaf(2.0)
    events: list[Leaf] = []
    (apply(cut, (x,)) * y).backward(on_ready=events.append)
    assert {x.node, y.node} == set(events) and x.grad is None


def test_ready_fires_for_a_leaf_that_is_the_root() -> None:
    x = leaf(1.0)
    events: list[Leaf] = []
    x.backward(on_ready=events.append)
    assert events == [x.node] and x.grad.data[0] == 1.0


def test_hooks_see_the_whole_gradient_once_may_change_it_and_can_be_removed() -> None:
    seen: list[float] = []
    for remove in (False, True):
        x = leaf(3.0)
        h = x * 2
        forget = h.register_hook(lambda g: (seen.append(g.data[0]), g * 100)[1])
        x.register_hook(lambda g: seen.append(g.data[0]))
        if remove:
            forget()
        (h * h + h).backward()
        assert x.grad.data[0] == (26.0 if remove else 2600.0)
    assert seen == [13.0, 2600.0, 26.0]


# ----- modes -----


def test_modes_nest_and_come_back_after_an_error() -> None:
    x = leaf(1.0)
    assert dp.is_grad_enabled()
    with dp.no_grad():
        assert (x * 2).node is None and not dp.is_grad_enabled()
        with dp.enable_grad():
            assert (x * 2).node is not None
            with dp.no_grad():
                assert (x * 2).node is None
        assert (x * 2).node is None
        with pytest.raises(ZeroDivisionError), dp.enable_grad():
            raise ZeroDivisionError
        assert not dp.is_grad_enabled()
    assert (x * 2).node is not None


def test_one_switch_may_be_entered_again_inside_itself() -> None:
    switch = dp.no_grad()
    with switch, switch:
        assert not dp.is_grad_enabled()
    assert dp.is_grad_enabled()


def test_modes_decorate_functions() -> None:
    @dp.no_grad()
    def plain(x: Tensor, depth: int) -> Tensor:
        return plain(x, depth - 1) if depth else x * 2

    assert plain(leaf(1.0), 3).node is None
    assert dp.is_grad_enabled()


def test_each_thread_has_its_own_mode() -> None:
    inside, results = threading.Barrier(2), {}

    def work() -> None:
        inside.wait()
        results["other"] = (leaf(1.0) * 2).node is not None
        inside.wait()

    thread = threading.Thread(target=work)
    thread.start()
    with dp.no_grad():
        inside.wait()
        results["here"] = (leaf(1.0) * 2).node is not None
        inside.wait()
    thread.join()
    assert results == {"other": True, "here": False}


def test_a_decorated_function_may_run_in_two_threads_at_once() -> None:
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    @dp.no_grad()
    def slow(entered: threading.Event, leave: threading.Event) -> None:
        entered.set()
        assert leave.wait(10)

    def other() -> None:
        with dp.no_grad():
            assert first_is_in.wait(10)
            slow(second_is_in, first_is_out)

    thread = threading.Thread(target=other)
    thread.start()
    slow(first_is_in, second_is_in)
    assert dp.is_grad_enabled()  # not what the other thread, which came in later, was in before
    first_is_out.set()
    thread.join()


def test_graphs_of_several_threads_do_not_mix() -> None:
    gradients = [0.0] * 4

    def work(k: int) -> None:
        x = leaf(float(k))
        y = x
        for _ in range(200):
            y = y * 1.01 + x
        y.backward()
        gradients[k] = float(x.grad.data[0])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(gradients)) == 1 and gradients[0] > 1


# ----- errors -----


def test_an_error_in_a_rule_names_the_operation() -> None:
    def broken(g: Any) -> Any:
        raise OverflowError("inside")

    op = Op("test_broken", lambda x: x * 1, vjp=(broken,))
    with pytest.raises(OverflowError, match="inside") as caught:
        apply(op, (leaf(1.0),)).backward()
    assert "backward pass of test_broken" in caught.value.__notes__[0]


def test_backward_needs_a_gradient_to_start_from() -> None:
    with pytest.raises(RuntimeError, match="carries no gradient"):
        Tensor(1.0).backward()
    with pytest.raises(ValueError, match=r"needs a scalar, got shape \(2,\)"):
        (leaf(1.0, 2.0) * 1).backward()
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        (leaf(1.0, 2.0) * 1).backward(np.ones(3))


# ----- the cost of recording -----


def python_calls(run: Callable[[], Any]) -> int:
    """Python functions entered by `run` itself."""
    count = -1  # `run`

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


MATRIX = Tensor(np.ones((3, 3), np.float32), requires_grad=True)
RECORDED: dict[str, Callable[[Tensor], Tensor]] = {
    "x * y": lambda x: x * MATRIX,
    "x * 2": lambda x: x * 2.0,
    "x + y": lambda x: x + MATRIX,
    "exp(x)": ops.exp,
    "x @ y": lambda x: x @ MATRIX,
    "x.sum()": lambda x: x.sum(),
    "x[i]": lambda x: x[1],
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_operation_is_at_most_six_python_calls(name: str) -> None:
    run = RECORDED[name]
    x = Tensor(np.ones((3, 3), np.float32), requires_grad=True)
    assert isinstance(run(x).node, Node)
    calls = python_calls(lambda: run(x))
    assert calls - (run.__name__ == "<lambda>") <= 6


# ----- any graph at all -----

UNARY: list[Callable[[Any], Any]] = [ops.sin, ops.tanh, lambda x: x * x, lambda x: -x, lambda x: x[..., :1]]
BINARY: list[Callable[[Any, Any], Any]] = [
    lambda x, y: x + y,
    lambda x, y: x * y,
    lambda x, y: x - y,
    lambda x, y: x / (y * y + 1),
]
SHAPES = [(), (1,), (3,), (2, 1), (2, 3), (1, 3)]


@st.composite
def programs(draw: Any) -> tuple[list[Any], Callable[..., Tensor]]:
    """Inputs that broadcast against each other, and a random straight-line program over them."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    steps = draw(
        st.lists(st.tuples(st.integers(0, 8), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8)
    )
    random = np.random.default_rng(draw(st.integers(0, 99)))

    def run(*inputs: Tensor) -> Tensor:
        values = list(inputs)
        for which, i, j in steps:
            x, y = values[-1 - i % len(values)], values[-1 - j % len(values)]
            if which < len(UNARY):
                values.append(UNARY[which](x) if which < 4 or x.ndim else ops.sin(x))
            else:
                values.append(BINARY[which - len(UNARY)](x, y))
        return values[-1]

    return [random.uniform(-1, 1, shape) for shape in shapes], run


@settings(max_examples=40)
@given(programs())
def test_gradients_of_any_graph_agree_with_differences(program: tuple[list[Any], Any]) -> None:
    inputs, run = program
    dp.debug.gradcheck(run, *inputs, order=2)


@settings(max_examples=60)
@given(programs(), st.booleans())
def test_a_gradient_may_be_overwritten_without_harm(program: tuple[list[Any], Any], watched: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "SMALL", -1)
        check_overwriting(*program, watched)


def check_overwriting(arrays: list[Any], run: Any, watched: bool) -> None:
    inputs = [Tensor(a.copy(), requires_grad=True) for a in arrays]
    seen: list[Any] = []
    out = run(*inputs)
    if watched and out.node is not None:
        for node in reach([out.node]):
            node.hooks = [lambda g: seen.append((g.data, g.data.copy()))]
    seed = np.ones(out.shape)
    found = []
    for _ in range(2):  # the first time what is left is overwritten, which the second must not notice
        out.backward(seed, retain_graph=True)
        gradients = [x.grad.data for x in inputs if x.grad is not None]
        found.append([g.copy() for g in gradients])
        for i, g in enumerate(gradients):
            g[...] = np.nan
            for other, before in zip(gradients[i + 1 :], found[-1][i + 1 :], strict=True):
                np.testing.assert_array_equal(other, before)
        for x, a in zip(inputs, arrays, strict=True):
            x.grad = None
            np.testing.assert_array_equal(x.data, a)
        assert (seed == 1).all()
        for array, before in seen:
            np.testing.assert_array_equal(array, before)
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kinds", ["aa", "ac", "ca", "aca", "cac"])
def test_an_optimizer_does_not_change_what_gradients_add_up_to(kinds: str) -> None:
    """Ordinary (a) and recorded (c) sweeps in any order, with gradients going to an array or to a flat buffer."""
    results = []
    for optimized in (False, True):
        w = nn.Parameter(np.array([2.0, 3.0]))
        if optimized:
            optim.SGD([w], lr=0.1)
        for kind in kinds:
            (w**3).sum().backward(create_graph=kind == "c")
        results.append(w.grad.detach().numpy())
    np.testing.assert_allclose(results[0], len(kinds) * 3 * np.array([4.0, 9.0]))
    np.testing.assert_array_equal(*results)


def test_a_gradient_penalty_trains_the_same_with_an_optimizer_attached() -> None:
    results = []
    for optimized in (False, True):
        w = nn.Parameter(np.array([2.0, 3.0]))
        if optimized:
            optim.SGD([w], lr=0.1)
        (w**3).sum().backward(create_graph=True)
        (w.grad**2).sum().backward()  # the derivative of 9 w^4 on top of 3 w^2
        results.append(w.grad.detach().numpy())
    np.testing.assert_allclose(results[0], 3 * np.array([4.0, 9.0]) + 36 * np.array([8.0, 27.0]))
    np.testing.assert_array_equal(*results)


def test_an_optimizer_made_after_backward_keeps_the_gradients() -> None:
    w = nn.Parameter(np.array([2.0, 3.0]))
    (w * w).sum().backward()
    optim.SGD([w], lr=0.5).step()
    np.testing.assert_array_equal(w.detach().numpy(), [0.0, 0.0])


def test_a_number_or_an_array_element_never_drops_a_gradient_silently() -> None:
    x = dp.tensor(np.array([1.0, 2.0]), requires_grad=True)
    with pytest.raises(RuntimeError, match=r"x\.item\(\)"):
        math.sin(x[0])
    with pytest.raises((RuntimeError, ValueError)):
        np.zeros(2)[0] = x[0]
    with pytest.raises(RuntimeError, match=r"x\.item\(\)"):
        int(x[0])
    assert f"{x[0]:.1f}" == "1.0" and x[0].item() == 1.0 and float(x[0].detach()) == 1.0


def test_a_hook_may_remove_itself() -> None:
    x = dp.tensor([1.0], requires_grad=True)
    calls = []
    removers = [x.register_hook(lambda g: (calls.append(1), removers[0]())[0])]
    x.register_hook(lambda g: calls.append(2))
    (x * 2).sum().backward()
    assert calls == [1, 2]


def test_a_checkpointed_module_proposes_for_its_buffers_once() -> None:
    norm = nn.BatchNorm1d(2)
    x = dp.tensor(np.random.default_rng(0).normal(size=(4, 2)), requires_grad=True)
    dp.checkpoint(norm)(x).sum().backward()
    assert norm.num_batches_tracked.item() == 1
