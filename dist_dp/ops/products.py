"""Products of matrices, vectors and stacks of them: matmul and what NumPy builds on it.

Two rows carry all of it. `matmul` is the product of two matrices, by far the commonest, and has nothing to decide;
`matmul_stack` is every other combination of ranks. A matrix that multiplies a stack takes its gradient from one GEMM over
all rows of the stack, not from a stack of products that is summed afterwards. Transposed operands are views, which BLAS
reads through its flags without a copy. Two matrices are multiplied by `dot`: on small ones it takes a third of the time of
`np.matmul`, and operands that BLAS cannot read (the broadcast gradient of a sum) it copies where `np.matmul` would fall
back to a plain loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..compact import row_product
from ..tensor import Tensor
from .core import Op, TensorLike, apply, as_array, binary

__all__ = ["matmul"]


# ----- matmul -----


def _batched_matmul(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Tensor:
    """Examples become one more leading axis; a vector is made a matrix of one row or column where they would not align."""
    x, y = inputs
    x_rank, y_rank = np.ndim(x) - batched[0], np.ndim(y) - batched[1]
    if not batched[1] and y_rank <= 2:
        return matmul(x, y)  # the rows of all examples against one matrix or vector
    if y_rank == 1:
        y = y.reshape((*y.shape, 1))
    if x_rank == 1:
        x = x.reshape((*x.shape[:-1], 1, x.shape[-1]))
    rank = max(x_rank, y_rank, 2)
    x = _with_rank(x, rank, batched[0])
    y = _with_rank(y, rank, batched[1])
    out = matmul(x, y)
    shape = out.shape
    return out.reshape(
        (*shape[:-2], *(shape[-2:-1] if x_rank > 1 else ()), *(shape[-1:] if y_rank > 1 else ()))
    )


def _with_rank(x: Any, rank: int, batched: bool) -> Any:
    """`x` with axes of length 1 so that it has `rank` axes behind the one of the examples; as it is without examples."""
    missing = rank + 1 - np.ndim(x)
    return x.reshape((x.shape[0], *(1,) * missing, *x.shape[1:])) if batched and missing else x


def _rows(x: Any) -> Any:
    """All rows of a stack as one matrix (of a vector: the matrix of its one row)."""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def _columns(x: Any) -> Any:
    """A stack (*b, n, m) as the matrix (n, b m), all columns side by side."""
    return np.moveaxis(x, -2, 0).reshape((x.shape[-2], math.prod(x.shape) // max(x.shape[-2], 1)))


def _product(x: Any, y: Any) -> Any:
    if (
        x.ndim > 2 and y.ndim == 2
    ):  # one GEMM of many rows, where np.matmul runs one for each matrix of the stack
        return np.dot(_rows(x), y).reshape((*x.shape[:-1], y.shape[1]))
    return np.matmul(x, y)


def _stack_x(g: Any, y: Any, x_shape: tuple[int, ...]) -> Any:
    if len(x_shape) == 1:
        return g * y if y.ndim == 1 else y @ g if y.ndim == 2 else (y @ g[..., None])[..., 0]
    if y.ndim == 1:
        return g[..., None] * y
    if y.ndim == 2:
        return np.dot(_rows(g), y.T).reshape(x_shape)
    if len(x_shape) == 2:
        return _columns(g) @ _columns(np.broadcast_to(y, (*g.shape[:-2], *y.shape[-2:]))).T
    return g @ np.swapaxes(y, -1, -2)


def _stack_y(g: Any, x: Any, y_shape: tuple[int, ...]) -> Any:
    if len(y_shape) == 1:
        return g * x if x.ndim == 1 else g.reshape((math.prod(g.shape),)) @ _rows(x)
    if x.ndim == 1:
        return row_product(x[None], g[None]) if g.ndim == 1 else x[:, None] * g[..., None, :]
    if len(y_shape) == 2:
        return np.dot(_rows(x).T, _rows(g))
    return np.swapaxes(x, -1, -2) @ g


_matmul = Op(
    "matmul",
    np.ndarray.dot,
    "x y",
    vjp=(lambda g, y: np.dot(g, y.T), lambda g, x: row_product(x, g)),
    jvp=(lambda t, y: np.dot(t, y), lambda t, x: np.dot(x, t)),
    batch=_batched_matmul,
)
_matmul_stack = Op(
    "matmul_stack",
    _product,
    "x y",
    vjp=(_stack_x, _stack_y),
    jvp=(lambda t, y, x_shape: t @ y, lambda t, x, y_shape: x @ t),
    batch=_batched_matmul,
)


def matmul(x: TensorLike, y: TensorLike) -> Tensor:
    """The matrix product `x @ y`, with NumPy's meaning for every combination of ranks.

    out[..., i, j] = sum_k x[..., i, k] y[..., k, j]. A one-dimensional `x` is a row, a one-dimensional `y` a column, and
    its axis is absent from the result; leading axes broadcast.

    Args:
        x: shape (k,) or (..., n, k).
        y: shape (k,) or (..., k, m).

    Returns:
        A tensor of shape (..., n, m), less the axes of one-dimensional arguments; the wider of the two dtypes.

    Raises:
        ValueError: an argument is a scalar, the inner lengths differ, or the leading axes do not broadcast.

    Gradients: g y^T and x^T g (Giles, "Collected matrix derivative results", 2008, section 2.2.1).

    >>> from dist_dp import ops
    >>> ops.matmul([[1.0, 2.0], [3.0, 4.0]], [1.0, -1.0]).tolist()
    [-1.0, -1.0]
    """
    a = x.data if isinstance(x, Tensor) else (x := as_array(x))
    b = y.data if isinstance(y, Tensor) else (y := as_array(y))
    if a.ndim == 2 == b.ndim:
        if a.shape[1] == b.shape[0]:
            return binary(_matmul, x, y)
    elif (
        a.ndim and b.ndim and a.shape[-1] == b.shape[-2 if b.ndim > 1 else 0] and _broadcast(a.shape, b.shape)
    ):
        return apply(_matmul_stack, (x, y))  # type: ignore[no-any-return]
    raise ValueError(_mismatch(a.shape, b.shape))


def _broadcast(x: tuple[int, ...], y: tuple[int, ...]) -> bool:
    """Whether the leading axes of two stacks of matrices broadcast."""
    return all(n == m or n == 1 or m == 1 for n, m in zip(x[-3::-1], y[-3::-1], strict=False))


def _mismatch(x: tuple[int, ...], y: tuple[int, ...]) -> str:
    if not x or not y:
        what = "x" if not x else "y"
        return f"matmul: `{what}` must have at least one axis, got a scalar; use `*` to multiply by a number"
    if x[-1] != y[-2 if len(y) > 1 else 0]:
        axis = "next-to-last" if len(y) > 1 else "only"
        return (
            f"matmul: the last axis of `x` must be as long as the {axis} axis of `y`, "
            f"got x of shape {x} and y of shape {y}"
        )
    return f"matmul: the leading axes of `x` and `y` must broadcast, got x of shape {x} and y of shape {y}"
