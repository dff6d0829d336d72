"""Cells of tree-structured LSTMs: a state for a tree from the states of its subtrees.

Tai, Socher and Manning, "Improved Semantic Representations From Tree-Structured Long Short-Term Memory Networks",
2015. The recursion over a tree is the user's own Python; a cell is called once for every node, with plain vectors
or with rows of several nodes at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..ops.core import TensorLike
from ..ops.linear import linear
from ..ops.tree import tree_lstm
from ..tensor import Tensor
from . import init
from .arguments import count, tensor_input
from .module import Module, Parameter

__all__ = ["BinaryTreeLSTMCell", "ChildSumTreeLSTMCell"]

State = tuple[Tensor, Tensor]


class _TreeCell(Module):
    """What both cells share: sizes, initial values, the check of the input."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size = count(type(self).__name__, "input_size", input_size)
        self.hidden_size = count(type(self).__name__, "hidden_size", hidden_size)

    def reset_parameters(self) -> None:
        """Draw the parameters anew, all from U(-k, k), k = 1/√hidden_size."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _checked(self, x: TensorLike) -> Any:
        x = tensor_input(x)
        if x.shape[-1:] != (self.input_size,):
            raise ValueError(
                f"{type(self).__name__}: x must be (..., input_size={self.input_size}), got shape {x.shape}"
            )
        return x

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class BinaryTreeLSTMCell(_TreeCell):
    """The N-ary Tree-LSTM for N = 2: left and right have weights, and forget gates, of their own.

    (i, f_l, f_r, o) = sigmoid and u = tanh of W x + b + U_l h_l + U_r h_r;  c = i u + f_l c_l + f_r c_r;  h = o tanh(c)
    (equations 9 to 14). An absent subtree counts as zeros.

    Parameters, gates in the order i, f_l, f_r, o, u: `weight_ih` (5 hidden_size, input_size), `weight_left` and
    `weight_right` (5 hidden_size, hidden_size), `bias` (5 hidden_size,).

    Args:
        input_size: length of the input of a node.
        hidden_size: length of h and of c.
        dtype: of the parameters.

    Raises:
        ValueError: a size below 1; at the call, shapes that do not fit.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> cell = nn.BinaryTreeLSTMCell(3, 4)
    >>> leaf = cell(np.ones(3, np.float32))
    >>> h, c = cell(np.ones(3, np.float32), leaf, None)
    >>> h.shape, c.shape
    ((4,), (4,))
    """

    def __init__(self, input_size: int, hidden_size: int, dtype: DTypeLike = np.float32) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = Parameter(np.empty((5 * hidden_size, input_size), dtype))
        self.weight_left = Parameter(np.empty((5 * hidden_size, hidden_size), dtype))
        self.weight_right = Parameter(np.empty((5 * hidden_size, hidden_size), dtype))
        self.bias = Parameter(np.empty(5 * hidden_size, dtype))
        self.reset_parameters()

    def forward(self, x: TensorLike, left: State | None = None, right: State | None = None) -> State:
        """(h, c) of the tree whose root has input `x` and whose subtrees have the states `left` and `right`."""
        gates = linear(self._checked(x), self.weight_ih, self.bias)
        return tree_lstm(gates, left, right, self.weight_left, self.weight_right)


class ChildSumTreeLSTMCell(_TreeCell):
    """The child-sum Tree-LSTM: any number of children, in no order.

    h~ = sum of h_k;  (i, o) = sigmoid and u = tanh of W x + b + U h~;  f_k = sigmoid(W_f x + b_f + U_f h_k);
    c = i u + sum of f_k c_k;  h = o tanh(c)  (equations 2 to 8).

    Parameters, gates in the order i, o, u, f: `weight_ih` (4 hidden_size, input_size), `weight_hh`
    (4 hidden_size, hidden_size), `bias` (4 hidden_size,).

    Args, Raises: as of `BinaryTreeLSTMCell`.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> cell = nn.ChildSumTreeLSTMCell(3, 4)
    >>> x = np.ones(3, np.float32)
    >>> leaf = cell(x)
    >>> h, c = cell(x, [leaf, leaf, leaf])
    >>> h.shape, c.shape
    ((4,), (4,))
    """

    def __init__(self, input_size: int, hidden_size: int, dtype: DTypeLike = np.float32) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = Parameter(np.empty((4 * hidden_size, input_size), dtype))
        self.weight_hh = Parameter(np.empty((4 * hidden_size, hidden_size), dtype))
        self.bias = Parameter(np.empty(4 * hidden_size, dtype))
        self.reset_parameters()

    def forward(self, x: TensorLike, children: Sequence[State] = ()) -> State:
        """(h, c) of the tree whose root has input `x` and whose subtrees have the states `children`."""
        n = self.hidden_size
        gates = linear(self._checked(x), self.weight_ih, self.bias)
        first, forget = gates[..., : 3 * n], gates[..., 3 * n :]
        if children:
            h = ops.stack([h for h, _ in children])
            first = first + linear(ops.sum(h, axis=0), self.weight_hh[: 3 * n])
            forget = ops.sigmoid(forget + linear(h, self.weight_hh[3 * n :]))
            kept = ops.sum(forget * ops.stack([c for _, c in children]), axis=0)
        squashed = ops.sigmoid(first[..., : 2 * n])
        c = squashed[..., :n] * ops.tanh(first[..., 2 * n :])
        if children:
            c = c + kept
        return squashed[..., n:] * ops.tanh(c), c
