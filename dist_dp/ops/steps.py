"""What the fused recurrent networks share: who runs at which step, and the products outside the loop over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..kernels.product import dot
from ..tape import Array
from .comparison import where
from .core import Op, apply
from .joining import stack
from .views import broadcast_to


class Plan:
    """Which rows run at which step.

    Args:
        shape: (steps, sequences, features) of the input.
        lengths: of each sequence, or an int if all run to the end.
        reverse: from the last step to the first.
    """

    def __init__(self, shape: tuple[int, ...], lengths: Any, reverse: bool) -> None:
        steps, self.rows = shape[:2]
        self.times = range(steps - 1, -1, -1) if reverse else range(steps)
        self.order: Array | None = None
        self.running = [self.rows] * steps
        if not isinstance(lengths, int):
            if self.rows and not 0 <= lengths.min() <= lengths.max() <= steps:
                raise ValueError(f"`lengths` must be in [0, {steps}], got {lengths.min()} to {lengths.max()}")
            self.order = np.argsort(-lengths.astype(np.int64), kind="stable")
            self.place = np.argsort(self.order)
            self.running = np.count_nonzero(lengths[:, None] > np.arange(steps), axis=0).tolist()

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """(k, t, n): the k-th step is at time t with the first n rows."""
        return ((k, t, self.running[t]) for k, t in enumerate(self.times))

    def sorted(self, x: Array, axis: int) -> Array:
        return x if self.order is None else np.take(x, self.order, axis)

    def unsorted(self, x: Array, axis: int) -> Array:
        return x if self.order is None else np.take(x, self.place, axis)

    def in_time(self, by_step: Array) -> Array:
        """An array over steps k as one over times t."""
        return by_step if self.times.step > 0 else by_step[::-1]

    def output(self, states: Array) -> Array:
        """The states after each step, in time, with 0 where a sequence has ended."""
        out = self.unsorted(self.in_time(states[1:]), 1)
        if self.order is not None:
            out[self.place >= np.array(self.running)[:, None]] = 0
        return out


def projected(x: Array, weight: Array, bias: Any) -> Array:
    """x weight^T + bias for all steps at once: (steps, rows, gates)."""
    steps, rows, features = x.shape
    out: Array = dot(x.reshape(steps * rows, features), weight.T, None if isinstance(bias, float) else bias)
    return out.reshape(steps, rows, len(weight))


def flat(x: Array) -> Array:
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2])


def product_over_steps(d: Array, x: Array, needed: bool = True) -> Any:
    """The gradient of a weight: the sum over steps of d_t^T x_t, as one product."""
    return dot(flat(d).T, flat(x)) if needed else None


def input_gradient(plan: Plan, d: Array, weight: Array, needed: bool) -> Any:
    return plan.unsorted(dot(flat(d), weight).reshape(*d.shape[:2], weight.shape[1]), 1) if needed else None


def state_memory(h: Array, steps: int) -> Array:
    """Memory for the state before the first step and after each."""
    states = np.empty((steps + 1, *h.shape), h.dtype)
    states[0] = h
    return states


def unrolled(
    cell: Callable[..., tuple[Any, ...]], x: Any, lengths: Any, state: tuple[Any, ...], reverse: bool
) -> tuple[Any, ...]:
    """(out, *last state) of `cell(x_t, *state) -> state`, from elementary operations."""
    outs: list[Any] = [None] * x.shape[0]
    for t in range(len(outs) - 1, -1, -1) if reverse else range(len(outs)):
        after = cell(x[t], *state)
        outs[t] = after[0]
        if not isinstance(lengths, int):
            runs = (lengths > t)[:, None]
            after = tuple(where(runs, new, old) for new, old in zip(after, state, strict=True))
            outs[t] = where(runs, outs[t], 0)
        state = after
    return (stack(outs), *state)


def side_by_side(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    """The sequences of all examples side by side; with weights for each example there is no common product."""
    if any(batched[2:6]):
        return NotImplemented
    x, lengths, *weights = inputs[:6]
    x, lengths, *states = (
        a if has or isinstance(a, int) else broadcast_to(a, (size, *a.shape))
        for a, has in zip((x, lengths, *inputs[6:]), (*batched[:2], *batched[6:]), strict=True)
    )
    _, steps, rows, features = x.shape
    x = x.moveaxis(0, 1).reshape((steps, size * rows, features))
    lengths = lengths if isinstance(lengths, int) else lengths.reshape((size * rows,))
    states = [h.reshape((size * rows, h.shape[2])) for h in states]
    out, *last = apply(op, (x, lengths, *weights, *states), params)
    out = out.reshape((steps, size, rows, out.shape[2])).moveaxis(1, 0)
    return out, *(h.reshape((size, rows, h.shape[1])) for h in last)
