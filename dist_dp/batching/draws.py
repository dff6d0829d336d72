"""Randomness inside a cell: a row of a batch draws what its call would draw alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ..random import Key, Shape, Stream


class RowStreams(Stream):
    """A stream for each row of a batch; every draw has the rows on its first axis.

    Draw k of the row whose call has the key K is made from ``K.fold(k)``, so it depends neither on the other rows nor
    on how many there are.
    """

    __slots__ = ("keys",)

    def __init__(self, keys: Sequence[Key] | Callable[[], Sequence[Key]]) -> None:
        """`keys` has the key of each row, or is a function that gives them at the first draw."""
        self.keys: Any = keys
        self.use = 0

    def next_key(self) -> Key:
        raise TypeError(
            "next_key() inside a cell: every row of the batch has a key of its own; draw with bernoulli, normal, "
            "uniform or integers, with the batch on the first axis"
        )

    def _drawn(self, name: str, shape: Shape, *arguments: Any, **options: Any) -> NDArray[Any]:
        if callable(self.keys):
            self.keys = self.keys()
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        if not sizes or sizes[0] != len(self.keys):
            raise ValueError(
                f"{name} inside a cell: shape must begin with the batch axis of {len(self.keys)} rows, got {sizes}"
            )
        use, self.use = self.use, self.use + 1
        rows = [getattr(Stream(key, use), name)(*arguments, shape=sizes[1:], **options) for key in self.keys]
        return np.stack(rows)

    def normal(self, shape: Shape = (), dtype: DTypeLike = np.float32, **options: Any) -> NDArray[Any]:
        return self._drawn("normal", shape, dtype=dtype, **options)

    def uniform(self, shape: Shape = (), dtype: DTypeLike = np.float32, **options: Any) -> NDArray[Any]:
        return self._drawn("uniform", shape, dtype=dtype, **options)

    def integers(self, low: int, high: int, shape: Shape = ()) -> NDArray[np.int64]:
        return self._drawn("integers", shape, low, high)

    def bernoulli(self, p: float, shape: Shape = ()) -> NDArray[np.bool_]:
        return self._drawn("bernoulli", shape, p)

    def choice(
        self, n: int, shape: Shape = (), *, replace: bool = True, p: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        return self._drawn("choice", shape, n, replace=replace, p=p)
