"""Laws of keys, streams and scopes: a draw is a function of (seed, path, use) and of nothing else."""

import json
import pickle
import threading
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator, Philox

from dist_dp import random
from dist_dp.random import Key, Stream, scope

items = st.one_of(st.integers(), st.text(max_size=8))
paths = st.lists(items, max_size=4)


@pytest.fixture(autouse=True)
def fresh_default_scope():
    random.seed(0)
    yield
    random.seed(0)


def in_thread(fn):
    """What `fn` returns when it is run in another thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(fn()))
    thread.start()
    thread.join()
    return results[0]


def bits(key):
    return key.generator().bit_generator.random_raw(2).tolist()


# --- keys


@given(st.integers(), paths, st.integers(0, 4))
@settings(deadline=None, max_examples=50)
def test_the_path_is_the_identity(seed, path, cut):
    key = Key(seed, *path)
    folded = Key(seed).fold(*path[:cut]).fold(*path[cut:])
    for same in (folded, Key(*json.loads(json.dumps(key.path))), pickle.loads(pickle.dumps(key))):
        assert same == key and hash(same) == hash(key) and bits(same) == bits(key)
    assert eval(repr(key)) == key


@given(st.tuples(st.integers(), paths), st.tuples(st.integers(), paths))
@settings(deadline=None, max_examples=100)
def test_different_paths_have_different_streams(one, other):
    if one != other:
        assert bits(Key(one[0], *one[1])) != bits(Key(other[0], *other[1]))


def test_neighbouring_paths_have_different_streams():
    keys = [
        Key(12),
        Key(1, 2),
        Key(1, "2"),
        Key(12, ""),
        Key(1, 2, 0),
        Key(-12),
        Key(1, "a", "b"),
        Key(1, "ab"),
    ]
    keys += [
        Key(seed, "step", step, "shard", shard)
        for seed in range(8)
        for step in range(8)
        for shard in range(8)
    ]
    assert len({tuple(bits(key)) for key in keys}) == len(set(keys)) == len(keys)


def test_a_key_is_philox_under_the_hash_chain_of_its_path():
    digest = blake2b(person=b"dist_dp.random", digest_size=16).digest()
    for framed in (b"i3", b"sstep", b"i-1"):
        digest = blake2b(framed, key=digest, digest_size=16).digest()
    expected = Generator(Philox(key=int.from_bytes(digest, "little")))
    assert Key(3, "step", -1).generator().standard_normal(9).tolist() == expected.standard_normal(9).tolist()


def test_numpy_integers_and_strings_fold_as_plain_ones():
    key = Key(np.int64(3), np.uint8(7), np.str_("a"))
    assert key == Key(3, 7, "a") and repr(key) == "Key(3, 7, 'a')"


def test_a_key_cannot_be_changed_and_equals_no_other_type():
    key = Key(0)
    with pytest.raises(AttributeError, match="immutable"):
        key._path = (1,)
    assert key != 0 and key != (0,)


# --- streams


def test_a_draw_does_not_depend_on_the_draws_before_it_but_on_their_number():
    one, other = Stream(Key(0)), Stream(Key(0))
    one.normal((100, 3), np.float64)
    one.permutation(7)
    other.bernoulli(0.5)
    other.choice(3)
    assert one.normal(5).tolist() == other.normal(5).tolist()
    assert one.next_key() == Key(0).fold(3) == Key(0, 3)


@given(st.integers(), paths, st.integers(0, 2**70))
@settings(deadline=None, max_examples=30)
def test_a_stream_goes_on_from_its_saved_state(seed, path, use):
    stream = Stream(Key(seed, *path), use)
    restored = Stream.from_state(json.loads(json.dumps(stream.state())))
    assert restored.next_key() == stream.next_key() and repr(restored) == repr(stream)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_drawn_in_their_own_dtype(dtype):
    first = Key(5, 0).generator()
    assert Stream(Key(5)).normal(9, dtype).tolist() == first.standard_normal(9, dtype).tolist()
    first = Key(5, 0).generator()
    assert Stream(Key(5)).uniform(9, dtype).tolist() == first.random(9, dtype).tolist()
    scaled = Stream(Key(5)).normal((2, 3), dtype, mean=2.0, std=0.5)
    assert scaled.dtype == dtype and scaled.shape == (2, 3)
    assert Stream(Key(5)).uniform((), dtype, low=-1, high=1).dtype == dtype


@pytest.mark.parametrize(
    "shape, expected", [((), ()), (3, (3,)), ([2, 1], (2, 1)), ((0, 4), (0, 4)), ((2, 0), (2, 0))]
)
def test_every_draw_has_the_shape_asked_for(shape, expected):
    stream = Stream(Key(0))
    draws = [
        stream.normal(shape),
        stream.uniform(shape),
        stream.integers(0, 5, shape),
        stream.bernoulli(0.3, shape),
        stream.choice(4, shape),
    ]
    assert all(isinstance(draw, np.ndarray) and draw.shape == expected for draw in draws)
    assert [draw.dtype.name for draw in draws] == ["float32", "float32", "int64", "bool", "int64"]


def test_moments():
    n = 200_000
    stream = Stream(Key(1))
    normal, uniform = stream.normal(n, mean=3, std=2), stream.uniform(n, low=-2, high=4)
    integers = stream.integers(-3, 3, n)
    assert abs(normal.mean() - 3) < 5 * 2 / n**0.5 and abs(normal.std() - 2) < 5 * 2 / (2 * n) ** 0.5
    assert abs(uniform.mean() - 1) < 5 * 3**0.5 / n**0.5 and uniform.min() >= -2 and uniform.max() <= 4
    assert abs(np.bincount(integers + 3, minlength=6) - n / 6).max() < 5 * (n / 6) ** 0.5


@pytest.mark.parametrize("p", [0.1, 0.5, 200.9 / 256, 1 - 1 / 512, 3e-6])
def test_bernoulli_has_exactly_its_probability(p):
    # Wide enough to tell p from the nearest 1/256, which is what the first byte alone would give.
    n = 2_000_000
    hits = int(Stream(Key(2)).bernoulli(p, n).sum())
    assert abs(hits - n * p) <= 4.5 * (n * p * (1 - p)) ** 0.5


def test_bernoulli_is_certain_at_the_ends():
    assert not Stream(Key(0)).bernoulli(0, 5000).any()
    assert Stream(Key(0)).bernoulli(1, 5000).all()


def test_choice_follows_its_probabilities_and_permutation_is_one():
    stream, n = Stream(Key(3)), 50_000
    p = np.array([0.5, 0.3, 0.0, 0.2], np.float32) * np.float32(1.0001)
    counts = np.bincount(stream.choice(4, n, p=p), minlength=4)
    assert counts[2] == 0 and abs(counts - n * p).max() < 5 * (n / 4) ** 0.5 + n * 1e-4
    assert sorted(stream.choice(6, 6, replace=False).tolist()) == list(range(6))
    assert sorted(stream.permutation(50).tolist()) == list(range(50)) and stream.permutation(0).size == 0


# --- scopes


def test_module_functions_draw_from_the_innermost_scope():
    key = Key(0, "step", 4, "shard", 2)
    expected = Stream(key)
    with scope(key) as stream:
        assert random.current() is stream
        assert random.normal(3, mean=1, std=2).tolist() == expected.normal(3, mean=1, std=2).tolist()
        assert random.uniform(3, low=-1).tolist() == expected.uniform(3, low=-1).tolist()
        with scope(Key(9)):
            assert random.next_key() == Key(9, 0)
        assert random.integers(0, 99, 3).tolist() == expected.integers(0, 99, 3).tolist()
        assert random.bernoulli(0.5, 9).tolist() == expected.bernoulli(0.5, 9).tolist()
        assert random.permutation(9).tolist() == expected.permutation(9).tolist()
        assert random.choice(9, 3, replace=False).tolist() == expected.choice(9, 3, replace=False).tolist()
    assert random.next_key() == Key(0, 0)


def test_a_scope_over_a_stream_goes_on_counting_and_ends_with_an_error():
    stream = Stream(Key(1))
    stream.next_key()
    with pytest.raises(ZeroDivisionError), scope(stream):
        assert random.next_key() == Key(1, 1)
        raise ZeroDivisionError
    assert stream.use == 2 and random.current() is not stream


def test_scopes_held_by_generators_may_end_in_any_order_and_thread():
    def steps(key):
        with scope(key):
            yield

    first, second, third = steps(Key(1)), steps(Key(2)), steps(Key(3))
    for generator in (first, second, third):
        next(generator)
    second.close()
    assert random.current().key == Key(3)
    in_thread(third.close)
    assert random.current().key == Key(1)
    first.close()
    assert random.current().key == Key(0)


def test_other_threads_do_not_move_the_counter():
    random.seed(7)
    with scope(Key(1)):
        assert in_thread(random.next_key) == Key(7, 0)
        assert random.next_key() == Key(1, 0)
    in_thread(lambda: random.normal(3))
    assert random.next_key() == Key(7, 0)


def test_seed_starts_the_default_scope_afresh():
    random.seed(3)
    first = random.normal(4)
    random.seed(3)
    assert random.normal(4).tolist() == first.tolist()
    random.seed(np.int64(4))
    assert random.normal(4).tolist() != first.tolist() and random.next_key() == Key(4, 1)


def test_seed_inside_a_scope_is_refused():
    with scope(Key(1)), pytest.raises(RuntimeError, match=r"seed\(2\) inside scope"):
        random.seed(2)
    assert random.next_key() == Key(0, 0)


# --- bad input

stream = Stream(Key(0))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Key(0.5), TypeError, "seed must be an int, got 0.5"),
        (lambda: Key(True), TypeError, "seed must be an int, got True"),
        (lambda: Key(0, 1.0), TypeError, "folded into a Key must be an int or a str, got 1.0"),
        (lambda: Key(0).fold(None), TypeError, "got None"),
        (lambda: Key(0).fold(False), TypeError, "got False"),
        (lambda: Stream(0), TypeError, "key must be a dist_dp.random.Key"),
        (lambda: Stream(Key(0), -1), ValueError, "use must be at least 0, got -1"),
        (lambda: Stream.from_state({"key": [0]}), ValueError, "state must be what Stream.state"),
        (lambda: Stream.from_state({"key": [], "use": 0}), ValueError, "state must be what Stream.state"),
        (lambda: Stream.from_state([0, 1]), ValueError, "state must be what Stream.state"),
        (lambda: scope(0), TypeError, "key must be a dist_dp.random.Key"),
        (lambda: random.seed("0"), TypeError, "n must be an int, got '0'"),
        (lambda: stream.normal((2, -1)), ValueError, "shape must be at least 0, got -1"),
        (lambda: stream.normal(2.0), TypeError, "shape must be an int or a tuple of ints, got 2.0"),
        (lambda: stream.normal((2, None)), TypeError, "shape must be made of ints, got None"),
        (lambda: stream.normal(2, np.int64), TypeError, "dtype must be float32 or float64, got int64"),
        (lambda: stream.normal(2, std=-1), ValueError, "std must not be negative"),
        (lambda: stream.normal(2, mean="0"), TypeError, "mean must be a real number, got '0'"),
        (lambda: stream.normal(2, mean=float("nan")), ValueError, "mean must be finite, got nan"),
        (lambda: stream.uniform(2, low=2), ValueError, "low must be at most high"),
        (lambda: stream.uniform(2, low=True), TypeError, "low must be a real number, got True"),
        (lambda: stream.integers(3, 3), ValueError, "low must be below high"),
        (lambda: stream.integers(0, 3.0), TypeError, "high must be an int, got 3.0"),
        (lambda: stream.bernoulli(1.5), ValueError, "p must be a probability"),
        (lambda: stream.bernoulli(-0.1), ValueError, "p must be a probability"),
        (lambda: stream.bernoulli(np.zeros(3)), TypeError, "p must be a real number"),
        (lambda: stream.permutation(-1), ValueError, "n must be at least 0, got -1"),
        (lambda: stream.choice(0), ValueError, "n must be at least 1, got 0"),
        (lambda: stream.choice(3, 4, replace=False), ValueError, "use replace=True"),
        (
            lambda: stream.choice(3, p=[0.5, 0.5]),
            ValueError,
            r"p must be 3 numbers >= 0 with sum 1, got \(2,\)",
        ),
        (lambda: stream.choice(2, p=[1.5, -0.5]), ValueError, "p must be 2 numbers"),
        (lambda: stream.choice(2, p=[0.5, 0.6]), ValueError, "with sum 1.1"),
        (lambda: stream.choice(2, p=[0.5, np.nan]), ValueError, "p must be 2 numbers"),
    ],
)
def test_bad_input_names_the_argument_and_uses_nothing(call, error, message):
    before = stream.use
    with pytest.raises(error, match=message):
        call()
    assert stream.use == before
