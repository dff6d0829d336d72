"""Parameters side by side in one buffer, their gradients in another.

An optimizer moves the parameters of each group and dtype into one flat array; every `p.data` becomes a view of it. A
`GradientBuffer` is laid out the same way, and its views are the sinks of the parameters' leaves: the last addition of
backward is already the packed gradient, and an update or an exchange is one pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..tape import Array, writes
from ..tensor import Tensor
from .clip import global_norm


class Flat:
    """The parameters of one group and dtype in one buffer, in the order given.

    Attributes:
        params: the parameters; their `data` are views of `values`.
        values: 1-D array with all their elements.
        bounds: `bounds[i]:bounds[i + 1]` is parameter i.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        self.bounds: list[int] = [0, *np.cumsum([p.size for p in self.params]).tolist()]
        self.values: Array = np.empty(self.bounds[-1], self.params[0].dtype)
        self._own = self.views(self.values)
        for p, view in zip(self.params, self._own, strict=True):
            view[...] = p.data
            p.data = view

    def views(self, buffer: Array) -> list[Array]:
        """The part of each parameter in a buffer of this layout, in the parameter's shape."""
        pairs = zip(self.bounds, self.bounds[1:], self.params, strict=False)
        return [buffer[lo:hi].reshape(p.shape) for lo, hi, p in pairs]

    def gather(self) -> None:
        """Take in parameters whose `data` was replaced since (`p.data = x`, or another optimizer's buffer).

        Raises:
            RuntimeError: the new `data` has another shape or dtype.
        """
        for p, view in zip(self.params, self._own, strict=True):
            if p.data is not view:
                if p.shape != view.shape or p.dtype != view.dtype:
                    raise RuntimeError(
                        f"a parameter was {view.dtype} {view.shape} when its optimizer was made and is now "
                        f"{p.dtype} {p.shape}; make the optimizer after the last change of dtype or shape"
                    )
                view[...] = p.data
                writes.note(view, "p.data = x")
                p.data = view

    def note_written(self, touched: NDArray[np.bool_], by: str) -> None:
        """Say that the touched parameters were just overwritten by `by`."""
        if touched.all():
            writes.note(self.values, by)
        else:  # by parameter: a graph over the others is as good as before
            for i in np.flatnonzero(touched).tolist():
                writes.note(self._own[i], by)


class GradientBuffer:
    """One gradient of all parameters of an optimizer: a flat array for each `Flat`, and which parameters have one.

    The arrays may lie in memory that is shared with other workers (`arrays`), else they are made here.

    A parameter without a gradient (no shard used it) holds zeros and is marked as untouched: the optimizer leaves it
    and its moments alone. While a buffer receives, `p.grad` is a view of it; `p.grad.clone()` keeps it beyond
    the step.

    Attributes:
        arrays: the gradients, one flat array for each `Flat`.
        touched: which parameters have a gradient, in the order of the flats.
        slots: each parameter with its part of the gradient, in its shape.
    """

    def __init__(self, flats: Sequence[Flat], arrays: Sequence[Array] | None = None) -> None:
        self.arrays = [np.empty_like(flat.values) for flat in flats] if arrays is None else list(arrays)
        views = [view for flat, array in zip(flats, self.arrays, strict=True) for view in flat.views(array)]
        # Tensors and not their leaves: a parameter that was frozen and thawed has a new leaf.
        self.slots = list(zip([p for flat in flats for p in flat.params], views, strict=True))
        self.touched: NDArray[np.bool_] = np.zeros(len(self.slots), np.bool_)

    def receive(self) -> None:
        """Clear the gradients, and make this buffer the one that backward writes into from now on."""
        for p, view in self.slots:
            leaf = p.node
            if leaf is not None:
                leaf.sink = view
                leaf.grad = None

    def seal(self) -> None:
        """Take note of which parameters received a gradient since `receive`; those that did not hold zeros."""
        for index in range(len(self.slots)):
            self.seal_one(index)

    def seal_one(self, index: int) -> None:
        """Take note of whether one parameter received a gradient; nothing comes to it any more."""
        p, view = self.slots[index]
        leaf = p.node
        self.touched[index] = has_gradient = leaf is not None and leaf.grad is not None
        if not has_gradient:
            view.fill(0)
        elif leaf.grad is not view:  # one with a history (create_graph=True), or another buffer's
            view[...] = leaf.grad.data if isinstance(leaf.grad, Tensor) else leaf.grad

    def add(self, other: GradientBuffer, arrays: bool = True) -> GradientBuffer:
        """Add `other` into this buffer, element by element; returns this buffer.

        Args:
            arrays: False if the arrays were added before, so that only `touched` is left.
        """
        if arrays:
            for mine, theirs in zip(self.arrays, other.arrays, strict=True):
                np.add(mine, theirs, mine)
        np.logical_or(self.touched, other.touched, self.touched)
        return self

    def norm(self) -> float:
        """The global 2-norm sqrt(sum g^2), summed in float64 in one fixed order."""
        return global_norm(
            view for (_, view), touched in zip(self.slots, self.touched, strict=True) if touched
        )


def runs(touched: NDArray[np.bool_], counts: NDArray[np.int64], alone: bool = False) -> list[tuple[int, int]]:
    """Maximal ranges [i, j) of neighbouring touched parameters with equal update counts: what one pass can update.

    Args:
        alone: a range for each touched parameter instead.

    >>> runs(np.array([True, True, False, True]), np.array([2, 2, 1, 2]))
    [(0, 2), (3, 4)]
    """
    if not alone and touched.all() and (counts == counts[0]).all():
        return [(0, len(touched))]
    found: list[tuple[int, int]] = []
    for i in np.flatnonzero(touched).tolist():
        if found and not alone and found[-1][1] == i and counts[i - 1] == counts[i]:
            found[-1] = (found[-1][0], i + 1)
        else:
            found.append((i, i + 1))
    return found
