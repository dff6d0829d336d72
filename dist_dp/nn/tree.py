"""Tree-LSTM cells: the state of a node from its input and the states of its children (Tai, Socher and Manning 2015).

A model is a plain recursion over the tree:

    def encode(node):
        return cell(embed(node.label), [encode(child) for child in node.children])

States are pairs (h, c) of shape (hidden_size,), or (N, hidden_size) for N trees of one form at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..batching.ragged import Ragged
from ..ops.affine import linear
from ..ops.core import TensorLike
from ..ops.tree import tree_lstm
from ..tensor import Tensor
from . import init
from .arguments import count
from .module import Module, Parameter

__all__ = ["BinaryTreeLSTMCell", "ChildSumTreeLSTMCell"]

State = tuple[Tensor, Tensor]


class _Cell(Module):
    def __init__(self, input_size: int, hidden_size: int) -> None:
        layer = type(self).__name__
        self.input_size = count(layer, "input_size", input_size)
        self.hidden_size = count(layer, "hidden_size", hidden_size)

    def _parameter(self, shape: tuple[int, ...], dtype: DTypeLike) -> Parameter:
        bound = 1 / math.sqrt(self.hidden_size)
        return init.uniform_(Parameter(np.empty(shape, dtype)), -bound, bound)

    def _gates(
        self, x: TensorLike | None, weight: Parameter, bias: Parameter, like: TensorLike | None
    ) -> Tensor:
        """What the input adds to the gates; without one the bias alone, for as many trees as `like`."""
        if x is not None:
            return linear(x, weight, bias)
        if isinstance(like, Tensor) and like.ndim > 1:
            return ops.broadcast_to(bias, (*like.shape[:-1], len(bias)))
        return bias

    def _check(self, child: State) -> None:
        try:
            h, c = child
            if h.shape == c.shape and h.shape[-1] == self.hidden_size:
                return
        except (AttributeError, IndexError, TypeError, ValueError):
            pass
        got = (
            [getattr(s, "shape", type(s).__name__) for s in child]
            if isinstance(child, tuple)
            else type(child).__name__
        )
        raise ValueError(
            f"{type(self).__name__}: expected the state of a child as (h, c), both "
            f"(..., hidden_size={self.hidden_size}), got {got}"
        )

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


class ChildSumTreeLSTMCell(_Cell):
    """The cell for any number of children, in whose order it is blind: equations 2 to 8.

        h̃ = Σ_k h_k
        i, o, u = σ, σ, tanh of (W x + U h̃ + b), each with rows of its own
        f_k = σ(W_f x + U_f h_k + b_f)
        c = i u + Σ_k f_k c_k
        h = o tanh(c)

    Parameters: `weight_ih` (4 hidden_size, input_size) and `bias` (4 hidden_size,), rows in the order i, o, u, f;
    `weight_hh` (3 hidden_size, hidden_size) for i, o, u; `weight_fh` (hidden_size, hidden_size). All from U(-k, k),
    k = 1/√hidden_size.

    Raises:
        ValueError: a size below 1; at the call, an input or a child state of another size.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> cell = nn.ChildSumTreeLSTMCell(3, 4)
    >>> leaf = cell(np.ones(3, np.float32))
    >>> h, c = cell(np.ones(3, np.float32), [leaf, leaf, leaf])
    >>> h.shape
    (4,)
    """

    def __init__(self, input_size: int, hidden_size: int, dtype: DTypeLike = np.float32) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = self._parameter((4 * hidden_size, input_size), dtype)
        self.weight_hh = self._parameter((3 * hidden_size, hidden_size), dtype)
        self.weight_fh = self._parameter((hidden_size, hidden_size), dtype)
        self.bias = self._parameter((4 * hidden_size,), dtype)

    def forward(self, x: TensorLike | None = None, children: Sequence[State] | Ragged = ()) -> State:
        """(h, c) of a node with input `x` (..., input_size), or None for no input, and the states of its children.

        In the body of a cell `children` may be `Ragged`.
        """
        n = self.hidden_size
        h, c, over, of_parent = self._children(children)
        gates = self._gates(
            x, self.weight_ih, self.bias, h if isinstance(children, Ragged) else None if h is None else h[0]
        )
        squashed = gates[..., : 3 * n]
        if h is not None:
            squashed = squashed + linear(over(h), self.weight_hh)
            forget = ops.sigmoid(linear(h, self.weight_fh) + of_parent(gates[..., 3 * n :]))
        io = ops.sigmoid(squashed[..., : 2 * n])
        cell = io[..., :n] * ops.tanh(squashed[..., 2 * n :])
        if h is not None:
            cell = cell + over(forget * c)
        return io[..., n:] * ops.tanh(cell), cell

    def _children(self, children: Sequence[State] | Ragged) -> tuple[Any, Any, Any, Any]:
        """h and c of all children; how to add over those of a node, and to give each what belongs to its parent."""
        if not children:
            return None, None, None, None
        if isinstance(children, Ragged):
            self._check(children.values)
            h, c = children.values
            return h, c, children.sum, lambda x: x[children.owners]
        for child in children:
            self._check(child)
        h, c = (ops.stack(list(part)) for part in zip(*children, strict=True))
        return h, c, lambda x: ops.sum(x, axis=0), lambda x: x


class BinaryTreeLSTMCell(_Cell):
    """The cell for a left and a right child: equations 9 to 14 with N = 2.

        i, f_l, f_r, o, u = σ, σ, σ, σ, tanh of (W x + U_l h_l + U_r h_r + b), each with rows of its own
        c = i u + f_l c_l + f_r c_r
        h = o tanh(c)

    An absent child counts as zeros. (The two forget gates have rows of their own in W and b, which equation 10 shares.)

    Parameters: `weight_ih` (5 hidden_size, input_size), `weight_left` and `weight_right` (5 hidden_size, hidden_size)
    and `bias` (5 hidden_size,), rows in the order i, f_l, f_r, o, u. All from U(-k, k), k = 1/√hidden_size.

    Raises:
        ValueError: a size below 1; at the call, an input or a child state of another size.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> cell = nn.BinaryTreeLSTMCell(3, 4)
    >>> leaf = cell(np.ones(3, np.float32))
    >>> h, c = cell(None, leaf, leaf)
    >>> h.shape
    (4,)
    """

    def __init__(self, input_size: int, hidden_size: int, dtype: DTypeLike = np.float32) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = self._parameter((5 * hidden_size, input_size), dtype)
        self.weight_left = self._parameter((5 * hidden_size, hidden_size), dtype)
        self.weight_right = self._parameter((5 * hidden_size, hidden_size), dtype)
        self.bias = self._parameter((5 * hidden_size,), dtype)

    def forward(
        self, x: TensorLike | None = None, left: State | None = None, right: State | None = None
    ) -> State:
        """(h, c) of a node with input `x` (..., input_size) and the states of its children, each or all absent."""
        child = right if left is None else left
        for state in (left, right):
            if state is not None:
                self._check(state)
        gates = self._gates(x, self.weight_ih, self.bias, None if child is None else child[0])
        return tree_lstm(gates, left, right, self.weight_left, self.weight_right)
