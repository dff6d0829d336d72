"""Sums of products over named axes: einsum, tensordot, inner and dot.

One row carries them: `contract`, the product of two arrays summed over labels that the result lacks. Its
gradients are contractions too, so einsum has derivatives of every order. A contraction is brought to a matrix
product, which BLAS does at ten to a hundred times the speed of a plain loop over the indices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from ..tape import Array
from ..tensor import Tensor
from .core import Op, TensorLike, apply
from .elementwise import multiply
from .products import matmul
from .reduce import sum as sum_of
from .shape import diagonal
from .views import lifted, squeeze, transpose

__all__ = ["dot", "einsum", "inner", "tensordot"]

# Labels of the axes behind an ellipsis, and of the examples of vmap: characters that no caller may write.
_ELLIPSIS = "".join(map(chr, range(0x2460, 0x24A0)))
_EXAMPLES = 0x2500


# ----- the contraction of two arrays -----


def _contract(x: Array, y: Array, of_x: str, of_y: str, of_out: str) -> Array:
    """out[of_out] = sum of x[of_x] * y[of_y] over the labels that both have and of_out has not.

    Every label stands once in a string and in two of the three strings at least.
    """
    summed = [a for a in of_x if a in of_y and a not in of_out]
    if not summed:
        return _aligned(x, of_x, of_out) * _aligned(y, of_y, of_out)
    shared = [a for a in of_out if a in of_x and a in of_y]
    alone = [a for a in of_out if a not in shared]
    if alone and alone[0] in of_y:  # so that the result comes out in order as often as it can
        x, y, of_x, of_y = y, x, of_y, of_x
    rows = [a for a in of_out if a in of_x and a not in shared]
    columns = [a for a in of_out if a in of_y and a not in shared]
    length = dict(zip(of_x + of_y, x.shape + y.shape, strict=True))
    b, n, k, m = (prod(length[a] for a in some) for some in (shared, rows, summed, columns))
    stack = (b,) if shared else ()  # for two matrices `dot` is the faster one
    x = _ordered(x, of_x, [*shared, *rows, *summed]).reshape(*stack, n, k)
    y = _ordered(y, of_y, [*shared, *summed, *columns]).reshape(*stack, k, m)
    out = np.matmul(x, y) if shared else np.dot(x, y)
    found = [*shared, *rows, *columns]
    return _ordered(out.reshape([length[a] for a in found]), found, of_out)


def _ordered(x: Array, labels: Sequence[str], wanted: Sequence[str]) -> Array:
    return x.transpose([labels.index(a) for a in wanted])


def _aligned(x: Array, labels: str, wanted: str) -> Array:
    """`x` with its axes in the order of `wanted`, of length 1 where it has none."""
    x = _ordered(x, labels, [a for a in wanted if a in labels])
    sides = iter(x.shape)
    return x.reshape([next(sides) if a in labels else 1 for a in wanted])


def _batched_contract(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    of_x, of_y, of_out = params
    label = chr(max(_EXAMPLES, *map(ord, of_x + of_y)) + 1)
    of_x, of_y = (label * has + of for has, of in zip(batched, (of_x, of_y), strict=True))
    return apply(op, inputs, (of_x, of_y, label + of_out))


_contraction: Op = Op(
    "contract",
    _contract,
    "x y",
    "of_x of_y of_out",
    vjp=(
        lambda g, y, of_x, of_y, of_out: _contraction.run(g, y, params=(of_out, of_y, of_x)),
        lambda g, x, of_x, of_y, of_out: _contraction.run(g, x, params=(of_out, of_x, of_y)),
    ),
    jvp=(
        lambda t, y, of_x, of_y, of_out: _contraction.run(t, y, params=(of_x, of_y, of_out)),
        lambda t, x, of_x, of_y, of_out: _contraction.run(x, t, params=(of_x, of_y, of_out)),
    ),
    batch=_batched_contract,
)


# ----- einsum -----


def einsum(subscripts: str, *operands: TensorLike, optimize: object = True) -> Tensor:
    """Einstein's summation: the product of the operands, summed over the labels that the result lacks.

    `einsum("bij,bjk->bik", x, y)` is out[b, i, k] = sum_j x[b, i, j] y[b, j, k]. Without an arrow the result has
    the labels that occur once, in alphabetical order; `...` stands for axes that broadcast; a label twice in one
    operand takes its diagonal.

    Args:
        subscripts: one letter for each axis of every operand, commas between them, `->` and those of the result.
        operands: one array for each group of letters. An axis of length 1 broadcasts.
        optimize: taken for NumPy's sake; the order of contraction is always chosen: again and again the two
            operands whose product takes the least memory beyond their own (the first two, if several are equal).

    Raises:
        ValueError: the subscripts cannot be read, do not fit the operands, or two lengths of a label differ.
        TypeError: `subscripts` is not a string.

    >>> from dist_dp import ops
    >>> ops.einsum("ij,j->i", [[1.0, 2.0], [3.0, 4.0]], [1.0, 10.0]).tolist()
    [21.0, 43.0]
    >>> ops.einsum("ii", [[1.0, 2.0], [3.0, 4.0]]).item()
    5.0
    """
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: `subscripts` must be a string such as 'ij,jk->ik', got {subscripts!r}")
    arrays = [lifted(x) for x in operands]
    inputs, result = _parsed(subscripts, [x.ndim for x in arrays])
    length: dict[str, int] = {}
    for i, (labels, x) in enumerate(zip(inputs, arrays, strict=True)):
        for label, n in zip(labels, x.shape, strict=True):
            if n != 1 and length.setdefault(label, n) != n:
                what = "of the axes in '...'" if label in _ELLIPSIS else f"of {label!r}"
                raise ValueError(
                    f"einsum: the lengths {what} must be equal, got {length[label]} and, in operand {i} of "
                    f"shape {x.shape}, {n} (subscripts {subscripts!r})"
                )
    terms = [_plain(x, labels, length) for x, labels in zip(arrays, inputs, strict=True)]
    while len(terms) > 1:
        i, j = _next_pair(terms, result, length)
        (x, of_x), (y, of_y) = terms[i], terms[j]
        others = [t for n, t in enumerate(terms) if n not in (i, j)]
        needed = result + "".join(labels for _, labels in others)
        x, of_x = _summed(x, of_x, needed + of_y)
        y, of_y = _summed(y, of_y, needed + of_x)
        kept = _kept(of_x, of_y, needed) if others else result
        terms = [*others, (apply(_contraction, (x, y), (of_x, of_y, kept)), kept)]
    x, labels = _summed(*terms[0], result)
    return x if labels == result else transpose(x, [labels.index(a) for a in result])


def _parsed(subscripts: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Labels of the axes of every operand and of the result; those of an ellipsis get labels of their own."""

    def wrong(what: str) -> ValueError:
        return ValueError(f"einsum: {what} (subscripts {subscripts!r}, operands of {list(ranks)} axes)")

    left, arrow, right = subscripts.replace(" ", "").partition("->")
    groups = left.split(",")
    if len(groups) != len(ranks) or not ranks:
        raise wrong(f"`subscripts` must have one group of letters for each operand, got {len(groups)} groups")
    inputs, widest = [], 0
    for group, rank in zip(groups, ranks, strict=True):
        letters = group.replace("...", "", 1)
        hidden = rank - len(letters)
        if not all(a.isascii() and a.isalpha() for a in letters):
            raise wrong(f"`subscripts` may hold letters, ',', '...' and one '->', got {group!r}")
        if hidden < 0 or (hidden > 0 and letters == group):
            raise wrong(f"{group!r} must name every axis of its operand, which has {rank}")
        widest = max(widest, hidden)
        inputs.append(group.replace("...", _ELLIPSIS[len(_ELLIPSIS) - hidden :]))
    ellipsis = _ELLIPSIS[len(_ELLIPSIS) - widest :]
    if arrow:
        result = right.replace("...", ellipsis, 1)
        known = "".join(inputs)
        for a in result:
            if a not in known:
                raise wrong(f"the result may only hold labels of operands, got {a!r}")
        if len(set(result)) < len(result):
            raise wrong(f"the result may hold a label once, got {right!r}")
        if widest and "..." not in right:
            raise wrong("the result must hold the '...' of the operands; sum over it with `sum`")
        return inputs, result
    counts = Counter(a for group in groups for a in group if a != ".")
    return inputs, ellipsis + "".join(sorted(a for a, n in counts.items() if n == 1))


def _plain(x: Tensor, labels: str, length: dict[str, int]) -> tuple[Tensor, str]:
    """The operand with every label once, and without those that it only broadcasts along."""
    thin = tuple(i for i, a in enumerate(labels) if x.shape[i] == 1 < length.get(a, 1))
    if thin:
        x = squeeze(x, thin)
        labels = "".join(a for i, a in enumerate(labels) if i not in thin)
    for a in [a for a, n in Counter(labels).items() if n > 1]:
        while labels.count(a) > 1:
            first = labels.index(a)
            second = labels.index(a, first + 1)
            x = diagonal(x, axis1=first, axis2=second)  # the diagonal becomes the last axis
            labels = labels[:first] + labels[first + 1 : second] + labels[second + 1 :] + a
    return x, labels


def _summed(x: Tensor, labels: str, needed: str) -> tuple[Tensor, str]:
    """The operand summed over the labels that nothing else needs."""
    axes = tuple(i for i, a in enumerate(labels) if a not in needed)
    return (sum_of(x, axis=axes), "".join(a for a in labels if a in needed)) if axes else (x, labels)


def _kept(of_x: str, of_y: str, needed: str) -> str:
    return "".join(a for a in dict.fromkeys(of_x + of_y) if a in needed)


def _next_pair(terms: Sequence[tuple[Tensor, str]], result: str, length: dict[str, int]) -> tuple[int, int]:
    def growth(pair: tuple[int, int]) -> int:
        needed = result + "".join(labels for n, (_, labels) in enumerate(terms) if n not in pair)
        (x, of_x), (y, of_y) = (terms[n] for n in pair)
        return prod(length.get(a, 1) for a in _kept(of_x, of_y, needed)) - x.size - y.size

    return min(combinations(range(len(terms)), 2), key=growth)


# ----- by position -----


def _labels(start: int, count: int) -> str:
    return "".join(map(chr, range(start, start + count)))


def tensordot(
    x: TensorLike, y: TensorLike, axes: int | tuple[int | Sequence[int], int | Sequence[int]] = 2
) -> Tensor:
    """The product of `x` and `y`, summed over pairs of axes.

    Args:
        axes: a number n, for the last n axes of `x` with the first n of `y`; or two sequences of axes of equal
            length, those of `x` and those of `y`.

    Returns:
        A tensor with the other axes of `x`, then the other axes of `y`.

    Raises:
        ValueError: the axes do not pair up, or two of a pair differ in length.

    >>> from dist_dp import ops
    >>> ops.tensordot([[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 1.0]]).item()
    5.0
    """
    x, y = lifted(x), lifted(y)
    if isinstance(axes, (int, np.integer)):
        if not 0 <= axes <= min(x.ndim, y.ndim):
            raise ValueError(
                f"tensordot: `axes` must be between 0 and the number of axes of both arguments, got {axes} for "
                f"shapes {x.shape} and {y.shape}"
            )
        of_x, of_y = tuple(range(x.ndim - axes, x.ndim)), tuple(range(axes))
    else:
        of_x = normalize_axis_tuple(axes[0], x.ndim, "axes[0]")
        of_y = normalize_axis_tuple(axes[1], y.ndim, "axes[1]")
    if [x.shape[a] for a in of_x] != [y.shape[b] for b in of_y]:
        raise ValueError(
            f"tensordot: the axes summed over must pair up in number and length, got axes {of_x} of x with "
            f"shape {x.shape} and axes {of_y} of y with shape {y.shape}"
        )
    first, second = _labels(0x100, x.ndim), list(_labels(0x200, y.ndim))
    for a, b in zip(of_x, of_y, strict=True):
        second[b] = first[a]
    alone = [a for a in first if a not in second] + [b for b in second if b not in first]
    return apply(_contraction, (x, y), (first, "".join(second), "".join(alone)))  # type: ignore[no-any-return]


def inner(x: TensorLike, y: TensorLike) -> Tensor:
    """The product of `x` and `y`, summed over the last axis of both; a scalar multiplies.

    Raises:
        ValueError: the last axes differ in length.

    >>> from dist_dp import ops
    >>> ops.inner([1.0, 2.0], [[3.0, 4.0], [5.0, 6.0]]).tolist()
    [11.0, 17.0]
    """
    x, y = lifted(x), lifted(y)
    if x.ndim == 0 or y.ndim == 0:
        return multiply(x, y)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"inner: the last axes of x and y must be equal, got shapes {x.shape} and {y.shape}")
    return tensordot(x, y, (-1, -1))


def dot(x: TensorLike, y: TensorLike) -> Tensor:
    """NumPy's `dot`: the last axis of `x` against the next-to-last (or only) one of `y`; a scalar multiplies.

    The same as `matmul` up to two axes; beyond, all pairs of matrices are multiplied.

    Raises:
        ValueError: the axes summed over differ in length.

    >>> from dist_dp import ops
    >>> ops.dot([1.0, 2.0], [3.0, 4.0]).item()
    11.0
    """
    x, y = lifted(x), lifted(y)
    if x.ndim == 0 or y.ndim == 0:
        return multiply(x, y)
    if x.ndim <= 2 and y.ndim <= 2:
        return matmul(x, y)
    axis = max(y.ndim - 2, 0)
    if x.shape[-1] != y.shape[axis]:
        raise ValueError(
            f"dot: the last axis of x must be as long as axis {axis} of y, got shapes {x.shape} and {y.shape}"
        )
    return tensordot(x, y, (-1, axis))
