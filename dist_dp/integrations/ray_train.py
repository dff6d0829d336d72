"""Ray Train (v2): its workers form a dist_dp group, and its checkpoints are those of a run directory.

    trainer = DataParallelTrainer(train_loop_per_worker, backend_config=DistDPConfig(), scaling_config=..., ...)

In the loop of each worker `dist_dp.fit`, `steps` and `evaluate` share the shards of every batch among the workers, and
give the answer of one process. When a worker is lost Ray Train does what it does by default: it ends them all and
starts the loop again from its beginning; with `run=` on storage that all nodes share, training goes on from the newest
checkpoint in it. (`dist-dp run --ray` keeps the survivors instead.)
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.train import Checkpoint
from ray.train.backend import Backend, BackendConfig

# Not `ray.train.data_parallel_trainer`: that is the class of Ray Train v1, which refuses the configurations of v2.
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from runtime.checkpoint import available, layout, load
from runtime.events import Sink
from runtime.group import Group, GroupBroken
from runtime.hosts.ray.metrics import RayMetrics
from runtime.launch import LAUNCH, launch_id
from runtime.member import Formation, Lost, Member, Position, agree, become, current
from runtime.store import store_at
from runtime.transports.rendezvous import join
from runtime.transports.tcp import Address, Listener

from ..train.directions import NOWHERE, STORAGE, directed
from ..train.run_directory import MANIFEST, RunDirectory
from ..train.session import group as dp_group

__all__ = ["DataParallelTrainer", "DistDPConfig", "TrainMember", "checkpoint_of", "resume_from"]


@dataclass
class DistDPConfig(BackendConfig):  # type: ignore[misc]
    """Makes the workers of a `DataParallelTrainer` a dist_dp group.

    Args:
        storage: a directory that all nodes share, or a URL, below which relative `run=` of the loop lie. None: a
            relative `run=` is refused, for a worker's own directory is gone with it.
        timeout: seconds that the workers wait for each other to come to their first `fit`, `steps` or `evaluate`, and
            that an exchange may stand still.
    """

    storage: str | os.PathLike[str] | None = None
    timeout: float = 600.0
    # The same after a restart: what a lost worker held on storage may be taken over.
    _launch: str = field(default_factory=launch_id, init=False)

    @property
    def backend_cls(self) -> type[Backend]:
        return DistDPBackend

    @property
    def train_func_context(self) -> Callable[[], AbstractContextManager[None]]:
        return _whole_program

    def to_dict(self) -> dict[str, Any]:
        return {"timeout": self.timeout}


class DistDPBackend(Backend):  # type: ignore[misc]
    """Lets each worker listen, and tells all of them where the others do."""

    def on_start(self, worker_group: Any, backend_config: DistDPConfig) -> None:
        table = worker_group.execute(_listen)
        worker_group.execute(_begin, table, secrets.token_bytes(32), backend_config)


class TrainMember(Member):
    """A worker of Ray Train, by its world rank. The set of workers is fixed: Ray Train replaces all of them at once.

    Args:
        listener: of this worker.
        table: of all workers by rank, the address of their listener and the node they are on.
    """

    backend = "ray"

    def __init__(
        self, listener: Listener, table: list[tuple[Address, str]], secret: bytes, timeout: float
    ) -> None:
        super().__init__()
        self._addresses, self._nodes = [address for address, _ in table], [node for _, node in table]
        self.worker, self.workers = self._addresses.index(listener.address), len(table)
        self._listener, self._secret, self._timeout = listener, secret, timeout
        # Not 0, as in a run's first generation: workers before these may have been ended a moment ago, and the run
        # directory that they held is free only in a moment.
        self._generation = 1
        self._former: Group | None = None

    def sinks(self, run: str) -> Sequence[Sink]:
        return (RayMetrics(run, self.workers),)

    def form(self, position: Position) -> Formation:
        # The former group may still be asked for its pending total: it is closed when the next one goes.
        if self._former is not None:
            self._former.close()
        self._former = self.group
        if self.group is not None:
            self.group.abort()
        self._generation += 1
        try:
            self.group = join(
                self._listener,
                self._addresses,
                self._nodes,
                self.worker,
                self._generation,
                self._secret,
                self._timeout,
            )
            agreement = agree([Position(*told) for told in self.group.gather_objects(tuple(position))])
        except GroupBroken as error:
            raise Lost(
                "a worker was lost, or did not come within the timeout of DistDPConfig "
                f"({self._timeout:g} s); Ray Train starts all of them again if FailureConfig allows it"
            ) from error
        if len(agreement.members) < self.workers:
            raise Lost("the workers stand in different sessions of the program")
        return Formation(self.group, agreement.position, agreement.donor, agreement.newcomers)


def checkpoint_of(run: str | os.PathLike[str]) -> Checkpoint | None:
    """The newest checkpoint of a run, where it lies, to be reported by one of the workers; None if there is none.

    >>> ray.train.report(metrics, checkpoint=checkpoint_of("digits"))  # doctest: +SKIP
    """
    found = available(_directory(run).checkpoints)
    if not found:
        return None
    local = found[0].local
    return Checkpoint(found[0].url) if local is None else Checkpoint.from_directory(local)


def resume_from(checkpoint: Checkpoint, run: str | os.PathLike[str]) -> None:
    """Let a run go on from a checkpoint, unless it has one of its own: copy it, verified, into the run directory.

    All workers call it, before `fit` or `steps` with the same `run=`; one of them copies.

    Args:
        checkpoint: a step's directory of any run, wherever it was copied to.

    Raises:
        CheckpointDamaged: it does not hold what was written.
        RunInUse: another process trains in `run`.
    """
    group, directory = dp_group(), _directory(run)
    if group.rank == 0 and not available(directory.checkpoints):
        with checkpoint.as_directory() as path:
            found, source = load(path), store_at(path)
            directory.create()
            with directory.held(takeover=True):
                target = directory.store.below("checkpoints").below(layout.directory_name(found.step))
                directory.store.write(MANIFEST, [json.dumps(found.meta["run"]).encode()])
                # The manifest of the checkpoint comes last: it makes it one.
                for name in sorted(source.names(), key=lambda name: name == layout.MANIFEST):
                    target.write(name, [source.read(name)])
    group.barrier()


def _directory(run: str | os.PathLike[str]) -> RunDirectory:
    return RunDirectory(directed({"run": run})["run"] or run)


_listener: Listener | None = None


def _listen() -> tuple[Address, str]:
    global _listener
    _listener = Listener(ray.util.get_node_ip_address())
    return _listener.address, ray.get_runtime_context().get_node_id()


def _begin(table: list[tuple[Address, str]], secret: bytes, config: DistDPConfig) -> None:
    assert _listener is not None
    os.environ[STORAGE] = NOWHERE if config.storage is None else os.fspath(config.storage)
    os.environ[LAUNCH] = config._launch
    become(TrainMember(_listener, table, secret, config.timeout))


@contextmanager
def _whole_program() -> Iterator[None]:
    yield
    current().pay()
