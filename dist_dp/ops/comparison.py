"""Comparisons, logic, rounding, and selection between values.

Comparisons, logic and rounding are step functions: their derivative is 0 wherever it exists, so their results carry no
gradient at all. Selection (`where`, `clip`, `masked_fill`, `nan_to_num`) *selects* gradients too: an element that
was not taken receives exactly 0, whatever stands in it, never 0 times an infinite factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..tensor import Tensor
from .core import Op, TensorLike, aligned, apply, real_dtype, same, unary
from .core import astype as _astype
from .elementwise import Function2, abs, function1, function2, masked, one, two
from .views import lifted

__all__ = [
    "allclose",
    "array_equal",
    "astype",
    "bitwise_and",
    "bitwise_not",
    "bitwise_or",
    "bitwise_xor",
    "ceil",
    "clip",
    "contiguous",
    "copy",
    "equal",
    "floor",
    "greater",
    "greater_equal",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "masked_fill",
    "nan_to_num",
    "not_equal",
    "round",
    "sign",
    "signbit",
    "trunc",
    "where",
]

_BOOLEAN = "boolean, without gradient"
_STEP = "the dtype of `x`, without gradient"


# ----- comparisons and logic -----

equal = function2(two("equal", np.equal), "x == y.", _BOOLEAN)
not_equal = function2(two("not_equal", np.not_equal), "x != y.", _BOOLEAN)
less = function2(two("less", np.less), "x < y.", _BOOLEAN)
less_equal = function2(two("less_equal", np.less_equal), "x <= y.", _BOOLEAN)
greater = function2(two("greater", np.greater), "x > y.", _BOOLEAN)
greater_equal = function2(two("greater_equal", np.greater_equal), "x >= y.", _BOOLEAN)
logical_and = function2(two("logical_and", np.logical_and), "Both are not 0.", _BOOLEAN)
logical_or = function2(two("logical_or", np.logical_or), "One at least is not 0.", _BOOLEAN)
logical_xor = function2(two("logical_xor", np.logical_xor), "One is 0 and the other is not.", _BOOLEAN)
logical_not = function1(one("logical_not", np.logical_not), "x is 0.", _BOOLEAN)
isnan = function1(one("isnan", np.isnan), "x is not a number.", _BOOLEAN)
isinf = function1(one("isinf", np.isinf), "x is +inf or -inf.", _BOOLEAN)
isfinite = function1(one("isfinite", np.isfinite), "x is neither infinite nor NaN.", _BOOLEAN)
signbit = function1(one("signbit", np.signbit), "x is negative, or -0.", _BOOLEAN)


def _on_bits(ufunc: np.ufunc) -> Callable[..., Any]:
    def forward(*arrays: Any) -> Any:
        for x in arrays:
            if np.asarray(x).dtype.kind == "f":
                raise TypeError(
                    f"{ufunc.__name__} needs integers or booleans, got {np.asarray(x).dtype}; "
                    "compare first (x > 0) or convert with x.astype('int64')"
                )
        return ufunc(*arrays)

    return forward


def _bitwise(ufunc: np.ufunc, sign: str) -> Function2:
    return function2(
        two(ufunc.__name__, _on_bits(ufunc)),
        f"x {sign} y, bit by bit.",
        "integers or booleans, else TypeError",
    )


bitwise_and = _bitwise(np.bitwise_and, "&")
bitwise_or = _bitwise(np.bitwise_or, "|")
bitwise_xor = _bitwise(np.bitwise_xor, "^")
bitwise_not = function1(
    one("bitwise_not", _on_bits(np.invert)), "~x, bit by bit.", "integers or booleans, else TypeError"
)


def isclose(
    x: TensorLike, y: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """|x - y| <= atol + rtol |y|, elementwise; boolean, without gradient. Equal infinities are close.

    >>> from dist_dp import ops
    >>> ops.isclose([1.0, 2.0], [1.0, 2.1])
    tensor([ True, False])
    """
    x, y = lifted(x).detach(), lifted(y).detach()
    with np.errstate(invalid="ignore"):  # inf - inf
        near = less_equal(abs(x - y), atol + rtol * abs(y))
    near = logical_or(equal(x, y), logical_and(isfinite(y), near))
    return logical_or(near, logical_and(isnan(x), isnan(y))) if equal_nan else near


def allclose(
    x: TensorLike, y: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether `isclose` holds everywhere, as a Python bool.

    >>> from dist_dp import ops
    >>> ops.allclose([1.0, 2.0], [1.0, 2.0 + 1e-6])
    True
    """
    return bool(isclose(x, y, rtol, atol, equal_nan).data.all())


def array_equal(x: TensorLike, y: TensorLike) -> bool:
    """Whether both have one shape and equal elements, as a Python bool.

    >>> from dist_dp import ops
    >>> ops.array_equal([1.0, 2.0], [1.0])
    False
    """
    return bool(np.array_equal(lifted(x).data, lifted(y).data))


# ----- rounding -----

floor = function1(one("floor", np.floor), "The largest integer that is not above x.", _STEP)
ceil = function1(one("ceil", np.ceil), "The smallest integer that is not below x.", _STEP)
trunc = function1(one("trunc", np.trunc), "x without its fraction.", _STEP)
sign = function1(one("sign", np.sign), "-1, 0 or 1 as x is below, at or above 0.", _STEP)

_round = Op("round", lambda x, decimals: np.round(x, decimals), params="decimals", batch=same)


def round(x: TensorLike, decimals: int = 0) -> Tensor:
    """x rounded to `decimals` places, halves to the even neighbour. Elementwise; carries no gradient.

    >>> from dist_dp import ops
    >>> ops.round([0.5, 1.5, 2.6])
    tensor([0., 2., 3.])
    """
    return unary(_round, x, (decimals,))


# ----- selection -----

_where = Op(
    "where",
    np.where,
    "condition x y",
    vjp=(
        None,
        masked,
        lambda g, condition: masked(g, np.logical_not(condition)),
    ),
    jvp=(
        None,
        masked,
        lambda t, condition: masked(t, np.logical_not(condition)),
    ),
    batch=aligned,
    broadcasts=True,
    same_dtype=(1, 2),
)


def where(condition: TensorLike, x: TensorLike, y: TensorLike) -> Tensor:
    """x where `condition` holds, else y; the three broadcast against each other.

    The gradient goes to the one that was taken; the other receives exactly 0 even where its own derivative is
    infinite or NaN, so that `where(x > 0, sqrt(x), 0)` has the gradient 0 at 0.

    >>> from dist_dp import ops
    >>> ops.where([True, False], [1.0, 2.0], 0.0)
    tensor([1., 0.])
    """
    if isinstance(condition, Tensor) and condition.dtype.kind == "f":
        condition = condition.detach()
    out: Tensor = apply(_where, (condition, x, y))
    return out


def _inside(g: Any, x: Any, low: Any, high: Any) -> Any:
    # On a bound the gradient is 1: a parameter that starts on it can leave it.
    if low is not None:
        g = masked(g, x >= low)
    return g if high is None else masked(g, x <= high)


_clip = Op(
    "clip",
    lambda x, low, high: x.clip(low, high),
    params="low high",
    vjp=(_inside,),
    jvp=(_inside,),
    batch=same,
)


def clip(x: TensorLike, min: TensorLike | None = None, max: TensorLike | None = None) -> Tensor:
    """x, but not below `min` nor above `max` (which wins where they cross); None for no bound. Elementwise.

    The gradient of x is 1 inside and on the bounds and 0 outside; a bound that is a tensor receives the gradient of
    the elements it replaced. NaN stays NaN.

    >>> from dist_dp import ops
    >>> ops.clip([-2.0, 0.5, 3.0], -1.0, 1.0)
    tensor([-1. ,  0.5,  1. ])
    """
    if isinstance(min, (int, float, type(None))) and isinstance(max, (int, float, type(None))):
        return unary(_clip, x, (min, max))
    x = lifted(x)
    if min is not None:
        x = where(less(x, min), min, x)
    return x if max is None else where(greater(x, max), max, x)


def masked_fill(x: TensorLike, mask: TensorLike, value: TensorLike) -> Tensor:
    """`value` where `mask` holds, else x; the three broadcast. Where the mask holds, x receives no gradient.

    Raises:
        TypeError: `mask` is not boolean.

    >>> from dist_dp import ops
    >>> ops.masked_fill([1.0, 2.0], [False, True], -1.0)
    tensor([ 1., -1.])
    """
    mask = lifted(mask)
    if mask.dtype != np.bool_:
        raise TypeError(f"`mask` of masked_fill must be boolean, got {mask.dtype}; write mask != 0")
    return where(mask, value, x)


_nan_to_num = Op(
    "nan_to_num",
    lambda x, nan, posinf, neginf: np.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf),
    params="nan posinf neginf",
    vjp=(lambda g, x: masked(g, np.isfinite(x)),),
    jvp=(lambda t, x: masked(t, np.isfinite(x)),),
    batch=same,
)


def nan_to_num(
    x: TensorLike, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """x with NaN and the infinities replaced (by default 0 and the largest and smallest finite numbers). Elementwise.

    Replaced elements receive no gradient.

    >>> from dist_dp import ops
    >>> ops.nan_to_num([1.0, float("nan")])
    tensor([1., 0.])
    """
    return unary(_nan_to_num, x, (nan, posinf, neginf))


# ----- copies -----

_copy = Op("copy", lambda x: np.array(x, order="C"), vjp=(lambda g: g,), jvp=(lambda t: t,), batch=same)


def copy(x: TensorLike) -> Tensor:
    """A tensor of the same values in memory of its own; gradients flow through it.

    >>> from dist_dp import ops
    >>> ops.copy([1.0, 2.0])
    tensor([1., 2.])
    """
    return unary(_copy, x)


_contiguous = Op(
    "contiguous", lambda x: np.asarray(x, order="C"), vjp=(lambda g: g,), jvp=(lambda t: t,), batch=same
)


def contiguous(x: TensorLike) -> Tensor:
    """The same values in row-major memory: that of x if it is so already, else a copy. Gradients flow through it.

    >>> from dist_dp import ops
    >>> ops.contiguous(ops.transpose([[1.0, 2.0], [3.0, 4.0]])).data.flags.c_contiguous
    True
    """
    return unary(_contiguous, x)


def astype(x: TensorLike, dtype: DTypeLike, copy: bool = True) -> Tensor:
    """x converted to `dtype`; the gradient is converted back. Integers and booleans carry none.

    Args:
        x: any shape.
        dtype: a real dtype: floating, integer or boolean.
        copy: with False, x itself is returned if it has the dtype already.

    Raises:
        TypeError: `dtype` is of another kind, such as complex or object.

    >>> from dist_dp import ops
    >>> ops.astype([1.7, -1.7], "int64")
    tensor([ 1, -1])
    """
    x, dtype = lifted(x), real_dtype(dtype)
    if x.dtype == dtype:
        return unary(_copy, x) if copy else x
    out: Tensor = apply(_astype, (x,), (dtype, x.dtype))
    return out
