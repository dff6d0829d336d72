"""`HalfSteps`: gradients travel as 16-bit floats, for networks that are slower than the arithmetic.

What is exact in it: each shard's gradient, divided by the batch size, is rounded to 16 bits, and so is every sum in the
tree over the shards, whoever computes it. So the weights are again a function of the program, the data, the seed, the
batch size and the number of shards alone, with the same bits for every number of workers; but they are not those of the
run in full precision. As float16 (IEEE binary16, 11 bits of precision) elements of the mean gradient below about 3e-8
become zero, and above 65,504 infinite, which stops the run; as bfloat16 (8 bits) they have the range of float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.group import Layout

from ..optim import GradientBuffer
from .contribution import Sum
from .loop import Steps


class HalfSteps(Steps):
    """Steps whose gradients are added in 16 bits; made by `steps(..., wire="float16")` or "bfloat16"."""

    @property
    def _layout(self) -> Layout:
        wire = self._options["wire"]
        return tuple((str(wire), size) for _, size in self.optimizer.layout)

    def _buffer(self, arrays: list[Any]) -> Sum:
        return Sum(arrays, len(self.optimizer.gradients.slots))

    def _receiving(self) -> GradientBuffer:
        return self.optimizer.gradients

    def _give_back(self, gradients: GradientBuffer) -> None:
        """The optimizer's own stay where they are."""

    def _summand(self, gradients: GradientBuffer) -> Sum:
        half: Sum = self._pool.pop()
        with np.errstate(over="ignore"):  # an infinity is found in the total
            for mine, full in zip(half.arrays, gradients.arrays, strict=True):
                np.multiply(full, 1 / self.batches.batch_size, out=mine, casting="same_kind")
        half.touched[:] = gradients.touched
        return half

    def _total(self, arrays: list[Any], touched: Any) -> GradientBuffer:
        total = self.optimizer.gradients
        for full, half in zip(total.arrays, arrays, strict=True):
            np.multiply(half, self.batches.batch_size, out=full, dtype=full.dtype)
        total.touched[:] = touched
        return total
