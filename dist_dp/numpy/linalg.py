"""Linear algebra under the names and signatures of numpy.linalg.

>>> import numpy as np
>>> import dist_dp as dp
>>> x = dp.Tensor([[2.0, 0.0], [0.0, 3.0]], requires_grad=True)
>>> np.linalg.det(x).backward()
>>> x.grad
tensor([[3., 0.],
        [0., 2.]])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import ops
from ..ops import linalg
from ..ops.core import TensorLike
from ..tensor import Tensor
from .protocols import like, stands_for

__all__ = [
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_transpose",
    "multi_dot",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vector_norm",
]

cholesky = like(np.linalg.cholesky, linalg.cholesky)
det = like(np.linalg.det, linalg.det)
eigh = like(np.linalg.eigh, linalg.eigh)
eigvalsh = like(np.linalg.eigvalsh, linalg.eigvalsh)
inv = like(np.linalg.inv, linalg.inv)
lstsq = like(np.linalg.lstsq, linalg.lstsq)
matrix_power = like(np.linalg.matrix_power, linalg.matrix_power)
multi_dot = like(np.linalg.multi_dot, linalg.multi_dot)
norm = like(np.linalg.norm, linalg.norm)
pinv = like(np.linalg.pinv, linalg.pinv)
qr = like(np.linalg.qr, linalg.qr)
slogdet = like(np.linalg.slogdet, linalg.slogdet)
solve = like(np.linalg.solve, linalg.solve)
svd = like(np.linalg.svd, linalg.svd)
svdvals = like(np.linalg.svdvals, linalg.svdvals)
trace = like(np.linalg.trace, linalg.trace)
matmul = like(np.linalg.matmul, ops.matmul)
outer = like(np.linalg.outer, ops.outer)
cross = like(np.linalg.cross, ops.cross)
tensordot = like(np.linalg.tensordot, ops.tensordot)


@stands_for(np.linalg.diagonal)
def diagonal(x: TensorLike, /, *, offset: int = 0) -> Tensor:
    """Elements x[..., i, i + offset].

    >>> from dist_dp import numpy as dnp
    >>> dnp.linalg.diagonal([[1.0, 2.0], [3.0, 4.0]])
    tensor([1., 4.])
    """
    return ops.diagonal(x, offset, -2, -1)


@stands_for(np.linalg.matrix_transpose)
def matrix_transpose(x: TensorLike, /) -> Tensor:
    """A view with the last two axes exchanged.

    >>> from dist_dp import numpy as dnp
    >>> dnp.linalg.matrix_transpose([[1.0, 2.0]]).shape
    (2, 1)
    """
    return ops.swapaxes(x, -1, -2)


@stands_for(np.linalg.matrix_norm)
def matrix_norm(x: TensorLike, /, *, keepdims: bool = False, ord: float | str | None = "fro") -> Tensor:
    """`norm` of matrices (..., n, m).

    >>> from dist_dp import numpy as dnp
    >>> dnp.linalg.matrix_norm([[3.0, 0.0], [0.0, 4.0]])
    tensor(5.)
    """
    return linalg.norm(x, ord, (-2, -1), keepdims)


@stands_for(np.linalg.vector_norm)
def vector_norm(
    x: TensorLike, /, *, axis: int | Sequence[int] | None = None, keepdims: bool = False, ord: float = 2
) -> Tensor:
    """(sum |x|^ord)^(1/ord) over `axis`, over all elements without one.

    >>> from dist_dp import numpy as dnp
    >>> dnp.linalg.vector_norm([[3.0, 0.0], [0.0, 4.0]], ord=1)
    tensor(7.)
    """
    return ops.norm(x, ord, axis, keepdims)
