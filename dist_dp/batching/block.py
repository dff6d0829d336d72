"""A growing block of rows: where the batches of many small calls put what they made.

There is one block for every shape and dtype of a value. A batch appends its rows, whatever made them, and a value is
then a row of a block, so that the inputs of the next batch are one `take`.

On the tape a block is a chain: each append leaves a node with two parents, the block as it was and the new rows. In
memory there is one array all the time, which an append extends in place; the older nodes stand for its beginning. The
gradient of the block is one array too: going backward, an append hands its beginning on to the block as it was
(`ops.core.append`), and every gather adds to the places that it took from.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ops.along import pick
from ..ops.core import append
from ..ops.views import part
from ..tape import Node, is_grad_enabled
from ..tensor import Tensor

if TYPE_CHECKING:
    from .recorder import Recorder

FIRST = 64  # rows that a new block has room for


class Block:
    """Rows of one shape and dtype.

    Attributes:
        recorder: whose values are in it.
        rows: all rows so far, as a tensor (count, *shape).
    """

    __slots__ = ("_memory", "recorder", "rows")

    def __init__(self, recorder: Recorder, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.recorder = recorder
        self._memory = np.empty((FIRST, *shape), dtype)
        self.rows = Tensor._of(self._memory[:0], None)

    def append(self, new: Tensor, batch: object) -> int:
        """Add rows (n, *shape) at the end; returns the place of the first.

        Row i was made of row i of everything that was taken for the same `batch`: so a backward sweep that finds some
        of the new rows without a gradient knows which of those have none.
        """
        old = self.rows
        start = len(old.data)
        stop = start + len(new.data)
        if stop > len(self._memory):
            grown = np.empty((max(stop, 2 * len(self._memory)), *self._memory.shape[1:]), self._memory.dtype)
            grown[:start] = old.data
            self._memory = grown  # what looks at the old memory goes on seeing the same values there
        self._memory[start:stop] = new.data
        data = self._memory[:stop]
        node = None
        if (
            old.node is not None or new.node is not None
        ):  # under no_grad too: the older rows have their gradient
            node = Node(append, (old.node, new.node), (), (start, batch), data.shape)
        self.rows = Tensor._of(data, node)
        return start

    def take(self, places: Sequence[int], batch: object) -> Tensor:
        """The rows at these places, (n, *shape): a view where they lie side by side in this order, else one gather."""
        first, n, rows = places[0], len(places), self.rows
        node = None
        if places[-1] - first == n - 1 and (n < 3 or _ascending(places)):
            at = slice(first, first + n)
            data = rows.data[at]
            if rows.node is not None and is_grad_enabled():
                node = Node(part, (rows.node,), ((at, rows.shape),), (at, batch), data.shape)
        else:
            index = np.array(places)
            data = rows.data.take(index, 0)
            if rows.node is not None and is_grad_enabled():
                node = Node(pick, (rows.node, None), ((index, 0, rows.shape), None), (0, batch), data.shape)
        return Tensor._of(data, node)


def _ascending(places: Sequence[int]) -> bool:
    return set(map(sub, places[1:], places)) == {1}
