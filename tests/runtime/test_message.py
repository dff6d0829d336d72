"""What is encoded is decoded; what is no message is refused with a ValueError, whatever it is."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.message import decode, encode

ARRAYS = hnp.arrays(
    st.one_of(hnp.boolean_dtypes(), hnp.integer_dtypes(), hnp.floating_dtypes(), hnp.complex_number_dtypes()),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
KEYS = st.text() | st.just("\0") | st.integers() | st.tuples(st.integers(), st.integers())
VALUES = st.recursive(
    PLAIN | ARRAYS | ARRAYS.map(lambda a: a.reshape(-1)[:1].sum()),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a, b):
    """Equal in type and bits, arrays and NaN too."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


@given(VALUES)
def test_what_goes_in_comes_out(value):
    assert same(decode(encode(value)), value)


@given(VALUES, st.data())
def test_a_damaged_message_is_refused_or_is_another_message(value, data):
    text = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    del text[data.draw(st.integers(0, len(text))) :]
    with contextlib.suppress(ValueError):
        decode(bytes(text))


@pytest.mark.parametrize(
    "head",
    [
        '{"\\u0000":"array","dtype":"|O","shape":[1],"at":0}',
        '{"\\u0000":"array","dtype":"<f8","shape":[9],"at":0}',
        '{"\\u0000":"array","dtype":"<f8","shape":[-1],"at":0}',
        '{"\\u0000":"array","dtype":"<f8","shape":["x"],"at":0}',
        '{"\\u0000":"array","dtype":"<f8","shape":[0,1000000000000000000000],"at":0}',
        '{"\\u0000":"array","dtype":"no","shape":[1],"at":0}',
        '{"\\u0000":"scalar","of":1}',
        '{"\\u0000":"tuple"}',
        '{"\\u0000":"dict","of":[[1,2,3]]}',
        '{"\\u0000":"dict","of":[[[],2]]}',
        '{"\\u0000":"other"}',
        "[" * 100_000,
        "{",
    ],
)
def test_a_head_that_says_nonsense_is_refused(head):
    with pytest.raises(ValueError):
        decode(len(head).to_bytes(8, "little") + head.encode())


def test_what_cannot_be_sent_is_named():
    with pytest.raises(TypeError, match="set"):
        encode([1, {2}])
    with pytest.raises(TypeError, match="object"):
        encode(np.array([object()]))
