"""Training that averages weights now and then instead of gradients at every step: local SGD, and DiLoCo.

In a round of h steps each shard trains a copy of the model of its own on its part of the h batches; then the copies are
averaged, weights, moments and buffers alike, each copy counting by the sum of its weights. One exchange a round takes
the place of h.

What is exact in it: the weights after a round are a function of the program, the data, the seed, the batch size, the
number of shards, h and the outer rule, and of nothing else: a worker trains the copies of its shards one after the
other, and the average is taken in the tree over the shards. They are not those of synchronous training, and unlike
there the number of shards is a setting of the method: it is the number of copies.

Sources: S. Stich, "Local SGD Converges Fast and Communicates Little" (ICLR 2019), algorithm 1; A. Douillard et al.,
"DiLoCo: Distributed Low-Communication Training of Language Models" (2023), algorithm 1, whose outer rule is Nesterov
momentum on the average change. There each worker keeps its moments; here they are averaged too, so that a worker that
is lost takes none with it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from runtime import faults
from runtime.fold import Fold
from runtime.group import Layout

from ..tape import Array
from .contribution import Contribution, ContributionSum, Sum
from .loop import LEAVING, Steps
from .options import LocalSGD
from .shard import Shard


class LocalSteps(Steps):
    """Steps in rounds; made by `steps(..., local=LocalSGD(...))`. `step` counts the steps of a copy."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._local: LocalSGD = options["local"]
        self._velocities = [np.zeros_like(part.flat.values) for part in self.optimizer.parts]
        if self._local.momentum:
            names: dict[Any, str] = {p: name for name, p in self.state.parameters.items()}
            for part, velocity in zip(self.optimizer.parts, self._velocities, strict=True):
                views = zip(part.flat.params, part.flat.views(velocity), strict=True)
                self.state.outer.update({names[p]: view for p, view in views})

    def _one_step(self) -> Generator[Shard, None, bool]:
        started, first = time.perf_counter(), self.step
        epoch, _ = self.batches.locate(first)
        last = self._round_end(first)
        self._session.step = first
        lo, hi = self._range
        fold = Fold(self.batches.shards, ContributionSum(self._pool), lo, hi)
        before, computed = self._copies(), self._computed
        self._committed = False
        try:
            for index in range(lo, hi):
                self._put_back(before)
                fold.push((yield from self._trained_copy(index, range(first, last), before)))
        finally:
            self._put_back(before)
            self._committed = True
        partials = fold.partials()
        values = {span: self._slots.get(id(part.gradients)) for span, part in partials.items()}
        kind = f"in the round from step {first}" if self._computed > computed else None
        word = self._saving.word_for(last)
        folded = self._session.fold(kind, partials, self.batches.shards, self._memory, values, word=word)
        self._pool = list(self._buffers)
        if folded.kind == LEAVING:
            return True
        self._saving.hear(folded.words)
        rate = self.optimizer.rate(self.optimizer.param_groups[0])
        self._committed = False
        faults.here("apply", first)
        if folded.arrays is not None:
            self._average(folded.arrays, folded.touched, folded.sum.weight, last - first)
        self.optimizer.steps = last
        self._finish(folded.sum, last, epoch, rate, time.perf_counter() - started)
        return False

    def _trained_copy(
        self, index: int, steps: range, before: list[Array]
    ) -> Generator[Shard, None, Contribution]:
        """Train a copy on one shard of each of these steps; its change, weighted, is what is added up."""
        gradients, weight = self.optimizer.gradients, 0.0
        metrics: dict[str, tuple[float, float]] = {}
        touched = np.zeros_like(gradients.touched)
        for step in steps:
            shard, proposals = yield from self._computed_shard(step, index, gradients)
            if shard.weight == 0:
                self.optimizer.steps += 1
                continue
            gradients.seal()
            self._refuse_non_finite(gradients)
            touched |= gradients.touched
            self.optimizer.apply(gradients, shard.weight)
            weight += shard.weight
            for buffer, (value, of) in proposals.sums.items():
                if buffer in self._buffer_names:
                    buffer.commit(value / of)
            for name, logged in shard.metrics.items():
                so_far, of = metrics.get(name, (0.0, 0.0))
                metrics[name] = so_far + logged * shard.weight, of + shard.weight
        if weight == 0:
            return Contribution()
        change: Sum = self._pool.pop()
        for mine, now, then in zip(change.arrays, self._averaged(), before, strict=False):
            np.multiply(np.subtract(now, then, mine), weight, mine)
        change.touched[:] = touched
        buffers = {n: (b.data.astype(np.float64) * weight, weight) for n, b in self.state.buffers.items()}
        return Contribution(change, weight, metrics, buffers)

    def _average(self, arrays: list[Any], touched: Any, weight: float, steps: int) -> None:
        """The outer rule for the weights, plain averaging for the moments."""
        changes = iter(arrays)
        first = 0
        for part, velocity in zip(self.optimizer.parts, self._velocities, strict=True):
            change = next(changes) / weight
            if self._local.momentum:
                velocity *= self._local.momentum
                velocity += change
                change += self._local.momentum * velocity
            part.flat.values += self._local.lr * change
            for state in part.state.values():
                state += next(changes) / weight
            own = touched[first : first + len(part.flat.params)]
            first += len(own)
            part.counts += steps * own
            part.flat.note_written(np.ones_like(own), "LocalSGD")

    # --- a copy of the model --------------------------------------------------------------------------------------

    def _averaged(self) -> list[Array]:
        """The arrays that are averaged: the weights of each part, and its moments."""
        return [array for part in self.optimizer.parts for array in (part.flat.values, *part.state.values())]

    def _copies(self) -> list[Array]:
        """All that training changes, copied."""
        others = [part.counts for part in self.optimizer.parts] + [
            b.data for b in self.state.buffers.values()
        ]
        return [array.copy() for array in (*self._averaged(), *others, np.array(self.optimizer.steps))]

    def _put_back(self, copies: list[Array]) -> None:
        others = [part.counts for part in self.optimizer.parts] + [
            b.data for b in self.state.buffers.values()
        ]
        for array, copy in zip((*self._averaged(), *others), copies[:-1], strict=True):
            array[...] = copy
        self.optimizer.steps = int(copies[-1])
        for part in self.optimizer.parts:
            part.flat.note_written(np.ones(len(part.flat.params), np.bool_), "LocalSGD")

    @property
    def _layout(self) -> Layout:
        return tuple((array.dtype.str, array.size) for array in self._averaged())

    def _buffer(self, arrays: list[Any]) -> Sum:
        return Sum(arrays, len(self.optimizer.gradients.slots))

    def _keys(self, step: int, shards: range) -> Iterator[tuple[int, int]]:
        while step < self.total_steps:
            last = self._round_end(step)
            yield from ((k, shard) for shard in shards for k in range(step, last))
            step = last

    def _round_end(self, step: int) -> int:
        """Rounds do not reach over the end of an epoch, where a validation may stand."""
        _, place = self.batches.locate(step)
        epoch_end = step - place + self.batches.steps_per_epoch
        return min(step + self._local.every, epoch_end, self.total_steps)
