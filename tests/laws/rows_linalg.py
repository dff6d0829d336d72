"""Rows of products, contractions and linear algebra.

LAPACK chooses the signs of eigenvectors and singular vectors, and may choose others in another precision; rows of
decompositions return products in which the sign falls out. Values that a decomposition divides by the gaps of are
kept apart by a diagonal.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from laws.rows import Array, Call, Draw, Row

from dist_dp import ops


def lead(d: Draw) -> tuple[int, ...]:
    """The axes of a stack: none, one or two, and an empty one where such is asked for."""
    return d.shape(max_dims=2, max_side=2)


# ----- products -----


def matmul_vectors(d: Draw) -> Call:
    k = d.integer(0 if d.kind == "empty" else 1, 3)
    x, y = d.pick(((k,), (k,)), ((2, k), (k,)), ((k,), (k, 2)), ((2, 3, k), (k,)), ((k,), (2, k, 3)))
    return Call(d.array(x), d.array(y))


def matmul_matrices(d: Draw) -> Call:
    n, k, m = (d.integer(0 if d.kind == "empty" else 1, 3) for _ in range(3))
    return Call(d.array((n, k)), d.array((k, m)))


def matmul_stacks(d: Draw) -> Call:
    n, k, m = (d.integer(1, 3) for _ in range(3))
    first, second = d.broadcastable(2, max_dims=2)
    return Call(d.array((*first, n, k)), d.array((*second, k, m)))


def dot(d: Draw) -> Call:
    x, y = d.pick(((), (2,)), ((2, 3), (3, 2)), ((3,), (2, 3, 2)), ((2, 1, 3), (2, 3, 2)), ((2, 2, 3), (3,)))
    return Call(d.array(x), d.array(y))


def inner(d: Draw) -> Call:
    n = d.integer(1, 3)
    return Call(d.array((*lead(d), n)), d.array((*d.shape(max_dims=1), n)))


def outer(d: Draw) -> Call:
    return Call(d.array(d.shape(max_dims=2)), d.array(d.shape(max_dims=2)))


def vdot(d: Draw) -> Call:
    shape = d.shape(max_dims=2)
    return Call(d.array(shape), d.array(shape[::-1]))


def tensordot(d: Draw) -> Call:
    x, y, axes = d.pick(
        ((2, 3), (3, 2), 1),
        ((2, 1, 3), (1, 3, 2), 2),
        ((2,), (3,), 0),
        ((2, 3), (2, 3), ([0, 1], [0, 1])),
        ((2, 3, 1), (3, 2), ([1, 0], [0, -1])),
        ((2, 3), (2, 2), (0, 1)),
    )
    return Call(d.array(x), d.array(y), axes)


def cross(d: Draw) -> Call:
    first, second = d.broadcastable(2, max_dims=2)
    return Call(d.array((*first, 3)), d.array((*second, 3)))


def cross_along(d: Draw) -> Call:
    return Call(d.array((3, 2)), d.array((2, 3)), axisa=0, axisb=1, axisc=0)


SUBSCRIPTS = (
    "ij,jk->ik",
    "ij,jk",
    "ij,kj->ki",
    "bij,bjk->bik",
    "bij,bij->b",
    "ij,ij->ij",
    "i,j->ji",
    "ij,k->j",
    "ii",
    "ii->i",
    "ij->ji",
    "ij->",
    "iij,jjk->ik",
    "ij,jk,kl->il",
    "ij,ij,ij->i",
    "a,b,ab,b->a",
    "...ij,jk->...ik",
    "i...,i...->...",
    "...",
)


def einsum(d: Draw) -> Call:
    subscripts = d.pick(*SUBSCRIPTS)
    length = {a: d.integer(0 if d.kind == "empty" else 1, 3) for a in "abijkl"}
    ellipsis = d.shape(max_dims=2)
    operands = []
    for group in subscripts.split("->")[0].split(","):
        front, dots, behind = group.partition("...")
        sides = [length[a] for a in front], ellipsis if dots else (), [length[a] for a in behind]
        operands.append(d.array(tuple(n for part in sides for n in part)))
    return Call(subscripts, *operands)


# ----- linear algebra -----


def square(d: Draw, n: int | None = None) -> Array:
    """Matrices far from singular ones: small ones around a diagonal of 1, 2, ..."""
    n = d.integer(1, 3) if n is None else n
    return d.prepared(d.array((*lead(d), n, n), -0.3, 0.3) + np.diag(np.arange(1.0, n + 1)))


def rectangular(d: Draw) -> Array:
    n, m = d.integer(1, 4), d.integer(1, 3)
    spread = np.eye(n, m) * np.arange(1.0, m + 1)
    return d.prepared(d.array((*lead(d), n, m), -0.3, 0.3) + spread)


def of(build: Callable[[Draw], Array]) -> Callable[[Draw], Call]:
    return lambda d: Call(build(d))


def solve(d: Draw) -> Call:
    n = d.integer(1, 3)
    a = square(d, n)
    if d.flag():
        return Call(a, d.array((n,)))
    return Call(a, d.array((*d.pick((), a.shape[:-2]), n, 2)))


def power(d: Draw) -> Call:
    return Call(square(d), d.pick(-2, -1, 1, 2, 3, 5))


def multi_dot(d: Draw) -> Call:
    sides = [d.integer(1, 3) for _ in range(5)]
    shapes = list(pairwise(sides))[: d.integer(2, 4)]
    if d.flag():
        shapes = [shapes[0][1:], *shapes[1:-1], shapes[-1][:1]]
    return Call([d.array(shape) for shape in shapes])


def lstsq(d: Draw) -> Call:
    n, m = d.integer(2, 4), d.integer(1, 3)
    a = d.prepared(d.array((n, m), -0.3, 0.3) + np.eye(n, m))
    return Call(a, d.array(d.pick((n,), (n, 2))))


def vector_norm(d: Draw) -> Call:
    x = d.array(d.shape(1, empty=False), 0.5, 2.0)
    return Call(x, d.pick(None, 1, 2, 3, 0.5, -1), axis=d.axis(x.ndim), keepdims=d.flag())


def matrix_norm(d: Draw) -> Call:
    x = d.array((d.integer(1, 2), d.integer(2, 3), d.integer(2, 3)))
    ord = d.pick("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf, None)
    return Call(x, ord, d.pick((1, 2), (-1, -2), (2, 0)), d.flag())


def both(linalg: Any, name: str, **options: Any) -> Any:
    return lambda x: getattr(linalg, name)(symmetric(x), **options)


def symmetric(x: Any) -> Any:
    return 0.5 * (x + np.swapaxes(x, -1, -2))


def without_signs(linalg: Any, name: str) -> Any:
    """Eigenvalues or singular values, and the products of vectors in which the signs fall out."""

    def eigh(x: Any) -> Any:
        w, v = linalg.eigh(symmetric(x))
        return w, v[..., :, None, :] * v[..., None, :, :]

    def svd(x: Any) -> Any:
        u, s, vh = linalg.svd(x, full_matrices=False)
        return s, u[..., :, None, :] * np.swapaxes(vh, -1, -2)[..., None, :, :]

    return {"eigh": eigh, "svd": svd}[name]


ROWS = [
    Row("matmul of vectors", ops.matmul, np.matmul, matmul_vectors),
    Row("matmul", ops.matmul, np.matmul, matmul_matrices),
    Row("matmul of stacks", ops.matmul, np.matmul, matmul_stacks),
    Row("dot", ops.dot, np.dot, dot),
    Row("inner", ops.inner, np.inner, inner),
    Row("outer", ops.outer, np.outer, outer),
    Row("vdot", ops.vdot, np.vdot, vdot),
    Row("kron", ops.kron, np.kron, outer),
    Row("tensordot", ops.tensordot, np.tensordot, tensordot),
    Row("cross", ops.cross, np.cross, cross),
    Row("cross along an axis", ops.cross, np.cross, cross_along),
    Row("einsum", ops.einsum, np.einsum, einsum),
    Row("linalg.solve", ops.linalg.solve, np.linalg.solve, solve),
    Row("linalg.inv", ops.linalg.inv, np.linalg.inv, of(square)),
    Row("linalg.det", ops.linalg.det, np.linalg.det, of(square)),
    Row("linalg.slogdet", ops.linalg.slogdet, lambda x: tuple(np.linalg.slogdet(x)), of(square)),
    Row("linalg.pinv", ops.linalg.pinv, np.linalg.pinv, of(rectangular)),
    Row("linalg.matrix_power", ops.linalg.matrix_power, np.linalg.matrix_power, power),
    Row("linalg.multi_dot", ops.linalg.multi_dot, np.linalg.multi_dot, multi_dot),
    Row(
        "linalg.lstsq",
        lambda a, b: ops.linalg.lstsq(a, b).solution,
        lambda a, b: np.linalg.lstsq(a, b)[0],
        lstsq,
        batched=False,
    ),
    Row("linalg.cholesky", both(ops.linalg, "cholesky"), both(np.linalg, "cholesky"), of(square)),
    Row(
        "linalg.cholesky upper",
        both(ops.linalg, "cholesky", upper=True),
        both(np.linalg, "cholesky", upper=True),
        of(square),
    ),
    Row("linalg.qr", ops.linalg.qr, lambda x: tuple(np.linalg.qr(x)), of(rectangular)),
    Row("linalg.eigh", without_signs(ops.linalg, "eigh"), without_signs(np.linalg, "eigh"), of(square)),
    Row("linalg.eigvalsh", both(ops.linalg, "eigvalsh"), both(np.linalg, "eigvalsh"), of(square)),
    Row("linalg.svd", without_signs(ops.linalg, "svd"), without_signs(np.linalg, "svd"), of(rectangular)),
    Row("linalg.svdvals", ops.linalg.svdvals, np.linalg.svdvals, of(rectangular)),
    Row("linalg.norm of vectors", ops.linalg.norm, np.linalg.norm, vector_norm),
    Row("linalg.norm of matrices", ops.linalg.norm, np.linalg.norm, matrix_norm),
]
