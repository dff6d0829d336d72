"""Products of matrices, vectors and stacks of them.

Two rows carry matmul: `matmul` is the product of two matrices, by far the commonest, and has nothing to decide;
`matmul_stack` is every other combination of ranks. A matrix that multiplies a stack takes its gradient from one
GEMM over all rows of the stack, not from a stack of products that is summed afterwards. Transposed operands are
views, which BLAS reads through its flags without a copy. Two matrices are multiplied by `dot`: on small ones it
takes a third of the time of `np.matmul`, and operands that BLAS cannot read (the broadcast gradient of a sum) it
copies where `np.matmul` would fall back to a plain loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..compact import row_product
from ..kernels.product import dot
from ..tape import RECORD, mode
from ..tensor import Tensor
from .axes import axis_index
from .core import Op, TensorLike, aligned, apply, as_array, binary
from .elementwise import multiply
from .views import lifted, moveaxis, reshape

__all__ = ["cross", "kron", "matmul", "outer", "vdot"]


# ----- matmul -----


def _batched_matmul(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Tensor:
    """Examples become one more leading axis; a vector becomes a matrix where it would not align."""
    x, y = inputs
    x_rank, y_rank = np.ndim(x) - batched[0], np.ndim(y) - batched[1]
    if not batched[1] and y_rank <= 2:
        return matmul(x, y)  # the rows of all examples against one matrix or vector
    if y_rank == 1:
        y = reshape(y, (*y.shape, 1))
    if x_rank == 1:
        x = reshape(x, (*x.shape[:-1], 1, x.shape[-1]))
    rank = max(x_rank, y_rank, 2)
    x = _with_rank(x, rank, batched[0])
    y = _with_rank(y, rank, batched[1])
    out = matmul(x, y)
    shape = out.shape
    rows, columns = shape[-2:-1] if x_rank > 1 else (), shape[-1:] if y_rank > 1 else ()
    return reshape(out, (*shape[:-2], *rows, *columns))


def _with_rank(x: Any, rank: int, batched: bool) -> Any:
    """`x` with axes of length 1, so that it has `rank` of them behind that of the examples."""
    missing = rank + 1 - np.ndim(x)
    return reshape(x, (x.shape[0], *(1,) * missing, *x.shape[1:])) if batched and missing else x


def _rows(x: Any) -> Any:
    """All rows of a stack as one matrix (of a vector: the matrix of its one row)."""
    return x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def _columns(x: Any) -> Any:
    """A stack (*b, n, m) as the matrix (n, b m), all columns side by side."""
    return np.moveaxis(x, -2, 0).reshape((x.shape[-2], math.prod(x.shape) // max(x.shape[-2], 1)))


def _product(x: Any, y: Any) -> Any:
    if x.ndim > 2 and y.ndim == 2:  # one GEMM, where np.matmul runs one for each matrix of the stack
        return dot(_rows(x), y).reshape((*x.shape[:-1], y.shape[1]))
    return np.matmul(x, y)


def _stack_x(g: Any, y: Any, x_shape: tuple[int, ...]) -> Any:
    if len(x_shape) == 1:
        return g * y if y.ndim == 1 else y @ g if y.ndim == 2 else (y @ g[..., None])[..., 0]
    if y.ndim == 1:
        return g[..., None] * y
    if y.ndim == 2:
        return dot(_rows(g), y.T).reshape(x_shape)
    if len(x_shape) == 2:
        return _columns(g) @ _columns(np.broadcast_to(y, (*g.shape[:-2], *y.shape[-2:]))).T
    return g @ np.swapaxes(y, -1, -2)


def _stack_y(g: Any, x: Any, y_shape: tuple[int, ...]) -> Any:
    if len(y_shape) == 1:
        return g * x if x.ndim == 1 else g.reshape((math.prod(g.shape),)) @ _rows(x)
    if x.ndim == 1:
        return row_product(x[None], g[None]) if g.ndim == 1 else x[:, None] * g[..., None, :]
    if len(y_shape) == 2:
        return dot(_rows(x).T, _rows(g))
    return np.swapaxes(x, -1, -2) @ g


_matmul = Op(
    "matmul",
    dot,
    "x y",
    vjp=(lambda g, y: dot(g, y.T), lambda g, x: row_product(x, g)),
    jvp=(lambda t, y: dot(t, y), lambda t, x: dot(x, t)),
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

    out[..., i, j] = sum_k x[..., i, k] y[..., k, j]. A one-dimensional `x` is a row, a one-dimensional `y` a
    column, and its axis is absent from the result; leading axes broadcast.

    Args:
        x: shape (k,) or (..., n, k).
        y: shape (k,) or (..., k, m).

    Returns:
        A tensor of shape (..., n, m), less the axes of one-dimensional arguments.

    Raises:
        ValueError: an argument is a scalar, the inner lengths differ, or the leading axes do not broadcast.

    Gradients: g y^T and x^T g (Giles, "Collected matrix derivative results", 2008, section 2.2.1).

    >>> from dist_dp import ops
    >>> ops.matmul([[1.0, 2.0], [3.0, 4.0]], [1.0, -1.0]).tolist()
    [-1.0, -1.0]
    """
    there = mode.state <= RECORD  # elsewhere a tensor may have a shape and no values yet
    a = (x.data if there else x) if isinstance(x, Tensor) else (x := as_array(x, "x of matmul"))
    b = (y.data if there else y) if isinstance(y, Tensor) else (y := as_array(y, "y of matmul"))
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


# ----- products of vectors -----


def outer(x: TensorLike, y: TensorLike) -> Tensor:
    """All products x[i] y[j] of the elements of `x` and `y`, flattened: shape (x.size, y.size).

    >>> from dist_dp import ops
    >>> ops.outer([1.0, 2.0], [3.0, 4.0]).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    return multiply(reshape(x, (-1, 1)), reshape(y, (1, -1)))


def vdot(x: TensorLike, y: TensorLike) -> Tensor:
    """The sum of x[i] y[i] over all elements of two arrays of equal size, flattened.

    Raises:
        ValueError: the sizes differ.

    >>> from dist_dp import ops
    >>> ops.vdot([[1.0, 2.0]], [[3.0], [4.0]]).item()
    11.0
    """
    x, y = lifted(x), lifted(y)
    if x.size != y.size:
        raise ValueError(f"vdot: x and y must have as many elements, got shapes {x.shape} and {y.shape}")
    return matmul(reshape(x, (x.size,)), reshape(y, (y.size,)))


def kron(x: TensorLike, y: TensorLike) -> Tensor:
    """The Kronecker product: every element of `x` times the whole of `y`, in blocks.

    Args:
        x, y: of any rank; the one with fewer axes gets axes of length 1 in front.

    Returns:
        A tensor whose side i has length x.shape[i] * y.shape[i].

    >>> from dist_dp import ops
    >>> ops.kron([1.0, 10.0], [1.0, 2.0]).tolist()
    [1.0, 2.0, 10.0, 20.0]
    """
    x, y = lifted(x), lifted(y)
    rank = max(x.ndim, y.ndim)
    first = (1,) * (rank - x.ndim) + x.shape
    second = (1,) * (rank - y.ndim) + y.shape
    x = reshape(x, tuple(n for side in first for n in (side, 1)))
    y = reshape(y, tuple(n for side in second for n in (1, side)))
    return reshape(multiply(x, y), tuple(n * m for n, m in zip(first, second, strict=True)))


def _cross_forward(x: Any, y: Any) -> Any:
    out = np.empty(np.broadcast_shapes(x.shape, y.shape), np.result_type(x, y))
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        out[..., i] = x[..., j] * y[..., k] - x[..., k] * y[..., j]
    return out


_cross: Op = Op(
    "cross",
    _cross_forward,
    "x y",
    vjp=(lambda g, y: _cross.run(y, g), lambda g, x: _cross.run(g, x)),
    jvp=(lambda t, y: _cross.run(t, y), lambda t, x: _cross.run(x, t)),
    batch=aligned,
    broadcasts=True,
)


def cross(
    x: TensorLike, y: TensorLike, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None
) -> Tensor:
    """The vector at right angles to two vectors of three components, x × y.

    Args:
        x, y: of length 3 along `axisa` and `axisb`; the other axes broadcast.
        axisc: where the result has the components.
        axis: all three of these axes at once.

    Raises:
        ValueError: the vectors do not have three components.

    Gradients: y × g and g × x.

    >>> from dist_dp import ops
    >>> ops.cross([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]).tolist()
    [0.0, 0.0, 1.0]
    """
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = lifted(x), lifted(y)
    for name, v, at in (("x", x, axisa), ("y", y, axisb)):
        if v.ndim == 0 or v.shape[axis_index(at, v.ndim)] != 3:
            raise ValueError(f"cross: `{name}` must have length 3 along axis {at}, got shape {v.shape}")
    return moveaxis(apply(_cross, (moveaxis(x, axisa, -1), moveaxis(y, axisb, -1))), -1, axisc)
