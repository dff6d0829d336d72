"""Plain data as bytes: what workers tell each other. Decoding builds numbers, texts, lists and arrays and runs no code.

A message is the length of a JSON head (8 bytes, little-endian), the head, and the arrays' bytes one after another. In
the head an array stands as its dtype, shape and place; tuples, bytes and dicts whose keys are not all strings are
marked, so that what comes out is what went in. Floats survive exactly, NaN and infinities too: Python's JSON writes the
shortest decimal that reads back as the same number.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MARK = "\0"  # the key of a marked entry; a dict that holds it itself is marked as one
_KINDS = "biufcSUmM"  # dtypes whose bytes say everything; never objects
_to_json = json.JSONEncoder(separators=(",", ":")).encode


def encode(value: Any) -> bytes:
    """`value` as bytes: None, bool, int, float, str, bytes, list, tuple, dict and NumPy arrays, nested at will.

    Raises:
        TypeError: something else is in it, which is named.

    >>> decode(encode({"step": 3, "spans": [(0, 2)], "mask": np.array([True, False])}))
    {'step': 3, 'spans': [(0, 2)], 'mask': array([ True, False])}
    """
    blobs: list[bytes | memoryview] = []
    head = _to_json(_plain(value, blobs, [0])).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *blobs])


def decode(data: bytes | bytearray | memoryview) -> Any:
    """The value that `encode` was given. Arrays are views of `data`, not to be written if that is `bytes`.

    Raises:
        ValueError: the bytes are no whole message.
    """
    view = memoryview(data).cast("B")
    size = int.from_bytes(view[:8], "little")
    if len(view) < 8 + size:
        raise ValueError(f"a message of {len(view)} bytes ends before its head of {size} bytes")
    try:
        head, blobs = bytes(view[8 : 8 + size]), view[8 + size :]
        return json.loads(head, object_hook=lambda entry: _marked(entry, blobs) if _MARK in entry else entry)
    except (KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a message: {error}") from error


def _plain(value: Any, blobs: list[bytes | memoryview], end: list[int]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is list:
        return [_plain(v, blobs, end) for v in value]
    if kind is dict:
        if all(type(k) is str for k in value) and _MARK not in value:
            return {k: _plain(v, blobs, end) for k, v in value.items()}
        pairs = [[_plain(k, blobs, end), _plain(v, blobs, end)] for k, v in value.items()]
        return {_MARK: "dict", "of": pairs}
    if kind is tuple:
        return {_MARK: "tuple", "of": [_plain(v, blobs, end) for v in value]}
    if kind is bytes:
        return {_MARK: "bytes", "at": _put(value, blobs, end), "size": len(value)}
    if isinstance(value, np.generic):
        value = np.asarray(value)
        return {_MARK: "scalar", "of": _array(value, blobs, end)}
    if isinstance(value, np.ndarray):
        return _array(value, blobs, end)
    raise TypeError(
        f"a message holds None, bool, int, float, str, bytes, list, tuple, dict and NumPy arrays, got {kind.__name__}"
    )


def _array(array: NDArray[Any], blobs: list[bytes | memoryview], end: list[int]) -> Any:
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"a message holds arrays of numbers and texts, got one of dtype {array.dtype}")
    data = np.ascontiguousarray(array)
    at = _put(memoryview(data.reshape(-1).view(np.uint8).data) if data.size else b"", blobs, end)
    return {_MARK: "array", "dtype": array.dtype.str, "shape": list(array.shape), "at": at}


def _put(blob: bytes | memoryview, blobs: list[bytes | memoryview], end: list[int]) -> int:
    at = end[0]
    end[0] += len(blob)
    blobs.append(blob)
    return at


def _marked(head: dict[str, Any], blobs: memoryview) -> Any:
    """What a marked entry stands for; what is inside it was put in its place before."""
    kind: str = head[_MARK]
    of: Any = head.get("of")
    if kind == "tuple":
        return tuple(of)
    if kind == "dict":
        return dict(of)
    if kind == "scalar":
        return of[()]
    at = head["at"]
    if kind == "bytes":
        return bytes(blobs[at : at + head["size"]])
    dtype, shape = np.dtype(head["dtype"]), tuple(head["shape"])
    if dtype.kind not in _KINDS:
        raise ValueError(f"not a message: an array of dtype {dtype}")
    size = dtype.itemsize * math.prod(shape)
    if min(at, size) < 0 or at + size > len(blobs):
        raise ValueError("a message ends before its arrays")
    return (
        np.frombuffer(blobs[at : at + size], np.uint8).view(dtype).reshape(shape)
        if size
        else np.zeros(shape, dtype)
    )
