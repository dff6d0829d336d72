"""The digest of a state: one SHA-256 over named arrays. Two states are equal exactly when their digests are.

Each array goes in as a frame: the length of a JSON head ``[name, dtype, shape]``, the head, then the elements
in C order and little-endian. The head fixes the number of bytes that follow, so no two different states are
the same stream of bytes. Bits are compared, not numbers: ``0.0`` and ``-0.0`` differ, equal NaNs are equal.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def little_endian_bytes(array: NDArray[Any]) -> memoryview:
    """The elements of a numeric array in C order and little-endian, as flat bytes; copied only if needed.

    >>> little_endian_bytes(np.array([1, 258], dtype=">i2")).tolist()
    [1, 0, 2, 1]
    """
    ordered = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return ordered.reshape(-1).view(np.uint8).data


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) over all arrays in the order of their names: name, dtype, shape and bits of each.

    Byte order and memory layout do not matter. Booleans, integers, floats and complex numbers of fixed width
    are taken.

    Raises
        TypeError: a name is not a string, a value is not an array, or a dtype has no fixed bit pattern
            (objects, text, records, long double).

    >>> digest({"b": np.zeros(2), "a": np.ones(3)}) == digest({"a": np.ones(3), "b": np.zeros(2)})
    True
    >>> digest({"a": np.array(0.0)}) == digest({"a": np.array(-0.0)})
    False
    """
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise TypeError(f"arrays: names must be strings, got {name!r}")
        if not isinstance(array, np.ndarray):
            raise TypeError(f"arrays[{name!r}] must be a NumPy array, got {type(array).__name__}")
        if array.dtype.kind not in "biufc" or array.dtype.char in "gG":
            raise TypeError(
                f"arrays[{name!r}] must be boolean, integer, float or complex of fixed width, "
                f"got {array.dtype}"
            )
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        head = json.dumps([name, array.dtype.newbyteorder("<").str, array.shape]).encode()
        total.update(len(head).to_bytes(8, "little"))
        total.update(head)
        total.update(little_endian_bytes(array))
    return total.hexdigest()


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 (hex) over dtype, shape and bits of one array: ``digest`` of it under the empty name.

    >>> array_digest(np.zeros((2, 3))) == array_digest(np.zeros((3, 2)).T.copy())
    True
    >>> array_digest(np.zeros((2, 3))) == array_digest(np.zeros((3, 2)))
    False
    """
    return digest({"": array})
