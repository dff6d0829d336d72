"""New arrays under NumPy's names and signatures; floats are float32 unless a dtype is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..ops.core import TensorLike
from ..ops.views import lifted
from ..pytree import flatten
from ..tensor import Tensor
from .protocols import like, stands_for

__all__ = [
    "arange",
    "array",
    "asarray",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "identity",
    "linspace",
    "ones",
    "ones_like",
    "zeros",
    "zeros_like",
]

Shape = int | Sequence[int]


def array(object: TensorLike, dtype: DTypeLike | None = None) -> Tensor:
    """The values as a new tensor; tensors, also inside nested lists, keep their gradients.

    >>> from dist_dp import numpy as dnp
    >>> dnp.array([0.5, 1.0])
    tensor([0.5, 1. ])
    """
    return ops.copy(asarray(object, dtype))


def asarray(a: TensorLike, dtype: DTypeLike | None = None) -> Tensor:
    """The values as a tensor, copied only where they must be; tensors, also in nested lists, keep their gradients.

    >>> from dist_dp import numpy as dnp
    >>> dnp.asarray([1, 2])
    tensor([1, 2])
    """
    if isinstance(a, (list, tuple)) and any(isinstance(x, Tensor) for x in flatten(a)[0]):
        a = ops.stack([asarray(x) for x in a])
    return ops.as_tensor(a, dtype)


def zeros(shape: Shape, dtype: DTypeLike = np.float32) -> Tensor:
    """All 0.

    >>> from dist_dp import numpy as dnp
    >>> dnp.zeros(2)
    tensor([0., 0.])
    """
    return ops.zeros(shape, dtype)


def ones(shape: Shape, dtype: DTypeLike = np.float32) -> Tensor:
    """All 1.

    >>> from dist_dp import numpy as dnp
    >>> dnp.ones(2)
    tensor([1., 1.])
    """
    return ops.ones(shape, dtype)


def empty(shape: Shape, dtype: DTypeLike = np.float32) -> Tensor:
    """Whatever the memory held.

    >>> from dist_dp import numpy as dnp
    >>> dnp.empty((2, 3)).shape
    (2, 3)
    """
    return ops.empty(shape, dtype)


def full(shape: Shape, fill_value: float, dtype: DTypeLike | None = None) -> Tensor:
    """All `fill_value`.

    >>> from dist_dp import numpy as dnp
    >>> dnp.full(2, 0.5)
    tensor([0.5, 0.5])
    """
    return ops.full(shape, fill_value, dtype)


def eye(N: int, M: int | None = None, k: int = 0, dtype: DTypeLike = np.float32) -> Tensor:
    """1 on the k-th diagonal of an (N, M) matrix, 0 elsewhere.

    >>> from dist_dp import numpy as dnp
    >>> dnp.eye(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    return ops.eye(N, M, k, dtype)


def identity(n: int, dtype: DTypeLike = np.float32) -> Tensor:
    """The identity matrix (n, n).

    >>> from dist_dp import numpy as dnp
    >>> dnp.identity(1)
    tensor([[1.]])
    """
    return ops.eye(n, None, 0, dtype)


def arange(
    start: float, stop: float | None = None, step: float = 1, dtype: DTypeLike | None = None
) -> Tensor:
    """start, start + step, ... below `stop`; from 0 if only one number is given. Integers give int64.

    >>> from dist_dp import numpy as dnp
    >>> dnp.arange(3)
    tensor([0, 1, 2])
    """
    return ops.arange(start, stop, step, dtype)


def linspace(
    start: float, stop: float, num: int = 50, endpoint: bool = True, *, dtype: DTypeLike = np.float32
) -> Tensor:
    """`num` numbers evenly spaced from `start` to `stop`.

    >>> from dist_dp import numpy as dnp
    >>> dnp.linspace(0, 1, 3)
    tensor([0. , 0.5, 1. ])
    """
    return ops.linspace(start, stop, num, endpoint, dtype)


zeros_like: Any = like(np.zeros_like, ops.zeros_like)
ones_like: Any = like(np.ones_like, ops.ones_like)
full_like: Any = like(np.full_like, ops.full_like)


@stands_for(np.empty_like)
def empty_like(prototype: TensorLike, /, dtype: DTypeLike | None = None) -> Tensor:
    """Whatever the memory held, of the shape and dtype of `prototype`.

    >>> from dist_dp import numpy as dnp
    >>> dnp.empty_like([[0.5]]).shape
    (1, 1)
    """
    given = lifted(prototype)
    return ops.empty(given.shape, given.dtype if dtype is None else dtype)
