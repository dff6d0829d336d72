"""The functional transforms: values, nesting, what is linked to the outside, trees, and refusals."""

import gc
import itertools
import weakref
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import ops
from dist_dp.debug import gradcheck
from dist_dp.tensor import Tensor

X = np.array([0.3, -1.2, 2.0])
A = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])


def close(a: Any, b: Any) -> None:
    np.testing.assert_allclose(a.data if isinstance(a, Tensor) else a, b, rtol=1e-9)


def cubes(x: Any) -> Tensor:
    return ops.sum(x * x * x)


# ----- values -----


def test_grad_and_value_and_grad() -> None:
    value, gradient = dp.value_and_grad(cubes)(X)
    close(value, (X**3).sum())
    close(gradient, 3 * X**2)
    close(dp.grad(cubes)(X), 3 * X**2)


def test_grad_of_float32_is_float32_and_of_a_python_number_too() -> None:
    assert dp.grad(cubes)(X.astype(np.float32)).dtype == np.float32
    assert dp.grad(lambda x: x * x)(2.0).dtype == np.float32


def test_argnums_choose_arguments_and_nest_results() -> None:
    def f(x: Any, y: Any, z: Any) -> Tensor:
        return ops.sum(x * y) * z

    close(dp.grad(f, 1)(X, X + 1, 2.0), 2 * X)
    close(dp.grad(f, -2)(X, X + 1, 2.0), 2 * X)
    gx, gz = dp.grad(f, (0, 2))(X, X + 1, np.float64(2.0))
    close(gx, 2 * (X + 1))
    close(gz, (X * (X + 1)).sum())


def test_keyword_and_integer_arguments_are_passed_on() -> None:
    def f(x: Any, index: int, *, scale: float) -> Tensor:
        return x[index] * scale

    close(dp.grad(f)(X, 1, scale=3.0), [0, 3, 0])


def test_aux_is_passed_on_without_a_history() -> None:
    def f(x: Any) -> Any:
        y = x * 2
        return ops.sum(y), {"y": y, "n": 3}

    gradient, aux = dp.grad(f, has_aux=True)(X)
    (value, aux2), _ = dp.value_and_grad(f, has_aux=True)(X)
    close(gradient, [2, 2, 2])
    close(aux["y"], 2 * X)
    assert aux["n"] == aux2["n"] == 3 and aux["y"].node is None and value.node is None


Pair = namedtuple("Pair", "first second")


def test_trees_in_and_out() -> None:
    tree = {"w": X, "rest": [Pair(A, np.array(2.0)), None, ()]}

    def f(t: Any) -> Tensor:
        pair = t["rest"][0]
        assert isinstance(pair, Pair) and t["rest"][1] is None
        return ops.sum(t["w"] * pair.first) * pair.second

    g = dp.grad(f)(tree)
    assert list(g) == ["w", "rest"] and type(g["rest"][0]) is Pair and g["rest"][1:] == [None, ()]
    close(g["w"], 2 * A.sum(0))
    close(g["rest"][0].first, 2 * np.broadcast_to(X, A.shape))
    close(g["rest"][0].second, (X * A).sum())


def test_an_argument_that_is_not_used_has_a_zero_gradient() -> None:
    gx, gy = dp.grad(lambda x, y: ops.sum(x), (0, 1))(X, A)
    close(gx, np.ones(3))
    close(gy, np.zeros((2, 3)))


def test_vjp_and_linearize_can_be_called_again() -> None:
    out, f_vjp = dp.vjp(lambda x, y: {"p": x * y, "q": ops.sin(x)}, X, X + 1)
    close(out["p"], X * (X + 1))
    for k in (1.0, 2.0):
        gx, gy = f_vjp({"q": np.ones(3), "p": k * np.ones(3)})
        close(gx, k * (X + 1) + np.cos(X))
        close(gy, k * X)
    out, f_jvp = dp.linearize(lambda x: x * x, X)
    for k in (1.0, 2.0):
        close(f_jvp(k * np.ones(3)), 2 * k * X)


def test_jvp_follows_the_tangents() -> None:
    out, tangent = dp.jvp(
        lambda x, t: (x * t["a"], x), (X, {"a": X + 1}), (np.ones(3), {"a": 2 * np.ones(3)})
    )
    close(out[0], X * (X + 1))
    close(tangent[0], X + 1 + 2 * X)
    close(tangent[1], np.ones(3))
    out, tangent, aux = dp.jvp(lambda x: (x * x, "aux"), (2.0,), (1.0,), has_aux=True)
    assert (float(out), float(tangent), aux) == (4.0, 4.0, "aux")


def test_results_own_their_memory() -> None:
    gx, gy = dp.grad(lambda x, y: ops.sum(x + y), (0, 1))(X, X)
    gx.data[:] = 7
    close(gy, np.ones(3))
    _, f_jvp = dp.linearize(lambda x: (x, x * 1), X)
    t = np.ones(3)
    first, _ = f_jvp(t)
    first.data[:] = 7
    close(t, np.ones(3))


@pytest.mark.parametrize("transform", [dp.jacobian, dp.jacfwd, dp.jacrev])
def test_jacobians(transform: Callable[..., Any]) -> None:
    close(transform(lambda x: A @ (x * x))(X), A * (2 * X))
    close(transform(lambda x: ops.sum(x * x))(X), 2 * X)
    wide = transform(lambda x: ops.sin(x)[:, None] * A[:1])(X)
    close(wide, np.einsum("ik,j->ijk", np.diag(np.cos(X)), A[0]))
    tree = transform(lambda d: {"out": d["a"] * d["b"]})({"a": X, "b": np.array(2.0)})
    close(tree["out"]["a"], 2 * np.eye(3))
    close(tree["out"]["b"], X)
    both = transform(lambda x, y: x * y, (0, 1))(X, X + 1)
    close(both[0], np.diag(X + 1))
    close(both[1], np.diag(X))
    assert transform(lambda x: x[:0] * 2)(X).shape == (0, 3)
    assert transform(lambda x: ops.sum(x) * np.ones(2))(np.ones((0, 4))).shape == (2, 0, 4)


def test_hessian_and_hvp() -> None:
    def f(x: Any) -> Tensor:
        return ops.sum(x * x * x) + x[0] * x[1]

    expected = np.diag(6 * X)
    expected[0, 1] = expected[1, 0] = 1
    close(dp.hessian(f)(X), expected)
    close(dp.hvp(f, (X,), (A[0],)), expected @ A[0])
    h = dp.hessian(lambda t: ops.sum(t["a"]) * t["b"])({"a": X, "b": np.array(1.0)})
    close(h["a"]["b"], np.ones(3))
    close(h["b"]["b"], 0.0)
    of_x, of_y = dp.hvp(lambda x, y: ops.sum(x * x * y), (X, X + 1), (np.ones(3), np.ones(3)))
    close(of_x, 2 * (X + 1) + 2 * X)
    close(of_y, 2 * X)


def test_stop_gradient() -> None:
    close(dp.grad(lambda x: ops.sum(x * dp.stop_gradient({"a": x * 2})["a"]))(X), 2 * X)


# ----- nesting -----


def test_derivatives_of_derivatives() -> None:
    f: Callable[..., Any] = lambda x: ops.exp(2 * x)  # noqa: E731
    for order in range(1, 5):
        f = dp.grad(f)
        close(f(np.array(0.3)), 2**order * np.exp(0.6))


def test_perturbations_are_not_confused() -> None:
    # d/dx [x d/dy (x + y)] = 1 and d/dx [x d/dy (x y)] = 2 x, whatever the modes are.
    def reverse(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: dp.vjp(f, x)[1](np.ones(()))[0]

    three, one = np.array(3.0), np.array(1.0)
    for outer, inner in itertools.product((dp.grad, pushed, reverse), repeat=2):
        close(outer(lambda x, d=inner: x * d(lambda y: x + y)(one))(three), 1.0)
        close(outer(lambda x, d=inner: x * d(lambda y: x * y)(one))(three), 6.0)
        close(outer(lambda x, d=inner: d(lambda y: y * y * x)(x))(three), 12.0)


def pushed(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: dp.jvp(f, (x,), (np.ones(()),))[1]


@settings(max_examples=20)
@given(st.lists(st.sampled_from(["grad", "jvp"]), min_size=1, max_size=3), st.floats(-1, 1))
def test_any_nesting_of_modes_gives_the_same_derivative(modes: list[str], at: float) -> None:
    f: Callable[..., Any] = ops.sin
    for mode in modes:
        f = dp.grad(f) if mode == "grad" else pushed(f)
    expected = [np.cos(at), -np.sin(at), -np.cos(at)][len(modes) - 1]
    np.testing.assert_allclose(f(np.array(at)).data, expected, atol=1e-12)


# ----- the outside: parameters in closures, enclosing tapes, no_grad -----


def test_a_gradient_of_closed_over_parameters_flows_through_a_transform() -> None:
    w = Tensor(2.0, requires_grad=True)
    g = dp.grad(lambda x: x * x * w)(3.0)
    assert g.node is not None
    g.backward()
    assert (g.item(), w.grad.item()) == (12.0, 6.0)


def test_a_gradient_penalty() -> None:
    w = Tensor(X.copy(), requires_grad=True)
    value, g = dp.value_and_grad(lambda x: ops.sum(ops.sin(x * w)))(A[0])
    (value + ops.sum(g * g)).backward()
    gradcheck(lambda w: ops.sum(dp.grad(lambda x: ops.sum(ops.sin(x * w)))(A[0])), X)
    cos, sin = np.cos(A[0] * X), np.sin(A[0] * X)
    close(w.grad, A[0] * cos + 2 * (X * cos) * (cos - X * A[0] * sin))


def test_a_tensor_with_a_history_as_the_argument() -> None:
    w = Tensor(X.copy(), requires_grad=True)
    y = w * 2
    g = dp.grad(cubes)(y)
    ops.sum(g).backward()
    close(w.grad, 2 * 6 * (2 * X))


def test_gradients_flow_through_tangents_and_cotangents() -> None:
    t = Tensor(A[0].copy(), requires_grad=True)
    ops.sum(dp.jvp(ops.sin, (X,), (t,))[1] * X).backward()
    close(t.grad, np.cos(X) * X)
    v = Tensor(A[1].copy(), requires_grad=True)
    ops.sum(dp.vjp(ops.sin, X)[1](v)[0] * X).backward()
    close(v.grad, np.cos(X) * X)
    with dp.no_grad():
        assert dp.vjp(ops.sin, X)[1](v)[0].node is None and dp.jvp(ops.sin, (X,), (t,))[1].node is None


def test_without_anything_outside_the_results_have_no_history() -> None:
    value, g = dp.value_and_grad(cubes)(X)
    out, f_vjp = dp.vjp(ops.sin, X)
    assert value.node is None and g.node is None and out.node is None and f_vjp(X)[0].node is None


def test_a_gradient_inside_no_grad_is_computed_and_has_no_history() -> None:
    w = Tensor(2.0, requires_grad=True)
    with dp.no_grad():
        g = dp.grad(lambda x: x * x * w)(3.0)
        assert not dp.is_grad_enabled()
    assert g.node is None and float(g) == 12.0
    assert w.grad is None


def test_transforms_leave_leaf_gradients_alone() -> None:
    w = Tensor(2.0, requires_grad=True)
    dp.grad(lambda x: x * w)(3.0)
    dp.grad(lambda x: x * x)(w)
    assert w.grad is None


def test_a_transform_leaves_no_reference_cycle() -> None:
    def run() -> list[weakref.ref[Any]]:
        x = Tensor(X.copy())
        _, f_vjp = dp.vjp(lambda x: ops.exp(x) * x, x)
        g = dp.grad(lambda x: ops.sum(ops.exp(x)))(x)
        f_vjp(g)
        return [weakref.ref(t) for t in (x, g, f_vjp)]

    gc.collect()
    gc.disable()
    try:
        assert [ref() for ref in run() if ref() is not None] == []
    finally:
        gc.enable()


# ----- refusals -----


def refusals() -> list[Any]:
    t = Tensor(X)
    ints = np.arange(3)
    return [
        (lambda: dp.grad(cubes)(ints), TypeError, r"argument 0 must be floating, got ndarray of dtype int64"),
        (lambda: dp.grad(cubes)(3), TypeError, r"argument 0 must be floating, got int"),
        (lambda: dp.grad(cubes)({"a": "text"}), TypeError, r"argument 0\['a'\] must be a floating array"),
        (lambda: dp.grad(lambda x, y: x, 1)(X, ints), TypeError, "argument 1 must be floating"),
        (lambda: dp.grad(cubes, 1)(X), ValueError, "argnums=1 is out of range .* 1 positional"),
        (lambda: dp.grad(cubes, "x")(X), TypeError, "argnums must be an int"),
        (lambda: dp.grad(lambda x, y: x, (0, -2))(X, X), ValueError, "argnums must name each argument once"),
        (lambda: dp.grad(ops.sin)(X), TypeError, r"shape \(\) to have a gradient, got float64 \(3,\)"),
        (lambda: dp.grad(lambda x: (x, x))(X), TypeError, "got a nesting of 2"),
        (lambda: dp.grad(lambda x: x > 0)(2.0), TypeError, "got bool"),
        (lambda: dp.grad(lambda x: cubes(x).item())(X), TypeError, "must return Tensors, got float .*item"),
        (lambda: dp.grad(cubes, has_aux=True)(X), TypeError, r"\(result, aux\) with has_aux=True"),
        (lambda: dp.jvp(ops.sin, X, X), TypeError, "primals must be a tuple"),
        (lambda: dp.jvp(ops.sin, (X,), X), TypeError, "tangents must be a tuple"),
        (
            lambda: dp.jvp(ops.sin, (X,), (X[:2],)),
            ValueError,
            r"tangents\[0\] must have shape \(3,\), got \(2,\)",
        ),
        (
            lambda: dp.jvp(ops.sin, (X,), (X.astype("f4"),)),
            TypeError,
            r"tangents\[0\] must have dtype float64",
        ),
        (lambda: dp.jvp(ops.sin, (ints,), (ints,)), TypeError, r"primals\[0\] must be floating"),
        (lambda: dp.jvp(ops.sin, (X,), (X, X)), ValueError, "tangents must be nested as a tuple of 1"),
        (
            lambda: dp.jvp(lambda d: d["a"], ({"a": X},), ({"b": X},)),
            ValueError,
            r"tangents\[0\] must be .* keys \['a'\]",
        ),
        (lambda: dp.vjp(ops.sin, X)[1](A), ValueError, r"cotangents must have shape \(3,\), got \(2, 3\)"),
        (
            lambda: dp.vjp(lambda x: (x, x), X)[1]((X,)),
            ValueError,
            "cotangents must be nested as a tuple of 2",
        ),
        (lambda: dp.jacobian(lambda x: x > 0)(t), TypeError, "must return floating Tensors, got bool"),
        (lambda: dp.custom_vjp(ops.sin)(t), RuntimeError, "custom_vjp sin has no rule yet"),
    ]


@pytest.mark.parametrize("case", range(len(refusals())))
def test_refusals_name_what_was_wrong(case: int) -> None:
    call, error, message = refusals()[case]
    with pytest.raises(error, match=message):
        call()


# ----- checkpoint -----


def test_checkpoint_gives_the_same_values_and_derivatives() -> None:
    def f(x: Any, y: Any) -> Any:
        h = ops.tanh(x * y)
        return {"a": h * x, "b": [ops.sum(h)]}

    plain, again = f(Tensor(X), Tensor(A)), dp.checkpoint(f)(Tensor(X), Tensor(A))
    close(again["a"], plain["a"].data)
    gradcheck(dp.checkpoint(f), X, A, order=2)


def test_checkpoint_keeps_only_its_inputs() -> None:
    inner: list[weakref.ref[Any]] = []

    def f(x: Any) -> Any:
        h = ops.exp(x)
        inner.append(weakref.ref(h.data))
        return ops.sin(h)

    x = Tensor(X.copy(), requires_grad=True)
    y = dp.checkpoint(f)(x)
    assert inner[0]() is None
    y.backward(np.ones(3))
    assert len(inner) == 2 and inner[1]() is None
    close(x.grad, np.cos(np.exp(X)) * np.exp(X))


def test_checkpoint_holds_no_cycle_when_its_input_is_written_to_afterwards() -> None:
    def run() -> weakref.ref[Any]:
        x = Tensor(X.copy(), requires_grad=True) * 1
        y = dp.checkpoint(ops.sin)(x)
        x += y
        return weakref.ref(y.node)

    gc.collect()
    gc.disable()
    try:
        assert run()() is None
    finally:
        gc.enable()


def test_checkpoint_reaches_parameters_of_the_closure_and_values_computed_before() -> None:
    def gradients(wrap: Callable[..., Any]) -> list[Any]:
        w, v = Tensor(X.copy(), requires_grad=True), Tensor(X + 1, requires_grad=True)
        before = w * v  # computed outside, used inside beside w itself
        y = wrap(lambda x: ops.sin(x * before) * w)(v)
        ops.sum(y * y).backward()
        return [w.grad.data, v.grad.data]

    for a, b in zip(gradients(lambda f: f), gradients(dp.checkpoint), strict=True):
        close(a, b)


def test_checkpoint_tells_when_a_parameter_of_the_closure_is_ready() -> None:
    w = Tensor(X.copy(), requires_grad=True)
    events: list[Any] = []
    y = dp.checkpoint(lambda x: x * w)(w * 2)
    y.backward(np.ones(3), on_ready=events.append)
    assert events == [w.node]
    close(w.grad, 4 * X)


def test_checkpoint_draws_the_same_random_numbers_again() -> None:
    def noisy(x: Any) -> Any:
        return x * dp.random.normal((3,), np.float64) * dp.random.uniform((3,), np.float64)

    def gradient(f: Callable[..., Any]) -> tuple[Any, Any]:
        x = Tensor(X.copy(), requires_grad=True)
        with dp.random.scope(dp.random.Key(5)) as stream:
            y = f(f(x))
            after = stream.use
            dp.random.normal((3,))
            y.backward(np.ones(3))
            assert stream.use == after + 1  # computing again draws nothing from the outer stream
        return y.data, x.grad.data

    for a, b in zip(gradient(noisy), gradient(dp.checkpoint(noisy)), strict=True):
        close(a, b)


def test_checkpoint_under_transforms_and_without_gradients() -> None:
    f = dp.checkpoint(lambda x: ops.sum(ops.sin(x) * x))
    plain = lambda x: ops.sum(ops.sin(x) * x)  # noqa: E731
    close(dp.hessian(f)(X), dp.hessian(plain)(X).data)
    close(dp.jvp(f, (X,), (X,))[1], dp.jvp(plain, (X,), (X,))[1].data)
    assert f(Tensor(X)).node is None
    with dp.no_grad():
        assert f(Tensor(X, requires_grad=True)).node is None
    deep = f
    for _ in range(3):
        deep = dp.checkpoint(deep)
    close(dp.grad(deep)(X), np.sin(X) + X * np.cos(X))


def test_checkpoint_passes_on_what_carries_no_gradient() -> None:
    x = Tensor(X, requires_grad=True)
    y, mask, n, none = dp.checkpoint(lambda x, *, n: (x * 2, x > 0, n, None))(x, n=7)
    assert y.node is not None and mask.node is None and n == 7 and none is None


# ----- custom_vjp -----


def test_custom_vjp_uses_the_rule_given() -> None:
    @dp.custom_vjp
    def f(x: Any, n: int = 1) -> Any:
        return x**n

    f.defvjp(lambda x, n: (f.fun(x, n), x), lambda x, g: (100 * g * x, None))
    close(dp.grad(lambda x: ops.sum(f(x, 2)))(X), 100 * X)
    close(dp.grad(lambda x: ops.sum(f(x, n=2)))(X), 100 * X)
    assert f.__name__ == "f"
    close(f(X, 2), X**2)


def test_custom_vjp_gives_gradients_in_the_dtype_of_the_argument() -> None:
    f = dp.custom_vjp(lambda x, y: x * y)
    f.defvjp(lambda x, y: (x * y, (x, y)), lambda r, g: (g * r[1], g * r[0]))
    gx, gy = dp.grad(lambda x, y: ops.sum(f(x, y)), (0, 1))(X, X.astype(np.float32))
    assert (gx.dtype, gy.dtype) == (np.float64, np.float32)


def test_custom_vjp_differentiates_again_and_forward() -> None:
    @dp.custom_vjp
    def f(t: Any) -> Any:
        return ops.exp(t["a"]) * t["b"], ops.sin(t["b"])

    def fwd(t: Any) -> Any:
        e = ops.exp(t["a"])
        return (e * t["b"], ops.sin(t["b"])), (e, t["b"])

    def bwd(residuals: Any, g: Any) -> Any:
        e, b = residuals
        return ({"a": g[0] * e * b, "b": g[0] * e + g[1] * ops.cos(b)},)

    f.defvjp(fwd, bwd)
    gradcheck(f, {"a": X, "b": X + 2}, order=2)


@pytest.mark.parametrize(
    ("fwd", "bwd", "error", "message"),
    [
        (
            lambda x: x * 2,
            lambda r, g: (g,),
            TypeError,
            r"fwd of custom_vjp f must return \(result, residuals\)",
        ),
        (lambda x: (x * 2, None), lambda r, g: g, TypeError, "result of bwd .* must be a tuple"),
        (lambda x: (x * 2, None), lambda r, g: (g, g), ValueError, "must be nested as a tuple of 1"),
        (
            lambda x: (x * 2, None),
            lambda r, g: (g[:1],),
            ValueError,
            r"must be float64 of shape \(3,\) at \[0\]",
        ),
    ],
)
def test_custom_vjp_refuses_a_rule_that_does_not_fit(fwd: Any, bwd: Any, error: Any, message: str) -> None:
    @dp.custom_vjp
    def f(x: Any) -> Any:
        return x * 2

    f.defvjp(fwd, bwd)
    with pytest.raises(error, match=message):
        dp.grad(lambda x: ops.sum(f(x)))(X)


def test_custom_vjp_refuses_a_closure_that_would_lose_its_gradient() -> None:
    w = Tensor(2.0, requires_grad=True)

    @dp.custom_vjp
    def f(x: Any) -> Any:
        return x * w

    f.defvjp(lambda x: (x * w, None), lambda r, g: (g * 2,))
    with pytest.raises(ValueError, match="closes over a tensor that carries a gradient"):
        f(Tensor(X, requires_grad=True))
