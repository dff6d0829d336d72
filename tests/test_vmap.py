"""vmap: equal to the loop over examples, alone and with every other transform; and what it refuses."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import ops
from dist_dp.batching import fallbacks
from dist_dp.ops.core import Op, apply
from dist_dp.tensor import Tensor

X = np.linspace(-1, 1, 12).reshape(4, 3)
W = np.linspace(0.5, 2, 6).reshape(3, 2)


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a.data if isinstance(a, Tensor) else a, b, rtol=1e-9, atol=1e-12)


def mixed(x: Any) -> Tensor:
    """Uses operations with and without batched operands, reductions, products and indices."""
    h = ops.tanh(x @ W)
    return ops.sum(h * h[0]) + x[1] * 2


def loop(f: Callable[..., Any], *columns: Any) -> Any:
    return np.stack([f(*row).data for row in zip(*columns, strict=True)])


# ----- alone -----


def test_vmap_is_the_loop() -> None:
    close(dp.vmap(mixed)(X), loop(mixed, X))


@pytest.mark.parametrize("in_axis", [0, 1, -1, -2])
@pytest.mark.parametrize("out_axis", [0, 1, -1])
def test_axes(in_axis: int, out_axis: int) -> None:
    f = lambda x: ops.exp(x)  # noqa: E731
    out = dp.vmap(f, in_axis, out_axis)(X)
    close(out, np.moveaxis(np.exp(np.moveaxis(X, in_axis, 0)), 0, out_axis))


def test_axes_of_trees() -> None:
    def f(d: Any, y: Any, n: int) -> Any:
        return {"s": d["a"] + d["b"], "t": (y * n, y)}

    out = dp.vmap(f, in_axes=({"a": 0, "b": None}, 1, None), out_axes={"s": 0, "t": (0, 1)})(
        {"a": X, "b": X[0]}, X.T, 5
    )
    close(out["s"], X + X[0])
    close(out["t"][0], 5 * X)
    close(out["t"][1], X.T)


def test_results_that_are_the_same_for_all() -> None:
    close(dp.vmap(lambda x: 3.0)(X), [3, 3, 3, 3])
    close(dp.vmap(lambda x: (x, W), out_axes=(0, None))(X)[1], W)
    assert dp.vmap(lambda x: (x, None))(X)[1] is None


def test_keyword_arguments_are_mapped_over_axis_0() -> None:
    close(dp.vmap(lambda x, *, y: x * y)(X, y=X), X * X)


def test_vmaps_nest() -> None:
    f = lambda a, b: ops.sum(ops.sin(a) * b)  # noqa: E731
    table = dp.vmap(lambda a: dp.vmap(lambda b: f(a, b))(W.T))(X)
    close(table, [[np.sum(np.sin(a) * b) for b in W.T] for a in X])
    close(dp.vmap(dp.vmap(ops.exp))(X), np.exp(X))
    close(
        dp.vmap(dp.vmap(lambda v: v * 2, in_axes=1, out_axes=1))(np.ones((2, 3, 4))), 2 * np.ones((2, 3, 4))
    )
    # an inner vmap over something else, with the outer example closed over
    close(dp.vmap(lambda x: dp.vmap(lambda w: w * x[0])(W))(X), W * X[:, :1, None])


def test_an_empty_batch() -> None:
    assert dp.vmap(mixed)(X[:0]).shape == (0,)


def test_shapes_are_those_of_one_example_and_may_steer_the_program() -> None:
    def f(x: Any) -> Any:
        assert x.shape == (3,) and len(x) == 3 and x.ndim == x.dim() == 1 and x.size == x.numel() == 3
        assert x.dtype == np.float64 and x.nbytes == 24 and isinstance(x, Tensor)
        assert "one of 4 examples" in repr(x)
        total = x[0] * 0
        for element in x:
            total = total + element
        return total

    close(dp.vmap(f)(X), X.sum(1))


def test_writes_in_place() -> None:
    def f(x: Any) -> Any:
        y = x * 1
        y[0] = 7.0
        y += x
        y[1:] = x[:2]
        return y

    expected = X.copy()
    expected[:, 0] += 7.0
    expected[:, 1:] = X[:, :2]
    close(dp.vmap(f)(X), expected)


def test_numpy_functions_and_no_grad_inside() -> None:
    def f(x: Any) -> Any:
        with dp.no_grad():
            y = np.exp(x)
        return np.concatenate([y, x])

    x = Tensor(X, requires_grad=True)
    out = dp.vmap(f)(x)
    close(out, np.concatenate([np.exp(X), X], 1))
    ops.sum(out).backward()
    close(x.grad, np.ones_like(X))


def test_random_numbers_are_shared_by_the_examples() -> None:
    dp.random.seed(3)
    out = dp.vmap(lambda x: x * 0 + dp.random.normal((3,), np.float64))(X)
    close(out, np.broadcast_to(out.data[0], out.shape))


def test_an_operation_without_a_batch_rule_is_looped_and_counted() -> None:
    odd = Op("test_odd", lambda x, y: x * y.sum(), "x y", vjp=(lambda g, y: g * y.sum(), None))
    two = Op("test_two", lambda x: (x * 2, x.sum()), joint=lambda g, need: (g[0] * 2 + g[1],), outputs=2)
    fallbacks.clear()
    close(dp.vmap(lambda x: apply(odd, (x, W)))(X), X * W.sum())
    a, b = dp.vmap(lambda x: apply(two, (x,)))(X)
    close(a, 2 * X)
    close(b, X.sum(1))
    close(dp.vmap(dp.grad(lambda x: ops.sum(apply(two, (x,))[0])))(X), 2 * np.ones_like(X))
    assert fallbacks == {"test_odd": 1, "test_two": 2}
    with pytest.raises(ValueError, match="test_odd has no batch rule"):
        dp.vmap(lambda x: apply(odd, (x, W)))(X[:0])


def test_a_fused_operation_without_a_batch_rule_is_taken_apart() -> None:
    def composed(x: Any) -> Any:
        return ops.sum(x * x)

    fused = Op(
        "test_fused",
        lambda x: np.vdot(x, x),
        joint=lambda g, need, x: (2 * g * x,),
        composed=composed,
    )
    fallbacks.clear()
    close(dp.vmap(lambda x: apply(fused, (x,)))(X), (X * X).sum(1))
    close(dp.vmap(dp.grad(lambda x: apply(fused, (x,)) * 3))(X), 6 * X)
    assert not fallbacks


# ----- with the other transforms -----


def test_gradients_per_example() -> None:
    close(dp.vmap(dp.grad(mixed))(X), loop(dp.grad(mixed), X))


def test_gradients_per_example_of_shared_parameters() -> None:
    def loss(w: Any, x: Any) -> Any:
        return ops.sum(ops.tanh(x @ w["w"]) + w["b"])

    w = {"w": W, "b": np.ones(2)}
    got = dp.vmap(dp.grad(loss), in_axes=(None, 0))(w, X)
    close(got["w"], np.stack([dp.grad(loss)(w, x)["w"].data for x in X]))
    close(got["b"], np.ones((4, 2)))
    value, got = dp.vmap(dp.value_and_grad(loss), in_axes=(None, 0))(w, X)
    close(value, loop(lambda x: loss(w, x), X))


def test_gradients_per_example_of_a_parameter_closed_over() -> None:
    # The inner grad is with respect to x; the outer backward sums over examples.
    w = Tensor(W.copy(), requires_grad=True)
    g = dp.vmap(dp.grad(lambda x: ops.sum(ops.sin(x @ w))))(X)
    ops.sum(g).backward()
    v = Tensor(W.copy(), requires_grad=True)
    total = sum(ops.sum(dp.grad(lambda x: ops.sum(ops.sin(x @ v)))(x)) for x in X)
    total.backward()
    close(w.grad, v.grad.data)


def test_grad_of_vmap_and_jvp_of_vmap() -> None:
    close(dp.grad(lambda x: ops.sum(dp.vmap(mixed)(x)))(X), loop(dp.grad(mixed), X))
    t = np.ones_like(X)
    close(dp.jvp(dp.vmap(mixed), (X,), (t,))[1], loop(lambda x: dp.jvp(mixed, (x,), (t[0],))[1], X))


def test_jvp_vjp_hessian_and_hvp_inside_vmap() -> None:
    t = np.arange(3.0)
    close(dp.vmap(lambda x: dp.jvp(mixed, (x,), (t,))[1])(X), loop(lambda x: dp.jvp(mixed, (x,), (t,))[1], X))
    close(dp.vmap(dp.hessian(mixed))(X), loop(dp.hessian(mixed), X))
    close(dp.vmap(dp.jacfwd(lambda x: ops.sin(x)))(X), loop(dp.jacfwd(ops.sin), X))
    close(dp.vmap(lambda x: dp.hvp(mixed, (x,), (t,)))(X), loop(lambda x: dp.hvp(mixed, (x,), (t,)), X))
    v = np.linspace(0, 1, 4)
    pulled = dp.vmap(lambda x, g: dp.vjp(mixed, x)[1](g)[0])(X, v)
    close(pulled, loop(dp.grad(mixed), X) * v[:, None])


def test_grad_in_vmap_in_vmap_in_grad() -> None:
    def f(a: Any, b: Any) -> Any:
        return ops.sum(a * ops.sin(b)) * ops.sum(b)

    inner = dp.vmap(dp.vmap(dp.grad(f, 1), (None, 0)), (0, None))
    expected = [[dp.grad(f, 1)(a, b).data for b in X] for a in X]
    close(inner(X, X), expected)
    total = dp.grad(lambda a: ops.sum(inner(a, X)))(X)
    by_hand = dp.grad(lambda a: sum(ops.sum(dp.grad(f, 1)(a[i], b)) for i in range(4) for b in X))(X)
    close(total, by_hand.data)


def test_checkpoint_and_custom_vjp_inside_vmap() -> None:
    def f(w: Any, x: Any) -> Any:
        return ops.sum(ops.sin(x @ w))

    @dp.custom_vjp
    def ruled(w: Any, x: Any) -> Any:
        return f(w, x)

    def bwd(residuals: Any, g: Any) -> Any:
        w, x = residuals
        assert g.shape == () and x.shape == (3,)
        d = g * ops.cos(x @ w)
        return ops.outer(x, d), w @ d

    ruled.defvjp(lambda w, x: (f(w, x), (w, x)), bwd)
    expected = loop(lambda x: dp.grad(f)(W, x), X)
    for g in (dp.checkpoint(f), ruled):
        close(dp.vmap(dp.grad(g), (None, 0))(W, X), expected)
        close(dp.grad(lambda w, g=g: ops.sum(dp.vmap(g, (None, 0))(w, X)))(W), expected.sum(0))
        second = dp.vmap(dp.grad(lambda w, x, g=g: ops.sum(dp.grad(g)(w, x) ** 2)), (None, 0))
        close(second(W, X), loop(lambda x: dp.grad(lambda w: ops.sum(dp.grad(f)(w, x) ** 2))(W), X))


def test_custom_vjp_with_examples_of_different_vmaps_and_constant_parts() -> None:
    @dp.custom_vjp
    def f(a: Any, b: Any) -> Any:
        return a * b, np.ones(2)

    # The second result is the same for every example; so is the gradient of a, of a rule that is wrong on purpose.
    f.defvjp(lambda a, b: (f.fun(a, b), a), lambda a, g: (np.full((), 7.0), a * g[0] + ops.sum(g[1])))
    a, b = np.arange(2.0), np.arange(3.0)
    table = dp.vmap(lambda x: dp.vmap(lambda y: f(x, y)[0] + ops.sum(f(x, y)[1]))(b))
    close(table(a), np.outer(a, b) + 2)

    def total(a: Any, b: Any) -> Any:
        return ops.sum(dp.vmap(lambda x: dp.vmap(lambda y: f(x, y)[0] + ops.sum(f(x, y)[1]))(b))(a))

    of_a, of_b = dp.grad(total, (0, 1))(a, b)
    close(of_a, [2 * 3 * 7.0] * 2)
    close(of_b, np.full(3, a.sum() + 2 * 2.0))


def test_a_sweep_inside_vmap_leaves_recording_on() -> None:
    def f(x: Any) -> Any:
        constant = dp.grad(lambda c: ops.sum(dp.checkpoint(ops.sin)(c)))(np.zeros(3))
        return ops.sum(constant * x * x)

    close(dp.grad(lambda x: ops.sum(dp.vmap(f)(x)))(X), 2 * X)


# ----- refusals -----


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda x: x if x[0] > 0 else -x, TypeError),
        (lambda x: float(x[0]), TypeError),
        (lambda x: x[0].item(), TypeError),
        (lambda x: x.detach().numpy(), TypeError),
        (lambda x: np.ones(3)[x > 0], TypeError),
        (lambda x: x.tolist(), TypeError),
    ],
)
def test_values_cannot_be_asked_for(ask: Callable[..., Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"inside vmap, where this tensor of shape \(.*\) stands for 4 examples"):
        dp.vmap(ask)(X)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dp.vmap(mixed, in_axes=2)(X), r"in_axes: axis 2 is out of range .* \(4, 3\)"),
        (lambda: dp.vmap(mixed, in_axes=(0, 0))(X), "in_axes must have an entry for each of the 1 arguments"),
        (lambda: dp.vmap(mixed, in_axes=None)(X), "in_axes maps no argument"),
        (lambda: dp.vmap(lambda x, y: x)(X, X[:2]), r"same number of examples, got \[2, 4\]"),
        (lambda: dp.vmap(mixed, in_axes="0")(X), "in_axes must be made of ints and None, got '0'"),
        (lambda: dp.vmap(lambda d: d["a"], in_axes=({"b": 0},))({"a": X}), r"in_axes\[0\] must be nested as"),
        (lambda: dp.vmap(mixed, out_axes=1)(X), "out_axes: axis 1 is out of range"),
        (lambda: dp.vmap(mixed, out_axes=None)(X), "out_axes is None for a result that differs"),
        (lambda: dp.vmap(lambda x: (x, x), out_axes=(0,))(X), "out_axes must be nested as a tuple of 2"),
        (lambda: dp.vmap(mixed, out_axes="a")(X), "out_axes must be made of ints and None"),
        (lambda: dp.vmap(mixed)(3.0), r"axis 0 is out of range for an argument of shape \(\)"),
    ],
)
def test_refusals_name_what_was_wrong(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_leaves_and_backward_inside_are_refused() -> None:
    with pytest.raises(TypeError, match=r"vmap\(grad\(f\)\)"):
        dp.vmap(lambda x: x.requires_grad_())(X)
    x = Tensor(X, requires_grad=True)
    with pytest.raises(TypeError, match=r"vmap\(grad\(f\)\)"):
        dp.vmap(lambda x: ops.sum(x * x).backward())(x)


def test_an_example_that_escapes_is_refused() -> None:
    kept = []
    dp.vmap(lambda x: kept.append(x) or x)(X)
    with pytest.raises(TypeError, match="inside vmap"):
        kept[0] * 2


def test_an_error_names_the_operation_and_the_vmap() -> None:
    with pytest.raises(ValueError) as caught:
        dp.vmap(lambda x: x + np.ones(5))(X)
    assert any("in vmap over 4 examples, at add" in note for note in caught.value.__notes__)
