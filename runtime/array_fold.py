"""The fold of arrays: the tree of `runtime.fold` over flat arrays, in blocks that stay in the cache.

Additions are elementwise, so a block, a bucket or a chunk of the arrays may be folded by itself, by anybody: the bits
are those of the whole fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .fold import Span, combine

Array = NDArray[Any]

# Elements of a block: operands and scratch of a deep tree fit the second-level cache.
_BLOCK = 1 << 15


def fold_arrays(values: Mapping[Span, Array | None], shards: int, out: Array) -> bool:
    """Fold equally long 1-D arrays, the partial sums of subtrees, up the tree over `shards` leaves into `out`.

    `values` covers `[0, shards)` with nodes of the tree; None stands for a subtree to which nobody contributed, which
    is not the same as zeros (x + 0 turns -0 into +0). Returns whether there was anything to add; if not, `out` is left
    alone. No array of `values` is written; `out` must not overlap any of them.

    Raises:
        ValueError: the spans do not cover the shards, or are no nodes of the tree.

    >>> out = np.empty(2)
    >>> fold_arrays({(0, 2): np.ones(2), (2, 3): None, (3, 4): np.ones(2)}, 4, out), out
    (True, array([2., 2.]))
    """
    program = _program(tuple((span, array is not None) for span, array in values.items()), shards)
    if program is None:
        return False
    if _is_span(program):
        np.copyto(out, _run(program, values, 0, out.size, out, None, 0))
        return True
    depth = _depth(program)
    scratch = np.empty((depth, min(_BLOCK, out.size)), out.dtype) if depth else None
    # A single addition passes over its operands once anyway.
    block = max(1, out.size) if all(map(_is_span, program)) else _BLOCK
    for lo in range(0, out.size, block):
        hi = min(lo + block, out.size)
        _run(program, values, lo, hi, out[lo:hi], scratch, 0)
    return True


# A program is a span (take its array) or a pair of programs (add them); None where there is nothing.
_Program = Any


@lru_cache(maxsize=256)
def _program(present: tuple[tuple[Span, bool], ...], shards: int) -> _Program:
    def pair(left: _Program, right: _Program) -> _Program:
        if left is None or right is None:
            return left if right is None else right
        return (left, right)

    return combine({span: span if there else None for span, there in present}, shards, pair)


def _is_span(program: _Program) -> bool:
    return isinstance(program[0], int)


def _depth(program: _Program) -> int:
    """Scratch blocks needed: the result of one side must be kept while the other is computed."""
    if _is_span(program):
        return 0
    left, right = program
    return max(_depth(left), _depth(right) + (not _is_span(right)))


def _run(
    program: _Program,
    values: Mapping[Span, Array | None],
    lo: int,
    hi: int,
    out: Array,
    scratch: Array | None,
    used: int,
) -> Array:
    """Compute a program over elements lo:hi into `out`; a span is returned as it is, without a copy."""
    if _is_span(program):
        array = values[program]
        assert array is not None
        return array[lo:hi]
    left, right = program
    a = _run(left, values, lo, hi, out, scratch, used)
    if _is_span(right):
        b = _run(right, values, lo, hi, out, scratch, used)
    else:
        assert scratch is not None
        b = _run(right, values, lo, hi, scratch[used, : hi - lo], scratch, used + 1)
    return np.add(a, b, out)
