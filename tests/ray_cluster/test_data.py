"""A `ray.data.Dataset` as a data source: the examples and the answer of the same data in memory."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import ray
import ray.data
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import nn, optim
from dist_dp.data import DataError, as_source

pytestmark = [
    pytest.mark.usefixtures("local_cluster"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),  # Ray, of its own defaults
]

N = 57
rng = np.random.default_rng(3)
x, y = rng.standard_normal((N, 4)).astype(np.float32), rng.integers(0, 3, N)


@pytest.fixture(scope="module", params=[1, 5], ids="{} blocks".format)
def dataset(local_cluster, request) -> Any:
    items = [{"x": x[i], "y": int(y[i]), "name": f"row {i}"} for i in range(N)]
    return ray.data.from_items(items, override_num_blocks=request.param)


@pytest.fixture(scope="module")
def source(dataset) -> Any:
    return as_source(dataset)


@settings(max_examples=30)
@given(numbers=st.lists(st.integers(0, N - 1), max_size=20))
def test_rows_are_those_asked_for(source, numbers):
    batch = source.take(np.array(numbers, np.int64))
    np.testing.assert_array_equal(batch["x"], x[numbers])
    np.testing.assert_array_equal(batch["y"], y[numbers])
    assert batch["x"].dtype == np.float32
    assert batch["y"].dtype == np.int64
    assert batch["name"] == [f"row {i}" for i in numbers]


def test_collate_gets_the_rows(dataset):
    source = as_source(
        dataset, collate=lambda rows: [(row["name"], row["x"].sum(), row["y"]) for row in rows]
    )
    expected = [(f"row {i}", x[i].sum(), y[i]) for i in (50, 2)]
    assert source.take(np.array([50, 2])) == expected


def test_description(source):
    fields = {
        "x": {"shape": [4], "dtype": "float32"},
        "y": {"shape": [], "dtype": "int64"},
        "name": {"shape": [], "dtype": "object"},
    }
    described = source.describe()
    assert len(described.pop("sha256 of some rows")) == 64
    assert described == {"kind": "ray.data", "length": N, "fields": fields}


def test_other_rows_make_another_description_and_other_blocks_do_not():
    def described(dataset):
        return as_source(dataset).describe()

    names = [{"x": i, "name": f"row {i}"} for i in range(40)]
    few, many = (ray.data.from_items(names, override_num_blocks=n) for n in (2, 7))
    assert described(few) == described(many)
    assert described(few) != described(ray.data.from_items(names[::-1], override_num_blocks=2))
    shuffled = few.random_shuffle()
    assert described(shuffled) != described(shuffled)


def test_a_plan_is_executed_in_order():
    """Blocks that take longer do not come later, and the user's options are as before."""

    def slow(batch: dict[str, Any]) -> dict[str, Any]:
        import time

        time.sleep(0.3 if 0 in batch["id"] else 0)
        return {"square": batch["id"][batch["id"] % 2 == 1] ** 2}

    plan = ray.data.range(40, override_num_blocks=4).map_batches(slow)
    source = as_source(plan)
    squares = [i**2 for i in range(40) if i % 2]
    assert source.take(np.arange(len(source)))["square"].tolist() == squares
    assert not plan.context.execution_options.preserve_order
    assert plan.context.enable_progress_bars


def ragged(length: int) -> list[dict[str, Any]]:
    return [{"x": np.arange(1.0 + i % 2)} for i in range(length)]


@pytest.mark.parametrize("blocks", [1, 4])
def test_ragged_rows_need_collate_wherever_they_lie(blocks):
    dataset = ray.data.from_items(ragged(8), override_num_blocks=blocks)
    with pytest.raises(ValueError, match=r"examples\['x'\] have different shapes.*collate"):
        as_source(dataset).take(np.arange(8))
    assert as_source(dataset).take(np.array([1, 3, 7]))["x"].shape == (3, 2)
    assert as_source(dataset, collate=len).take(np.arange(8)) == 8


def test_bad_input():
    with pytest.raises(ValueError, match="without rows"):
        as_source(ray.data.range(3).limit(0))
    with pytest.raises(TypeError, match=r"ray.data.Dataset, got .*; give the whole Dataset"):
        as_source(ray.data.range(3).iterator())
    with pytest.raises(IndexError):
        as_source(ray.data.range(3)).take(np.array([3]))


def test_a_plan_that_nothing_can_execute_is_refused(monkeypatch):
    @ray.remote(num_cpus=4)
    class Greedy:
        def ready(self) -> None:
            pass

    monkeypatch.setattr("dist_dp.data.ray_data._PATIENCE", 2.0)
    greedy = Greedy.remote()
    ray.get(greedy.ready.remote())
    with pytest.raises(RuntimeError, match="no processor was free"):
        as_source(ray.data.range(3).map_batches(lambda batch: batch))
    ray.kill(greedy)


def test_lost_blocks_are_named():
    @ray.remote(num_cpus=0)
    class Owner:
        def made(self) -> Any:
            return ray.data.range(100_000, override_num_blocks=1).materialize()

    owner = Owner.remote()
    dataset = ray.get(owner.made.remote())
    ray.kill(owner)
    until = time.monotonic() + 20
    with pytest.raises(DataError, match=r"blocks of the Dataset could not be fetched: (?s:.*)owner"):
        while time.monotonic() < until:  # the store drops them soon after
            as_source(dataset)
            time.sleep(0.1)


def trained(data: Any, fields: Callable[[Any], tuple[Any, Any]]) -> str:
    dp.seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def loss(model: nn.Module, batch: Any) -> Any:
        inputs, labels = fields(batch)
        return nn.functional.cross_entropy(model(inputs), labels)

    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    return dp.fit(model, loss, optimizer, data, batch_size=10, epochs=2, shards=3, progress=False).digest


def test_the_digest_is_that_of_arrays(dataset):
    expected = trained((x, y), lambda batch: batch)
    assert trained(dataset, lambda batch: (batch["x"], batch["y"])) == expected
    assert trained(dataset.repartition(7), lambda batch: (batch["x"], batch["y"])) == expected

    def cut(batch: Any) -> tuple[Any, Any]:
        return batch["data"][:, :4], batch["data"][:, 4].astype(np.int64)

    whole = np.column_stack([x, y]).astype(np.float32)
    assert trained(ray.data.from_numpy([whole[:20], whole[20:]]), cut) == expected
