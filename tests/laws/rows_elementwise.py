"""Rows of the operations that treat every element alike: `ops/elementwise.py` and `comparison.py`.

Arguments keep clear of kinks and steps (`away`, `apart`, `between_steps`), where differences say nothing about a
derivative; what happens exactly there is in `tests/ops/test_elementwise.py`.
"""

import math
from typing import Any

import numpy as np
from laws.rows import Array, Call, Draw, Row, elementwise, pairwise

from dist_dp import ops


def away(d: Draw, shape: tuple[int, ...], from_zero: float = 0.1) -> Array:
    """Values of both signs that are not near 0."""
    x = d.array(shape)
    return d.prepared(x + np.copysign(from_zero, x))


def apart(d: Draw) -> list[Array]:
    """Arrays that broadcast, no element of one near an element of the other."""
    first, second = d.broadcastable(2)
    return [d.distinct(first), d.prepared(d.distinct(second) + 0.05)]


def between_steps(d: Draw) -> Call:
    """(x, y) with x / y well inside a unit interval."""
    y = away(d, d.shape(), 0.5)
    k = d.integers(y.shape, -2, 3)
    return Call(d.prepared(y * (k + d.array(y.shape, 0.1, 0.9))), y)


def clear(name: str, reference: Any, **options: Any) -> Row:
    """The row of a function with a kink or a pole at 0."""
    return Row(name, getattr(ops, name), reference, lambda d: Call(away(d, d.shape())), **options)


def step(name: str) -> Row:
    """The row of a function without gradient."""
    return Row(name, getattr(ops, name), getattr(np, name), lambda d: Call(away(d, d.shape())), order=0)


def clipped(d: Draw) -> Call:
    x = d.distinct(d.shape(), 0.3)
    return Call(x, *d.pick((-0.5, 0.7), (None, 0.2), (-0.2, None)))


def chosen(d: Draw) -> Call:
    condition, x, y = d.broadcastable(3)
    return Call(d.booleans(condition), d.array(x), d.array(y))


SMOOTH = [
    "exp",
    "exp2",
    "expm1",
    "sin",
    "cos",
    "tan",
    "arctan",
    "sinh",
    "cosh",
    "tanh",
    "arcsinh",
    "square",
    "negative",
    "positive",
    "deg2rad",
    "rad2deg",
]
# Inside the domain, and where it is bounded not near its border.
DOMAINS = {
    "log": (0.2, 3.0),
    "log2": (0.2, 3.0),
    "log10": (0.2, 3.0),
    "log1p": (-0.7, 3.0),
    "sqrt": (0.2, 3.0),
    "arcsin": (-0.8, 0.8),
    "arccos": (-0.8, 0.8),
    "arctanh": (-0.8, 0.8),
    "arccosh": (1.2, 3.0),
}
STEPS = ["floor", "ceil", "trunc", "sign", "isnan", "isinf", "isfinite", "signbit", "logical_not", "round"]
COMPARISONS = [
    "equal",
    "not_equal",
    "less",
    "less_equal",
    "greater",
    "greater_equal",
    "logical_and",
    "logical_or",
    "logical_xor",
    "floor_divide",
]

ROWS = [
    *[
        pairwise(name, getattr(ops, name), getattr(np, name))
        for name in ("add", "subtract", "multiply", "logaddexp")
    ],
    Row(
        "divide",
        ops.divide,
        np.divide,
        lambda d: Call(d.array((3, 1)), away(d, d.shape(max_dims=1, max_side=1), 0.5)),
    ),
    pairwise("power", ops.power, np.power, low=0.3),
    Row("power by a number", ops.power, np.power, lambda d: Call(away(d, d.shape()), d.pick(-1, 0, 1, 2, 3))),
    Row("power of a number", ops.power, np.power, lambda d: Call(2.5, d.array(d.shape()))),
    Row("remainder", ops.remainder, np.remainder, between_steps),
    Row("fmod", ops.fmod, np.fmod, between_steps),
    Row("maximum", ops.maximum, np.maximum, lambda d: Call(*apart(d))),
    Row("minimum", ops.minimum, np.minimum, lambda d: Call(*apart(d))),
    Row("arctan2", ops.arctan2, np.arctan2, lambda d: Call(*[away(d, s, 0.5) for s in d.broadcastable(2)])),
    Row("hypot", ops.hypot, np.hypot, lambda d: Call(*[away(d, s, 0.5) for s in d.broadcastable(2)])),
    Row("copysign", ops.copysign, np.copysign, lambda d: Call(*[away(d, s) for s in d.broadcastable(2)])),
    *[elementwise(name, getattr(ops, name), getattr(np, name)) for name in SMOOTH],
    *[elementwise(name, getattr(ops, name), getattr(np, name), *bounds) for name, bounds in DOMAINS.items()],
    elementwise("rsqrt", ops.rsqrt, lambda x: 1 / np.sqrt(x), 0.2, 3.0),
    elementwise("sigmoid", ops.sigmoid, lambda x: 1 / (1 + np.exp(-x)), -9.0, 9.0),
    elementwise("softplus", ops.softplus, lambda x: np.log1p(np.exp(x)), -9.0, 9.0),
    elementwise("erf", ops.erf, np.vectorize(math.erf, otypes=[float]), -4.0, 4.0),
    clear("abs", np.abs),
    clear("cbrt", np.cbrt),
    clear("reciprocal", np.reciprocal),
    clear("relu", lambda x: np.maximum(x, 0)),
    Row(
        "elu",
        ops.elu,
        lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(x)),
        lambda d: Call(away(d, d.shape()), alpha=d.pick(1.0, 0.3)),
    ),
    Row(
        "leaky_relu",
        ops.leaky_relu,
        lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
        lambda d: Call(away(d, d.shape()), negative_slope=0.2),
    ),
    *[step(name) for name in STEPS],
    *[
        Row(name, getattr(ops, name), getattr(np, name), lambda d: Call(*apart(d)), order=0)
        for name in COMPARISONS
    ],
    Row("isclose", ops.isclose, np.isclose, lambda d: Call(*apart(d)), order=0),
    Row("where", ops.where, np.where, chosen),
    Row(
        "masked_fill",
        ops.masked_fill,
        lambda x, mask, v: np.where(mask, v, x),
        lambda d: Call(d.array((2, 3)), d.booleans((3,)), -1.5),
    ),
    Row("clip", ops.clip, np.clip, clipped),
    Row(
        "clip to arrays",
        ops.clip,
        np.clip,
        lambda d: Call(x := d.distinct(d.shape(), 0.3), d.prepared(x - 0.11), d.prepared(x + 0.07)),
    ),
    Row("nan_to_num", ops.nan_to_num, np.nan_to_num, lambda d: Call(d.array(d.shape()))),
    Row("copy", ops.copy, np.copy, lambda d: Call(d.array(d.shape()))),
    Row("contiguous", ops.contiguous, lambda x: x, lambda d: Call(d.array(d.shape()))),
    Row(
        "astype",
        lambda x: ops.astype(ops.astype(x, np.longdouble), x.dtype),
        lambda x: x,
        lambda d: Call(d.array(d.shape())),
    ),
]
