"""anomaly names the operation and the line where a NaN or an infinity was made, and costs nothing elsewhere."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dist_dp as dp
from dist_dp import ops
from dist_dp.debug import AnomalyError, anomaly
from dist_dp.ops.core import Op, apply
from dist_dp.tape import INTERPRET, mode
from dist_dp.tensor import Tensor

# A square root whose rule divides by zero where the package's own does not.
root = Op("test_root", np.sqrt, vjp=(lambda g, out: g * 0.5 / out,))

several = Op(
    "test_root_and_double",
    lambda x: (np.sqrt(x), 2 * x),
    joint=lambda g, need, x: (g[0] * 0.5 / np.sqrt(x) + 2 * g[1],),
    outputs=2,
)


def naive_root(x: Any) -> Tensor:
    return apply(root, (x,))


def test_a_value_is_reported_where_it_is_made() -> None:
    x = Tensor(np.array([1.0, 0.0, -2.0]))
    with anomaly(), pytest.raises(AnomalyError) as caught:
        line = sys._getframe().f_lineno + 1
        ops.log(x)
    assert (caught.value.op, caught.value.site) == ("log", f"{__file__}:{line}")
    assert "log made nan in 1 of 3 elements, first at [2]" in str(caught.value)
    assert "x float64 (3,): between -2 and 1" in str(caught.value)


def test_an_infinity_from_finite_values_is_reported_and_one_that_was_put_in_is_not() -> None:
    with anomaly():
        with pytest.raises(AnomalyError, match="exp made inf, called at"):
            ops.exp(1000.0)
        scores = ops.where(np.array([True, False]), np.array([1.0, 2.0]), -np.inf)
        assert ops.exp(scores).tolist() == [np.e, 0.0]


def test_a_nan_that_came_in_is_said_to_have_come_in() -> None:
    with anomaly(), pytest.raises(AnomalyError, match="the nan came in with y, from outside the block"):
        Tensor(1.0) * np.array([np.nan], np.float32)


def test_a_gradient_is_reported_with_the_line_that_recorded_the_operation() -> None:
    x = Tensor(np.array([0.0, 4.0]), requires_grad=True)
    with anomaly():
        y = naive_root(x) * 2  # the line to be named is inside naive_root
        with pytest.raises(AnomalyError) as caught:
            y.backward(np.ones(2))
    message = str(caught.value)
    assert "the derivative of test_root with respect to x is inf in 1 of 2 elements, first at [0]" in message
    assert f"recorded at {__file__}:{naive_root.__code__.co_firstlineno + 1}" in message
    assert "incoming gradient float64 (2,): between 2 and 2" in message and "where" not in message


def test_an_operation_with_several_results_is_named_too() -> None:
    x = Tensor(np.array([0.0, 4.0]), requires_grad=True)
    with anomaly():
        line = sys._getframe().f_lineno + 1
        root, double = apply(several, (x,))
        with pytest.raises(AnomalyError, match="derivative of test_root_and_double") as caught:
            (root + double).backward(np.ones(2))
    assert caught.value.site == f"{__file__}:{line}"


def test_a_gradient_that_the_caller_gives_is_not_blamed_on_an_operation() -> None:
    x = Tensor(np.ones(1), requires_grad=True)
    with anomaly():
        (x * 2).backward(np.array([np.nan]))
    assert np.isnan(x.grad.data[0])


def test_the_inactive_branch_of_a_where_is_named_as_the_origin() -> None:
    x = Tensor(np.array([0.0, 4.0]), requires_grad=True)
    with anomaly():
        y = ops.where(x.data > 0, naive_root(x), 0.0)
        with pytest.raises(
            AnomalyError, match=r"inactive branch of a where\(\).*where\(ok, test_root\(where"
        ):
            y.backward(np.ones(2))


def test_derivatives_of_higher_order_are_watched() -> None:
    with anomaly(), pytest.raises(AnomalyError, match=r"derivative of test_root .* is inf"):
        dp.grad(dp.grad(naive_root))(np.array(0.0))


@pytest.mark.parametrize(
    "run", [lambda f: dp.vmap(f)(np.array([1.0, -1.0])), lambda f: dp.vmap(dp.grad(f))(np.array([1.0, -1.0]))]
)
def test_it_sees_through_vmap_on_either_side(run: Callable[..., Any]) -> None:
    with anomaly(), pytest.raises(AnomalyError, match="log made nan in 1 of 2 elements"):
        run(ops.log)

    def inside(x: Any) -> Any:
        with anomaly():
            return ops.log(x)

    with pytest.raises(AnomalyError, match="log made nan in 1 of 2 elements"):
        run(inside)


def test_a_program_without_anomalies_gives_what_it_gives() -> None:
    def run() -> Any:
        x = Tensor(np.linspace(0, 1, 5), requires_grad=True)
        h = ops.tanh(x * 2)
        parts = ops.where(x.data > 0.5, ops.exp(h), h)
        with dp.no_grad():
            assert (h * 2).node is None
        (parts * parts)[1:].backward(np.ones(4))
        return x.grad.data

    with anomaly():
        inside = run()
    np.testing.assert_array_equal(inside, run())


def test_outside_the_block_nothing_is_left_of_it() -> None:
    for error in (False, True):
        try:
            with anomaly():
                assert mode.state == INTERPRET and mode.inspect is not None
                if error:
                    raise KeyError
        except KeyError:
            pass
        assert mode.state != INTERPRET and mode.interpreter is None and mode.inspect is None
    assert (Tensor(1.0, requires_grad=True) * 2).node.site is None
