"""The one check of indices into n examples, for every part of this package that is asked for some of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def index_array(name: str, indices: object, n: int) -> NDArray[np.int64]:
    """`indices` as an int64 array of any shape; negative ones do not count from the end.

    Raises TypeError where they are not integers (booleans among them) and IndexError outside 0, ..., n − 1.

    >>> index_array("position", [2, 0], 3)
    array([2, 0])
    """
    array: NDArray[Any] = np.asarray(indices)
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{name} must be an int or an array of ints, got {indices!r:.80} of dtype {array.dtype}"
        )
    if array.size and not (array.min() >= 0 and array.max() < n):
        outside = array[(array < 0) | (array >= n)].flat[0]
        raise IndexError(f"{name} must lie in 0, ..., {n - 1}, got {outside}")
    return array.astype(np.int64, copy=False)
