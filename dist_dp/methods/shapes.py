"""Methods that give the same elements another shape or order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Axis, Base, axis_of, listed

if TYPE_CHECKING:
    from .. import ops
    from ..tensor import Tensor


class Shapes(Base):
    """The same elements."""

    __slots__ = ()

    # --- shape -----------------------------------------------------------------------------------------------------

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, *shape)

    def view(self, *shape: Any) -> Tensor:
        return ops.reshape(self, *shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        return ops.flatten(self, start_dim, end_dim)

    def transpose(self, *axes: Any) -> Tensor:
        """Two integers swap these axes (torch); otherwise the axes in their new order, reversed by default (NumPy)."""
        if len(axes) == 2 and all(isinstance(a, int) for a in axes):
            return ops.swapaxes(self, *axes)
        return ops.transpose(self, listed(axes) if axes else None)

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

    def swapaxes(self, axis1: int, axis2: int) -> Tensor:
        return ops.swapaxes(self, axis1, axis2)

    def moveaxis(self, source: Any, destination: Any) -> Tensor:
        return ops.moveaxis(self, source, destination)

    swapdims, movedim = swapaxes, moveaxis

    def reshape_as(self, other: Tensor) -> Tensor:
        return ops.reshape(self, other.shape)

    view_as = reshape_as

    def unbind(self, dim: int = 0) -> tuple[Tensor, ...]:
        """The slices along `dim`."""
        return tuple(ops.moveaxis(self, dim, 0))

    def squeeze(self, axis: Axis = None, *, dim: Axis = None) -> Tensor:
        return ops.squeeze(self, axis_of("squeeze", axis, dim))

    def unsqueeze(self, dim: int) -> Tensor:
        return ops.expand_dims(self, dim)

    def expand(self, *shape: Any) -> Tensor:
        """Broadcast to `shape`; -1 keeps the length of an axis."""
        wanted = tuple(listed(shape))
        if len(wanted) < self.ndim:
            raise ValueError(
                f"expand needs a length for each of the {self.ndim} axes of {self.shape}, got {wanted}"
            )
        own: tuple[int, ...] = (1,) * (len(wanted) - self.ndim) + self.shape
        return ops.broadcast_to(self, tuple([n if w == -1 else w for n, w in zip(own, wanted, strict=True)]))

    def expand_as(self, other: Tensor) -> Tensor:
        return ops.broadcast_to(self, other.shape)

    def broadcast_to(self, *shape: Any) -> Tensor:
        return ops.broadcast_to(self, tuple(listed(shape)))

    def repeat(
        self, repeats: int | Sequence[int], axis: int | None = None, *, dim: int | None = None
    ) -> Tensor:
        """Repeat each element, as NumPy's `repeat` (torch's `repeat_interleave`; torch's `repeat` is `tile`)."""
        return ops.repeat(self, repeats, axis_of("repeat", axis, dim))

    repeat_interleave = repeat

    def tile(self, *reps: Any) -> Tensor:
        return ops.tile(self, listed(reps))

    def flip(self, *axis: Any, dims: Axis = None) -> Tensor:
        return ops.flip(self, axis_of("flip", listed(axis) if axis else None, dims))

    def roll(self, shift: Any, axis: Axis = None, *, dims: Axis = None) -> Tensor:
        return ops.roll(self, shift, axis_of("roll", axis, dims))

    def split(
        self, split_size: int | Sequence[int], axis: int | None = None, *, dim: int | None = None
    ) -> tuple[Tensor, ...]:
        """Pieces of `split_size` along `dim` (the last may be shorter), or of the sizes listed; as torch's."""
        where: Any = axis_of("split", axis, dim, 0)
        sizes = split_size if isinstance(split_size, int) else list(split_size)
        length = self.shape[where]
        if isinstance(sizes, int):
            if sizes < 1:
                raise ValueError(f"split_size must be at least 1, got {sizes}")
            borders = list(range(sizes, length, sizes))
        else:
            if sum(sizes) != length:
                raise ValueError(
                    f"split_size must add up to the length {length} of axis {where}, got {sizes}"
                )
            borders = np.cumsum(sizes[:-1], dtype=int).tolist()
        return tuple(ops.split(self, borders, where))

    def chunk(self, chunks: int, axis: int | None = None, *, dim: int | None = None) -> tuple[Tensor, ...]:
        return tuple(ops.chunk(self, chunks, axis_of("chunk", axis, dim, 0)))

    def diagonal(
        self,
        offset: int = 0,
        axis1: int | None = None,
        axis2: int | None = None,
        *,
        dim1: int | None = None,
        dim2: int | None = None,
    ) -> Tensor:
        first, second = axis_of("diagonal", axis1, dim1, 0), axis_of("diagonal", axis2, dim2, 1)
        return ops.diagonal(self, offset, first, second)

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        return ops.trace(self, offset, axis1, axis2)

    def tril(self, k: int = 0) -> Tensor:
        return ops.tril(self, k)

    def triu(self, k: int = 0) -> Tensor:
        return ops.triu(self, k)

    def unfold(self, dim: int, size: int, step: int = 1) -> Tensor:
        return ops.unfold(self, dim, size, step)
