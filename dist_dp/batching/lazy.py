"""Values that are not computed yet, and the calls that will make them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ops.core import Op, apply, same
from ..ops.views import part
from ..tape import Node
from ..tensor import Tensor

if TYPE_CHECKING:
    from types import CodeType

    from ..random import Key
    from .block import Block
    from .recorder import Recorder, Signature


class Spec:
    """Shape and dtype of one value. Equal ones are one object, so that comparing signatures compares addresses."""

    __slots__ = ("dtype", "shape", "size")

    _known: dict[tuple[tuple[int, ...], np.dtype[Any]], Spec] = {}

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int

    def __new__(cls, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Spec:
        key = (shape, dtype)
        self = cls._known.get(key)
        if self is None:
            self = object.__new__(cls)
            self.shape, self.dtype, self.size = shape, dtype, int(np.prod(shape))
            self = cls._known.setdefault(key, self)
        return self

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    def zeros(self, *rows: int) -> np.ndarray[Any, Any]:
        return np.zeros((*rows, *self.shape), self.dtype)

    def identities(self, *rows: int) -> np.ndarray[Any, Any]:
        """What has an inverse, for operations that zeros are nothing for; zeros where it is no square matrix."""
        out = self.zeros(*rows)
        if len(self.shape) > 1 and self.shape[-1] == self.shape[-2]:
            out[...] = np.eye(self.shape[-1])
        return out


UNSEEN = -2


class _Body(threading.local):
    running = False


body = _Body()  # whether the body of a cell runs in this thread


class Call:
    """One recorded call: of a cell, or of an operation outside cells.

    Attributes:
        signature: what it is a call of; calls of one signature can run as one batch.
        values: its inputs, one for every place of the signature.
        outs: the values that it makes.
        example: the index of the example that made it.
        code, instruction: where it was made.
        draws: of a cell that draws random numbers: the key of its example, and the use of it that is this call's.
        waits: how many inputs are not computed yet; UNSEEN until it is needed.
        alike: how many of them are results of calls of the same signature.
        users: the calls that wait for it, in the order in which they were made.
    """

    __slots__ = (
        "alike",
        "code",
        "draws",
        "example",
        "instruction",
        "outs",
        "signature",
        "users",
        "values",
        "waits",
    )

    signature: Signature
    values: list[Any]
    outs: tuple[Lazy, ...]
    example: int
    code: CodeType
    instruction: int
    draws: tuple[Key, int]
    waits: int
    alike: int
    users: list[Call]

    @property
    def site(self) -> str:
        """The line that made it, as `file:line`."""
        return f"{self.code.co_filename}:{line_of(self.code, self.instruction)}"


def line_of(code: CodeType, instruction: int) -> int:
    for start, stop, line in code.co_lines():
        if start <= instruction < stop and line is not None:
            return line
    return code.co_firstlineno


class Lazy(Tensor):
    """A tensor that is computed together with others like it; reading its value computes it.

    Attributes:
        spec: its shape and dtype, which are known from the beginning.
        call: what will make it; None once it is computed.
        block, row: where it stands then.
    """

    __slots__ = ("_node", "block", "call", "row", "spec")

    _node: Any
    block: Block
    call: Call | None
    row: int
    spec: Spec

    def __init__(self) -> None:
        raise TypeError("only calls inside dp.batched make a Lazy; dp.tensor makes a tensor")

    @property
    def recorder(self) -> Recorder:
        return self.block.recorder if self.call is None else self.call.signature.recorder

    def computed(self) -> Lazy:
        """This value as it is now, after computing it and what it needs.

        Raises:
            RuntimeError: the body of a cell asks for it, which runs for many examples.
        """
        if body.running and not self.recorder.closed:
            raise RuntimeError(
                "the body of a cell uses a value of an example that is not among its arguments: one body runs for many "
                "examples, so give it what differs between them as an argument"
            )
        if self.call is not None:
            self.recorder.compute(self)
        return self

    @property
    def data(self) -> Any:  # type: ignore[override]
        it = self.computed()
        return it.block.rows.data[it.row, ...]

    @property
    def node(self) -> Any:
        """Its place on the tape, made when somebody asks: computing in batches does not."""
        it = self.computed()
        rows = it.block.rows
        if rows.node is None:
            return None
        try:
            return it._node
        except AttributeError:
            shape = rows.data.shape
            it._node = Node(part, (rows.node,), ((it.row, shape),), (it.row,), shape[1:])
            it._node.seq = rows.node.seq + 0.5  # when it was computed, not when somebody asks
            return it._node

    @property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.spec.dtype

    @property
    def ndim(self) -> int:
        return len(self.spec.shape)

    @property
    def size(self) -> int:
        return self.spec.size

    @property
    def nbytes(self) -> int:
        return self.spec.size * self.spec.dtype.itemsize

    def detach(self) -> Tensor:
        return apply(detached, (self,))  # type: ignore[no-any-return]

    def register_hook(self, hook: Any) -> Any:
        raise TypeError(
            "register_hook() on a value inside dp.batched, whose gradient is part of a batch: register it in the body "
            "of the cell, or on what dp.batched returns"
        )

    # Writes are always made on a new value here, which this one then is.

    def _records_write(self, value: Any) -> bool:
        return True

    def _become(self, result: Tensor) -> Lazy:
        if result.shape != self.shape or result.dtype != self.dtype:
            raise ValueError(
                f"in-place result of {result.dtype} {result.shape} does not fit a tensor of {self.dtype} {self.shape}"
            )
        if not isinstance(result, Lazy):  # written to where nothing is postponed
            result = self.recorder.held(result)
        if type(self) is Lazy:
            first = _twin(self)
            if self.call is not None:
                self.call.outs = tuple([first if out is self else out for out in self.call.outs])
            self.call, self.__class__ = None, Written
            self.block = first  # type: ignore[assignment]  # `first`
        self._node = result  # `now`
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Tensor._of(self.data.copy(), self.node).__reduce__()


def _twin(value: Lazy) -> Lazy:
    twin = Lazy.__new__(Lazy)
    twin.spec, twin.call = value.spec, value.call
    if value.call is None:
        twin.block, twin.row = value.block, value.row
    return twin


class Written(Lazy):
    """A value that was written to: `now` is what it is since the last write, `first` what calls took before any.

    A `Lazy` becomes one, so that whoever holds it sees the write; the two stand in places that it has no use for.
    """

    __slots__ = ()

    @property
    def first(self) -> Lazy:
        return self.block  # type: ignore[return-value]

    @property
    def now(self) -> Lazy:
        return self._node  # type: ignore[no-any-return]

    @property
    def recorder(self) -> Recorder:
        return self.now.recorder

    def computed(self) -> Lazy:
        return self.now.computed()


# The same value without its gradient, for values that are not computed yet.
detached = Op("detach", lambda x: x, batch=same)
