"""The tape: what a recorded operation leaves behind, and when it may be used.

A recorded operation leaves one `Node`. It points to the nodes of its inputs (never to its outputs, so that no reference
cycle can form and dropping the loss frees the graph by reference counts alone), holds the arrays that its derivative
rules read (raw arrays, not tensors), and a number from one process-wide clock. A parameter or any other tensor that
collects a gradient has a `Leaf`.

The clock orders everything: a node is always younger than its inputs, so sorting by `seq` is a topological order; and a
write into an array is stamped by the same clock, so "saved before it was overwritten" is one comparison of integers
(`Writes`). No tensor carries a version counter and a recorded operation pays nothing for the check.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .ops.core import Op

Array = NDArray[Any]
Hook = Callable[[Any], Any]

clock = itertools.count(1).__next__

# States of a thread: how an operation is applied. The fast paths compare one integer.
OFF, RECORD, INTERPRET = 0, 1, 2


class Mode(threading.local):
    """How operations are applied in this thread.

    `state` is OFF (compute only), RECORD (compute, leave nodes) or INTERPRET (hand the operation to `interpreter`, the
    way of vmap and of anomaly detection). Each thread starts recording. `beneath` is OFF or RECORD: the state that an
    operation meets below all interpreters. `inspect`, when set, is shown every gradient that a sweep computes; `watch`
    makes for each sweep what is told of its nodes, with the gradient of their output, when their turn comes, and of its
    end (None). `calls` are those that the batch stands for which is computed now. `segment` is the innermost
    `checkpoint` whose function runs for the first time.
    """

    state: int = RECORD
    beneath: int = RECORD
    interpreter: Interpreter | None = None
    inspect: Callable[[Node, int, Any, Any], None] | None = None
    watch: Callable[[], Callable[[Node | None, Any], None]] | None = None
    calls: Sequence[Any] = ()
    segment: Any = None


mode = Mode()


class Interpreter:
    """Applies operations in a way of its own: base of vmap, of batching and of anomaly detection.

    Interpreters nest: `outer` is the one that was active when this was made, and `applying(self.outer)` is how this one
    has the operations applied that it makes of the one it was given. One that `postpones` computes them later.
    """

    postpones = False

    def __init__(self) -> None:
        self.outer = mode.interpreter if mode.state == INTERPRET else None

    def __call__(self, op: Op, inputs: tuple[Any, ...], params: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def left_out(self, what: str) -> None:
        """`what` is computed at once although this one postpones."""


@contextlib.contextmanager
def applying(interpreter: Interpreter | None) -> Iterator[None]:
    """Hand operations to `interpreter`; None records them or not, as `no_grad` and `enable_grad` say."""
    before = mode.state, mode.beneath, mode.interpreter
    if mode.state != INTERPRET:
        mode.beneath = mode.state
    mode.interpreter = interpreter
    mode.state = mode.beneath if interpreter is None else INTERPRET
    try:
        yield
    finally:
        mode.state, mode.beneath, mode.interpreter = before


@contextlib.contextmanager
def at_once(what: str) -> Iterator[None]:
    """Inside, operations are computed as they come, for `what` looks at the tape that they leave."""
    interpreter = mode.interpreter
    if mode.state == INTERPRET and interpreter is not None and interpreter.postpones:
        interpreter.left_out(what)
        with applying(interpreter.outer):
            yield
    else:
        yield


class _Switch(contextlib.ContextDecorator):
    """Base of `no_grad` and `enable_grad`: a context manager, a decorator, and safe to nest and to reuse."""

    _state = OFF

    def __init__(self) -> None:
        self._before: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        self._before.append((mode.state, mode.beneath))
        mode.beneath = self._state
        if mode.state != INTERPRET:
            mode.state = self._state

    def __exit__(self, *_: object) -> None:
        mode.state, mode.beneath = self._before.pop()

    def _recreate_cm(self) -> _Switch:
        # One decorated function may run in several threads at once: each call takes a switch of its own.
        return type(self)()


class no_grad(_Switch):
    """Compute without recording: results carry no gradient. A context manager and a decorator, as torch's.

    >>> import dist_dp as dp
    >>> x = dp.tensor([1.0, 2.0], requires_grad=True)
    >>> with dp.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """

    _state = OFF


class enable_grad(_Switch):
    """Record again inside a `no_grad` block.

    >>> import dist_dp as dp
    >>> x = dp.tensor([1.0], requires_grad=True)
    >>> with dp.no_grad(), dp.enable_grad():
    ...     y = x * 2
    >>> y.requires_grad
    True
    """

    _state = RECORD


def is_grad_enabled() -> bool:
    """Whether operations of this thread are recorded now."""
    return (mode.beneath if mode.state == INTERPRET else mode.state) != OFF


class Node:
    """One recorded operation.

    Attributes:
        op: the shared, immutable record of the operation (`ops.core.Op`).
        parents: for every input its `Node` or `Leaf`, or None where the input carries no gradient.
        saved: what the rules read, per input (or once for a joint rule); None after backward has freed it.
        params: the operation's non-array arguments.
        seq: the clock at recording; of a value of `dp.batched`, half a tick after its block.
        shape: shape of the output, to which gradients are reduced after broadcasting; with several outputs a tuple of
            (shape, dtype), one for each.
        hooks: functions called with the finished gradient of the output, or None.
        site: where the operation was called, noted only inside `debug.anomaly()`.
    """

    __slots__ = ("__weakref__", "hooks", "op", "params", "parents", "saved", "seq", "shape", "site")

    def __init__(
        self,
        op: Op,
        parents: tuple[Any, ...],
        saved: tuple[Any, ...],
        params: tuple[Any, ...],
        shape: tuple[Any, ...],
    ) -> None:
        self.op = op
        self.parents = parents
        self.saved: tuple[Any, ...] | None = saved
        self.params = params
        self.seq = clock()
        self.shape = shape
        self.hooks: list[Hook] | None = None
        self.site: str | None = None

    def __repr__(self) -> str:
        return f"<{self.op.name} seq={self.seq} shape={self.shape}>"


class Leaf:
    """Where gradients of one tensor end: the accumulator behind `Tensor.grad`.

    `sink`, when set, is the array that gradients are written to (a view into the flat gradient buffer of an
    optimizer or of a group's memory), so that the last addition of backward is already the packed gradient. `grad`
    is None until a contribution comes: a parameter that nobody used has no gradient, not a zero one.
    """

    __slots__ = ("__weakref__", "dtype", "grad", "hooks", "op", "parents", "seq", "shape", "sink")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.op = None
        self.parents: tuple[Any, ...] = ()
        self.seq = 0
        self.shape = shape
        self.dtype = dtype
        self.grad: Any = None  # an array, or a Tensor with a history after create_graph=True
        self.sink: Array | None = None
        self.hooks: list[Hook] | None = None

    def accumulate(self, g: Array, new: bool = False) -> None:
        """Add one contribution: the first is copied, unless it is `new` (nobody else has it); later ones are added."""
        if self.grad is None:
            if self.sink is None:
                self.grad = g if new and g.dtype == self.dtype else np.array(g, dtype=self.dtype)
            else:
                np.copyto(self.sink, g)
                self.grad = self.sink
        elif isinstance(self.grad, np.ndarray):
            np.add(self.grad, g, self.grad)
        else:  # a gradient that has a history itself keeps it
            self.grad = self.grad + g

    def accumulate_recorded(self, g: Any) -> None:
        """Add one contribution that is a recorded Tensor (create_graph=True)."""
        self.grad = g if self.grad is None else g + self.grad

    def clear(self) -> None:
        self.grad = None

    def __repr__(self) -> str:
        return f"<leaf shape={self.shape}>"


class Writes:
    """Which bytes were overwritten when, for arrays that some node may have saved.

    The record is kept per owner of the memory (so that every view of a flat buffer is covered) as byte ranges
    stamped by the clock, and goes away with the owner. Writes are rare (one per optimizer buffer and step); reads
    happen only for nodes older than the newest write anywhere.
    """

    def __init__(self) -> None:
        self.newest = 0
        self._owners: dict[int, tuple[Any, dict[tuple[int, int], tuple[int, str]]]] = {}

    def note(self, array: Array, by: str) -> None:
        """Say that `array` was just written in place, by the operation named `by`."""
        self.newest = clock()
        owner = _owner(array)
        key = id(owner)
        if key not in self._owners:
            forget = functools.partial(self._forget, key)
            self._owners[key] = (weakref.ref(owner, forget), {})
        self._owners[key][1][byte_bounds(array)] = (self.newest, by)

    def _forget(self, key: int, _: object) -> None:
        self._owners.pop(key, None)

    def since(self, array: Array, seq: int) -> str | None:
        """The operation that overwrote part of `array` after `seq`, or None."""
        known = self._owners.get(id(_owner(array)))
        if known is None or array.size == 0:
            return None
        low, high = byte_bounds(array)
        for (start, stop), (stamp, by) in known[1].items():
            if stamp > seq and start < high and low < stop:
                return by
        return None


def _owner(array: Array) -> Array:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


writes = Writes()
