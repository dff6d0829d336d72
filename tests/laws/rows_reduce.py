"""Rows of what reduces over axes or runs along one: `ops/reduce.py`, `extrema.py`, `norms.py`, `scan.py`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from laws.rows import Call, Draw, Row

from dist_dp import ops
from dist_dp.ops.core import apply
from dist_dp.ops.scan import delay, recurrence


def reduction(
    name: str,
    reference: Callable[..., Any] | None = None,
    values: Callable[..., Any] = Draw.array,
    empty: bool = True,
    extra: Callable[[Draw], dict[str, Any]] = lambda d: {},
    label: str = "",
    **options: Any,
) -> Row:
    """The row of a reduction; `empty=False` if it means nothing of no elements."""

    def build(d: Draw) -> Call:
        x = values(d, d.shape(empty=empty))
        return Call(x, axis=d.axes(x.ndim), keepdims=d.flag(), **extra(d))

    return Row(label or name, getattr(ops, name), reference or getattr(np, name), build, **options)


def logsumexp(x: Any, axis: Any, keepdims: bool) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def norm(x: Any, axis: Any, keepdims: bool, ord: float) -> Any:
    return np.sum(np.abs(x) ** ord, axis=axis, keepdims=keepdims) ** (1 / ord)


def positive(d: Draw, shape: tuple[int, ...]) -> Any:
    return d.array(shape, 0.3, 2.0)


def with_zeros(d: Draw, shape: tuple[int, ...]) -> Any:
    return d.prepared(d.array(shape) * d.booleans(shape))


def along(d: Draw, values: Callable[..., Any] = Draw.array) -> Call:
    x = values(d, d.shape(min_dims=1))
    return Call(x, axis=d.pick(None, d.axis(x.ndim)))


def position(name: str) -> Row:
    def build(d: Draw) -> Call:
        x = d.distinct(d.shape(empty=False))
        return Call(x, axis=d.pick(None, d.axis(x.ndim)) if x.ndim else None, keepdims=d.flag())

    return Row(name, getattr(ops, name), getattr(np, name), build, order=0)


def weighted(d: Draw) -> Call:
    x = d.array(d.shape(min_dims=1, empty=False))
    axis = d.axis(x.ndim)
    return Call(x, axis=axis, weights=d.array(d.pick(x.shape, x.shape[axis : axis + 1 or None]), 0.3, 2.0))


def directed(operation: Any, count: int) -> Callable[..., Any]:
    return lambda *arguments: apply(operation, arguments[:count], arguments[count:])


ROWS = [
    reduction("sum"),
    reduction("prod"),
    reduction("prod", values=with_zeros, label="prod with zeros"),
    reduction("logsumexp", logsumexp),
    reduction("mean", empty=False),
    reduction("var", empty=False),
    reduction("std", values=Draw.distinct, empty=False),
    reduction("max", values=Draw.distinct, empty=False),
    reduction("min", values=Draw.distinct, empty=False),
    reduction("ptp", values=Draw.distinct, empty=False),
    reduction("median", values=Draw.distinct, empty=False),
    reduction("any", order=0),
    reduction("all", order=0),
    reduction("count_nonzero", values=with_zeros, order=0),
    *[
        reduction("norm", norm, positive, extra=lambda d, p=p: {"ord": p}, label=f"norm {p}", empty=False)
        for p in (1, 2, 3, 0.5, -1)
    ],
    Row("average", ops.average, np.average, weighted),
    position("argmax"),
    position("argmin"),
    Row("cumsum", ops.cumsum, np.cumsum, along),
    Row("cumprod", ops.cumprod, np.cumprod, along),
    Row("cumprod with zeros", ops.cumprod, np.cumprod, lambda d: along(d, with_zeros)),
    Row(
        "delay", directed(delay, 1), None, lambda d: Call(d.array(d.shape(min_dims=2)), 1, d.pick(1, -1), 0.5)
    ),
    Row(
        "recurrence",
        directed(recurrence, 2),
        None,
        lambda d: Call(a := d.array(d.shape(min_dims=2)), d.array(a.shape), 1, d.pick(1, -1)),
    ),
]
