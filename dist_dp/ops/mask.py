"""Dropout: elements set to zero at random, by keys and never by a stream that a worker holds."""

from __future__ import annotations

import numpy as np

from .. import random
from ..random import Stream
from ..tensor import Tensor
from .core import TensorLike
from .elementwise import multiply
from .views import lifted

__all__ = ["dropout"]


def dropout(x: TensorLike, p: float = 0.5, training: bool = True, rng: Stream | None = None) -> Tensor:
    """x with each element zero with probability `p`, and the others divided by 1 - p; x itself unless `training`.

    Srivastava et al. 2014, in the inverted form that leaves evaluation alone.

    Args:
        x: a floating tensor of any shape.
        p: in [0, 1]; 1 drops everything.
        rng: the stream to draw from; by default the current one, which inside a training loop is the shard's.

    Raises:
        ValueError: `p` outside [0, 1].
        TypeError: integers or booleans.

    >>> import dist_dp as dp
    >>> with dp.random.scope(dp.random.Key(0)):
    ...     dp.ops.dropout([1.0, 1.0, 1.0, 1.0], 0.5)
    tensor([2., 0., 0., 0.])
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability between 0 and 1, got {p!r}")
    x = lifted(x)
    if x.dtype.kind != "f":
        raise TypeError(f"dropout needs a floating tensor, got dtype {x.dtype}")
    if not training or p == 0:
        return x
    kept = (random.current() if rng is None else rng).bernoulli(1 - p, x.shape)
    scale = np.asarray(0 if p == 1 else 1 / (1 - p), x.dtype)
    return multiply(x, kept * scale)
