"""What the methods of a tensor share: how axes and shapes are given, and pairs of values and indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from ..tape import Array

if TYPE_CHECKING:
    from ..tensor import Tensor

Axis = int | Sequence[int] | None
Self = TypeVar("Self", bound="Base")


class Extremum(NamedTuple):
    """What `x.max(dim=...)`, `x.min(dim=...)`, `x.median(dim=...)`, `x.sort()` and `x.topk()` return, as in torch."""

    values: Tensor
    indices: Tensor


class Base:
    """What `Tensor` brings: it makes an instance of any class of methods an argument of an operation."""

    __slots__ = ()

    if TYPE_CHECKING:
        data: Array

        @property
        def shape(self) -> tuple[int, ...]: ...
        @property
        def dtype(self) -> np.dtype[Any]: ...
        @property
        def ndim(self) -> int: ...
        def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array: ...
        def copy_(self: Self, value: Any) -> Self: ...


def axis_of(who: str, axis: Axis, dim: Axis, default: Axis = None) -> Any:
    """The argument that NumPy calls `axis` and torch `dim`."""
    if dim is None:
        return default if axis is None else axis
    if axis is not None:
        raise TypeError(f"{who}: give either axis or dim, not both")
    return dim


def listed(shape: tuple[Any, ...]) -> Any:
    """The shape or axes of a call f(2, 3) or f((2, 3))."""
    return shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
