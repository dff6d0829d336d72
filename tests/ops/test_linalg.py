"""Products and linear algebra beyond the laws: how gradients are computed, singular cases, and what is refused."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.linalg import LinAlgError

import dist_dp as dp
from dist_dp import ops
from dist_dp.debug import gradcheck

linalg = ops.linalg


def leaf(x: Any) -> dp.Tensor:
    return dp.Tensor(np.asarray(x, np.float64), requires_grad=True)


def gradient(fn: Callable[[dp.Tensor], dp.Tensor], x: Any) -> Any:
    t = leaf(x)
    ops.sum(fn(t)).backward()
    assert t.grad is not None
    return t.grad.data


# ----- products -----


def test_a_product_of_matrices_is_one_short_record() -> None:
    x, w = leaf(np.ones((4, 4))), leaf(np.ones((4, 4)))
    calls = []
    sys.setprofile(lambda frame, event, arg: calls.append(frame.f_code.co_name) if event == "call" else None)
    y = x @ w
    sys.setprofile(None)
    assert len(calls) <= 6, calls
    assert y.grad_fn is not None and y.grad_fn.op.name == "matmul"


def test_the_gradient_of_a_matrix_beside_a_stack_is_formed_without_a_stack_of_gradients() -> None:
    x, w = leaf(np.ones((50, 4, 3))), leaf(np.ones((3, 2)))
    y = x @ w
    g = np.random.default_rng(0).normal(size=y.shape)
    rule, saved = y.node.op.rules[1], y.node.saved[1]
    assert rule(g, *saved).shape == (3, 2)
    np.testing.assert_allclose(rule(g, *saved), np.einsum("btd,bte->de", x.data, g))


def test_a_gradient_that_is_a_broadcast_view_is_multiplied_right() -> None:
    x, w = leaf(np.arange(6.0).reshape(2, 3)), leaf(np.ones((3, 4)))
    (x @ w).sum().backward()
    np.testing.assert_array_equal(x.grad.data, np.full((2, 3), 4.0))
    np.testing.assert_array_equal(w.grad.data, np.repeat([[3.0], [5.0], [7.0]], 4, axis=1))


@st.composite
def einsums(draw: Any) -> tuple[str, list[tuple[int, ...]]]:
    length = {a: draw(st.integers(1, 3)) for a in "ijkl"}
    groups = draw(st.lists(st.text("ijkl", max_size=3), min_size=1, max_size=4))
    known = "".join(dict.fromkeys("".join(groups)))
    result = draw(st.permutations(known))[: draw(st.integers(0, len(known)))]
    text = ",".join(groups) + draw(st.sampled_from(["", f"->{''.join(result)}"]))
    return text, [tuple(length[a] for a in group) for group in groups]


@given(einsums())
def test_einsum_is_that_of_numpy(drawn: tuple[str, list[tuple[int, ...]]]) -> None:
    subscripts, shapes = drawn
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=shape) for shape in shapes]
    np.testing.assert_allclose(ops.einsum(subscripts, *xs).data, np.einsum(subscripts, *xs), atol=1e-12)


def test_einsum_broadcasts_axes_of_length_1_and_sums_their_gradient() -> None:
    x, y = np.ones((2, 1)), np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(ops.einsum("ij,jk->ik", x, y).data, np.einsum("ij,jk->ik", x, y))
    gradcheck(lambda x, y: ops.einsum("ij,jk->ik", x, y), x, y, order=2)


def test_einsum_contracts_the_cheapest_pair_first() -> None:
    # From the left, the first product alone would have 200 * 200 elements.
    a, b, c = leaf(np.ones((200, 2))), leaf(np.ones((2, 200))), leaf(np.ones((200, 1)))
    last = ops.einsum("ij,jk,kl->il", a, b, c).grad_fn
    inner = [p for p in last.parents if p.op is not None]
    assert [p.shape for p in inner] == [(2, 1)]


# ----- singular cases -----


@pytest.mark.parametrize(
    "x", [np.diag([1.0, 2.0, 0.0]), np.diag([1.0, 0.0, 0.0]), np.zeros((3, 3)), np.ones((2, 2))]
)
def test_the_determinant_of_a_singular_matrix_has_its_gradient(x: Any) -> None:
    gradcheck(linalg.det, x)


def test_what_divides_by_a_singular_matrix_in_backward_says_so() -> None:
    for fn in (lambda x: linalg.slogdet(x).logabsdet, lambda x: linalg.qr(x).R):
        x = leaf([[1.0, 0.0], [1.0, 0.0]])
        y = fn(x)
        with pytest.raises(LinAlgError, match="singular") as caught:
            y.backward(np.ones(y.shape))
        assert any("backward pass of" in note for note in caught.value.__notes__)


def test_equal_eigenvalues_leave_gradients_of_values_right_and_of_vectors_undefined() -> None:
    x = np.diag([2.0, 2.0, 5.0])
    np.testing.assert_allclose(gradient(lambda x: linalg.eigvalsh(x) ** 2, x), 2 * x)
    np.testing.assert_allclose(gradient(linalg.svdvals, x), np.eye(3), atol=1e-12)
    assert np.isnan(gradient(lambda x: linalg.eigh(x).eigenvectors * np.arange(9.0).reshape(3, 3), x)).any()
    assert np.isnan(gradient(lambda x: linalg.svd(x).U * np.arange(9.0).reshape(3, 3), x)).any()


def test_a_symmetric_argument_gets_a_symmetric_gradient() -> None:
    x = np.array([[4.0, 1.0], [1.0, 3.0]])
    for fn in (linalg.cholesky, lambda x: linalg.eigh(x).eigenvectors ** 2, linalg.eigvalsh):
        g = gradient(lambda x, fn=fn: fn(x) * np.array([1.0, 3.0]), x)
        np.testing.assert_allclose(g, g.T)


@pytest.mark.parametrize("uplo", ["L", "U"])
def test_eigh_reads_one_triangle(uplo: str) -> None:
    x = np.array([[1.0, 5.0], [2.0, 3.0]])
    np.testing.assert_array_equal(linalg.eigvalsh(x, uplo).data, np.linalg.eigvalsh(x, uplo))


def test_norms_of_nothing_have_a_gradient_of_zero() -> None:
    np.testing.assert_array_equal(gradient(linalg.norm, np.zeros(3)), np.zeros(3))


def test_the_zero_norm_counts() -> None:
    assert linalg.norm([0.0, 3.0, -1.0], 0).item() == 2


def test_lstsq_returns_what_numpy_returns() -> None:
    rng = np.random.default_rng(1)
    thin, flat = rng.normal(size=(4, 2)), np.ones((4, 2))
    for a, b in ((thin, rng.normal(size=(4, 3))), (thin, rng.normal(size=4)), (flat, np.ones(4))):
        for ours, theirs in zip(linalg.lstsq(a, b), np.linalg.lstsq(a, b), strict=True):
            np.testing.assert_allclose(ours.data, theirs, atol=1e-12)


def test_the_zeroth_power_is_the_identity_and_integers_become_floats() -> None:
    x = np.array([[[2, 0], [1, 1]]])
    assert linalg.matrix_power(x, 0).tolist() == [[[1.0, 0.0], [0.0, 1.0]]]
    assert linalg.inv(x).dtype == np.float64 and linalg.inv(x.astype(np.float32)).dtype == np.float32


# ----- what is refused -----

NOT_POSITIVE = np.stack([np.eye(2), -np.eye(2)])
REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "matmul lengths": (
        lambda: ops.matmul(np.ones((2, 3)), np.ones((2, 3))),
        ValueError,
        r"last axis of `x`.*\(2, 3\)",
    ),
    "matmul vector": (lambda: ops.matmul(np.ones(3), np.ones(4)), ValueError, "only axis of `y`"),
    "matmul scalar": (lambda: ops.matmul(2.0, np.ones(4)), ValueError, "`x` must have at least one axis"),
    "matmul stacks": (lambda: ops.matmul(np.ones((2, 3, 3)), np.ones((4, 3, 3))), ValueError, "leading axes"),
    "dot": (lambda: ops.dot(np.ones((2, 2, 3)), np.ones((2, 2, 2))), ValueError, "last axis of x"),
    "inner": (lambda: ops.inner(np.ones((2, 3)), np.ones((2, 2))), ValueError, "last axes"),
    "vdot": (lambda: ops.vdot(np.ones(3), np.ones(2)), ValueError, "as many elements"),
    "cross": (lambda: ops.cross(np.ones(2), np.ones(3)), ValueError, "`x` must have length 3"),
    "tensordot count": (
        lambda: ops.tensordot(np.ones(3), np.ones(3), 2),
        ValueError,
        "`axes` must be between",
    ),
    "tensordot lengths": (lambda: ops.tensordot(np.ones((2, 3)), np.ones((2, 3)), 1), ValueError, "pair up"),
    "einsum text": (lambda: ops.einsum(np.ones(3), "i"), TypeError, "`subscripts` must be a string"),
    "einsum groups": (lambda: ops.einsum("ij,jk", np.ones((2, 2))), ValueError, "one group of letters"),
    "einsum rank": (lambda: ops.einsum("ij", np.ones(3)), ValueError, "'ij' must name every axis"),
    "einsum sign": (lambda: ops.einsum("i1", np.ones((2, 2))), ValueError, "may hold letters"),
    "einsum lengths": (lambda: ops.einsum("i,i", np.ones(2), np.ones(3)), ValueError, "of 'i' must be equal"),
    "einsum hidden": (lambda: ops.einsum("...,...", np.ones(2), np.ones(3)), ValueError, "axes in '...'"),
    "einsum unknown": (lambda: ops.einsum("i->j", np.ones(2)), ValueError, "got 'j'"),
    "einsum twice": (lambda: ops.einsum("i->ii", np.ones(2)), ValueError, "a label once"),
    "einsum dots": (lambda: ops.einsum("i...->i", np.ones((2, 2))), ValueError, "must hold the '...'"),
    "solve singular": (lambda: linalg.solve(np.zeros((2, 2)), np.ones(2)), LinAlgError, "solve: .* singular"),
    "solve rows": (lambda: linalg.solve(np.eye(2), np.ones(3)), ValueError, r"`b` must have shape \(2,\)"),
    "solve stacks": (
        lambda: linalg.solve(np.ones((2, 1, 1)), np.ones((3, 1, 1))),
        ValueError,
        "leading axes",
    ),
    "inv singular": (
        lambda: linalg.inv(np.stack([np.eye(2), np.ones((2, 2))])),
        LinAlgError,
        r"index \(1,\)",
    ),
    "inv shape": (lambda: linalg.inv(np.ones((2, 3))), ValueError, "`x` must have square matrices"),
    "det rank": (lambda: linalg.det(np.ones(3)), ValueError, "`x` must be a matrix or a stack"),
    "cholesky": (lambda: linalg.cholesky(NOT_POSITIVE), LinAlgError, r"index \(1,\).* not positive definite"),
    "svd of NaN": (lambda: linalg.svd(np.full((2, 2), np.nan)), LinAlgError, "svd: the matrix"),
    "svd shape": (lambda: linalg.svd(np.ones((2, 3))), ValueError, "`full_matrices` must be False"),
    "qr mode": (lambda: linalg.qr(np.eye(2), "complete"), ValueError, "`mode` must be"),
    "eigh triangle": (lambda: linalg.eigh(np.eye(2), "X"), ValueError, "`UPLO` must be"),
    "norm order": (lambda: linalg.norm(np.eye(2), 3), ValueError, "`ord` of matrices must be"),
    "norm axes": (lambda: linalg.norm(np.ones((2, 2, 2)), 2), ValueError, "one axis or two"),
    "power": (lambda: linalg.matrix_power(np.eye(2), 0.5), TypeError, "`n` must be an integer"),
    "multi_dot one": (lambda: linalg.multi_dot([np.eye(2)]), ValueError, "two or more"),
    "multi_dot rank": (
        lambda: linalg.multi_dot([np.eye(2), np.ones(2), np.eye(2)]),
        ValueError,
        "at position 1",
    ),
    "lstsq": (lambda: linalg.lstsq(np.eye(2), np.ones(3)), ValueError, "`a` must have shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_named(name: str) -> None:
    call, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        call()
