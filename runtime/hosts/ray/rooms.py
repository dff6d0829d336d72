"""`Rooms`: where on a Ray cluster the workers of a run may be, as nodes come and go.

The workers that a run needs at least have their rooms in one placement group, packed or spread; each further worker
has one of its own. What cannot be placed yet stays pending, which is how Ray's autoscaler learns what is wanted, and a
group that lost a node is placed again by Ray. So a room may come at any time, and `look` tells.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

_SUSPECTED = 20.0  # seconds that nothing is started on a node that could not be reached


@dataclass
class _Room:
    group: Any  # a placement group
    index: int  # of the bundle in it


class Rooms:
    """A room for each of `most` workers, there or wanted.

    Args:
        bundle: the resources of one worker: {"CPU": 1.0, ...}.
        least, most: numbers of workers.
        strategy: "pack" on few nodes, or "spread" over many.
    """

    def __init__(self, bundle: Mapping[str, float], least: int, most: int, strategy: str) -> None:
        self._bundle = dict(bundle)
        needed = placement_group([self._bundle] * least, strategy=strategy.upper())
        self._groups = [needed]
        self._rooms = {worker: _Room(needed, worker) for worker in range(least)}
        self._former: dict[int, _Room] = {}  # of workers that are to move
        self._suspects: dict[str, float] = {}
        for worker in range(least, most):
            self._ask(worker)

    def _ask(self, worker: int) -> None:
        """Want a room for this worker, anywhere."""
        group = placement_group([self._bundle], strategy="PACK")
        self._groups.append(group)
        self._rooms[worker] = _Room(group, 0)

    def look(self, workers: Iterable[int]) -> dict[int, str]:
        """Those of these workers that have a room now, and its node."""
        wanted = list(workers)
        if not wanted:
            return {}
        now = time.monotonic()
        self._suspects = {node: until for node, until in self._suspects.items() if until > now}
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]} - self._suspects.keys()
        tables: dict[int, Any] = {}
        found = {}
        for worker in wanted:
            room = self._rooms[worker]
            if id(room.group) not in tables:
                tables[id(room.group)] = placement_group_table(room.group)
            table = tables[id(room.group)]
            node = table.get("bundles_to_node_id", {}).get(room.index)
            if table.get("state") in ("CREATED", "RESCHEDULING") and node in alive:
                found[worker] = node
        return found

    def strategy(self, worker: int) -> PlacementGroupSchedulingStrategy:
        """How to start an actor in this worker's room."""
        room = self._rooms[worker]
        return PlacementGroupSchedulingStrategy(room.group, placement_group_bundle_index=room.index)

    def suspect(self, node: str) -> None:
        """This node could not be reached."""
        self._suspects[node] = time.monotonic() + _SUSPECTED

    def move(self, worker: int) -> None:
        """Want a room for this worker on another node: its own is being drained, and gets nothing new from Ray."""
        self._former[worker] = self._rooms[worker]
        self._ask(worker)

    def moved(self, worker: int) -> None:
        """Nobody is in this worker's former room any more: give it back, or Ray would find it another place in time.
        One that belongs to a group with others is kept with them."""
        group = self._former.pop(worker).group
        if all(room.group is not group for room in (*self._rooms.values(), *self._former.values())):
            self._groups.remove(group)
            remove_placement_group(group)

    def close(self) -> None:
        """Give all rooms back; who is still in one is ended by Ray."""
        for group in self._groups:
            remove_placement_group(group)


def draining() -> dict[str, float | None]:
    """The nodes that Ray was told to drain (a preemption notice, the autoscaler), and when they go: seconds since 1970,
    or None if that is not known."""
    # Not part of Ray's public API, and nothing public tells it; Ray Train reads it in the same place.
    from ray._private.state import state

    nodes: Mapping[str, int] = state.get_draining_nodes()
    return {node: deadline / 1000 if deadline else None for node, deadline in nodes.items()}
