"""Gradients that are not written out yet.

A program that uses one weight for every node of a tree, or takes an array apart row by row, makes thousands of
gradients of one large array, each of them an outer product or zeros everywhere but in one place. Written out and
added one by one they are most of the cost of a backward pass. Rules return them in compact form instead, and a
sweep adds them together: many outer products are one matrix product, many parts are written into one array.

Only sweeps over arrays see compact gradients; rules that are recorded compute with tensors as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .kernels.product import dot
from .tape import Array

FEW_ROWS = 16  # are always worth a share in a common product


class Compact:
    """A gradient in compact form; `shape` is that of the array it stands for."""

    __slots__ = ("shape",)

    shape: tuple[int, ...]

    def dense(self) -> Array:
        """The gradient as an array of its own."""
        raise NotImplementedError


class RowProduct(Compact):
    """left^T right, `left` (n, i) and `right` (n, j) of few rows: the gradient of a weight used for a few rows."""

    __slots__ = ("left", "right")

    def __init__(self, left: Array, right: Array) -> None:
        self.left, self.right = left, right
        self.shape = (left.shape[1], right.shape[1])

    def dense(self, place: Array | None = None) -> Array:
        """In `place`, a contiguous array that is overwritten, if it has the dtype of the product."""
        fits = place is not None and self.left.dtype == self.right.dtype == place.dtype
        product: Array = dot(self.left.T, self.right, out=place if fits else None)
        return product


class Part(Compact):
    """`values` at the basic index `index` of an array of `shape`, zero elsewhere: the gradient of x for x[index]."""

    __slots__ = ("index", "values")

    def __init__(self, shape: tuple[int, ...], index: Any, values: Array) -> None:
        self.shape, self.index, self.values = shape, index, values

    def dense(self) -> Array:
        out = np.zeros(self.shape, self.values.dtype)
        out[self.index] = self.values
        return out

    def add_to(self, total: Array) -> None:
        """Add this gradient to an array of its shape, in place."""
        total[self.index] += self.values


def row_product(left: Any, right: Any) -> Any:
    """left^T right for matrices of equally many rows, in compact form where they are arrays of few rows.

    In compact form the rows are copied once, and otherwise the product is added once to the gradient: few rows are
    those that hold fewer numbers than their product does.
    """
    if type(left) is np.ndarray and type(right) is np.ndarray:
        rows, i, j = len(left), left.shape[1], right.shape[1]
        if rows <= FEW_ROWS or rows * (i + j) <= i * j:
            return RowProduct(left, right)
    return dot(left.T, right)


def total(gradients: Sequence[Compact], place: Array | None = None) -> Array:
    """The sum of compact gradients of one array: first the products, as one product over all rows, then the parts.

    Where there are products, it is in `place` if that suits them; else it is an array of its own.
    """
    products = [g for g in gradients if isinstance(g, RowProduct)]
    parts = [g for g in gradients if isinstance(g, Part)]
    if products:
        joined = products[0]
        if len(products) > 1:
            left, right = (
                np.concatenate([p.left for p in products]),
                np.concatenate([p.right for p in products]),
            )
            joined = RowProduct(left, right)
        whole = joined.dense(place)
    else:
        whole = parts.pop(0).dense()
    for part in parts:
        part.add_to(whole)
    return whole
