"""Rows of the affine map."""

from typing import Any

import numpy as np
from laws.rows import Call, Row

from dist_dp.ops.affine import linear


def _affine(d: Any, bias: bool) -> Call:
    x = d.array((*d.shape(max_dims=2), n := d.integer(1, 3)))
    weight = d.array((m := d.integer(1, 3), n))
    return Call(x, weight, d.array((m,))) if bias else Call(x, weight)


ROWS = [
    Row("linear", linear, lambda x, w, b: np.dot(x, w.T) + b, lambda d: _affine(d, True)),
    Row("linear_without_bias", linear, lambda x, w: np.dot(x, w.T), lambda d: _affine(d, False)),
]
