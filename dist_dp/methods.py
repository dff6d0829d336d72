"""The named methods of a tensor: one-line calls into `ops/`.

torch's names and NumPy's; `dim`/`keepdim` and `axis`/`keepdims` mean the same. Where torch and NumPy disagree about a
value, a method does what an ndarray's does (`std` and `var` divide by n, `repeat` repeats elements), except that the
keyword `dim` of `max` and `min` asks for torch's pair of values and indices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

if TYPE_CHECKING:
    from .tensor import Tensor, TensorLike

Axis = int | Sequence[int] | None
_int, _float, _bool = int, float, bool  # methods of the same names hide them in the class
Self = TypeVar("Self", bound="Methods")


class Extremum(NamedTuple):
    """What `x.max(dim=...)`, `x.min(dim=...)`, `x.sort()` and `x.topk()` return, as in torch."""

    values: Tensor
    indices: Tensor


def _axis(who: str, axis: Axis, dim: Axis) -> Axis:
    if dim is None:
        return axis
    if axis is not None:
        raise TypeError(f"{who}: give either axis or dim, not both")
    return dim


def _listed(shape: tuple[Any, ...]) -> Any:
    """The shape or axes of a call f(2, 3) or f((2, 3))."""
    return shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape


class Methods:
    """Base of `Tensor`: everything that has a name and is not stored."""

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

    # --- functions of two arguments, bound below -------------------------------------------------------------------

    add: Callable[[Any], Tensor]
    sub: Callable[[Any], Tensor]
    mul: Callable[[Any], Tensor]
    div: Callable[[Any], Tensor]
    pow: Callable[[Any], Tensor]
    remainder: Callable[[Any], Tensor]
    maximum: Callable[[Any], Tensor]
    minimum: Callable[[Any], Tensor]
    arctan2: Callable[[Any], Tensor]
    eq: Callable[[Any], Tensor]
    ne: Callable[[Any], Tensor]
    lt: Callable[[Any], Tensor]
    le: Callable[[Any], Tensor]
    gt: Callable[[Any], Tensor]
    ge: Callable[[Any], Tensor]
    logical_and: Callable[[Any], Tensor]
    logical_or: Callable[[Any], Tensor]
    matmul: Callable[[Any], Tensor]
    mm: Callable[[Any], Tensor]
    bmm: Callable[[Any], Tensor]
    mv: Callable[[Any], Tensor]
    dot: Callable[[Any], Tensor]
    outer: Callable[[Any], Tensor]

    # --- reductions ------------------------------------------------------------------------------------------------

    def sum(
        self,
        axis: Axis = None,
        keepdims: _bool = False,
        *,
        dim: Axis = None,
        keepdim: _bool = False,
        **unsupported: Any,
    ) -> Tensor:
        if dim is not None or unsupported:
            axis = _only_none("sum", unsupported, _axis("sum", axis, dim))
        return ops.sum(self, axis, keepdims or keepdim)

    def mean(
        self,
        axis: Axis = None,
        keepdims: _bool = False,
        *,
        dim: Axis = None,
        keepdim: _bool = False,
        **unsupported: Any,
    ) -> Tensor:
        if dim is not None or unsupported:
            axis = _only_none("mean", unsupported, _axis("mean", axis, dim))
        return ops.mean(self, axis, keepdims or keepdim)

    def prod(
        self, axis: Axis = None, keepdims: _bool = False, *, dim: Axis = None, keepdim: _bool = False
    ) -> Tensor:
        return ops.prod(self, _axis("prod", axis, dim), keepdims or keepdim)

    def var(
        self,
        axis: Axis = None,
        ddof: _float = 0,
        keepdims: _bool = False,
        *,
        dim: Axis = None,
        keepdim: _bool = False,
        correction: _float | None = None,
        unbiased: _bool | None = None,
    ) -> Tensor:
        """The variance; divides by n less `ddof` (`correction`; `unbiased=True` is 1). The default is NumPy's 0."""
        ddof = _ddof("var", ddof, correction, unbiased)
        return ops.var(self, _axis("var", axis, dim), ddof, keepdims or keepdim)

    def std(
        self,
        axis: Axis = None,
        ddof: _float = 0,
        keepdims: _bool = False,
        *,
        dim: Axis = None,
        keepdim: _bool = False,
        correction: _float | None = None,
        unbiased: _bool | None = None,
    ) -> Tensor:
        """The standard deviation; see `var`."""
        ddof = _ddof("std", ddof, correction, unbiased)
        return ops.std(self, _axis("std", axis, dim), ddof, keepdims or keepdim)

    def max(
        self, axis: Axis = None, keepdims: _bool = False, *, dim: _int | None = None, keepdim: _bool = False
    ) -> Any:
        """The maximum; with `dim=`, torch's pair (values, indices)."""
        if dim is None:
            return ops.max(self, axis, keepdims or keepdim)
        return _extremum(self, "max", axis, dim, keepdims or keepdim)

    def min(
        self, axis: Axis = None, keepdims: _bool = False, *, dim: _int | None = None, keepdim: _bool = False
    ) -> Any:
        """The minimum; with `dim=`, torch's pair (values, indices)."""
        if dim is None:
            return ops.min(self, axis, keepdims or keepdim)
        return _extremum(self, "min", axis, dim, keepdims or keepdim)

    def amax(
        self, axis: Axis = None, keepdims: _bool = False, *, dim: Axis = None, keepdim: _bool = False
    ) -> Tensor:
        return ops.amax(self, _axis("amax", axis, dim), keepdims or keepdim)

    def amin(
        self, axis: Axis = None, keepdims: _bool = False, *, dim: Axis = None, keepdim: _bool = False
    ) -> Tensor:
        return ops.amin(self, _axis("amin", axis, dim), keepdims or keepdim)

    def argmax(
        self,
        axis: _int | None = None,
        keepdims: _bool = False,
        *,
        dim: _int | None = None,
        keepdim: _bool = False,
    ) -> Tensor:
        return ops.argmax(self, _axis("argmax", axis, dim), keepdims or keepdim)

    def argmin(
        self,
        axis: _int | None = None,
        keepdims: _bool = False,
        *,
        dim: _int | None = None,
        keepdim: _bool = False,
    ) -> Tensor:
        return ops.argmin(self, _axis("argmin", axis, dim), keepdims or keepdim)

    def any(
        self, axis: Axis = None, keepdims: _bool = False, *, dim: Axis = None, keepdim: _bool = False
    ) -> Tensor:
        return ops.any(self, _axis("any", axis, dim), keepdims or keepdim)

    def all(
        self, axis: Axis = None, keepdims: _bool = False, *, dim: Axis = None, keepdim: _bool = False
    ) -> Tensor:
        return ops.all(self, _axis("all", axis, dim), keepdims or keepdim)

    def logsumexp(
        self, axis: Axis = None, keepdims: _bool = False, *, dim: Axis = None, keepdim: _bool = False
    ) -> Tensor:
        return ops.logsumexp(self, _axis("logsumexp", axis, dim), keepdims or keepdim)

    def norm(
        self,
        p: _float = 2,
        axis: Axis = None,
        keepdims: _bool = False,
        *,
        dim: Axis = None,
        keepdim: _bool = False,
    ) -> Tensor:
        """The p-norm of the elements, over all axes or some: (sum |x|^p)^(1/p)."""
        return ops.norm(self, p, _axis("norm", axis, dim), keepdims or keepdim)

    def median(
        self, axis: Axis = None, keepdims: _bool = False, *, dim: Axis = None, keepdim: _bool = False
    ) -> Tensor:
        return ops.median(self, _axis("median", axis, dim), keepdims or keepdim)

    def cumsum(self, axis: _int | None = None, *, dim: _int | None = None) -> Tensor:
        return ops.cumsum(self, _axis("cumsum", axis, dim))

    def cumprod(self, axis: _int | None = None, *, dim: _int | None = None) -> Tensor:
        return ops.cumprod(self, _axis("cumprod", axis, dim))

    def softmax(self, dim: _int = -1) -> Tensor:
        return ops.softmax(self, dim)

    def log_softmax(self, dim: _int = -1) -> Tensor:
        return ops.log_softmax(self, dim)

    # --- shape -----------------------------------------------------------------------------------------------------

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, *shape)

    def view(self, *shape: Any) -> Tensor:
        return ops.reshape(self, *shape)

    def flatten(self, start_dim: _int = 0, end_dim: _int = -1) -> Tensor:
        return ops.flatten(self, start_dim, end_dim)

    def transpose(self, *axes: Any) -> Tensor:
        """Two integers swap these axes (torch); otherwise the axes in their new order, reversed by default (NumPy)."""
        if len(axes) == 2 and all_ints(axes):
            return ops.swapaxes(self, *axes)
        return ops.transpose(self, _listed(axes) if axes else None)

    def permute(self, *dims: Any) -> Tensor:
        return ops.permute(self, *dims)

    @property
    def T(self) -> Tensor:
        return ops.transpose(self)

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        return ops.swapaxes(self, -1, -2)

    def t(self) -> Tensor:
        return ops.transpose(self)

    def swapaxes(self, axis1: _int, axis2: _int) -> Tensor:
        return ops.swapaxes(self, axis1, axis2)

    def moveaxis(self, source: Any, destination: Any) -> Tensor:
        return ops.moveaxis(self, source, destination)

    def squeeze(self, axis: Axis = None, *, dim: Axis = None) -> Tensor:
        return ops.squeeze(self, _axis("squeeze", axis, dim))

    def unsqueeze(self, dim: _int) -> Tensor:
        return ops.expand_dims(self, dim)

    def expand(self, *shape: Any) -> Tensor:
        """Broadcast to `shape`; -1 keeps the length of an axis."""
        wanted = tuple(_listed(shape))
        own: tuple[_int, ...] = (1,) * (len(wanted) - self.ndim) + self.shape  # type: ignore[attr-defined]
        return ops.broadcast_to(self, tuple(n if w == -1 else w for n, w in zip(own, wanted, strict=True)))

    def expand_as(self, other: Tensor) -> Tensor:
        return ops.broadcast_to(self, other.shape)

    def broadcast_to(self, *shape: Any) -> Tensor:
        return ops.broadcast_to(self, tuple(_listed(shape)))

    def repeat(self, repeats: _int | Sequence[_int], axis: _int | None = None) -> Tensor:
        """Repeat each element, as NumPy's `repeat` (torch's `repeat_interleave`; torch's `repeat` is `tile`)."""
        return ops.repeat(self, repeats, axis)

    def repeat_interleave(self, repeats: _int | Sequence[_int], dim: _int | None = None) -> Tensor:
        return ops.repeat(self, repeats, dim)

    def tile(self, *reps: Any) -> Tensor:
        return ops.tile(self, _listed(reps))

    def flip(self, *dims: Any) -> Tensor:
        return ops.flip(self, _listed(dims) if dims else None)

    def roll(self, shifts: Any, dims: Any = None) -> Tensor:
        return ops.roll(self, shifts, dims)

    def split(self, split_size: _int | Sequence[_int], dim: _int = 0) -> tuple[Tensor, ...]:
        """Pieces of `split_size` along `dim` (the last may be shorter), or of the sizes listed; as torch's."""
        sizes = split_size if isinstance(split_size, int) else list(split_size)
        length = self.shape[dim]  # type: ignore[attr-defined]
        if isinstance(sizes, int):
            if sizes < 1:
                raise ValueError(f"split_size must be at least 1, got {sizes}")
            borders = list(range(sizes, length, sizes))
        else:
            if sum_of(sizes) != length:
                raise ValueError(f"split_size must add up to the length {length} of axis {dim}, got {sizes}")
            borders = np.cumsum(sizes[:-1], dtype=int).tolist()
        return tuple(ops.split(self, borders, dim))

    def chunk(self, chunks: _int, dim: _int = 0) -> tuple[Tensor, ...]:
        return tuple(ops.chunk(self, chunks, dim))

    def diagonal(self, offset: _int = 0, dim1: _int = 0, dim2: _int = 1) -> Tensor:
        return ops.diagonal(self, offset, dim1, dim2)

    def trace(self) -> Tensor:
        return ops.trace(self)

    def tril(self, k: _int = 0) -> Tensor:
        return ops.tril(self, k)

    def triu(self, k: _int = 0) -> Tensor:
        return ops.triu(self, k)

    def unfold(self, dim: _int, size: _int, step: _int = 1) -> Tensor:
        return ops.unfold(self, dim, size, step)

    # --- selection -------------------------------------------------------------------------------------------------

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return ops.clip(self, min, max)

    clamp = clip

    def where(self, condition: TensorLike, other: TensorLike) -> Tensor:
        """This tensor where the condition holds, else `other`."""
        return ops.where(condition, self, other)

    def masked_fill(self, mask: TensorLike, value: TensorLike) -> Tensor:
        return ops.masked_fill(self, mask, value)

    def gather(self, dim: _int, index: TensorLike) -> Tensor:
        return ops.gather(self, dim, index)

    def scatter_add(self, dim: _int, index: TensorLike, src: TensorLike) -> Tensor:
        return ops.scatter_add(self, dim, index, src)

    def index_select(self, dim: _int, index: TensorLike) -> Tensor:
        return ops.index_select(self, dim, index)

    def take(self, indices: TensorLike, axis: _int | None = None) -> Tensor:
        return ops.take(self, indices, axis)

    def take_along_axis(self, indices: TensorLike, axis: _int | None = -1) -> Tensor:
        return ops.take_along_axis(self, indices, axis)

    def sort(self, dim: _int = -1, descending: _bool = False) -> Extremum:
        """A sorted copy and where its elements came from, as torch's."""
        indices = ops.argsort(self, dim, descending)
        return Extremum(ops.take_along_axis(self, indices, dim), indices)

    def argsort(self, axis: _int = -1, descending: _bool = False, *, dim: _int | None = None) -> Tensor:
        return ops.argsort(self, axis if dim is None else dim, descending)

    def topk(self, k: _int, dim: _int = -1, largest: _bool = True) -> Extremum:
        return ops.topk(self, k, dim, largest)

    def gelu(self, approximate: str = "none") -> Tensor:
        return ops.gelu(self, approximate)

    def round(self, decimals: _int = 0) -> Tensor:
        return ops.round(self, decimals)

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

    def contiguous(self) -> Tensor:
        """This tensor, or a copy of it in row-major order where it is not."""
        return self if self.data.flags.c_contiguous else ops.copy(self)  # type: ignore[attr-defined,return-value]


def _only_none(who: str, given: dict[str, Any], axis: Axis) -> Axis:
    """`axis`, if the NumPy options `given` (out=None, dtype=None) are all None."""
    for name, value in given.items():
        if value is not None:
            raise TypeError(f"{who}: {name}= is not supported on a tensor")
    return axis


def _ddof(who: str, ddof: float, correction: float | None, unbiased: bool | None) -> float:
    if correction is not None and unbiased is not None:
        raise TypeError(f"{who}: give either correction or unbiased, not both")
    if unbiased is not None:
        return float(unbiased)
    return ddof if correction is None else correction


def _extremum(x: Any, name: str, axis: Axis, dim: int, keepdims: bool) -> Extremum:
    _axis(name, axis, dim)
    indices = getattr(ops, f"arg{name}")(x, dim, True)
    values = ops.take_along_axis(x, indices, dim)
    return Extremum(
        *((values, indices) if keepdims else (ops.squeeze(values, dim), ops.squeeze(indices, dim)))
    )


def all_ints(values: Sequence[Any]) -> bool:
    return len(values) == sum_of([isinstance(v, int) for v in values])


def sum_of(values: Sequence[Any]) -> Any:
    """The built-in sum, which the class body hides."""
    return sum(values)


_ONE = """
abs exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sin cos tan arcsin arccos arctan sinh cosh tanh
arcsinh arccosh arctanh erf sigmoid relu silu sign floor ceil trunc isnan isinf isfinite logical_not nonzero ravel
"""
_TWO = "add maximum minimum arctan2 remainder logical_and logical_or matmul dot outer"
_RENAMED = {
    "neg": "negative", "sub": "subtract", "mul": "multiply", "div": "divide", "pow": "power", "eq": "equal",
    "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "mm": "matmul",
    "bmm": "matmul", "mv": "matmul",
}  # fmt: skip


def bind(namespace: Any) -> None:
    """Give `Methods` the operations it calls, once they are there (they make tensors, which have these methods)."""
    global ops
    ops = namespace
    for name in [*_ONE.split(), *_TWO.split(), *_RENAMED]:
        setattr(Methods, name, getattr(namespace, _RENAMED.get(name, name)))


ops: Any
