"""Buffers: state of a module that is not learned (running statistics, counters), and how it may change.

Outside the training loop a module updates its buffers as it runs, as in torch. Inside the loop the examples
of a step are computed in shards, on any number of workers, and what a module leaves behind must not depend on
which shard ran where or first. So a module never writes a buffer: it *proposes* a new value with a weight
(`Module.propose_buffer`). With no collector in place the proposal is committed at once; inside
`buffer_proposals()` it is added up, the loop folds the sums of all shards in its fixed tree, and commits
sum(weight * value) / sum(weight) with the step.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..ops.core import TensorLike
from ..tape import writes
from ..tensor import Tensor

__all__ = ["Buffer", "BufferProposals", "buffer_proposals"]


class Buffer(Tensor):
    """A tensor that belongs to a module's state but is not learned.

    Assigning one to an attribute of a module registers it, as `Module.register_buffer` does.

    Args:
        data: the values; a NumPy array keeps its dtype, Python floats become float32.
        persistent: whether it is part of `state_dict()`.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> module = nn.Module()
    >>> module.steps = nn.Buffer(np.zeros((), np.int64))
    >>> list(module.state_dict())
    ['steps']
    """

    __slots__ = ("persistent",)

    def __init__(self, data: TensorLike, persistent: bool = True) -> None:
        super().__init__(data)
        self.persistent = persistent

    def commit(self, value: ArrayLike) -> None:
        """Overwrite the values with `value`, of the same shape, rounded to the nearest integer for an integer
        buffer.

        Raises:
            ValueError: another shape.
        """
        array = np.asarray(value)
        if array.shape != self.shape:
            raise ValueError(f"value must have the buffer's shape {self.shape}, got {array.shape}")
        if self.dtype.kind in "iub" and array.dtype.kind == "f":
            array = np.rint(array)
        np.copyto(self.data, array, casting="unsafe")
        writes.note(self.data, "commit of a buffer")

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffer, (self.data, self.persistent)


class BufferProposals:
    """What the modules that ran inside one `buffer_proposals()` block proposed.

    Attributes:
        sums: for each buffer (sum of weight * value, sum of weights), in the order of the first proposals.
            The sums are float64, so that a counter of up to 2^53 comes back exact.
    """

    def __init__(self) -> None:
        self.sums: dict[Buffer, tuple[NDArray[np.float64], float]] = {}

    def add(self, buffer: Buffer, value: ArrayLike, weight: float) -> None:
        """Count one proposal in."""
        term = np.asarray(value, np.float64) * weight
        if buffer in self.sums:
            total, weights = self.sums[buffer]
            term, weight = total + term, weights + weight
        self.sums[buffer] = (term, weight)

    def commit(self) -> None:
        """Write sum(weight * value) / sum(weight) into every buffer: a step of one shard."""
        for buffer, (total, weight) in self.sums.items():
            buffer.commit(total / weight)


class _Collector(threading.local):
    innermost: BufferProposals | None = None


_collector = _Collector()


@contextlib.contextmanager
def buffer_proposals() -> Iterator[BufferProposals]:
    """Collect what modules propose for their buffers in this thread, instead of committing it; blocks may
    nest.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> norm = nn.BatchNorm1d(1, momentum=1.0)
    >>> with nn.buffer_proposals() as proposals:
    ...     _ = norm(np.array([[1.0], [3.0]], np.float32))
    >>> norm.running_mean
    tensor([0.])
    >>> proposals.commit()
    >>> norm.running_mean
    tensor([2.])
    """
    outer = _collector.innermost
    _collector.innermost = proposals = BufferProposals()
    try:
        yield proposals
    finally:
        _collector.innermost = outer


def propose(buffer: Buffer, value: ArrayLike, weight: float) -> None:
    """Hand a proposal to the innermost collector of this thread, or commit it where there is none."""
    if np.shape(value) != buffer.shape:
        raise ValueError(f"value must have the buffer's shape {buffer.shape}, got {np.shape(value)}")
    if not weight > 0:
        raise ValueError(f"weight must be positive, got {weight}")
    if _collector.innermost is None:
        buffer.commit(value)
    else:
        _collector.innermost.add(buffer, value, weight)


def collecting() -> bool:
    """Whether a collector is in place in this thread, so that a buffer must not be written."""
    return _collector.innermost is not None
