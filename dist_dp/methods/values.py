"""Methods that treat every element alike: functions, comparisons, selection, other dtypes, writes in place.

Most are the public functions themselves (`same_as`), which saves a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from .base import Base, listed

if TYPE_CHECKING:
    from .. import ops
    from ..ops.core import TensorLike
    from ..tensor import Tensor

_int: TypeAlias = int  # methods of these names hide the types in the class
_float: TypeAlias = float
_bool: TypeAlias = bool
Self = TypeVar("Self", bound="Values")


class Values(Base):
    """Element by element."""

    __slots__ = ()

    # --- functions of one argument, bound below from their names ---------------------------------------------------

    abs: Callable[[], Tensor]
    exp: Callable[[], Tensor]
    exp2: Callable[[], Tensor]
    expm1: Callable[[], Tensor]
    log: Callable[[], Tensor]
    log2: Callable[[], Tensor]
    log10: Callable[[], Tensor]
    log1p: Callable[[], Tensor]
    sqrt: Callable[[], Tensor]
    rsqrt: Callable[[], Tensor]
    square: Callable[[], Tensor]
    reciprocal: Callable[[], Tensor]
    sin: Callable[[], Tensor]
    cos: Callable[[], Tensor]
    tan: Callable[[], Tensor]
    arcsin: Callable[[], Tensor]
    arccos: Callable[[], Tensor]
    arctan: Callable[[], Tensor]
    sinh: Callable[[], Tensor]
    cosh: Callable[[], Tensor]
    tanh: Callable[[], Tensor]
    arcsinh: Callable[[], Tensor]
    arccosh: Callable[[], Tensor]
    arctanh: Callable[[], Tensor]
    asin: Callable[[], Tensor]
    acos: Callable[[], Tensor]
    atan: Callable[[], Tensor]
    asinh: Callable[[], Tensor]
    acosh: Callable[[], Tensor]
    atanh: Callable[[], Tensor]
    erf: Callable[[], Tensor]
    sigmoid: Callable[[], Tensor]
    relu: Callable[[], Tensor]
    silu: Callable[[], Tensor]
    sign: Callable[[], Tensor]
    floor: Callable[[], Tensor]
    ceil: Callable[[], Tensor]
    trunc: Callable[[], Tensor]
    isnan: Callable[[], Tensor]
    isinf: Callable[[], Tensor]
    isfinite: Callable[[], Tensor]
    neg: Callable[[], Tensor]
    logical_not: Callable[[], Tensor]
    nonzero: Callable[[], tuple[Tensor, ...]]
    ravel: Callable[[], Tensor]
    contiguous: Callable[[], Tensor]

    # --- functions of two arguments, bound below -------------------------------------------------------------------

    add: Callable[[Any], Tensor]
    sub: Callable[[Any], Tensor]
    mul: Callable[[Any], Tensor]
    div: Callable[[Any], Tensor]
    pow: Callable[[Any], Tensor]
    remainder: Callable[[Any], Tensor]
    fmod: Callable[[Any], Tensor]
    floor_divide: Callable[[Any], Tensor]
    hypot: Callable[[Any], Tensor]
    logaddexp: Callable[[Any], Tensor]
    maximum: Callable[[Any], Tensor]
    minimum: Callable[[Any], Tensor]
    arctan2: Callable[[Any], Tensor]
    atan2: Callable[[Any], Tensor]
    eq: Callable[[Any], Tensor]
    ne: Callable[[Any], Tensor]
    lt: Callable[[Any], Tensor]
    le: Callable[[Any], Tensor]
    gt: Callable[[Any], Tensor]
    ge: Callable[[Any], Tensor]
    logical_and: Callable[[Any], Tensor]
    logical_or: Callable[[Any], Tensor]
    logical_xor: Callable[[Any], Tensor]
    matmul: Callable[[Any], Tensor]
    mm: Callable[[Any], Tensor]
    bmm: Callable[[Any], Tensor]
    mv: Callable[[Any], Tensor]
    dot: Callable[[Any], Tensor]
    outer: Callable[[Any], Tensor]

    # --- selection and other arguments --------------------------------------------------------------------------------

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return ops.clip(self, min, max)

    clamp = clip

    def where(self, condition: TensorLike, other: TensorLike) -> Tensor:
        """This tensor where the condition holds, else `other`."""
        return ops.where(condition, self, other)

    def masked_fill(self, mask: TensorLike, value: TensorLike) -> Tensor:
        return ops.masked_fill(self, mask, value)

    def gelu(self, approximate: str = "none") -> Tensor:
        return ops.gelu(self, approximate)

    def round(self, decimals: _int = 0) -> Tensor:
        return ops.round(self, decimals)

    def nan_to_num(
        self, nan: _float = 0.0, posinf: _float | None = None, neginf: _float | None = None
    ) -> Tensor:
        return ops.nan_to_num(self, nan, posinf, neginf)

    def isclose(
        self, other: TensorLike, rtol: _float = 1e-5, atol: _float = 1e-8, equal_nan: _bool = False
    ) -> Tensor:
        return ops.isclose(self, other, rtol, atol, equal_nan)

    def allclose(
        self, other: TensorLike, rtol: _float = 1e-5, atol: _float = 1e-8, equal_nan: _bool = False
    ) -> _bool:
        return bool(ops.allclose(self, other, rtol, atol, equal_nan))

    def equal(self, other: TensorLike) -> _bool:
        """Whether shapes and all elements are equal, as torch's; elementwise is `x == y`."""
        return bool(ops.array_equal(self, other))

    # --- in place: seen by the tape as `x[...] = v` is -------------------------------------------------------------

    def clamp_(self: Self, min: Any = None, max: Any = None) -> Self:
        return self.copy_(ops.clip(self, min, max))

    def masked_fill_(self: Self, mask: TensorLike, value: TensorLike) -> Self:
        return self.copy_(ops.masked_fill(self, mask, value))

    def pow_(self: Self, exponent: Any) -> Self:
        return self.copy_(ops.power(self, exponent))

    def neg_(self: Self) -> Self:
        return self.copy_(ops.negative(self))

    def abs_(self: Self) -> Self:
        return self.copy_(ops.abs(self))

    def exp_(self: Self) -> Self:
        return self.copy_(ops.exp(self))

    def sqrt_(self: Self) -> Self:
        return self.copy_(ops.sqrt(self))

    def relu_(self: Self) -> Self:
        return self.copy_(ops.relu(self))

    # --- dtype -----------------------------------------------------------------------------------------------------

    def astype(self, dtype: DTypeLike, copy: _bool = True) -> Tensor:
        return ops.astype(self, dtype, copy)

    def to(self, dtype: DTypeLike) -> Tensor:
        return ops.astype(self, dtype, False)

    def type(self, dtype: DTypeLike) -> Tensor:
        return ops.astype(self, dtype, False)

    def float(self) -> Tensor:
        return ops.astype(self, np.float32, False)

    def double(self) -> Tensor:
        return ops.astype(self, np.float64, False)

    def half(self) -> Tensor:
        return ops.astype(self, np.float16, False)

    def long(self) -> Tensor:
        return ops.astype(self, np.int64, False)

    def int(self) -> Tensor:
        return ops.astype(self, np.int32, False)

    def bool(self) -> Tensor:
        return ops.astype(self, np.bool_, False)

    def type_as(self, other: Tensor) -> Tensor:
        return ops.astype(self, other.dtype, False)

    def new_zeros(self, *shape: Any) -> Tensor:
        return ops.zeros(listed(shape), self.dtype)

    def new_ones(self, *shape: Any) -> Tensor:
        return ops.ones(listed(shape), self.dtype)

    def new_full(self, shape: _int | Sequence[_int], value: _float) -> Tensor:
        return ops.full(shape, value, self.dtype)

    def new_tensor(self, data: TensorLike) -> Tensor:
        return ops.tensor(data, self.dtype)


_ONE = """
abs exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sin cos tan arcsin arccos arctan sinh cosh tanh
arcsinh arccosh arctanh erf sigmoid relu silu sign floor ceil trunc isnan isinf isfinite logical_not nonzero
ravel contiguous
"""
_TWO = """
add maximum minimum arctan2 remainder fmod floor_divide hypot logaddexp logical_and logical_or logical_xor matmul
dot outer
"""
_RENAMED = {
    "neg": "negative", "sub": "subtract", "mul": "multiply", "div": "divide", "pow": "power", "eq": "equal",
    "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "mm": "matmul",
    "bmm": "matmul", "mv": "matmul", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "atan2": "arctan2",
}  # fmt: skip

# Methods that are a function of `ops`, by its name.
same_as = {**{name: name for name in (_ONE + _TWO).split()}, **_RENAMED}
