"""Embedding: vectors for integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..ops.core import TensorLike
from ..tensor import Tensor
from . import functional as F
from . import init
from .arguments import count
from .module import Module, Parameter

__all__ = ["Embedding"]


class Embedding(Module):
    """out = weight[index]: row k of a table for every integer k.

    Parameter: `weight` (num_embeddings, embedding_dim), from N(0, 1).

    Args:
        num_embeddings: number of rows.
        embedding_dim: length of a row.
        padding_idx: a row that starts as zeros and is never learned.
        dtype: of the table.

    Raises:
        ValueError: a size below 1, `padding_idx` outside the table. At the call, TypeError for an index that is not of
        integers, IndexError for one outside the table.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.Embedding(10, 4)(np.array([[1, 2, 9]])).shape
    (1, 3, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.num_embeddings = count("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = count("Embedding", "embedding_dim", embedding_dim)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(
                f"Embedding: padding_idx must be a row of the {num_embeddings}, got {padding_idx}"
            )
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight = Parameter(np.empty((num_embeddings, embedding_dim), dtype))
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def forward(self, index: TensorLike) -> Tensor:
        return F.embedding(index, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
