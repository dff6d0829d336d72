"""Dropout: noise in training, nothing in evaluation."""

from __future__ import annotations

from ..ops.core import TensorLike
from ..random import Stream
from ..tensor import Tensor
from . import functional as F
from .arguments import probability
from .module import Module

__all__ = ["Dropout", "Dropout1d", "Dropout2d"]


class Dropout(Module):
    """In training out = x m / (1 - p) with m = 0 with probability p, else 1, for every element; in evaluation out = x.

    Srivastava et al. 2014, in the inverted form. The mask is drawn from the current scope of `dist_dp.random` (in a
    training loop the one of the shard), or from the stream that the call is given.

    Raises:
        ValueError: p outside [0, 1].

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.Dropout(1.0)(np.ones(3, np.float32))
    tensor([0., 0., 0.])
    >>> nn.Dropout(0.5).eval()(np.ones(3, np.float32))
    tensor([1., 1., 1.])
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability(type(self).__name__, p)

    def forward(self, x: TensorLike, rng: Stream | None = None) -> Tensor:
        return F.dropout(x, self.p, self.training, rng)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout1d(Dropout):
    """Drops whole channels of (N, C, L): Tompson et al. 2015."""

    def forward(self, x: TensorLike, rng: Stream | None = None) -> Tensor:
        return F.dropout1d(x, self.p, self.training, rng)


class Dropout2d(Dropout):
    """Drops whole channels of (N, C, H, W): Tompson et al. 2015."""

    def forward(self, x: TensorLike, rng: Stream | None = None) -> Tensor:
        return F.dropout2d(x, self.p, self.training, rng)
