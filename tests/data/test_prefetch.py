"""Laws of prefetch: what it yields and raises is what map does, and no thread outlives it."""

import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dp import random
from dist_dp.data import prefetch
from dist_dp.random import Key

# Not an import statement: the name in the package is the function's.
prefetch_module = import_module("dist_dp.data.prefetch")


class Broken(Exception):
    pass


def outcome(iterator, stop):
    """Everything that comes out of `iterator` in `stop` steps, with the error it may end with."""
    seen = []
    try:
        for _ in range(stop):
            seen.append(next(iterator))
    except (Broken, StopIteration) as error:
        seen.append(repr(error))
    return seen


@given(
    length=st.integers(0, 12),
    depth=st.integers(0, 5),
    stop=st.integers(0, 15),
    bad_call=st.one_of(st.none(), st.integers(0, 12)),
    bad_key=st.one_of(st.none(), st.integers(0, 12)),
)
@settings(deadline=None, max_examples=150)
def test_prefetch_is_map_for_any_depth_stop_and_error(length, depth, stop, bad_call, bad_key):
    def fn(key):
        if key == bad_call:
            raise Broken(f"call {key}")
        return -key

    def keys():
        for key in range(length):
            if key == bad_key:
                raise Broken(f"key {key}")
            yield key

    threads = threading.active_count()
    made = prefetch(fn, keys(), depth)
    assert outcome(made, stop) == outcome(map(fn, keys()), stop)
    made.close()
    assert threading.active_count() == threads


def test_an_unfinished_generator_that_is_dropped_ends_its_thread():
    threads = threading.active_count()
    made = prefetch(str, range(100))
    assert next(made) == "0" and threading.active_count() == threads + 1
    del made
    assert threading.active_count() == threads


def test_no_thread_before_the_first_result_is_asked_for_and_none_with_depth_zero():
    threads = threading.active_count()
    unused, plain = prefetch(str, range(3)), prefetch(lambda _: threading.current_thread(), range(3), depth=0)
    assert list(plain) == [threading.current_thread()] * 3
    assert threading.active_count() == threads
    unused.close()


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_thread_runs_ahead_by_depth_and_no_further(depth, monkeypatch):
    begun, asked, ahead = [], [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def submit(self, *call):
            asked.append(call)
            return super().submit(*call)

    def fn(key):
        begun.append(key)
        if len(begun) == 1 + depth:
            ahead.set()
        return key

    monkeypatch.setattr(prefetch_module, "ThreadPoolExecutor", Pool)
    made = prefetch(fn, range(50), depth)
    assert next(made) == 0
    assert ahead.wait(10)  # set by the thread alone: nothing more was asked for
    for key in range(1, 50):
        assert len(begun) <= len(asked) == key + depth
        assert next(made) == key
    made.close()


def test_closing_makes_no_call_that_was_not_begun(monkeypatch):
    begun, inside, hold = [], threading.Event(), threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            hold.set()  # call 1 ends no sooner than what waits behind it is called off
            super().shutdown(wait)

    def fn(key):
        begun.append(key)
        if key == 1:
            inside.set()
            hold.wait(10)
        return key

    monkeypatch.setattr(prefetch_module, "ThreadPoolExecutor", Pool)
    made = prefetch(fn, range(100), depth=8)
    assert next(made) == 0
    assert inside.wait(10)
    made.close()
    assert begun == [0, 1]


def test_an_error_keeps_the_traceback_of_where_it_was_raised():
    def deep(key):
        raise Broken(key)

    def fn(key):
        return deep(key)

    with pytest.raises(Broken) as caught:
        list(prefetch(fn, range(3)))
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-2:] == ["fn", "deep"]


def test_draws_in_the_thread_leave_the_callers_scope_alone():
    def fn(key):
        with random.scope(Key(1, "shard", key)):
            return random.uniform().item()

    with random.scope(Key(0)) as stream:
        ahead = list(prefetch(fn, range(5), depth=3))
        list(prefetch(lambda _: random.uniform(), range(5), depth=3))
        assert stream.use == 0
    assert ahead == [fn(key) for key in range(5)]


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((None, [1]), TypeError, "fn must be callable, got NoneType"),
        ((str, 3), TypeError, "keys must be iterable, got int"),
        ((str, [1], -1), ValueError, "depth must be at least 0, got -1"),
        ((str, [1], 1.5), TypeError, "depth must be an int, got 1.5"),
        ((str, [1], True), TypeError, "depth must be an int, got True"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(arguments, error, message):
    with pytest.raises(error, match=message):
        prefetch(*arguments)
