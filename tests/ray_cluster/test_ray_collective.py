"""The backend "dist_dp" of `ray.util.collective`, by its public API, on a cluster of two nodes, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.util import collective
from ray_cluster import clusters
from ray_cluster.collective_actor import (
    Worker,
    destroy,
    in_a_task,
    kind_of,
    laws,
    refusals,
    until_broken,
)

from runtime.transports.ray_collective import register

SECONDS = 60


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Any]]:
    """Three actors on one node, the fourth on another."""
    with clusters.Nodes(num_cpus=4, resources={"here": 3}) as nodes:
        nodes.add(resources={"there": 1})
        ray.init(nodes.address, log_to_driver=False)
        try:
            actor = ray.remote(Worker)
            places = ["here", "here", "here", "there"]
            yield [actor.options(num_cpus=0, resources={place: 1}).remote() for place in places]
        finally:
            ray.shutdown()


def on_all(actors: list[Any], function: Any, *arguments: Any) -> list[Any]:
    return ray.get([actor.call.remote(function, *arguments) for actor in actors], timeout=SECONDS)


def join(actors: list[Any], name: str) -> None:
    joining = [actor.join.remote(len(actors), rank, name) for rank, actor in enumerate(actors)]
    ray.get(joining, timeout=SECONDS)


PLACEMENTS = {
    1: {(0,): "SoloGroup"},
    2: {(0, 1): "_NodeGroup", (0, 3): "TcpGroup"},
    3: {(0, 1, 2): "_NodeGroup", (0, 1, 3): "HierarchicalGroup", (0, 3, 1): "TcpGroup"},
    4: {(0, 1, 2, 3): "HierarchicalGroup"},
}
"""By world size: which of the actors, and what group they find."""


@pytest.mark.parametrize("size", PLACEMENTS)
def test_every_operation_has_the_bits_of_the_tree_wherever_the_workers_are(workers, size) -> None:
    digests = []
    for placement, kind in PLACEMENTS[size].items():
        actors, name = [workers[i] for i in placement], f"laws {placement}"
        join(actors, name)
        assert set(on_all(actors, kind_of, name)) == {kind}
        digests.append(on_all(actors, laws, name))
        on_all(actors, destroy, name)
    assert all(digest == digests[0] for digest in digests)


def test_a_name_can_be_used_again(workers) -> None:
    for _ in range(3):
        join(workers[:2], "again")
        on_all(workers[:2], destroy, "again")
    with pytest.raises(ValueError):  # its meeting place is gone
        ray.get_actor("dist_dp_again")


def test_a_group_that_the_driver_declares(workers) -> None:
    register()
    collective.create_collective_group(workers[:2], 2, [1, 0], backend="dist_dp", group_name="declared")
    assert on_all(workers[:2], kind_of, "declared") == ["_NodeGroup"] * 2
    on_all(workers[:2], destroy, "declared")


def test_tasks(workers) -> None:
    task = ray.remote(in_a_task)
    results = [task.options(num_cpus=0).remote(2, rank, "tasks") for rank in range(2)]
    assert ray.get(results, timeout=SECONDS) == [[2.0, 4.0]] * 2


def test_what_a_worker_cannot_do_is_told_to_all(workers) -> None:
    join(workers[:2], "refusals")
    assert on_all(workers[:2], refusals, "refusals") == [7, 8]
    on_all(workers[:2], destroy, "refusals")


def test_a_group_that_was_not_made(workers) -> None:
    with pytest.raises(RuntimeError, match="'nowhere' is not initialized"):
        on_all(workers[:1], kind_of, "nowhere")


def test_no_torch(workers) -> None:
    assert all(ray.get([worker.torch_refused.remote() for worker in workers], timeout=SECONDS))


@pytest.mark.parametrize("placement", [(0, 1, 3), (0, 1, 2)], ids=["between nodes", "on one node"])
def test_a_killed_worker_ends_the_group_of_all(workers, placement) -> None:
    """The last of these; those who are left form a new group under the name."""
    actors = [workers[i] for i in placement]
    join(actors, "doomed")
    *survivors, doomed = [actor.call.remote(until_broken, "doomed", actor is actors[-1]) for actor in actors]
    waited = ray.get(survivors, timeout=SECONDS)
    assert len(waited) == 2 and max(waited) < 10
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(doomed, timeout=SECONDS)
    on_all(actors[:-1], destroy, "doomed")
    join(actors[:-1], "doomed")
    assert on_all(actors[:-1], kind_of, "doomed") == ["_NodeGroup"] * 2
    on_all(actors[:-1], destroy, "doomed")
