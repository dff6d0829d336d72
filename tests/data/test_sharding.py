"""Laws of the batches: the shards of a step are its batch, and an epoch is every example once."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_dp.data import Batches, Permutation
from dist_dp.random import Key

schedules = st.builds(
    Batches,
    length=st.integers(1, 300),
    batch_size=st.integers(1, 80),
    shards=st.integers(1, 12),
    seed=st.integers(0, 2**64),
    shuffle=st.booleans(),
    epochs=st.integers(1, 3),
)


def batch(batches, step):
    return np.concatenate([batches.indices(step, shard) for shard in range(batches.shards)])


@given(schedules, st.integers(1, 12))
@settings(deadline=None, max_examples=50)
def test_the_shards_of_a_step_are_its_batch_whatever_their_number(batches, shards):
    other = dataclasses.replace(batches, shards=shards)
    for step in range(batches.total_steps):
        indices = batch(batches, step)
        assert indices.dtype == np.int64 and indices.size == batches.size(step)
        assert indices.tolist() == batch(other, step).tolist()
        sizes = [batches.indices(step, shard).size for shard in range(batches.shards)]
        assert max(sizes) - min(sizes) <= 1


@given(schedules)
@settings(deadline=None, max_examples=50)
def test_each_epoch_visits_each_example_once(batches):
    steps = batches.steps_per_epoch
    assert batches.total_steps == steps * batches.epochs
    for epoch in range(batches.epochs):
        visited = np.concatenate([batch(batches, epoch * steps + place) for place in range(steps)])
        assert sorted(visited.tolist()) == list(range(batches.length))
        if batches.shuffle:
            expected = Permutation(batches.length, Key(batches.seed, "order", epoch))[
                np.arange(batches.length)
            ]
            assert visited.tolist() == expected.tolist()
        else:
            assert visited.tolist() == list(range(batches.length))


@given(schedules, st.data())
@settings(deadline=None, max_examples=50)
def test_a_resume_at_any_step_goes_on_with_the_same_indices(batches, data):
    step = data.draw(st.integers(0, batches.total_steps - 1))
    straight = [batch(batches, k).tolist() for k in range(batches.total_steps)]
    resumed = Batches(**json.loads(json.dumps(dataclasses.asdict(batches))))
    assert resumed == batches
    assert [batch(resumed, k).tolist() for k in range(step, batches.total_steps)] == straight[step:]


@given(schedules)
@settings(deadline=None, max_examples=50)
def test_only_the_last_batch_of_an_epoch_is_short_and_it_can_be_left_out(batches):
    sizes = [batches.size(step) for step in range(batches.steps_per_epoch)]
    assert sum(sizes) == batches.length and set(sizes[:-1]) <= {batches.batch_size}
    if batches.length >= batches.batch_size:
        full = dataclasses.replace(batches, drop_last=True)
        full_sizes = [full.size(step) for step in range(full.steps_per_epoch)]
        assert full_sizes == [batches.batch_size] * (batches.length // batches.batch_size)
        assert batch(full, 0).tolist() == batch(batches, 0).tolist()


def test_locate_counts_epochs_and_places():
    batches = Batches(10, 4, 1, 0, epochs=2)
    assert [batches.locate(step) for step in range(6)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_epochs_and_seeds_have_their_own_orders():
    batches = Batches(100, 100, 1, 0, epochs=2)
    orders = [batch(batches, 0), batch(batches, 1), batch(dataclasses.replace(batches, seed=1), 0)]
    assert len({tuple(order.tolist()) for order in orders}) == 3


def test_data_far_beyond_memory():
    batches = Batches(10**10, 256, 4, 0)
    indices = batch(batches, batches.total_steps - 1)
    assert indices.size == batches.size(batches.total_steps - 1) == 10**10 - (10**10 - 1) // 256 * 256
    assert indices.min() >= 0 and 2**32 < indices.max() < 10**10


def test_numpy_numbers_become_plain_ones():
    batches = Batches(np.int64(10), np.int32(4), np.uint8(2), np.int64(0))
    assert all(value is None or type(value) in (int, bool) for value in dataclasses.asdict(batches).values())


@pytest.mark.parametrize("name", ["length", "batch_size", "shards", "epochs", "seed"])
@pytest.mark.parametrize("value", [0, -1, True, 2.0, "2", None])
def test_wrong_numbers_are_refused_by_name(name, value):
    arguments = {"length": 10, "batch_size": 4, "shards": 2, "seed": 0, "epochs": 1, name: value}
    if name == "seed" and type(value) is int:
        assert Batches(**arguments).seed == value
    else:
        with pytest.raises(
            ValueError if type(value) is int else TypeError, match=f"{name} must be .*got {value!r}"
        ):
            Batches(**arguments)


@pytest.mark.parametrize("name", ["shuffle", "drop_last"])
@pytest.mark.parametrize("value", [0, 1, None, "no"])
def test_wrong_switches_are_refused_by_name(name, value):
    with pytest.raises(TypeError, match=f"{name} must be True or False, got {value!r}"):
        Batches(10, 4, 2, 0, **{name: value})


def test_dropping_the_only_batch_is_refused():
    with pytest.raises(ValueError, match="leaves no batch: length 3 is below batch_size 4"):
        Batches(3, 4, 1, 0, drop_last=True)


@pytest.mark.parametrize(
    "step, shard, error, message",
    [
        (3, 0, IndexError, "step must lie in 0, ..., 2, got 3"),
        (-1, 0, IndexError, "step must lie in 0, ..., 2, got -1"),
        (0, 2, IndexError, "shard must lie in 0, ..., 1, got 2"),
        (0, -1, IndexError, "shard must lie in 0, ..., 1, got -1"),
        (0.0, 0, TypeError, "step must be an int, got 0.0"),
        (0, True, TypeError, "shard must be an int, got True"),
    ],
)
def test_steps_and_shards_outside_the_schedule_are_refused(step, shard, error, message):
    with pytest.raises(error, match=message):
        Batches(10, 4, 2, 0).indices(step, shard)
