"""The law of the digest: equal exactly when names, dtypes, shapes and bits are."""

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.digest import array_digest, digest

State = dict[str, np.ndarray[Any, Any]]

# Few names, shapes and values, so that near misses are common: {"a": [0, 0]} against {"a": [0], "b": [0]}.
arrays = st.sampled_from(["?", "i1", "u1", "i2", "f4"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, st.sampled_from([(), (0,), (1,), (2,), (1, 2), (2, 1)]), elements=st.just(0)
    )
)
states = st.dictionaries(st.sampled_from(["", "a", "b", "ab"]), arrays, max_size=3)


def content(state: State) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    return sorted((name, array.dtype.str, array.shape, array.tobytes()) for name, array in state.items())


@settings(deadline=None, max_examples=300)
@given(states, states)
def test_digests_are_equal_exactly_when_the_states_are(a: State, b: State) -> None:
    assert (digest(a) == digest(b)) == (content(a) == content(b))


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(st.sampled_from(["f2", "f4", "f8", "i8", "c16", "?"]), hnp.array_shapes(min_dims=0)))
def test_layout_and_byte_order_do_not_matter(array: Any) -> None:
    fortran = np.asfortranarray(array).reshape(array.shape)
    strided = np.repeat(array, 2, axis=0)[::2] if array.ndim else array
    swapped = array.astype(array.dtype.newbyteorder(">"))
    assert {array_digest(other) for other in (fortran, strided, swapped)} == {array_digest(array)}


def test_every_bit_counts() -> None:
    array = np.arange(3, dtype=np.float32)
    found = {array_digest(array)}
    for position in range(8 * array.nbytes):
        bits = np.unpackbits(array.view(np.uint8))
        bits[position] ^= 1
        found.add(array_digest(np.packbits(bits).view(np.float32)))
    assert len(found) == 1 + 8 * array.nbytes  # NaN payloads and the sign of zero among them


def test_the_digest_is_the_documented_stream() -> None:
    """Runs record it: it must not change from version to version."""
    total = hashlib.sha256()
    for head, data in (
        (["a.bias", "<i2", []], b"\x02\x01"),
        (["a.weight", "<f4", [1, 2]], bytes.fromhex("0000803f 000080bf")),
    ):
        text = json.dumps(head).encode()
        total.update(len(text).to_bytes(8, "little") + text + data)
    state: State = {"a.weight": np.array([[1, -1]], np.float32), "a.bias": np.array(258, np.int16)}
    assert digest(state) == total.hexdigest()
    assert digest({}) == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [1.0]}, r"arrays\['a'\] must be a NumPy array, got list"),
        ({3: np.zeros(1)}, "names must be strings, got 3"),
        ({"a": np.array([object()])}, r"arrays\['a'\] must be boolean.*got object"),
        ({"a": np.array(["x"])}, "got <U1"),
        ({"a": np.zeros(1, "i4,f4")}, "must be boolean"),
        ({"a": np.zeros(1, np.longdouble)}, "fixed width"),
    ],
)
def test_what_has_no_fixed_bits_is_refused(state: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        digest(state)
