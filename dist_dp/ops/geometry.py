"""How the windows of a convolution lie on its images."""

from __future__ import annotations

from typing import NamedTuple

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """How windows lie on images: (vertical, horizontal) pairs, padding as ((top, bottom), (left, right))."""

    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int = 1

    def windows(self, size: Pair, kernel: Pair) -> Pair:
        """Number of windows along each axis of an image of `size`; less than 1 where none fits."""
        rows, columns = (
            (n + sum(p) - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return rows, columns
