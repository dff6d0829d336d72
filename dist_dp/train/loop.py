"""`steps`: the training loop, seen from inside one logical shard.

    (seed, epoch, step) -> the examples of S shards -> for each shard of this worker: the user's code -> gradient
        -> the fixed tree, over all workers -> one update -> commit

Everything that follows from the promise happens here once: shards cut by arithmetic, gradients added in the tree's
order and divided once by the sum of weights, buffers and metrics folded in the same tree, a step applied wholly or
not at all, by every worker or by none.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import Any, ClassVar, Unpack

import numpy as np

from runtime import faults
from runtime.events import Event
from runtime.fingerprint import pin_blas_threads
from runtime.fold import Fold, Span, most_held, subtrees
from runtime.group import Exchange, Group, GroupBroken, Layout, Memory
from runtime.launch import blas_threads
from runtime.member import Formation, SoloMember, acting_as, current
from runtime.message import decode, encode
from runtime.timeline import span

from .. import random
from .._version import __version__
from ..data import Batches, as_source, prefetch
from ..nn import BufferProposals, Module, buffer_proposals
from ..optim import GradientBuffer, Optimizer
from .contribution import Contribution, ContributionSum, Summand
from .directions import default_shards, directed, profiled, trace
from .options import DEFAULTS, Options, check
from .overlap import BUCKET_BYTES, Overlap, buckets_of
from .progress import Progress
from .record import Record
from .run_directory import RunDirectory, described, refuse_other_worker
from .saving import Saving
from .session import Session
from .shard import VALIDATION, NonFiniteLoss, Shard
from .sharded import ShardedOptimizer
from .state import TrainState

# What the op is in which the workers agree that they are through.
LEAVING = "at the end of its loop"


class Steps:
    """The steps of a run: iterate over it to get the shards that this worker computes. Made by `dist_dp.steps`.

    Attributes:
        step: steps committed so far.
        metrics: the metrics of the newest step, and of the newest validation as `validation_<name>`.
        total_steps: steps of the whole run.
        validate: called after each epoch with the session; the metrics that it returns are reported, and the loss
            shown to the schedules.
    """

    # Whether any run of this process has come to its first step: by it the command tells a wrong argument from a
    # failure.
    begun: ClassVar[bool] = False

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        data: Any,
        *,
        batch_size: int,
        epochs: int = 1,
        **given: Unpack[Options],
    ) -> None:
        check(model, optimizer, given)
        options = directed({**DEFAULTS, **given})
        self.model, self.optimizer = model, optimizer
        self.state = TrainState(model, optimizer)
        self.source = as_source(data, options["collate"])
        directory = None if options["run"] is None else RunDirectory(options["run"])
        shards = options["shards"]
        workers = current().workers
        if shards is None:  # the run's own number; at its first launch as many as there are workers
            known = directory.manifest() if directory else None
            shards = known["settings"]["shards"] if known else default_shards(workers)
        self.batches = Batches(
            len(self.source),
            batch_size,
            shards,
            options["seed"],
            options["shuffle"],
            epochs,
            options["drop_last"],
            options["balance"],  # type: ignore[arg-type]
        )
        if shards < workers:
            raise ValueError(
                f"shards must be at least the number of workers, got {shards} for {workers} workers: a shard is "
                f"computed by one worker. Launch at most {shards}, or begin a run with more shards"
            )
        self._options = options
        self.total_steps = min(self.batches.total_steps, options["max_steps"] or self.batches.total_steps)
        optimizer.total_steps = self.total_steps
        self.step = 0
        self.metrics: dict[str, float] = {}
        self.validate: Callable[[Session], dict[str, float]] | None = None
        display = None
        if options["progress"] is not False:
            display = functools.partial(Progress, self.total_steps, self.batches.steps_per_epoch)
        self._record = Record(directory, list(options["sinks"]), display)
        self._saving = Saving(
            self._record,
            self.state,
            every=options["checkpoint_every"],
            keep_last=options["keep_last"],
            keep_every=options["keep_every"],
            steps_per_epoch=self.batches.steps_per_epoch,
            total_steps=self.total_steps,
        )
        self._buffer_names = {buffer: name for name, buffer in self.state.buffers.items()}
        trained = set(self.state.trained)
        self._others = [
            p for name, p in self.state.parameters.items() if name not in trained and p.node is not None
        ]
        self._sharded = ShardedOptimizer(optimizer) if options["shard_optimizer"] else None
        self._scattered = False  # the newest parameters lie with their owners
        self._gathered = -1  # the newest step whose state was gathered for a checkpoint
        self._iterated = False
        self._trace = trace(options["run"], current().worker)
        self._ahead: Generator[tuple[Any, Any], None, None] | None = None  # the batches of the next shards
        self._pool: list[Any] = []  # of what `_buffer` makes
        self._computed = self._took_part = 0  # shards of this launch, and those that called backward
        self._validated = 0  # the newest step whose validation is done
        self._committed = True  # the state is that after `step` whole steps, validated where that is due

    # --- the loop -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Shard]:
        if self._iterated:
            raise RuntimeError("these steps were iterated over already; call dist_dp.steps again")
        self._iterated = True
        return self._loop()

    def _loop(self) -> Generator[Shard, None, None]:
        self._session = Session()
        with self._running() as running:
            running.callback(self.optimizer.gradients.receive)  # gradients leave the group's memory then
            try:
                yield from self._until(self._to_the_end)
            except BaseException as reason:
                if isinstance(reason, GeneratorExit):
                    # The body broke off, on every worker: they agree on it when the program goes on. Or it raised, on
                    # this one alone: then it does not go on, and nobody is to be met.
                    self._session.member.owed = self._break_off
                with suppress(KeyboardInterrupt):  # it ends already
                    self._save_last()
                raise
            if self.step < self.total_steps:
                return  # the body broke off on the others
            if self._took_part == 0 < self._computed:
                self._warn("no shard called shard.backward(loss): nothing was trained")
            self.emit("end", digest=self.digest(), **self.metrics)

    @contextmanager
    def _running(self) -> Iterator[ExitStack]:
        with ExitStack() as stack:
            stack.callback(self._session.end)
            stack.callback(pin_blas_threads(blas_threads()).restore_original_limits)
            stack.callback(self._record.close)
            stack.callback(self._stop_loading)
            stack.enter_context(profiled())
            yield stack

    def _break_off(self) -> None:
        with self._running():
            list(self._until(self._leave))

    def _until(self, ended: Callable[[], Generator[Shard, None, bool]]) -> Generator[Shard, None, None]:
        """Do ops, one a turn, until one was the last; when a generation ends, settle in the next and go on."""
        while True:
            try:
                if (formation := self._session.join()) is not None:
                    self._settle(formation)
                if (yield from ended()):
                    return
            except GroupBroken:
                continue

    def _to_the_end(self) -> Generator[Shard, None, bool]:
        """The next op: a validation, a step, or at last the agreement that all have come to the end."""
        Steps.begun = True
        if self._scattered:
            self._gather_parameters()
        elif self._validated < self.step:
            with span("validation"):
                self._validation()
        elif self._sharded is not None and self._gather_is_due:
            self._gather_state(self._sharded)
        elif self.step < self.total_steps:
            with span("step"):
                left = yield from self._one_step()
            if left:
                self._save_last()
                return True
        else:
            # Before the others are let go: if this worker is lost in it, another one does it.
            self._save_last(self._session)
            return (yield from self._leave())
        return False

    def _leave(self) -> Generator[Shard, None, bool]:
        # In the form of a step: a worker whose shards of this step are all empty does not know that the body broke off.
        shards = self.batches.shards
        nothing = {span: Contribution() for span in subtrees(*self._range, shards)}
        self._session.fold(LEAVING, nothing, shards, self._memory)
        return True
        yield  # a generator like the others

    def _one_step(self) -> Generator[Shard, None, bool]:
        """Compute and apply a step; returns whether the other workers left the loop instead."""
        step, group, computed = self.step, self._session.group, self._computed
        self._session.step = step
        started = time.perf_counter()
        epoch, _ = self.batches.locate(step)
        lo, hi = self._range
        adding, overlap = ContributionSum(self._pool), None
        fold = Fold(self.batches.shards, adding, lo, hi)
        for index in range(lo, hi):
            gradients = self._receiving()
            if self._options["overlap"] and group.size > 1 and index == hi - 1:
                overlap = Overlap(self._memory, self._places, self._slots, fold, gradients, self._start)
            try:
                shard, proposals = yield from self._computed_shard(step, index, gradients, overlap)
            except GeneratorExit:
                if overlap is not None and overlap.begun:
                    group.abort()  # nobody will finish what is in flight
                raise
            begun = overlap and overlap.exchange
            adding.arrays_added = begun is not None
            fold.push(self._contribution(shard, gradients, proposals, sealed=begun is not None))
        partials = fold.partials()
        values = {span: self._slots.get(id(part.gradients)) for span, part in partials.items()}
        folded = self._session.fold(
            f"at step {step}" if self._computed > computed else None,
            partials,
            self.batches.shards,
            self._memory,
            values,
            overlap.exchange if overlap else None,
            self._saving.word_for(step + 1) if self._sharded is None else "",
        )
        self._pool = list(self._buffers)
        if folded.kind == LEAVING:
            return True
        self._saving.hear(folded.words)
        total = None if folded.arrays is None else self._total(folded.arrays, folded.touched)
        self._commit(folded.sum, total, epoch, time.perf_counter() - started)
        return False

    def _computed_shard(
        self, step: int, index: int, gradients: GradientBuffer, overlap: Overlap | None = None
    ) -> Generator[Shard, None, tuple[Shard, BufferProposals]]:
        """Let the body compute one shard, its gradients written into `gradients`; an empty one is not shown to it."""
        group = self._session.group
        if group.broken:
            raise GroupBroken("the generation ended while this worker computed")
        self._session.member.progress(step, f"shard {index}")
        faults.here("shard", step, index)
        assert self._ahead is not None
        with span("data, waiting"):
            indices, batch = next(self._ahead)
        rng = random.Stream(random.Key(self.batches.seed, "step", step, "shard", index))
        shard = Shard(batch, indices, step, self.batches.locate(step)[0], index, rng, overlap)
        gradients.receive()
        for p in self._others:
            p.node.clear()
        # What the body itself calls of dist_dp (an evaluation, say) is this worker's own affair.
        with random.scope(rng), buffer_proposals() as proposals, acting_as(SoloMember()):
            if len(indices):  # there may be more shards than examples
                self._computed += 1
                yield shard
        self._took_part += shard.weight > 0
        if shard.weight == 0 and any(p.grad is not None for p in self.state.parameters.values()):
            raise RuntimeError(
                f"gradients came to the parameters in step {shard.step}, shard {shard.index}, but not through the "
                "shard: call shard.backward(loss), not loss.backward()"
            )
        return shard, proposals

    def _start(self, values: dict[Span, int | None]) -> Exchange:
        return self._session.group.start(self._memory, values, self.batches.shards)

    def _keys(self, step: int, shards: range) -> Iterator[tuple[int, int]]:
        """(step, shard) of all that this worker is to compute, in its order."""
        return ((k, shard) for k in range(step, self.total_steps) for shard in shards)

    def _load(self, key: tuple[int, int]) -> tuple[Any, Any]:
        step, shard = key
        indices = self.batches.indices(step, shard)
        # In the prefetch thread: augmentation draws from a stream of this shard's own.
        with (
            span("data, loading"),
            random.scope(random.Key(self.batches.seed, "step", step, "shard", shard, "data")),
        ):
            return indices, self.source.take(indices) if len(indices) else None

    def _load_from(self, step: int, shards: range) -> None:
        """Go on with the first of `shards` of `step`."""
        self._stop_loading()
        self._ahead = prefetch(self._load, self._keys(step, shards), self._options["prefetch"])

    def _stop_loading(self) -> None:
        if self._ahead is not None:
            self._ahead.close()

    def _contribution(
        self, shard: Shard, gradients: GradientBuffer, proposals: BufferProposals, sealed: bool
    ) -> Contribution:
        if shard.weight == 0:  # empty, or the body never called shard.backward: it takes no part in the step
            self._give_back(gradients)
            return Contribution()
        if not sealed:
            gradients.seal()
        weight = shard.weight
        if self._trace is not None:
            slots = zip(self._by_name(gradients), gradients.touched, strict=True)
            touched = {name: view for (name, view), there in slots if there}
            self._trace.shard(shard.step, shard.index, weight, shard.metrics.get("loss"), touched)
        names = self._buffer_names
        return Contribution(
            self._summand(gradients),
            weight,
            {name: (value * weight, weight) for name, value in shard.metrics.items()},
            {names[buffer]: proposed for buffer, proposed in proposals.sums.items() if buffer in names},
        )

    # --- what is added up: gradients, in the group's memory (other kinds of training add up other things) -------------

    @property
    def _layout(self) -> Layout:
        return self.optimizer.layout

    def _buffer(self, arrays: list[Any]) -> Summand:
        """A place for a sum, in memory that the exchange reads."""
        return self.optimizer.new_gradients(arrays)

    def _receiving(self) -> GradientBuffer:
        """Where backward writes the gradients of the next shard."""
        gradients: GradientBuffer = self._pool.pop()
        return gradients

    def _give_back(self, gradients: GradientBuffer) -> None:
        """They were not needed."""
        self._pool.append(gradients)

    def _summand(self, gradients: GradientBuffer) -> Summand:
        """What is added up of a shard's gradients."""
        return gradients

    def _total(self, arrays: list[Any], touched: Any) -> GradientBuffer:
        """The total as a gradient buffer; its memory is the same from step to step."""
        key = tuple(array.__array_interface__["data"][0] for array in arrays)
        if key not in self._totals:
            self._totals[key] = self.optimizer.new_gradients(arrays)
        self._totals[key].touched[:] = touched
        return self._totals[key]

    def _commit(
        self, total: Contribution, gradients: GradientBuffer | None, epoch: int, seconds: float
    ) -> None:
        """Apply one step: parameters, buffers, step count."""
        rate = self.optimizer.rate(self.optimizer.param_groups[0])
        if gradients is not None:
            self._refuse_non_finite(gradients)
        self._committed = False  # from here on the state is between two steps
        faults.here("apply", self.step)
        if gradients is None:
            self.optimizer.steps += 1  # no shard took part: the rates go on with the run
        elif self._sharded is None:
            self.optimizer.apply(gradients, total.weight)
        else:
            self._sharded.apply(gradients, total.weight)
            self._scattered = True
        self._finish(total, self.step + 1, epoch, rate, seconds)

    def _finish(self, total: Contribution, step: int, epoch: int, rate: float, seconds: float) -> None:
        """The parameters are those after `step` steps: commit the buffers, count and report."""
        for name, (value, weight) in total.buffers.items():
            self.state.buffers[name].commit(value / weight)
        examples = sum(self.batches.size(k) for k in range(self.step, step))
        self.step = step
        means = {name: value / weight for name, (value, weight) in total.metrics.items()}
        self.metrics = {n: v for n, v in self.metrics.items() if n.startswith(VALIDATION)} | means
        values = {"epoch": epoch, "lr": rate, "examples": examples, "seconds": round(seconds, 6)}
        exchange = round(self._session.exchange_seconds, 6)
        self.emit("step", **values, exchange=exchange, exchange_bytes=self._session.exchange_bytes, **means)
        self._applied()

    def _applied(self) -> None:
        if not self._scattered and (self.validate is None or not self._epoch_ends):
            self._whole()

    def _whole(self) -> None:
        """The state is that after whole steps: it may be kept."""
        self._validated, self._committed = self.step, True
        if self._trace is not None:
            self._trace.after(self.step - 1, self.state.model_arrays())
        self._saving.step_done(self.step, self.metrics, self._session.settled)
        faults.here("committed", self.step)

    @property
    def _epoch_ends(self) -> bool:
        return self.step % self.batches.steps_per_epoch == 0

    def _refuse_non_finite(self, gradients: GradientBuffer) -> None:
        """Raise NonFiniteLoss, before anything is applied, if the step's gradient is not finite everywhere."""
        # A sum shows every NaN and infinity in one pass; that finite numbers add up to infinity is looked into.
        if all(math.isfinite(array.sum()) for array in gradients.arrays):
            return
        bad = [name for name, view in self._by_name(gradients) if not np.isfinite(view).all()]
        if bad:
            raise NonFiniteLoss(
                f"the gradient of {', '.join(bad[:5])} is not finite at step {self.step} though the loss is; nothing "
                "of this step is applied; dist_dp.debug.anomaly() finds the operation it comes from"
            )

    def _by_name(self, gradients: GradientBuffer) -> list[tuple[str, Any]]:
        names: dict[Any, str] = {p: name for name, p in self.state.parameters.items()}
        return [(names[p], view) for p, view in gradients.slots]

    def _validation(self) -> None:
        assert self.validate is not None
        measured = self.validate(self._session)
        for schedule in self.optimizer.schedules:
            schedule.observe(measured["loss"])
        self.metrics.update({f"{VALIDATION}{name}": value for name, value in measured.items()})
        self.emit("validation", **measured)
        self._whole()

    # --- the other workers ----------------------------------------------------------------------------------------

    def _settle(self, formation: Formation) -> None:
        """Let every worker of a new generation hold the same state, and take this worker's range of the shards."""
        group = formation.group
        begins = self._session.position.op < 0 and formation.donor is None
        if group.rank != 0:
            self._saving.hand_on()
        if begins or formation.newcomers:
            for rank, other in enumerate(group.gather_objects(self._manifest)):
                refuse_other_worker(self._manifest, other, group.rank, rank)
        if begins:
            self._begin(group)
        elif not self._session.past:
            if self._sharded is not None:
                self._make_whole(self._sharded, formation)
            self._hand_over(formation)
        self._saving.settle(formation, begins, self.step)
        lo, hi = self._range = self._session.range(self.batches.shards)
        count = most_held(lo, hi, self.batches.shards)
        bucket_bytes = BUCKET_BYTES if self._options["overlap"] else None
        self._memory: Memory = group.reserve(self._layout, count, bucket_bytes)
        self._buffers = [self._buffer(arrays) for arrays in self._memory.buffers]
        self._places = buckets_of(self._memory, self.optimizer.gradients)
        self._slots = {id(buffer): i for i, buffer in enumerate(self._buffers)}
        self._pool = list(self._buffers)
        self._totals: dict[tuple[int, ...], GradientBuffer] = {}
        if (
            self._sharded is not None
        ):  # not before all have come here: until then the state is whole with each of them
            self._sharded.place(group.rank, group.size)
            self._gathered = -1
        self._load_from(self.step, range(lo, hi))
        self._session.settle()
        if self._record.directory is not None and not self._session.past:
            local = self._record.directory.local
            self._session.member.began(None if local is None else os.path.abspath(local))

    def _begin(self, group: Group) -> None:
        """All begin: take the state that rank 0 finds."""
        if group.rank == 0:
            if not self._session.past:
                self._open(group)
            found = self._saving.newest(self.step)
            if found is None and self.step > 0:
                raise RuntimeError(
                    f"the state of step {self.step} went with workers that were lost together, and there is no "
                    "checkpoint: give run= (and checkpoint_every=), or shard_optimizer=False"
                )
            if found is not None:
                self.state.restore(found.arrays, found.meta["optimizer"])
                self.metrics = {name: float(value) for name, value in found.meta["metrics"].items()}
                self.step = self._validated = found.step
                self._committed, self._record.recent = True, []
        self._scattered = False  # what was, if anything, is lost
        if group.size > 1:
            self._unpack(group.gather_bytes(self._packed() if group.rank == 0 else b"")[0])
        self._record.go_on_from(self.step)
        self.emit("start", total_steps=self.total_steps, shards=self.batches.shards, version=__version__)

    def _hand_over(self, formation: Formation) -> None:
        """Newcomers take the state of the donor; the worker of rank 0 writes from now on."""
        group = formation.group
        if group.rank in formation.newcomers:
            assert formation.donor is not None
            self._unpack(group.recv(formation.donor))
        elif group.rank == formation.donor and formation.newcomers:
            packed = self._packed()
            for rank in sorted(formation.newcomers):
                group.send(rank, packed)
        if group.rank == 0 and not self._record.writing:
            self._open(group)
            self._record.go_on_from(self.step)
        seconds = round(
            time.perf_counter() - self._session.left, 6
        )  # without a step, until all hold the state
        newcomers = len(formation.newcomers)
        self.emit(
            "generation", number=group.generation, workers=group.size, newcomers=newcomers, seconds=seconds
        )

    def _open(self, group: Group) -> None:
        self._record.open(self._manifest, takeover=group.generation > 1)

    # --- a sharded optimizer ----------------------------------------------------------------------------------------

    def _gather_parameters(self) -> None:
        assert self._sharded is not None
        self._sharded.take_values(self._session.gather(self._sharded.values()))
        self._scattered = False
        self._applied()

    @property
    def _gather_is_due(self) -> bool:
        """Whether all workers gather their state for a checkpoint now."""
        due = self._gathered != self.step and not self._session.past
        return due and self._saving.gather_is_due(self.step)

    def _gather_state(self, sharded: ShardedOptimizer) -> None:
        group, told = self._session.group, self._session.gather(sharded.held())
        if self._record.writing:
            sharded.take_held(told)
            self._saving.gathered(self.step, self.metrics)
            sharded.place(group.rank, group.size)
        self._gathered = self.step

    def _make_whole(self, sharded: ShardedOptimizer, formation: Formation) -> None:
        """Put the state together from what the survivors hold; if a part is lost with its copy, begin anew."""
        group = formation.group
        told = group.gather_objects(None if group.rank in formation.newcomers else sharded.held())
        if not sharded.take_held([held for held in told if held is not None]):
            self._warn(
                "workers that were copies of each other were lost together: back to the newest checkpoint"
            )
            self._session.forget()
            raise GroupBroken("a part of the optimizer's state is lost")
        if self._scattered and group.rank not in formation.newcomers:
            self._scattered = False
            self._applied()

    def _packed(self) -> bytes:
        arrays, optimizer = self.state.saved()
        recent = [(e.kind, e.step, dict(e.values), e.time) for e in self._record.recent]
        return encode((arrays, optimizer, self.step, self._validated, self.metrics, recent))

    def _unpack(self, packed: bytes) -> None:
        arrays, optimizer, self.step, self._validated, self.metrics, recent = decode(packed)
        self._record.recent = [Event(*event) for event in recent]
        self._committed = False
        self.state.restore(arrays, optimizer)
        self._committed = self._validated == self.step

    # --- the record of the run --------------------------------------------------------------------------------------

    @functools.cached_property
    def _manifest(self) -> dict[str, Any]:
        """What this run is, as it was when this worker began: later the body may have assigned another rate."""
        settings = self.batches.settings()
        wire, local = self._options["wire"], self._options["local"]
        if wire is not None:
            settings["wire"] = wire
        if local is not None:
            settings["local"] = asdict(local)
        # Else a run may be prolonged. The last round of a LocalSGD is cut at the end of the run.
        if self.optimizer.uses_total_steps or local is not None:
            settings["total_steps"] = self.total_steps
        return described(self.model, self.state.model_arrays(), self.optimizer, self.source, settings)

    def digest(self) -> str:
        """SHA-256 over all parameters and buffers of the model."""
        return self.state.digest()

    def _save_last(self, session: Session | None = None) -> None:
        """Save the newest step, but not one that was interrupted while it was applied."""
        self._saving.last(self.step, self.metrics, self._committed and self._sharded is None, session)

    def emit(self, kind: str, **values: Any) -> None:
        """Report something that happened at the present step to every sink, if this worker writes."""
        self._record.emit(kind, self.step, **values)

    def _warn(self, message: str) -> None:
        self._record.warn(message, self.step)
