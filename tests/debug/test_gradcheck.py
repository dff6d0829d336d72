"""gradcheck accepts right derivatives, and finds each kind of wrong one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import ops
from dist_dp.debug import GradientMismatch, gradcheck
from dist_dp.ops.core import Op, apply
from dist_dp.tensor import Tensor

X = np.array([[0.5, -1.5], [2.0, 0.1]])


def operation(name: str, vjp: Callable[..., Any], **more: Any) -> Callable[[Any], Tensor]:
    """x² with these rules."""
    op = Op(f"test_{name}", np.square, vjp=(vjp,), **more)
    return lambda x: apply(op, (x,))


def test_a_wrong_element_is_named_with_both_numbers() -> None:
    wrong = operation("wrong_at", lambda g, x: g * (2 * x + (x == 2.0)))
    with pytest.raises(
        GradientMismatch, match=r"first order with respect to x\[1, 0\]: the gradient is"
    ) as e:
        gradcheck(wrong, X)
    assert e.value.input == "x" and e.value.index == (1, 0)
    np.testing.assert_allclose(e.value.got / e.value.expected, 5 / 4, rtol=1e-6)


def test_inputs_are_named_by_parameter_and_path() -> None:
    wrong = operation("wrong_path", lambda g, x: 3 * g * x)
    with pytest.raises(GradientMismatch, match=r"with respect to params\['w'\]\[1\]\[0, 0\]"):
        gradcheck(lambda x, params: x * wrong(params["w"][1]), X, {"w": (np.ones(()), X)})


def test_forward_mode_that_disagrees_is_found() -> None:
    wrong = operation("wrong_forward", lambda g, x: 2 * g * x, jvp=(lambda t, x: t * x,))
    with pytest.raises(GradientMismatch, match="forward mode gives <v, Jt>"):
        gradcheck(wrong, X)


def test_a_missing_second_order_is_found_only_there() -> None:
    cut = operation("wrong_second", lambda g, x: 2 * g * (x.detach() if isinstance(x, Tensor) else x))
    gradcheck(cut, X)
    with pytest.raises(
        GradientMismatch, match=r"gradient's derivative with respect to x\[0, 0\]: .* is 0\.0;"
    ):
        gradcheck(cut, X, order=2)


def test_a_recorded_sweep_of_another_value_is_found() -> None:
    def rule(g: Any, x: Any) -> Any:
        return (4 if isinstance(g, Tensor) else 2) * g * x

    two = operation("wrong_recorded", rule, jvp=(lambda t, x: 2 * t * x,))
    with pytest.raises(GradientMismatch, match="under create_graph=True"):
        gradcheck(two, X, order=2)


def test_a_rule_that_writes_into_its_gradient_is_found() -> None:
    def rule(g: Any, x: Any) -> Any:
        g *= 2
        return g * x

    with pytest.raises(ValueError, match="read-only"):
        gradcheck(operation("writes", rule), X)


def test_a_gradient_of_another_shape_is_found() -> None:
    short = operation("short", lambda g, x: (2 * g * x)[:1])
    with pytest.raises((GradientMismatch, ValueError, IndexError)):
        gradcheck(short, X)


def test_a_gradient_that_is_silently_zero_is_found() -> None:
    with pytest.raises(GradientMismatch, match=r"x\[0, 0\]: the gradient is 0\.0"):
        gradcheck(lambda x: x.detach() * 2, X)


def test_kinks_accept_what_lies_between_their_slopes() -> None:
    at = np.array([0.0, 1.0, -1.0, 1e-5])
    gradcheck(ops.relu, at)
    gradcheck(ops.abs, at)
    gradcheck(ops.maximum, at, at.copy())


@pytest.mark.parametrize(
    ("slope", "fine"), [(-0.5, False), (0.0, True), (0.3, True), (1.0, True), (1.5, False)]
)
def test_at_a_kink_any_slope_between_is_accepted_and_no_other(slope: float, fine: bool) -> None:
    def rule(g: Any, x: Any) -> Any:
        return g * np.where(x == 0, slope, x > 0)

    op = Op(f"test_kink {slope}", lambda x: np.maximum(x, 0), vjp=(rule,))
    if fine:
        gradcheck(lambda x: apply(op, (x,)), np.array([0.0, 1.0]))
    else:
        with pytest.raises(GradientMismatch, match=r"x\[0\]: .*the slopes on the two sides of a kink"):
            gradcheck(lambda x: apply(op, (x,)), np.array([0.0, 1.0]))


def test_a_jump_is_an_error() -> None:
    step = Op("test_step", lambda x: (x >= 0).astype(x.dtype), vjp=(lambda g: g * 0,))
    gradcheck(lambda x: apply(step, (x,)), np.array([1.0, -1.0]))
    with pytest.raises(GradientMismatch, match=r"x\[1\]"):
        gradcheck(lambda x: apply(step, (x,)), np.array([1.0, 0.0]))


def test_what_is_not_floating_is_passed_on() -> None:
    def f(x: Any, index: Any, n: int, flag: bool) -> Any:
        assert index.dtype == np.int64 and n == 3 and flag is True
        return {"a": x[index] * n, "count": index, "b": [ops.exp(x)]}

    gradcheck(f, X.astype(np.float32), np.array([1, 0]), 3, True, order=2)


def test_functions_of_several_arguments_at_any_shape() -> None:
    gradcheck(lambda x, y: x * y, np.ones(()), np.zeros((0, 3)), order=2)
    gradcheck(lambda x, y: ops.exp(x) / y, np.ones((2, 1)), np.full(3, 2.0), order=2)


def test_the_caller_may_be_inside_no_grad() -> None:
    with dp.no_grad():
        gradcheck(ops.exp, X, order=2)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        gradcheck(ops.exp, X, order=3)
    with pytest.raises(TypeError, match="needs a floating array"):
        gradcheck(ops.exp, np.arange(3))
    with pytest.raises(TypeError, match=r"fn must return a floating Tensor, got \['ndarray'\]"):
        gradcheck(lambda x: np.ones(3), X)
