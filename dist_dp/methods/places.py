"""Methods that reduce over axes, run along one, or look elements up by their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import DTypeLike

from .base import Axis, Base, Extremum, axis_of

if TYPE_CHECKING:
    from .. import ops
    from ..ops.core import TensorLike
    from ..tensor import Tensor


class Places(Base):
    """Along axes."""

    __slots__ = ()

    # --- reductions ------------------------------------------------------------------------------------------------

    def sum(
        self,
        axis: Axis = None,
        keepdims: bool = False,
        *,
        dim: Axis = None,
        keepdim: bool = False,
        dtype: DTypeLike | None = None,
    ) -> Tensor:
        if dim is not None:
            axis = axis_of("sum", axis, dim)
        return ops.sum(self, axis, keepdims or keepdim, dtype=dtype)

    def mean(
        self,
        axis: Axis = None,
        keepdims: bool = False,
        *,
        dim: Axis = None,
        keepdim: bool = False,
        dtype: DTypeLike | None = None,
    ) -> Tensor:
        if dim is not None:
            axis = axis_of("mean", axis, dim)
        return ops.mean(self, axis, keepdims or keepdim, dtype=dtype)

    def prod(
        self,
        axis: Axis = None,
        keepdims: bool = False,
        *,
        dim: Axis = None,
        keepdim: bool = False,
        dtype: DTypeLike | None = None,
    ) -> Tensor:
        return ops.prod(self, axis_of("prod", axis, dim), keepdims or keepdim, dtype=dtype)

    def var(
        self,
        axis: Axis = None,
        ddof: float = 0,
        keepdims: bool = False,
        *,
        dim: Axis = None,
        keepdim: bool = False,
        correction: float | None = None,
        unbiased: bool | None = None,
    ) -> Tensor:
        """The variance; divides by n less `ddof` (`correction`; `unbiased=True` is 1). The default is NumPy's 0."""
        if correction is not None or unbiased is not None:
            ddof = _ddof("var", ddof, correction, unbiased)
        return ops.var(self, axis if dim is None else axis_of("var", axis, dim), ddof, keepdims or keepdim)

    def std(
        self,
        axis: Axis = None,
        ddof: float = 0,
        keepdims: bool = False,
        *,
        dim: Axis = None,
        keepdim: bool = False,
        correction: float | None = None,
        unbiased: bool | None = None,
    ) -> Tensor:
        """The standard deviation; see `var`."""
        if correction is not None or unbiased is not None:
            ddof = _ddof("std", ddof, correction, unbiased)
        return ops.std(self, axis if dim is None else axis_of("std", axis, dim), ddof, keepdims or keepdim)

    def max(
        self, axis: Axis = None, keepdims: bool = False, *, dim: int | None = None, keepdim: bool = False
    ) -> Any:
        """The maximum; with `dim=`, torch's pair (values, indices)."""
        if dim is None:
            return ops.max(self, axis, keepdims or keepdim)
        return _extremum(self, "max", axis, dim, keepdims or keepdim)

    def min(
        self, axis: Axis = None, keepdims: bool = False, *, dim: int | None = None, keepdim: bool = False
    ) -> Any:
        """The minimum; with `dim=`, torch's pair (values, indices)."""
        if dim is None:
            return ops.min(self, axis, keepdims or keepdim)
        return _extremum(self, "min", axis, dim, keepdims or keepdim)

    def amax(
        self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
    ) -> Tensor:
        return ops.amax(self, axis_of("amax", axis, dim), keepdims or keepdim)

    def amin(
        self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
    ) -> Tensor:
        return ops.amin(self, axis_of("amin", axis, dim), keepdims or keepdim)

    def argmax(
        self,
        axis: int | None = None,
        keepdims: bool = False,
        *,
        dim: int | None = None,
        keepdim: bool = False,
    ) -> Tensor:
        return ops.argmax(self, axis_of("argmax", axis, dim), keepdims or keepdim)

    def argmin(
        self,
        axis: int | None = None,
        keepdims: bool = False,
        *,
        dim: int | None = None,
        keepdim: bool = False,
    ) -> Tensor:
        return ops.argmin(self, axis_of("argmin", axis, dim), keepdims or keepdim)

    def any(
        self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
    ) -> Tensor:
        return ops.any(self, axis_of("any", axis, dim), keepdims or keepdim)

    def all(
        self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
    ) -> Tensor:
        return ops.all(self, axis_of("all", axis, dim), keepdims or keepdim)

    def logsumexp(
        self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
    ) -> Tensor:
        return ops.logsumexp(self, axis_of("logsumexp", axis, dim), keepdims or keepdim)

    def norm(
        self,
        p: float = 2,
        axis: Axis = None,
        keepdims: bool = False,
        *,
        dim: Axis = None,
        keepdim: bool = False,
    ) -> Tensor:
        """The p-norm of the elements, over all axes or some: (sum |x|^p)^(1/p)."""
        return ops.norm(self, p, axis_of("norm", axis, dim), keepdims or keepdim)

    def ptp(
        self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
    ) -> Tensor:
        return ops.ptp(self, axis_of("ptp", axis, dim), keepdims or keepdim)

    def count_nonzero(
        self, axis: Axis = None, keepdims: bool = False, *, dim: Axis = None, keepdim: bool = False
    ) -> Tensor:
        return ops.count_nonzero(self, axis_of("count_nonzero", axis, dim), keepdims or keepdim)

    def median(
        self, axis: Axis = None, keepdims: bool = False, *, dim: int | None = None, keepdim: bool = False
    ) -> Any:
        """NumPy's median; with `dim=`, torch's: the lower of two middle elements and its index."""
        if dim is None:
            return ops.median(self, axis, keepdims or keepdim)
        axis_of("median", axis, dim)
        n = self.shape[dim]
        order = ops.argsort(self, dim)
        middle, last = ops.take(order, [(n - 1) // 2], dim), ops.take(order, [n - 1], dim)
        missing = ops.isnan(ops.take_along_axis(self, last, dim))  # NaN sorts last
        return _at(self, ops.where(missing, last, middle), dim, keepdims or keepdim)

    def cumsum(self, axis: int | None = None, *, dim: int | None = None) -> Tensor:
        return ops.cumsum(self, axis_of("cumsum", axis, dim))

    def cumprod(self, axis: int | None = None, *, dim: int | None = None) -> Tensor:
        return ops.cumprod(self, axis_of("cumprod", axis, dim))

    def softmax(self, axis: int | None = None, *, dim: int | None = None) -> Tensor:
        return ops.softmax(self, axis_of("softmax", axis, dim, -1))

    def log_softmax(self, axis: int | None = None, *, dim: int | None = None) -> Tensor:
        return ops.log_softmax(self, axis_of("log_softmax", axis, dim, -1))

    # --- elements by their places --------------------------------------------------------------------------------

    def gather(self, dim: int, index: TensorLike) -> Tensor:
        return ops.gather(self, dim, index)

    def scatter_add(self, dim: int, index: TensorLike, src: TensorLike) -> Tensor:
        return ops.scatter_add(self, dim, index, src)

    def index_select(self, dim: int, index: TensorLike) -> Tensor:
        return ops.index_select(self, dim, index)

    def take(self, indices: TensorLike, axis: int | None = None, *, dim: int | None = None) -> Tensor:
        return ops.take(self, indices, axis_of("take", axis, dim))

    def take_along_axis(self, indices: TensorLike, axis: int | None = -1) -> Tensor:
        return ops.take_along_axis(self, indices, axis)

    def sort(self, axis: int | None = None, descending: bool = False, *, dim: int | None = None) -> Extremum:
        """A copy sorted along the last axis or another, and where its elements came from, as torch's."""
        along = axis_of("sort", axis, dim, -1)
        indices = ops.argsort(self, along, descending)
        return Extremum(ops.take_along_axis(self, indices, along), indices)

    def argsort(self, axis: int | None = None, descending: bool = False, *, dim: int | None = None) -> Tensor:
        return ops.argsort(self, axis_of("argsort", axis, dim, -1), descending)

    def topk(
        self, k: int, axis: int | None = None, largest: bool = True, *, dim: int | None = None
    ) -> Extremum:
        return ops.topk(self, k, axis_of("topk", axis, dim, -1), largest)


def _ddof(who: str, ddof: float, correction: float | None, unbiased: bool | None) -> float:
    if correction is not None and unbiased is not None:
        raise TypeError(f"{who}: give either correction or unbiased, not both")
    if unbiased is not None:
        return float(unbiased)
    return ddof if correction is None else correction


def _extremum(x: Any, name: str, axis: Axis, dim: int, keepdims: bool) -> Extremum:
    axis_of(name, axis, dim)
    return _at(x, getattr(ops, f"arg{name}")(x, dim, True), dim, keepdims)


def _at(x: Any, indices: Tensor, dim: int, keepdims: bool) -> Extremum:
    """The elements at one index along `dim`, and the index."""
    values = ops.take_along_axis(x, indices, dim)
    return Extremum(
        *((values, indices) if keepdims else (ops.squeeze(values, dim), ops.squeeze(indices, dim)))
    )
