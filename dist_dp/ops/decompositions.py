"""Cholesky, QR, eigenvalues and singular values of stacks of matrices, (..., n, m).

LAPACK computes the values; the rules are matrix products and solves in plain NumPy text, so that they
differentiate again. Sources: [Giles] M. B. Giles, "Collected matrix derivative results for forward and reverse
mode algorithmic differentiation", 2008; [Ionescu] Ionescu, Vantzos and Sminchisescu, "Training deep networks with
structured layers by matrix backpropagation", 2015; [Murray] I. Murray, "Differentiation of the Cholesky
decomposition", 2016; [Walter] Walter and Lehmann, "Algorithmic differentiation of linear algebra functions with
application in optimum experimental design", 2018.

Two conventions. A symmetric argument (cholesky, eigh) receives a symmetric gradient: that of moving both mirrored
elements by half. The vectors that belong to equal eigenvalues or singular values are not determined by the
matrix, and have no derivative: a gradient that comes through them is NaN there, and inaccurate where values agree
to nearly all digits. Gradients through the values alone are right everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.linalg import LinAlgError

from ..tape import Array
from ..tensor import Tensor
from .comparison import astype
from .core import Op, TensorLike, aligned, apply, same
from .joining import concatenate
from .products import matmul
from .views import lifted, swapaxes

__all__ = ["cholesky", "eigh", "eigvalsh", "qr", "svd", "svdvals"]


# ----- arguments and failures -----


def matrices(name: str, argument: str, x: TensorLike, square: bool = False) -> Tensor:
    """`x` as a tensor of floats, once it is known to be a matrix or a stack of them."""
    x = lifted(x)
    if x.ndim < 2:
        raise ValueError(
            f"{name}: `{argument}` must be a matrix or a stack of them, (..., n, m), got shape {x.shape}"
        )
    if square and x.shape[-1] != x.shape[-2]:
        raise ValueError(f"{name}: `{argument}` must have square matrices, (..., n, n), got shape {x.shape}")
    return x if x.dtype.kind == "f" else astype(x, np.float64)


def lapack(
    name: str, fault: str, kernel: Callable[..., Any], alone: Callable[[Array], Any]
) -> Callable[..., Any]:
    """`kernel`, whose failure says which matrix of the stack, tried with `alone`, has the fault."""

    def checked(x: Array, *others: Any) -> Any:
        try:
            return kernel(x, *others)
        except LinAlgError as error:
            for index in np.ndindex(x.shape[:-2]):
                try:
                    alone(x[index])
                except LinAlgError:
                    where = f" at index {index} of the stack of shape {x.shape}" if index else ""
                    raise LinAlgError(f"{name}: the matrix{where} {fault}") from error
            raise LinAlgError(f"{name}: {error}") from error

    return checked


def transposed(x: Any) -> Any:
    """Every matrix of a stack transposed: for the text of rules."""
    return np.swapaxes(x, -1, -2)


# ----- systems: what the rules below are made of -----


def _solve_joint(g: Any, need: Sequence[bool], a: Any, out: Any) -> Sequence[Any]:
    of_b = solution.run(transposed(a), g)
    return (-(of_b @ transposed(out)) if need[0] else None), of_b


def _solve_jvp(ts: Sequence[Any], a: Any, out: Any) -> Any:
    of_a, of_b = ts
    return solution.run(a, of_b if of_a is None else -(of_a @ out) if of_b is None else of_b - of_a @ out)


# [Giles] 2.3.1
solution: Op = Op(
    "solve",
    lapack("solve", "is singular: the system has no unique solution", np.linalg.solve, np.linalg.inv),
    "a b",
    joint=_solve_joint,
    jvp=_solve_jvp,
    batch=aligned,
    broadcasts=True,
)


def _symmetric(x: Any) -> Any:
    return 0.5 * (x + transposed(x))


def _times_inverse(x: Any, a: Any) -> Any:
    """x a^-1"""
    return transposed(solution.run(transposed(a), transposed(x)))


# ----- Cholesky -----


def _lower(x: Any) -> Any:
    """The lower triangle with half of the diagonal."""
    return np.tril(x) * (1 - 0.5 * np.eye(x.shape[-1], dtype=x.dtype))


# [Murray] equations 10 and 8
def _cholesky_gradient(g: Any, out: Any) -> Any:
    inner = _lower(transposed(out) @ np.tril(g))
    return _symmetric(_times_inverse(solution.run(transposed(out), inner), out))


def _cholesky_tangent(t: Any, out: Any) -> Any:
    return out @ _lower(_times_inverse(solution.run(out, _symmetric(t)), transposed(out)))


_cholesky = Op(
    "cholesky",
    lapack("cholesky", "is not positive definite", np.linalg.cholesky, np.linalg.cholesky),
    vjp=(_cholesky_gradient,),
    jvp=(_cholesky_tangent,),
    batch=same,
)


def cholesky(x: TensorLike, upper: bool = False) -> Tensor:
    """The lower triangular L with L @ L^T = x, for every matrix of `x` (..., n, n).

    Args:
        x: symmetric and positive definite; only the lower triangle is read.
        upper: return L^T.

    Raises:
        numpy.linalg.LinAlgError: a matrix is not positive definite; the message says which of a stack.
        ValueError: the matrices are not square.

    Gradient: [Murray] equation 10, symmetric.

    >>> from dist_dp import ops
    >>> ops.linalg.cholesky([[4.0, 2.0], [2.0, 2.0]]).tolist()
    [[2.0, 0.0], [1.0, 1.0]]
    """
    out = apply(_cholesky, (matrices("cholesky", "x", x, square=True),))
    return swapaxes(out, -1, -2) if upper else out


# ----- QR -----


class QRResult(NamedTuple):
    """Of `qr`: x = Q @ R."""

    Q: Tensor
    R: Tensor


# [Walter] section 3.2, for m >= n
def _qr_joint(g: Any, need: Sequence[bool], out: Any) -> Sequence[Any]:
    (gq, gr), (q, r) = g, out
    m = r @ transposed(gr) - transposed(gq) @ q
    return (_times_inverse(gq + q @ (np.tril(m) + transposed(np.tril(m, -1))), transposed(r)),)


_qr = Op("qr", lambda x: tuple(np.linalg.qr(x)), joint=_qr_joint, batch=same, outputs=2)


def qr(x: TensorLike, mode: str = "reduced") -> QRResult | Tensor:
    """x = Q @ R with Q^T Q = I and R upper triangular, for every matrix of `x` (..., m, n).

    Args:
        mode: "reduced", Q (..., m, k) and R (..., k, n) with k = min(m, n); or "r", R alone.

    Raises:
        ValueError: `mode` is another one.

    Gradient: [Walter] section 3.2; the first k columns must be independent, or backward raises LinAlgError.

    >>> from dist_dp import ops
    >>> abs(ops.linalg.qr([[3.0], [4.0]]).R.item())
    5.0
    """
    if mode not in ("reduced", "r"):
        raise ValueError(f"qr: `mode` must be 'reduced' or 'r' (others have no gradient), got {mode!r}")
    x = matrices("qr", "x", x)
    m, n = x.shape[-2:]
    q, r = apply(_qr, (x[..., :m],))
    if n > m:  # Q is that of the first m columns
        r = concatenate([r, matmul(swapaxes(q, -1, -2), x[..., m:])], axis=-1)
    return r if mode == "r" else QRResult(q, r)


# ----- eigenvalues -----


def _over(x: Any, y: Any) -> Any:
    """x / y; where y is 0, NaN for want of a derivative, but 0 if x is 0: nothing asked for it."""
    none = y == 0
    return np.where(none, np.where(x == 0, x, np.nan), x / np.where(none, 1, y))


def _over_gaps(x: Any, values: Any) -> Any:
    """x_ij / (v_j - v_i), and 0 on the diagonal."""
    one = np.eye(values.shape[-1], dtype=values.dtype)
    return _over(x * (1 - one), values[..., None, :] - values[..., None] + one)


class EighResult(NamedTuple):
    """Of `eigh`: x = eigenvectors @ diag(eigenvalues) @ eigenvectors^T."""

    eigenvalues: Tensor
    eigenvectors: Tensor


# [Giles] section 3.1, [Ionescu] proposition 2
def _eigh_joint(g: Any, need: Sequence[bool], out: Any) -> Sequence[Any]:
    (gw, gv), (w, v) = g, out
    diagonal = gw[..., None] * np.eye(w.shape[-1], dtype=w.dtype)
    inner = diagonal + _over_gaps(transposed(v) @ gv, w)
    return (_symmetric(v @ inner @ transposed(v)),)


def _eigh_jvp(ts: Sequence[Any], out: Any) -> Any:
    w, v = out
    inner = transposed(v) @ _symmetric(ts[0]) @ v
    return np.sum(inner * np.eye(w.shape[-1], dtype=w.dtype), axis=-1), v @ _over_gaps(inner, w)


_eigh = Op(
    "eigh",
    lapack(
        "eigh",
        "has no eigenvalues that LAPACK finds",
        lambda x, uplo: tuple(np.linalg.eigh(x, uplo)),
        np.linalg.eigh,
    ),
    params="uplo",
    joint=_eigh_joint,
    jvp=_eigh_jvp,
    batch=same,
    outputs=2,
)


def eigh(x: TensorLike, UPLO: str = "L") -> EighResult:
    """Eigenvalues, ascending, and eigenvectors of every symmetric matrix of `x` (..., n, n).

    Args:
        x: symmetric.
        UPLO: the triangle that is read, "L" or "U".

    Returns:
        (eigenvalues (..., n), eigenvectors (..., n, n), one in each column).

    Raises:
        ValueError: the matrices are not square, or `UPLO` is neither.

    Gradient: [Giles] section 3.1, symmetric; see the module's text for equal eigenvalues.

    >>> from dist_dp import ops
    >>> ops.linalg.eigh([[2.0, 0.0], [0.0, 1.0]]).eigenvalues.tolist()
    [1.0, 2.0]
    """
    if UPLO not in ("L", "U"):
        raise ValueError(f"eigh: `UPLO` must be 'L' or 'U', got {UPLO!r}")
    x = matrices("eigh", "x", x, square=True)
    return EighResult(*apply(_eigh, (x,), (UPLO,)))


def eigvalsh(x: TensorLike, UPLO: str = "L") -> Tensor:
    """The eigenvalues of `eigh`.

    >>> from dist_dp import ops
    >>> ops.linalg.eigvalsh([[2.0, 0.0], [0.0, 1.0]]).tolist()
    [1.0, 2.0]
    """
    return eigh(x, UPLO).eigenvalues


# ----- singular values -----


class SVDResult(NamedTuple):
    """Of `svd`: x = U @ diag(S) @ Vh."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def _over_square_gaps(x: Any, s: Any) -> Any:
    """x_ij / (s_j^2 - s_i^2), and 0 on the diagonal."""
    sums = s[..., None, :] + s[..., None]
    return _over_gaps(x, s) / np.where(sums == 0, 1, sums)


# [Ionescu] proposition 1, with the terms of [Giles] section 3.2 outside the spaces that U and V span
def _svd_joint(g: Any, need: Sequence[bool], out: Any) -> Sequence[Any]:
    (gu, gs, gvh), (u, s, vh) = g, out
    rows, columns = s[..., None], s[..., None, :]
    of_u, of_v = transposed(u) @ gu, transposed(gvh @ transposed(vh))
    inner = (
        _over_square_gaps(of_u - transposed(of_u), s) * columns
        + rows * _over_square_gaps(of_v - transposed(of_v), s)
        + gs[..., None] * np.eye(s.shape[-1], dtype=s.dtype)
    )
    gx = u @ inner @ vh
    if u.shape[-2] > s.shape[-1]:
        gx = gx + _over(gu - u @ of_u, columns) @ vh
    if vh.shape[-1] > s.shape[-1]:
        gx = gx + u @ _over(gvh - transposed(of_v) @ vh, rows)
    return (gx,)


def _svd_jvp(ts: Sequence[Any], out: Any) -> Any:
    (u, s, vh), t = out, ts[0]
    rows, columns = s[..., None], s[..., None, :]
    right = t @ transposed(vh)
    inner = transposed(u) @ right
    tu = u @ _over_square_gaps(inner * columns + rows * transposed(inner), s)
    tv = transposed(_over_square_gaps(rows * inner + transposed(inner) * columns, s)) @ vh
    if u.shape[-2] > s.shape[-1]:
        tu = tu + _over(right - u @ inner, columns)
    if vh.shape[-1] > s.shape[-1]:
        tv = tv + _over(transposed(u) @ t - inner @ vh, rows)
    return tu, np.sum(inner * np.eye(s.shape[-1], dtype=s.dtype), axis=-1), tv


_svd = Op(
    "svd",
    lapack(
        "svd",
        "has no singular values that LAPACK finds",
        lambda x: tuple(np.linalg.svd(x, full_matrices=False)),
        np.linalg.svd,
    ),
    joint=_svd_joint,
    jvp=_svd_jvp,
    batch=same,
    outputs=3,
)


def svd(x: TensorLike, full_matrices: bool = True, compute_uv: bool = True) -> SVDResult | Tensor:
    """x = U @ diag(S) @ Vh for every matrix of `x` (..., m, n), with orthonormal columns of U and rows of Vh.

    Args:
        full_matrices: square U and Vh. The vectors that this adds to a matrix that is not square have no
            gradient, so it is refused there; say `full_matrices=False`.
        compute_uv: whether to return U and Vh too; else S alone.

    Returns:
        (U (..., m, k), S (..., k), descending, Vh (..., k, n)) with k = min(m, n).

    Raises:
        ValueError: `full_matrices` with matrices that are not square.

    Gradient: [Ionescu] proposition 1; see the module's text for equal singular values. Functions of singular
    vectors must not depend on their signs, which are arbitrary.

    >>> from dist_dp import ops
    >>> ops.linalg.svd([[0.0, 2.0], [1.0, 0.0]]).S.tolist()
    [2.0, 1.0]
    """
    x = matrices("svd", "x", x)
    if compute_uv and full_matrices and x.shape[-1] != x.shape[-2]:
        raise ValueError(
            f"svd: `full_matrices` must be False for matrices that are not square, got shape {x.shape}: "
            "the vectors that it adds have no gradient"
        )
    result = SVDResult(*apply(_svd, (x,)))
    return result if compute_uv else result.S


def svdvals(x: TensorLike) -> Tensor:
    """The singular values of every matrix of `x` (..., m, n), descending.

    >>> from dist_dp import ops
    >>> ops.linalg.svdvals([[3.0], [4.0]]).tolist()
    [5.0]
    """
    return SVDResult(*apply(_svd, (matrices("svdvals", "x", x),))).S
