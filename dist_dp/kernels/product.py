"""Products of two matrices: by the compiled kernel where it is ahead of the BLAS library, by that elsewhere.

The kernel (`product.c`) takes float32 matrices that lie in memory row by row or column by column, and works on one
thread. Its entries do not depend on the other rows and columns, nor on the processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dist_dp import kernels
from runtime.fingerprint import blas_threads

from ..tape import Array

# Fewer rows do not repay laying the panels out, fewer columns waste most of a panel, and below so many products the
# call shows. BLAS has a way of its own for small matrices of which the second is not transposed. Measured for 1 to
# 2,048 rows against weights of 16 x 32 to 1,024 x 1,024.
_ROWS, _COLUMNS, _ENOUGH, _ENOUGH_TRANSPOSED = 12, 32, 1 << 20, 1 << 17
_PANEL = 32  # columns; as in product.c
_FLOAT32 = np.dtype(np.float32)
_NOTHING = np.empty(0, np.float32)


def _as_it_lies(x: Array) -> tuple[Any, bool]:
    """(`x` or its transposed, row by row, and whether it was transposed); (None, False) if it lies otherwise."""
    if x.flags.c_contiguous:
        return x, False
    return (x.T, True) if x.flags.f_contiguous else (None, False)


def dot(x: Any, y: Any, bias: Array | None = None, out: Array | None = None) -> Any:
    """x y + bias of matrices, as `np.dot`; of tensors too, without bias and out.

    Args:
        x, y: (n, k) and (k, m).
        bias: (m,), added to every row.
        out: where the result goes: (n, m), contiguous, of its dtype.

    >>> dot(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.5, 0.0]))
    array([[1.5, 2. ],
           [3.5, 4. ]])
    """
    if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)):
        return np.dot(x, y)
    if takes(len(x), y) and x.dtype == _FLOAT32:
        x_lies, x_transposed = _as_it_lies(x)
        y_lies, y_transposed = _as_it_lies(y)
        if x_lies is not None and y_lies is not None:
            if out is None:
                out = np.empty((len(x), y.shape[1]), np.float32)
            kernels.compiled.product(
                x_lies,
                y_lies,
                _NOTHING if bias is None else np.ascontiguousarray(bias, np.float32),
                out,
                *x.shape,
                y.shape[1],
                x_transposed,
                y_transposed,
            )
            return out
    out = x.dot(y, out)
    if bias is not None:
        np.add(out, bias, out)
    return out


def takes(rows: int, y: Array) -> bool:
    """Whether so many rows are multiplied by the matrix `y` in the kernel."""
    terms, columns = y.shape
    if rows < _ROWS or columns < _COLUMNS:
        return False
    return rows * terms * columns >= (
        _ENOUGH if y.flags.c_contiguous else _ENOUGH_TRANSPOSED
    ) and _may_be_used(y)


def _may_be_used(y: Array) -> bool:
    """Not where BLAS has several threads: the kernel has one."""
    compiled = kernels.compiled
    return compiled is not None and y.dtype == _FLOAT32 and compiled.fuses and blas_threads() == 1


class Packed:
    """A matrix y of shape (k, m), laid out once, by which others are multiplied.

    >>> y = np.arange(6, dtype=np.float32).reshape(3, 2)
    >>> out = np.empty((1, 2), np.float32)
    >>> Packed(y).dot(np.ones((1, 3), np.float32), out)
    array([[6., 9.]], dtype=float32)
    """

    def __init__(self, y: Array) -> None:
        terms, columns = y.shape
        lies, transposed = _as_it_lies(y)
        self.packed: Array | None = None
        if columns >= _COLUMNS and terms and lies is not None and _may_be_used(y):
            self.packed = np.empty((terms, -(-columns // _PANEL) * _PANEL), np.float32)
            kernels.compiled.pack(lies, self.packed, terms, columns, transposed)
        else:
            self.y = np.ascontiguousarray(y)  # BLAS is faster on it than on a view

    def dot(self, x: Array, out: Array) -> Array:
        """out = x y, for contiguous matrices x (n, k) and out (n, m)."""
        if self.packed is None or not len(x):
            return np.matmul(x, self.y, out=out) if self.packed is None else out
        kernels.compiled.product_with_packed(x, self.packed, _NOTHING, out, *x.shape, out.shape[1])
        return out
