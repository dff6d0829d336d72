"""The fold of arrays: the tree of `runtime.fold` over flat arrays, in blocks that stay in the cache.

Additions are elementwise, so a block, a bucket or a chunk of the arrays may be folded by itself, by anybody: the bits
are those of the whole fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fold import Span, combine

Array = NDArray[Any]

# Elements of a block: operands and scratch of a deep tree fit the second-level cache.
_BLOCK = 1 << 15


def fold_arrays(
    values: Mapping[Span, Array | None], shards: int, out: Array, operation: np.ufunc = np.add
) -> bool:
    """Fold equally long 1-D arrays, the partial sums of subtrees, up the tree over `shards` leaves into `out`.

    `values` covers `[0, shards)` with nodes of the tree; None stands for a subtree to which nobody contributed, which
    is not the same as zeros (x + 0 turns -0 into +0). Returns whether there was anything to add; if not, `out` is left
    alone. No array of `values` is written; `out` must not overlap any of them. `operation` takes the place of addition.

    Raises:
        ValueError: the spans do not cover the shards, or are no nodes of the tree.

    >>> out = np.empty(2)
    >>> fold_arrays({(0, 2): np.ones(2), (2, 3): None, (3, 4): np.ones(2)}, 4, out), out
    (True, array([2., 2.]))
    """
    program = Program(values, shards)
    program.run(values, out, operation)
    return not program.empty


# What to add: a span (take its array) or a pair of such trees (add them); None where there is nothing.
_Tree = Any


class Program:
    """What `fold_arrays` does for arrays of these spans, worked out once for many arrays.

    Attributes:
        empty: whether there is nothing to add.
    """

    def __init__(self, values: Mapping[Span, object | None], shards: int) -> None:
        def pair(left: _Tree, right: _Tree) -> _Tree:
            if left is None or right is None:
                return left if right is None else right
            return (left, right)

        leaves: dict[Span, _Tree] = {s: s if value is not None else None for s, value in values.items()}
        tree = combine(leaves, shards, pair)
        self._tree, self.empty = tree, tree is None
        self._depth = 0 if self.empty else _depth(tree)
        # One addition passes over its operands once anyway; several do so block by block.
        self._whole = self.empty or _is_span(tree) or all(map(_is_span, tree))

    def run(self, values: Mapping[Span, Array | None], out: Array, operation: np.ufunc = np.add) -> None:
        """Fold arrays of the spans that were given; where there was None, it is not looked at."""
        if self.empty:
            return
        if self._whole:
            result = _run(self._tree, values, slice(None), out, None, 0, operation)
            if result is not out:
                np.copyto(out, result)
            return
        scratch = np.empty((self._depth, min(_BLOCK, out.size)), out.dtype)
        for lo in range(0, out.size, _BLOCK):
            piece = slice(lo, lo + _BLOCK)
            _run(self._tree, values, piece, out[piece], scratch, 0, operation)


def _is_span(tree: _Tree) -> bool:
    return isinstance(tree[0], int)


def _depth(tree: _Tree) -> int:
    """Scratch blocks needed: the result of one side must be kept while the other is computed."""
    if _is_span(tree):
        return 0
    left, right = tree
    return max(_depth(left), _depth(right) + (not _is_span(right)))


def _run(
    tree: _Tree,
    values: Mapping[Span, Array | None],
    piece: slice,
    out: Array,
    scratch: Array | None,
    used: int,
    operation: np.ufunc,
) -> Array:
    """Compute a tree over a piece of the arrays into `out`; a span is returned as it is, without a copy."""
    if _is_span(tree):
        array = values[tree]
        assert array is not None
        return array[piece]
    left, right = tree
    a = _run(left, values, piece, out, scratch, used, operation)
    if _is_span(right):
        b = _run(right, values, piece, out, scratch, used, operation)
    else:
        assert scratch is not None
        b = _run(right, values, piece, scratch[used, : out.size], scratch, used + 1, operation)
    result: Array = operation(a, b, out=out)
    return result
