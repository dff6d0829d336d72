"""`Overlap`: the exchange of a step, begun inside the backward pass of the worker's last shard.

Gradients are complete from the last layer to the first while backward still runs. A bucket, a stretch of the flat
gradient, may go as soon as every parameter in it is complete and it has been added to what the worker's earlier shards
left; buckets go in one order on all workers, though their graphs differ, because the order is that of the memory. A
parameter that the graph does not reach is complete from the start, so no bucket waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import suppress
from typing import Any

import numpy as np

from runtime.fold import Fold, Span
from runtime.group import Bucket, Exchange, GroupBroken, Memory

from ..optim import GradientBuffer
from ..tape import Leaf
from .contribution import Contribution

# Large enough that a bucket's fixed cost is small, small enough that the first ones leave early.
BUCKET_BYTES = 1 << 20


class Overlap:
    """What happens to the gradients of one shard while they are computed; made for the last shard of each step.

    Args:
        memory: where the gradients lie, and its buckets.
        places: of the parameters in the buckets (`buckets_of`).
        slots: which buffer of `memory` a gradient buffer is, by id.
        fold: of this worker's range, with all shards but the last in it.
        gradients: what the shard's gradients are written into.
        start: begins the exchange of these subtrees.

    Attributes:
        begun: whether backward has begun, if it came to its end or not.
        exchange: in flight, once backward has begun; None if the generation had ended by then.
    """

    def __init__(
        self,
        memory: Memory,
        places: tuple[list[list[int]], list[int]],
        slots: dict[int, int],
        fold: Fold[Contribution],
        gradients: GradientBuffer,
        start: Callable[[dict[Span, int | None]], Exchange],
    ) -> None:
        self._memory, self._slots, self._fold, self._gradients, self._start = (
            memory,
            slots,
            fold,
            gradients,
            start,
        )
        self._buckets_of, self._waiting = places[0], list(places[1])
        self.begun = False
        self.exchange: Exchange | None = None

    def begin(self, reached: Container[Any]) -> None:
        """Backward begins, and nothing but `reached` will receive a gradient: start the exchange."""
        self.begun = True
        merging, span = self._fold.merging()
        # The sums that the gradient is added into, one after the other; the last of them is what is sent.
        self._sums = [part.gradients for part in merging if part.gradients is not None]
        last = self._sums[-1] if self._sums else self._gradients
        values = {
            held: self._slots.get(id(part.gradients))
            for held, part in self._fold.held().items()
            if held[1] <= span[0]
        }
        values[span] = self._slots[id(last)]
        try:
            self.exchange = self._start(values)
        except GroupBroken:  # the body need not know; the loop finds out
            return
        self._places: dict[Any, int] = {}
        self._done = 0
        for place, (p, _) in enumerate(self._gradients.slots):
            if p.node is not None and p.node in reached:
                self._places[p.node] = place
            else:
                self._complete(place)
        self._send()

    def ready(self, leaf: Leaf) -> None:
        """The gradient of a parameter is complete."""
        if self.exchange is not None and leaf in self._places:  # else one that this optimizer does not train
            self._complete(self._places[leaf])
            self._send()

    def _complete(self, place: int) -> None:
        self._gradients.seal_one(place)
        for bucket in self._buckets_of[place]:
            self._waiting[bucket] -= 1

    def _send(self) -> None:
        before, buckets = self._done, self._memory.buckets
        while self._done < len(buckets) and self._waiting[self._done] == 0:
            self._add(buckets[self._done])
            self._done += 1
        if self._done > before:
            assert self.exchange is not None
            with suppress(GroupBroken):
                self.exchange.ready(self._done)

    def _add(self, bucket: Bucket) -> None:
        which, lo, hi = bucket
        right = self._gradients.arrays[which][lo:hi]
        for total in self._sums:
            left = total.arrays[which][lo:hi]
            right = np.add(left, right, left)


def buckets_of(memory: Memory, gradients: GradientBuffer) -> tuple[list[list[int]], list[int]]:
    """For each parameter the buckets that hold a part of it, and for each bucket how many parameters it has."""
    which, at = 0, 0
    places: list[list[int]] = []
    counts = [0] * len(memory.buckets)
    for _, view in gradients.slots:
        while at == memory.layout[which][1] and view.size:
            which, at = which + 1, 0
        found = [
            i
            for i, (array, lo, hi) in enumerate(memory.buckets)
            if array == which and lo < at + view.size and at < hi
        ]
        for i in found:
            counts[i] += 1
        places.append(found)
        at += view.size
    return places, counts
