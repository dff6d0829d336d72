"""Linear algebra as `numpy.linalg` names it: systems, inverses, determinants, norms and decompositions.

Everything works on stacks of matrices, (..., n, m). LAPACK computes values; the rules are matrix products and solves
in plain NumPy text, so that they differentiate again. This module is the public name `ops.linalg`; decompositions
stand in `decompositions.py`. Sources: [Giles] M. B. Giles, "Collected matrix derivative results for forward and
reverse mode algorithmic differentiation", 2008; [Golub] Golub and Pereyra, "The differentiation of pseudo-inverses
and nonlinear least squares problems whose variables separate", 1973, equation 4.12.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..tape import Array
from ..tensor import Tensor
from .axes import axis_tuple
from .comparison import astype
from .core import Op, TensorLike, apply, same
from .decompositions import (
    cholesky,
    eigh,
    eigvalsh,
    lapack,
    matrices,
    qr,
    solution,
    svd,
    svdvals,
    transposed,
)
from .elementwise import abs as absolute
from .extrema import amax, amin
from .norms import norm as vector_norm
from .products import matmul
from .reduce import sum as sum_of
from .shape import trace
from .views import broadcast_to, lifted, moveaxis, reshape

__all__ = [
    "cholesky",
    "det",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "matrix_power",
    "multi_dot",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "trace",
]


class SlogdetResult(NamedTuple):
    """Of `slogdet`: det x = sign * exp(logabsdet)."""

    sign: Tensor
    logabsdet: Tensor


class LstsqResult(NamedTuple):
    """Of `lstsq`, as NumPy's: residuals are empty where the rank is not full or m <= n."""

    solution: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


# ----- systems and inverses -----


# [Giles] 2.2.3
_inv: Op = Op(
    "inv",
    lapack("inv", "is singular: it has no inverse", np.linalg.inv, np.linalg.inv),
    vjp=(lambda g, out: -(transposed(out) @ g @ transposed(out)),),
    jvp=(lambda t, out: -(out @ t @ out),),
    batch=same,
)


def solve(a: TensorLike, b: TensorLike) -> Tensor:
    """x with a @ x = b.

    Args:
        a: (..., n, n), not singular.
        b: (n,), one right-hand side; or (..., n, k), k of them. Leading axes broadcast.

    Raises:
        numpy.linalg.LinAlgError: a matrix is singular; the message says which of a stack.
        ValueError: the shapes do not fit.

    Gradient: that of b is a^-T g, that of a is -(a^-T g) x^T ([Giles] 2.3.1).

    >>> from dist_dp import ops
    >>> ops.linalg.solve([[2.0, 0.0], [0.0, 4.0]], [2.0, 2.0]).tolist()
    [1.0, 0.5]
    """
    a, b = matrices("solve", "a", a, square=True), lifted(b)
    b = b if b.dtype.kind == "f" else astype(b, a.dtype)
    if b.ndim == 0 or b.shape[-2 if b.ndim > 1 else 0] != a.shape[-1]:
        raise ValueError(
            f"solve: `b` must have shape ({a.shape[-1]},) or (..., {a.shape[-1]}, k) for a of shape {a.shape}, "
            f"got {b.shape}"
        )
    try:
        np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(f"solve: the leading axes of a {a.shape} and b {b.shape} must broadcast") from None
    if b.ndim == 1:
        out = apply(solution, (a, reshape(b, (-1, 1))))
        return reshape(out, out.shape[:-1])
    return apply(solution, (a, b))  # type: ignore[no-any-return]


def inv(x: TensorLike) -> Tensor:
    """The inverse of every matrix of `x` (..., n, n).

    To solve a system, `solve` is faster and more accurate.

    Raises:
        numpy.linalg.LinAlgError: a matrix is singular; the message says which of a stack.
        ValueError: the matrices are not square.

    Gradient: -out^T g out^T ([Giles] 2.2.3).

    >>> from dist_dp import ops
    >>> ops.linalg.inv([[2.0, 0.0], [0.0, 4.0]]).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return apply(_inv, (matrices("inv", "x", x, square=True),))  # type: ignore[no-any-return]


def matrix_power(x: TensorLike, n: int) -> Tensor:
    """x @ x @ ... @ x, n times, by repeated squaring; the inverse's power for negative n, the identity for n = 0.

    Raises:
        ValueError: the matrices are not square.
        TypeError: `n` is not an integer.
        numpy.linalg.LinAlgError: n is negative and a matrix is singular.

    >>> from dist_dp import ops
    >>> ops.linalg.matrix_power([[1.0, 1.0], [0.0, 1.0]], 5).tolist()
    [[1.0, 5.0], [0.0, 1.0]]
    """
    if not isinstance(n, (int, np.integer)):
        raise TypeError(f"matrix_power: `n` must be an integer, got {n!r}")
    x = matrices("matrix_power", "x", x, square=True)
    if n == 0:
        return broadcast_to(np.eye(x.shape[-1], dtype=x.dtype), x.shape)
    square, power, left = (inv(x) if n < 0 else x), None, abs(int(n))
    while True:
        if left % 2:
            power = square if power is None else matmul(power, square)
        left //= 2
        if power is not None and left == 0:
            return power
        square = matmul(square, square)


def multi_dot(arrays: Sequence[TensorLike]) -> Tensor:
    """The product of two or more matrices, in the order that takes the fewest multiplications.

    Args:
        arrays: matrices (n, m); the first may be a row (m,) and the last a column (n,).

    Raises:
        ValueError: fewer than two arrays, another rank, or lengths that do not agree.

    >>> from dist_dp import ops
    >>> ops.linalg.multi_dot([[[1.0, 2.0]], [[3.0], [4.0]], [[1.0, 10.0]]]).tolist()
    [[11.0, 110.0]]
    """
    xs = [lifted(x) for x in arrays]
    if len(xs) < 2:
        raise ValueError(f"multi_dot: `arrays` must hold two or more arrays, got {len(xs)}")
    for i, x in enumerate(xs):
        if x.ndim != 2 and not (x.ndim == 1 and i in (0, len(xs) - 1)):
            raise ValueError(
                f"multi_dot: `arrays` must be matrices (the first and the last may be vectors), got shape {x.shape} "
                f"at position {i}"
            )
    # The lengths of a chain of matrices: matrix i is lengths[i] by lengths[i + 1].
    lengths = [1 if xs[0].ndim == 1 else xs[0].shape[0], *(x.shape[0] for x in xs[1:])]
    lengths.append(1 if xs[-1].ndim == 1 else xs[-1].shape[1])

    @cache
    def best(i: int, j: int) -> tuple[int, int]:
        """(multiplications, where to split) of the product of matrices i to j."""
        if i == j:
            return 0, i
        costs = (
            (best(i, k)[0] + best(k + 1, j)[0] + lengths[i] * lengths[k + 1] * lengths[j + 1], k)
            for k in range(i, j)
        )
        return min(costs)

    def product(i: int, j: int) -> Tensor:
        split = best(i, j)[1]
        return xs[i] if i == j else matmul(product(i, split), product(split + 1, j))

    return product(0, len(xs) - 1)


# [Golub], for matrices whose rank does not change nearby.
def _pinv_x(g: Any, x: Any, out: Any, rtol: float | None) -> Any:
    p, gt = transposed(out), transposed(g)
    return -(p @ g @ p) + (gt - x @ (out @ gt)) @ out @ p + p @ out @ (gt - (gt @ out) @ x)


def _pinv_tangent(t: Any, x: Any, out: Any, rtol: float | None) -> Any:
    p, tt = transposed(out), transposed(t)
    return -(out @ t @ out) + out @ p @ (tt - (tt @ x) @ out) + (tt - out @ (x @ tt)) @ p @ out


_pinv: Op = Op(
    "pinv",
    lambda x, rtol: np.linalg.pinv(x, rtol=rtol) if rtol is not None else np.linalg.pinv(x),
    params="rtol",
    vjp=(_pinv_x,),
    jvp=(_pinv_tangent,),
    batch=same,
)


def pinv(x: TensorLike, rtol: float | None = None) -> Tensor:
    """The pseudo-inverse of every matrix of `x` (..., m, n), of shape (..., n, m).

    Args:
        rtol: singular values below `rtol` times the largest are taken for 0; NumPy's choice by default.

    Gradient: [Golub], for matrices whose rank is the same nearby (elsewhere the function jumps).

    >>> from dist_dp import ops
    >>> ops.linalg.pinv([[2.0], [0.0]]).tolist()
    [[0.5, 0.0]]
    """
    return apply(_pinv, (matrices("pinv", "x", x),), (rtol,))  # type: ignore[no-any-return]


def lstsq(a: TensorLike, b: TensorLike, rcond: float | None = None) -> LstsqResult:
    """The x of least norm among those that minimise |a @ x - b|.

    Args:
        a: (m, n).
        b: (m,) or (m, k).
        rcond: singular values below `rcond` times the largest are taken for 0; NumPy's choice by default.

    Returns:
        (solution, residuals, rank, singular_values), as NumPy's.

    Raises:
        ValueError: the shapes do not fit.

    Gradient: through the pseudo-inverse, for matrices whose rank is the same nearby.

    >>> from dist_dp import ops
    >>> ops.linalg.lstsq([[1.0], [1.0]], [1.0, 3.0]).solution.round(4).tolist()
    [2.0]
    """
    a, b = matrices("lstsq", "a", a), lifted(b)
    if a.ndim != 2 or b.ndim not in (1, 2) or b.shape[0] != a.shape[0]:
        raise ValueError(
            f"lstsq: `a` must have shape (m, n) and `b` (m,) or (m, k), got {a.shape} and {b.shape}"
        )
    m, n = a.shape
    cut = np.finfo(a.dtype).eps * max(m, n) if rcond is None else rcond
    values = svdvals(a)
    rank = sum_of(astype(values > cut * amax(values, axis=-1), np.int64))
    solution = matmul(pinv(a, cut), b)
    left = reshape(b - matmul(a, solution), (m, 1 if b.ndim == 1 else b.shape[1]))
    residuals = sum_of(left * left, axis=0)
    residuals = residuals if rank.item() == n < m else residuals[:0]
    return LstsqResult(solution, residuals, rank, values)


# ----- determinants -----


def _cofactors(x: Array) -> Array:
    """The matrix of cofactors, det(x) x^-T, from x = U S Vh also where x is singular."""
    u, s, vh = np.linalg.svd(x)
    ones = np.ones_like(s[..., :1])
    below = np.cumprod(np.concatenate([ones, s[..., :-1]], -1), -1)
    above = np.cumprod(np.concatenate([ones, s[..., :0:-1]], -1), -1)[..., ::-1]
    sign = np.linalg.det(u) * np.linalg.det(vh)
    cofactors: Array = ((sign[..., None] * (below * above))[..., None, :] * u) @ vh
    return cofactors


def _cofactor_x(g: Any, x: Any, out: Any) -> Any:
    inverse = transposed(_inv.run(x))
    return np.sum(g * out, axis=(-1, -2), keepdims=True) * inverse - inverse @ transposed(g) @ out


def _cofactor_tangent(t: Any, x: Any, out: Any) -> Any:
    inverse = transposed(_inv.run(x))
    return np.sum(inverse * t, axis=(-1, -2), keepdims=True) * out - out @ transposed(t) @ inverse


_cofactor: Op = Op("cofactors", _cofactors, vjp=(_cofactor_x,), jvp=(_cofactor_tangent,), batch=same)
# [Giles] 2.2.4
_det: Op = Op(
    "det",
    np.linalg.det,
    vjp=(lambda g, x: g[..., None, None] * _cofactor.run(x),),
    jvp=(lambda t, x: np.sum(_cofactor.run(x) * t, axis=(-1, -2)),),
    batch=same,
)


def _slogdet_joint(g: Any, need: Sequence[bool], x: Any) -> Sequence[Any]:
    return (g[1][..., None, None] * transposed(_inv.run(x)),)


def _slogdet_jvp(ts: Sequence[Any], x: Any) -> Any:
    t = np.sum(transposed(_inv.run(x)) * ts[0], axis=(-1, -2))
    return 0 * t, t


_slogdet: Op = Op(
    "slogdet",
    lambda x: tuple(np.linalg.slogdet(x)),
    joint=_slogdet_joint,
    jvp=_slogdet_jvp,
    batch=same,
    outputs=2,
)


def det(x: TensorLike) -> Tensor:
    """The determinant of every matrix of `x` (..., n, n).

    Raises:
        ValueError: the matrices are not square.

    Gradient: the cofactors of x, which exist for singular matrices too ([Giles] 2.2.4). Derivatives of higher order
    go through the inverse and raise LinAlgError at a singular matrix.

    >>> from dist_dp import ops
    >>> ops.linalg.det([[2.0, 1.0], [0.0, 3.0]]).item()
    6.0
    """
    return apply(_det, (matrices("det", "x", x, square=True),))  # type: ignore[no-any-return]


def slogdet(x: TensorLike) -> SlogdetResult:
    """The sign of the determinant of every matrix of `x` (..., n, n), and the logarithm of its absolute value.

    A singular matrix has (0, -inf), and no gradient: backward raises LinAlgError.

    Raises:
        ValueError: the matrices are not square.

    Gradient of the logarithm: x^-T; of the sign: 0.

    >>> from dist_dp import ops
    >>> ops.linalg.slogdet([[-1.0, 0.0], [0.0, 1.0]])
    SlogdetResult(sign=tensor(-1.), logabsdet=tensor(0.))
    """
    return SlogdetResult(*apply(_slogdet, (matrices("slogdet", "x", x, square=True),)))


# ----- norms -----


def norm(
    x: TensorLike,
    ord: float | str | None = None,
    axis: int | Sequence[int] | None = None,
    keepdims: bool = False,
) -> Tensor:
    """NumPy's norm of vectors or matrices.

    Args:
        ord: of a vector, any number p for (sum |x|^p)^(1/p), with 0 (number of elements that are not 0), inf and -inf
            as its limits; of a matrix "fro", "nuc" (sum of singular values), 2 and -2 (largest and smallest one), 1 and
            -1 (of the sums down columns), inf and -inf (of the sums along rows). None is the root of the sum of
            squares, of any number of axes.
        axis: one axis for vectors, two for matrices; None for all of them.
        keepdims: keep these axes with length 1.

    Raises:
        ValueError: `ord` does not exist for this number of axes, or the axes are not one or two.

    Gradient: of the root of squares x / out, and 0 at 0; of singular values u v^T; of sums and maxima as usual.

    >>> from dist_dp import ops
    >>> ops.linalg.norm([3.0, 4.0]).item(), ops.linalg.norm([[3.0, 0.0], [0.0, 4.0]], "nuc").item()
    (5.0, 7.0)
    """
    x = lifted(x)
    x = x if x.dtype.kind == "f" else astype(x, np.float64)
    axes = axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
    if ord is None:
        return vector_norm(x, 2, axes, keepdims)
    if len(axes) == 1:
        return vector_norm(x, ord, axes, keepdims)
    if len(axes) == 2:
        return _matrix_norm(x, ord, axes, keepdims)
    raise ValueError(f"norm: `ord`={ord!r} needs one axis or two, got {len(axes)}: give `axis`, or ord=None")


def _matrix_norm(x: Tensor, ord: float | str, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    if ord == "fro":
        return vector_norm(x, 2, axes, keepdims)
    if ord not in ("nuc", 1, -1, 2, -2, np.inf, -np.inf):
        raise ValueError(
            f"norm: `ord` of matrices must be 'fro', 'nuc', 1, -1, 2, -2, inf or -inf, got {ord!r}"
        )
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    x = moveaxis(x, axes, (-2, -1))
    by_row = ord in (np.inf, -np.inf)
    values = svdvals(x) if ord in ("nuc", 2, -2) else sum_of(absolute(x), axis=-1 if by_row else -2)
    fold = sum_of if ord == "nuc" else amax if ord in (1, 2, np.inf) else amin
    out = fold(values, axis=-1)
    return reshape(out, kept) if keepdims else out
