"""Making tensors: from data, filled, counted, spaced.

What is given as Python floats, or without a dtype at all, becomes float32; arrays keep theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..arguments import check_number
from ..random import integer_argument
from ..tensor import Tensor
from .core import TensorLike, as_array, real_dtype

__all__ = [
    "arange",
    "as_tensor",
    "empty",
    "eye",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "tensor",
    "zeros",
    "zeros_like",
]

Shape = int | Sequence[int]


def _array(data: TensorLike, dtype: DTypeLike | None) -> Any:
    if isinstance(data, Tensor):
        data = data.data
    elif isinstance(data, (list, tuple)) and any(isinstance(v, Tensor) for v in data):
        raise TypeError(
            "data is a list of tensors, whose gradients a new tensor would drop; use stack or concatenate"
        )
    array = as_array(data, "data")
    if dtype is None:
        return array
    # What is no array goes straight to the dtype asked for: float64 must not pass through float32.
    return np.asarray(array if isinstance(data, np.ndarray) else data, real_dtype(dtype))


def _sides(shape: Shape) -> tuple[int, ...]:
    sides = shape if isinstance(shape, (tuple, list)) else (shape,)
    return tuple([integer_argument("shape", n, least=0, expected="an int or a tuple of ints") for n in sides])


def tensor(data: TensorLike, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data`: an array, a number, or nested lists of numbers.

    Raises:
        TypeError: data that is not of real numbers or booleans; `requires_grad` for integers or booleans.

    >>> import dist_dp as dp
    >>> dp.tensor([[1, 2], [3, 4]]), dp.tensor(0.5, requires_grad=True)
    (tensor([[1, 2],
            [3, 4]]), tensor(0.5, requires_grad=True))
    """
    return Tensor(np.array(_array(data, dtype)), requires_grad=requires_grad)


def as_tensor(data: TensorLike, dtype: DTypeLike | None = None) -> Tensor:
    """`data` as a tensor; memory is shared where nothing needs to be converted, and a tensor keeps its gradient.

    >>> import numpy as np, dist_dp as dp
    >>> a = np.zeros(2)
    >>> dp.as_tensor(a).numpy() is a
    True
    """
    if isinstance(data, Tensor):
        return data if dtype is None else data.astype(dtype, copy=False)
    return Tensor(_array(data, dtype))


def zeros(shape: Shape, dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    return Tensor(np.zeros(_sides(shape), real_dtype(dtype)), requires_grad=requires_grad)


def ones(shape: Shape, dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    return Tensor(np.ones(_sides(shape), real_dtype(dtype)), requires_grad=requires_grad)


def full(shape: Shape, value: float, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor with `value` everywhere; without a dtype, the value's."""
    filling = as_array(value, "value")
    kind = filling.dtype if dtype is None else real_dtype(dtype)
    return Tensor(np.full(_sides(shape), value, kind), requires_grad=requires_grad)


def empty(shape: Shape, dtype: DTypeLike = np.float32, requires_grad: bool = False) -> Tensor:
    """A tensor whose values are whatever was in memory."""
    return Tensor(np.empty(_sides(shape), real_dtype(dtype)), requires_grad=requires_grad)


def eye(n: int, m: int | None = None, k: int = 0, dtype: DTypeLike = np.float32) -> Tensor:
    """(n, m or n): ones on diagonal `k`, zeros elsewhere."""
    rows = integer_argument("n", n, least=0)
    columns = rows if m is None else integer_argument("m", m, least=0)
    return Tensor(np.eye(rows, columns, integer_argument("k", k), real_dtype(dtype)))


def arange(
    start: float, stop: float | None = None, step: float = 1, dtype: DTypeLike | None = None
) -> Tensor:
    """start, start + step, ... below `stop`; with one argument, 0, 1, ... below it. int64 for integers, else float32.

    >>> from dist_dp import ops
    >>> ops.arange(1, 2, 0.25)
    tensor([1.  , 1.25, 1.5 , 1.75])
    """
    for name, value in (("start", start), ("stop", start if stop is None else stop), ("step", step)):
        check_number(value, name)
    if step == 0:
        raise ValueError("step must not be 0, got 0")
    values: tuple[Any, ...] = (0, start, step) if stop is None else (start, stop, step)
    if dtype is None and any(isinstance(v, float) for v in values):
        dtype = np.float32
    return Tensor(np.arange(*values, dtype=dtype))


def linspace(
    start: float, stop: float, num: int = 50, endpoint: bool = True, dtype: DTypeLike = np.float32
) -> Tensor:
    """`num` evenly spaced values from `start` to `stop`, which is the last if `endpoint`."""
    check_number(start, "start")
    check_number(stop, "stop")
    num = integer_argument("num", num, least=0)
    return Tensor(np.linspace(start, stop, num, endpoint, dtype=real_dtype(dtype)))


def _like(x: TensorLike, dtype: DTypeLike | None) -> tuple[tuple[int, ...], Any]:
    array = x if isinstance(x, Tensor) else as_array(x)
    return array.shape, array.dtype if dtype is None else real_dtype(dtype)


def zeros_like(x: TensorLike, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape and dtype of `x`."""
    return Tensor(np.zeros(*_like(x, dtype)), requires_grad=requires_grad)


def ones_like(x: TensorLike, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Ones with the shape and dtype of `x`."""
    return Tensor(np.ones(*_like(x, dtype)), requires_grad=requires_grad)


def full_like(
    x: TensorLike, value: float, dtype: DTypeLike | None = None, requires_grad: bool = False
) -> Tensor:
    """`value` everywhere, with the shape and dtype of `x`."""
    shape, dtype = _like(x, dtype)
    return Tensor(np.full(shape, value, dtype), requires_grad=requires_grad)
