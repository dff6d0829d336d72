"""Rows of the activations that multiply x by a squashed x."""

import math
from typing import Any

import numpy as np
from laws.rows import elementwise

from dist_dp import ops


def _normal(x: Any) -> Any:
    return np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)), otypes=[np.float64])(x)


ROWS = [
    elementwise("gelu", ops.gelu, lambda x: x * _normal(x), -6, 6),
    elementwise(
        "gelu_tanh",
        lambda x: ops.gelu(x, approximate="tanh"),
        lambda x: x * (0.5 + 0.5 * np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    elementwise("silu", ops.silu, lambda x: x / (1 + np.exp(-x)), -6, 6),
]
