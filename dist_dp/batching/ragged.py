"""Lists of any length among the arguments of a cell, without a batch for every length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import ops
from ..tensor import Tensor
from .lazy import Spec


class Ragged:
    """A list given to a cell whose length may differ between the calls of a batch.

    The items are alike: tensors, arrays or numbers of one shape and dtype, or tuples and the like of them. In the body
    the lists of all calls stand one after another:

    Attributes:
        values: one item, each of its parts with the items of all calls on the first axis, (total, ...).
        lengths: (batch,) the number of items of each call.
        owners: (total,) which call an item belongs to.

    An empty list is false, and calls with one make batches of their own.

    >>> import dist_dp as dp
    >>> @dp.cell
    ... def total(numbers):
    ...     return numbers.sum(numbers.values) if numbers else dp.numpy.zeros(len(numbers.lengths))
    >>> dp.batched(lambda xs: total(dp.Ragged(xs)), [[1.0, 2.0], [3.0], [], [4.0, 5.0, 6.0]])
    tensor([ 3.,  3.,  0., 15.])
    >>> dp.explain_batching().batches
    {'total': [3, 1]}
    """

    __slots__ = ("items", "lengths", "owners", "values")

    values: Any
    lengths: NDArray[np.int64]
    owners: NDArray[np.int64]

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = list(items)

    @classmethod
    def of_calls(cls, lengths: NDArray[np.int64]) -> Ragged:
        """What the body sees of lists of these lengths, which are all zero or none; without `values`."""
        self = cls.__new__(cls)
        self.lengths, self.owners = lengths, np.repeat(np.arange(len(lengths)), lengths)
        return self

    @property
    def _in_body(self) -> bool:
        return hasattr(self, "lengths")

    def __getattr__(self, name: str) -> Any:  # of what is not set
        if name not in Ragged.__slots__:
            raise AttributeError(f"'Ragged' object has no attribute {name!r}")
        if name == "items":
            raise AttributeError(
                "'items' of a dp.Ragged in the body of a cell: there `values` has those of all calls, one after another"
            )
        if name == "values" and self._in_body:
            raise AttributeError(
                "'values' of an empty dp.Ragged, of which nobody knows what its items would be like; an empty one is "
                "false, and calls with one make batches of their own: `... if xs else ...`"
            )
        raise AttributeError(
            f"{name!r} of a dp.Ragged is there in the body of the cell that it is given to, where the lists of all "
            "calls stand one after another; outside, its items are what it was made of"
        )

    def __repr__(self) -> str:
        return f"<Ragged of lengths {self.lengths.tolist()}>" if self._in_body else f"Ragged({self.items!r})"

    def __bool__(self) -> bool:
        return len(self.owners) > 0 if self._in_body else bool(self.items)

    def sum(self, x: Any) -> Tensor:
        """For every call the sum over its items: (total, ...) to (batch, ...)."""
        return ops.segment_sum(x, self.owners, len(self.lengths))


def inputs(
    calls: Sequence[Sequence[Any]],
    specs: Sequence[Any],
    column: Callable[[Sequence[Any], Spec, bool], Tensor],
) -> Iterator[Any]:
    """What the body sees, from the values of each call.

    A spec is that of one value; for a ragged list it is the list of those of an item. Its values are its length, and
    then of all items the first part, the second part and so on.
    """
    if not any(type(spec) is list for spec in specs):
        for same, spec in zip(zip(*calls, strict=True), specs, strict=True):
            yield column(same, spec, True)
        return
    at = [0] * len(calls)  # how many values of each call have been taken
    for spec in specs:
        if type(spec) is not list:
            yield column([values[i] for values, i in zip(calls, at, strict=True)], spec, True)
            at = [i + 1 for i in at]
            continue
        lengths = [values[i] for values, i in zip(calls, at, strict=True)]
        yield np.array(lengths)
        at = [i + 1 for i in at]
        for part in spec:
            stops = [i + n for i, n in zip(at, lengths, strict=True)]
            flat: list[Any] = []
            for values, i, stop in zip(calls, at, stops, strict=True):
                flat += values[i:stop]
            yield column(flat, part, False)
            at = stops


def trial(rows: int, specs: Sequence[Any], make: Callable[[Spec, int], NDArray[Any]]) -> Iterator[Any]:
    """Made inputs for `rows` calls, whose ragged lists have 1, 2, ... items."""
    calls: list[list[Any]] = [[] for _ in range(rows)]
    for spec in specs:
        for n, values in enumerate(calls, 1):
            values += [n, *[None] * (n * len(spec))] if type(spec) is list and spec else [0]
    return inputs(calls, specs, lambda values, spec, aligned: Tensor._of(make(spec, len(values)), None))
