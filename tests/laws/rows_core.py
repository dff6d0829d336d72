"""Rows of the operations that are no family's: the alias of transforms, and functions held as one operation."""

from typing import Any

import numpy as np
from laws.rows import Call, Draw, Row

import dist_dp as dp
from dist_dp import ops
from dist_dp.ops.core import apply, identity


def product(x: Any, y: Any) -> Any:
    return ops.sin(x) * y, ops.exp(y)


def reference(x: Any, y: Any) -> Any:
    return np.sin(x) * y, np.exp(y)


ruled = dp.custom_vjp(product)
ruled.defvjp(
    lambda x, y: (product(x, y), (x, y)),
    lambda r, g: (ops.cos(r[0]) * r[1] * g[0], ops.sin(r[0]) * g[0] + ops.exp(r[1]) * g[1]),
)


def same_shapes(d: Draw) -> Call:
    shape = d.shape()
    return Call(d.array(shape), d.array(shape))


def broadcast(d: Draw) -> Call:
    return Call(*[d.array(shape) for shape in d.broadcastable(2)])


ROWS = [
    Row("identity", lambda x: apply(identity, (x,)), lambda x: x, lambda d: Call(d.array(d.shape()))),
    Row("checkpoint", dp.checkpoint(product), reference, broadcast),
    Row("custom_vjp", ruled, reference, same_shapes),
]
