"""Rows of the operations in `ops/core.py`, which every family uses."""

from laws.rows import Call, Row

from dist_dp.ops.core import apply, identity

ROWS = [
    Row(
        "identity",
        lambda x: apply(identity, (x,)),
        lambda x: x,
        lambda d: Call(d.array(d.shape())),
    ),
]
