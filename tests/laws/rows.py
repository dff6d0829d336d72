"""The form in which an operation enters the table of laws.

Each family of operations has a module `rows_<family>.py` with a list `ROWS`; `test_laws.py` holds the laws
and runs every one of them on every row. A row is a public function, a NumPy function that gives the same
values, and a builder of arguments:

    ROWS = [
        elementwise("log", ops.log, np.log, low=0.1),
        pairwise("add", ops.add, np.add),
        Row("sum", ops.sum, np.sum, lambda d: Call(x := d.array(d.shape()), axis=d.axes(x.ndim),
        keepdims=d.flag())),
    ]

A builder takes a `Draw` and asks it for shapes, arrays and options. What it asks for may depend on what it
was given (`d.axes(x.ndim)`) but not on the values in an array: the laws build one call several times with
different values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Call:
    """One call of a function: positional and keyword arguments, arrays (also in lists, tuples and dicts)
    and others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def __repr__(self) -> str:
        return f"Call({', '.join([*map(repr, self.args), *(f'{k}={v!r}' for k, v in self.kwargs.items())])})"


class Draw:
    """Hands a builder its shapes, arrays and options.

    Args:
        choose: `choose(low, high)`, an integer between the two, both included; every structural choice
            comes from it.
        seed: of the values in arrays.
        kind: "any", or "0-d" or "empty" to get such a shape wherever the builder allows one.
    """

    def __init__(self, choose: Callable[[int, int], int], seed: int = 0, kind: str = "any") -> None:
        self.integer, self.kind = choose, kind
        self._random = np.random.default_rng(seed)

    def flag(self) -> bool:
        return bool(self.integer(0, 1))

    def pick(self, *options: Any) -> Any:
        return options[self.integer(0, len(options) - 1)]

    # --- shapes

    def shape(
        self, min_dims: int = 0, max_dims: int = 3, max_side: int = 3, empty: bool = True
    ) -> tuple[int, ...]:
        """A shape; sides are at least 1, except one side of an "empty" one, which `empty=False` refuses."""
        dims = min_dims if self.kind == "0-d" else self.integer(min_dims, max_dims)
        if self.kind == "empty" and empty:
            dims = max(dims, 1)
        sides = [self.integer(1, max_side) for _ in range(dims)]
        if self.kind == "empty" and empty:
            sides[self.integer(0, dims - 1)] = 0
        return tuple(sides)

    def broadcastable(self, count: int = 2, max_dims: int = 3) -> list[tuple[int, ...]]:
        """Shapes that broadcast against each other: axes dropped in front or of length 1."""
        whole = self.shape(max_dims=max_dims)
        shapes = []
        for _ in range(count):
            dropped = self.integer(0, len(whole))
            shapes.append(tuple(1 if self.integer(0, 3) == 0 else n for n in whole[dropped:]))
        shapes[self.integer(0, count - 1)] = whole
        return shapes

    def axis(self, ndim: int) -> int:
        """One axis, counted from either end; `ndim` must be at least 1."""
        return self.integer(-ndim, ndim - 1)

    def axes(self, ndim: int) -> int | tuple[int, ...] | None:
        """What reductions take: None, an axis or a tuple of axes."""
        kind = self.integer(0, 2)
        if ndim == 0 or kind == 0:
            return None
        if kind == 1:
            return self.axis(ndim)
        return tuple(axis - ndim * self.integer(0, 1) for axis in range(ndim) if self.flag())

    # --- arrays: read-only, and laid out in memory in any of several ways

    def array(self, shape: tuple[int, ...], low: float = -2.0, high: float = 2.0) -> Array:
        """float64, uniform between `low` and `high`."""
        return self._laid_out(self._random.uniform(low, high, shape))

    def distinct(self, shape: tuple[int, ...], gap: float = 0.1) -> Array:
        """float64, multiples of `gap` plus 0.3 of it, each once: no ties for max and sort."""
        n = int(np.prod(shape))
        return self._laid_out((self._random.permutation(n).reshape(shape) - n // 2 + 0.3) * gap)

    def integers(self, shape: tuple[int, ...], low: int, high: int) -> Array:
        """int64 in low, ..., high - 1."""
        return self._laid_out(self._random.integers(low, high, shape))

    def booleans(self, shape: tuple[int, ...]) -> Array:
        return self._laid_out(self._random.random(shape) < 0.5)

    def prepared(self, array: Any) -> Array:
        """An array the builder made itself from others (a positive definite matrix), laid out like the
        rest."""
        return self._laid_out(np.array(array))

    def _laid_out(self, array: Any) -> Array:
        array = np.asarray(array)
        how = self.integer(0, 3)
        if how == 1:  # columns first
            array = np.asarray(array, order="F")
        elif how == 2:  # every second element of a larger array
            wide = np.repeat(array, 2, axis=-1) if array.ndim else array
            array = wide[..., ::2] if array.ndim else wide
        elif how == 3:  # negative strides
            every = (slice(None, None, -1),) * array.ndim
            array = np.ascontiguousarray(array[every])[every] if array.ndim else array
        array.flags.writeable = False
        return array


@dataclass(frozen=True)
class Row:
    """One function in the table.

    Attributes:
        name: shown in test names; unique.
        fn: the function, which takes tensors or arrays and returns a Tensor or a tuple of them.
        reference: the same values computed by NumPy from the same arguments; None if no such function is
            short.
        build: makes the arguments of one call.
        order: up to which order derivatives are checked, 2, 1, or 0 where the outputs carry no gradient.
        keeps_dtype: floating outputs have the dtype of the floating inputs; False for conversions.
        batched: whether vmap can take it; False where the output's shape depends on values.
        selects: boolean arguments select elements, so they are the same for all examples of a batch.
        rtol: tolerance of values in float64, relative and absolute; float32 gets 2e8 times as much, its unit.
    """

    name: str
    fn: Callable[..., Any]
    reference: Callable[..., Any] | None
    build: Callable[[Draw], Call] = field(repr=False)
    order: int = 2
    keeps_dtype: bool = True
    batched: bool = True
    selects: bool = False
    rtol: float = 1e-12


def elementwise(
    name: str,
    fn: Callable[..., Any],
    reference: Callable[..., Any] | None,
    low: float = -2.0,
    high: float = 2.0,
    **options: Any,
) -> Row:
    """The row of a function of one array, with values between `low` and `high`."""
    return Row(name, fn, reference, lambda d: Call(d.array(d.shape(), low, high)), **options)


def pairwise(
    name: str,
    fn: Callable[..., Any],
    reference: Callable[..., Any] | None,
    low: float = -2.0,
    high: float = 2.0,
    **options: Any,
) -> Row:
    """The row of a function of two arrays that broadcast, with values between `low` and `high`."""
    return Row(
        name,
        fn,
        reference,
        lambda d: Call(*[d.array(shape, low, high) for shape in d.broadcastable(2)]),
        **options,
    )
