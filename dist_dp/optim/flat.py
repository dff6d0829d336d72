"""Parameters side by side in one buffer, their gradients in another.

An optimizer moves the parameters of each group and dtype into one flat array; every `p.data` becomes a view of it. A
`GradientBuffer` is laid out the same way, and its views are the sinks of the parameters' leaves: the last addition of
backward is already the packed gradient, and an update or an exchange is one pass over memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tape import Array, Leaf
from ..tensor import Tensor


class Flat:
    """The parameters of one group and dtype in one buffer, in the order given.

    Attributes:
        params: the parameters; their `data` are views of `values`.
        values: 1-D array with all their elements.
        bounds: `bounds[i]:bounds[i + 1]` is parameter i.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        sizes = [p.size for p in self.params]
        self.bounds = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
        self.values: Array = np.empty(self.bounds[-1], self.params[0].dtype)
        for p, view in zip(self.params, self.views(self.values), strict=True):
            view[...] = p.data
            p.data = view

    def views(self, buffer: Array) -> list[Array]:
        """The part of each parameter in a buffer of this layout, in the parameter's shape."""
        pairs = zip(self.bounds, self.bounds[1:], self.params, strict=False)
        return [buffer[lo:hi].reshape(p.shape) for lo, hi, p in pairs]


class GradientBuffer:
    """One gradient of all parameters of an optimizer: a flat array for each `Flat`, and which parameters have one.

    A parameter without a gradient (no shard used it) holds zeros and is marked as untouched: the optimizer leaves it and its
    moments alone.
    """

    def __init__(self, flats: Sequence[Flat]) -> None:
        self.arrays = [np.empty_like(flat.values) for flat in flats]
        self._leaves: list[Leaf] = [p.node for flat in flats for p in flat.params]
        self._views = [view for flat, array in zip(flats, self.arrays, strict=True) for view in flat.views(array)]
        self.touched: NDArray[np.bool_] = np.zeros(len(self._leaves), np.bool_)

    def receive(self) -> None:
        """Clear the gradients, and make this buffer the one that backward writes into from now on."""
        for leaf, view in zip(self._leaves, self._views, strict=True):
            leaf.sink = view
            leaf.grad = None
            leaf.touched = False

    def seal(self) -> None:
        """Take note of which parameters received a gradient since `receive`; those that did not hold zeros."""
        for i, (leaf, view) in enumerate(zip(self._leaves, self._views, strict=True)):
            self.touched[i] = leaf.touched
            if not leaf.touched:
                view.fill(0)
            elif leaf.grad is not view:  # a gradient with a history (create_graph=True), or one assigned by hand
                view[...] = leaf.grad.data if isinstance(leaf.grad, Tensor) else leaf.grad

    def add(self, other: GradientBuffer) -> GradientBuffer:
        """Add `other` into this buffer, element by element; returns this buffer."""
        for mine, theirs in zip(self.arrays, other.arrays, strict=True):
            np.add(mine, theirs, mine)
        np.logical_or(self.touched, other.touched, self.touched)
        return self

    def norm(self) -> float:
        """The global 2-norm, sqrt(sum g^2), summed in float64 in one fixed order over the whole vector."""
        total = 0.0
        for array in self.arrays:
            for lo in range(0, array.size, NORM_BLOCK):
                part = array[lo : lo + NORM_BLOCK].astype(np.float64)
                total += float(np.dot(part, part))
        return float(np.sqrt(total))


NORM_BLOCK = 1 << 14  # elements summed at once: part of the order of additions, and so of the result


def runs(touched: NDArray[Any], steps: NDArray[Any]) -> list[tuple[int, int]]:
    """Maximal ranges [i, j) of neighbouring touched parameters with equal step counts: what one pass can update."""
    if touched.all() and (steps == steps[0]).all():
        return [(0, len(touched))]
    out: list[tuple[int, int]] = []
    for i in np.flatnonzero(touched).tolist():
        if out and out[-1][1] == i and steps[i - 1] == steps[i]:
            out[-1] = (out[-1][0], i + 1)
        else:
            out.append((i, i + 1))
    return out
