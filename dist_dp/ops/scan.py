"""Running sums and products along an axis.

The gradient of a running product is usually written with a division, which fails where an element is 0. Here it goes
through a linear recurrence instead, s_i = a_i s_(i-1) + b_i, whose derivatives are recurrences again: right for any
number of zeros and for every order. It is computed in log2(n) passes over the whole array (Hillis & Steele, Data
parallel algorithms, CACM 29, 1986), since the maps s -> a s + b compose associatively.

Every row takes a direction, `by`: 1 runs from the first element to the last, -1 back. The transpose of each is the one
that runs the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tape import Array
from ..tensor import Tensor
from .axes import axis_index
from .core import Op, TensorLike, apply, unary
from .views import lifted, reshape

__all__ = ["cumprod", "cumsum"]


def _from_front(x: Array, axis: int, by: int) -> Array:
    """A view with `axis` in front, in the order in which the recurrence meets the elements."""
    x = np.moveaxis(x, axis, 0)
    return x if by > 0 else x[::-1]


def _batch(op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]) -> Any:
    shape = next(x.shape for x, has in zip(inputs, batched, strict=True) if has)
    whole = [x if has else np.broadcast_to(x, shape) for x, has in zip(inputs, batched, strict=True)]
    return apply(op, whole, (params[0] + 1, *params[1:]))


def _delayed(x: Array, axis: int, by: int, fill: float) -> Array:
    out = np.empty(x.shape, x.dtype)
    there, here = _from_front(out, axis, by), _from_front(x, axis, by)
    there[:1] = fill
    there[1:] = here[:-1]
    return out


# Every element one place further; `fill` enters.
delay: Op = Op(
    "delay",
    _delayed,
    params="axis by fill",
    vjp=(lambda g, axis, by: delay.run(g, params=(axis, -by, 0)),),
    jvp=(lambda t, axis, by: delay.run(t, params=(axis, by, 0)),),
    batch=_batch,
)


def _recurred(a: Array, b: Array, axis: int, by: int) -> Array:
    out = b.copy()
    factors, sums = _from_front(a.copy(), axis, by), _from_front(out, axis, by)
    step = 1
    while step < len(sums):
        sums[step:] += factors[step:] * sums[:-step]
        factors[step:] *= factors[:-step]
        step *= 2
    return out


# s_i = a_i s_(i-1) + b_i, from s = 0; the first factor plays no part.
recurrence: Op = Op(
    "recurrence",
    _recurred,
    "a b",
    "axis by",
    vjp=(
        lambda g, a, out, axis, by: (
            recurrence.run(delay.run(a, params=(axis, -by, 0)), g, params=(axis, -by))
            * delay.run(out, params=(axis, by, 0))
        ),
        lambda g, a, axis, by: recurrence.run(delay.run(a, params=(axis, -by, 0)), g, params=(axis, -by)),
    ),
    jvp=(
        lambda t, a, out, axis, by: recurrence.run(
            a, t * delay.run(out, params=(axis, by, 0)), params=(axis, by)
        ),
        lambda t, a, axis, by: recurrence.run(a, t, params=(axis, by)),
    ),
    batch=_batch,
)


def _accumulated(ufunc: np.ufunc, x: Array, axis: int, by: int) -> Array:
    if by > 0:
        out: Array = ufunc.accumulate(x, axis)
        return out
    return np.moveaxis(ufunc.accumulate(_from_front(x, axis, by), 0)[::-1], 0, axis)


_cumsum: Op = Op(
    "cumsum",
    lambda x, axis, by: _accumulated(np.add, x, axis, by),
    params="axis by",
    vjp=(lambda g, axis, by: _cumsum.run(g, params=(axis, -by)),),
    jvp=(lambda t, axis, by: _cumsum.run(t, params=(axis, by)),),
    batch=_batch,
)

cumulative_product: Op = Op(
    "cumprod",
    lambda x, axis, by: _accumulated(np.multiply, x, axis, by),
    params="axis by",
    # s_i = x_i s_(i-1): the tangent obeys t_i' = x_i t'_(i-1) + t_i s_(i-1), and the gradient its transpose.
    vjp=(
        lambda g, x, out, axis, by: (
            delay.run(out, params=(axis, by, 1))
            * recurrence.run(delay.run(x, params=(axis, -by, 0)), g, params=(axis, -by))
        ),
    ),
    jvp=(
        lambda t, x, out, axis, by: recurrence.run(
            x, t * delay.run(out, params=(axis, by, 1)), params=(axis, by)
        ),
    ),
    batch=_batch,
)


def _along(op: Op, x: TensorLike, axis: int | None) -> Tensor:
    x = lifted(x)
    if axis is None:
        return unary(op, reshape(x, -1), (0, 1))
    return unary(op, x, (axis_index(axis, x.ndim), 1))


def cumsum(x: TensorLike, axis: int | None = None) -> Tensor:
    """The running sums x_0, x_0 + x_1, ... along `axis`, or over all elements in C order. The shape of x, or flat.

    Raises:
        ValueError: there is no such axis.

    >>> from dist_dp import ops
    >>> ops.cumsum([[1.0, 2.0], [3.0, 4.0]], axis=0)
    tensor([[1., 2.],
            [4., 6.]])
    """
    return _along(_cumsum, x, axis)


def cumprod(x: TensorLike, axis: int | None = None) -> Tensor:
    """The running products x_0, x_0 x_1, ... along `axis`, or over all elements in C order. The shape of x, or flat.

    Derivatives of every order are right at zeros too, however many there are.

    Raises:
        ValueError: there is no such axis.

    >>> from dist_dp import ops
    >>> ops.cumprod([1.0, 2.0, 3.0])
    tensor([1., 2., 6.])
    """
    return _along(cumulative_product, x, axis)
