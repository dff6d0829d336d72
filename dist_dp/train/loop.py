"""`steps`: the training loop, seen from inside one logical shard.

    (seed, epoch, step) -> the examples of S shards -> for each shard: the user's code -> gradient
        -> the fixed tree -> one update -> commit

Everything that follows from the promise happens here once: shards cut by arithmetic, gradients added in the tree's
order and divided once by the sum of weights, buffers and metrics folded in the same tree, a step applied wholly or
not at all.
"""

from __future__ import annotations

import difflib
import logging
import math
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, TypedDict, Unpack

import numpy as np

from runtime import checkpoint
from runtime.checkpoint import CheckpointNotSaved
from runtime.events import Event, JsonLines, Sink, Tee
from runtime.fingerprint import fingerprint, pin_blas_threads
from runtime.fold import Fold
from runtime.launch import blas_threads
from runtime.run_lock import run_lock

from .. import random
from .._version import __version__
from ..data import Batches, as_source, prefetch
from ..nn import BufferProposals, Module, buffer_proposals
from ..optim import GradientBuffer, Optimizer
from .contribution import Contribution, ContributionSum
from .progress import Progress
from .run_directory import MANIFEST_FORMAT, RunDirectory, damaged_message, program
from .shard import VALIDATION, NonFiniteLoss, Shard
from .state import TrainState

_log = logging.getLogger("dist_dp")

# Without checkpoint_every, at most about this much work is lost when everything dies.
_SECONDS_BETWEEN_CHECKPOINTS = 30.0


class Options(TypedDict, total=False):
    """The options that `fit` and `steps` share; see `steps` for what each means."""

    shards: int | None
    max_steps: int | None
    seed: int
    run: str | os.PathLike[str] | None
    collate: Callable[[list[Any]], Any] | None
    shuffle: bool
    drop_last: bool
    checkpoint_every: int | None
    keep_last: int
    keep_every: int | None
    prefetch: int
    progress: bool | None
    sinks: Sequence[Sink]


DEFAULTS: Options = {
    "shards": None,
    "max_steps": None,
    "seed": 0,
    "run": None,
    "collate": None,
    "shuffle": True,
    "drop_last": False,
    "checkpoint_every": None,
    "keep_last": 3,
    "keep_every": None,
    "prefetch": 2,
    "progress": None,
    "sinks": (),
}


class Steps:
    """The steps of a run: iterate over it to get the shards to compute. Made by `dist_dp.steps`.

    Attributes:
        step: steps committed so far.
        metrics: the metrics of the newest step, and of the newest validation as `validation_<name>`.
        total_steps: steps of the whole run.
        validate: called after each epoch; the metrics that it returns are reported, and the loss shown to the
            schedules.
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
        options: Options = {**DEFAULTS, **given}
        _check(model, optimizer, given)
        self.model, self.optimizer = model, optimizer
        self.state = TrainState(model, optimizer)
        self.source = as_source(data, options["collate"])
        self.directory = None if options["run"] is None else RunDirectory(options["run"])
        shards = options["shards"]
        if shards is None:  # the run's own number; one worker begins with one shard
            known = self.directory.manifest() if self.directory else None
            shards = known["settings"]["shards"] if known else 1
        self.batches = Batches(
            len(self.source),
            batch_size,
            shards,
            options["seed"],
            options["shuffle"],
            epochs,
            options["drop_last"],
        )
        self._options = options
        self.total_steps = min(self.batches.total_steps, options["max_steps"] or self.batches.total_steps)
        optimizer.total_steps = self.total_steps
        self.step = 0
        self.metrics: dict[str, float] = {}
        self.validate: Callable[[], dict[str, float]] | None = None
        self._sink: Sink = Tee(())
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._pool: list[GradientBuffer] = [optimizer.gradients]
        self._buffer_names = {buffer: name for name, buffer in self.state.buffers.items()}
        trained = set(self.state.trained)
        self._others = [
            p for name, p in self.state.parameters.items() if name not in trained and p.node is not None
        ]
        self._iterated = False
        self._computed = self._took_part = 0  # shards of this launch, and those that called backward
        self._committed = True  # the state is that after `step` whole steps

    # --- the loop -------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Shard]:
        if self._iterated:
            raise RuntimeError("these steps were iterated over already; call dist_dp.steps again")
        self._iterated = True
        return self._loop()

    def _loop(self) -> Generator[Shard, None, None]:
        with ExitStack() as stack:
            stack.callback(pin_blas_threads(blas_threads()).restore_original_limits)
            self._open(stack)
            try:
                yield from self._steps(stack)
            finally:
                # Also on a break, an exception of the body, or Ctrl-C: the last committed step is worth keeping,
                # but not one that was interrupted while it was applied.
                if self._committed:
                    self._save_if_due(last=True)
            if self._took_part == 0 < self._computed:
                self._warn("no shard called shard.backward(loss): nothing was trained")
            self.emit("end", digest=self.digest(), **self.metrics)

    def _steps(self, stack: ExitStack) -> Generator[Shard, None, None]:
        Steps.begun = True
        shards = self.batches.shards
        keys = ((k, s) for k in range(self.step, self.total_steps) for s in range(shards))
        batches = prefetch(self._load, keys, self._options["prefetch"])
        stack.callback(batches.close)
        for step in range(self.step, self.total_steps):
            started = time.perf_counter()
            epoch, _ = self.batches.locate(step)
            fold = Fold(shards, ContributionSum(self._pool))
            for index in range(shards):
                indices, batch = next(batches)
                if len(indices) == 0:
                    fold.push(Contribution())  # more shards than examples: nothing to compute, nothing to add
                    continue
                rng = random.Stream(random.Key(self.batches.seed, "step", step, "shard", index))
                shard = Shard(batch, indices, step, epoch, index, rng)
                gradients = self._pool.pop() if self._pool else self.optimizer.new_gradients()
                gradients.receive()
                for p in self._others:
                    p.node.clear()
                with random.scope(rng), buffer_proposals() as proposals:
                    yield shard
                fold.push(self._contribution(shard, gradients, proposals))
            self._commit(fold.root, epoch, time.perf_counter() - started)

    def _load(self, key: tuple[int, int]) -> tuple[Any, Any]:
        step, shard = key
        indices = self.batches.indices(step, shard)
        # In the prefetch thread: augmentation draws from a stream of this shard's own.
        with random.scope(random.Key(self.batches.seed, "step", step, "shard", shard, "data")):
            return indices, self.source.take(indices) if len(indices) else None

    def _contribution(
        self, shard: Shard, gradients: GradientBuffer, proposals: BufferProposals
    ) -> Contribution:
        self._computed += 1
        self._took_part += shard.weight > 0
        if shard.weight == 0:  # the body never called shard.backward: this shard takes no part in the step
            if any(p.grad is not None for p in self.state.parameters.values()):
                raise RuntimeError(
                    f"gradients came to the parameters in step {shard.step}, shard {shard.index}, but not through the "
                    "shard: call shard.backward(loss), not loss.backward()"
                )
            self._pool.append(gradients)
            return Contribution()
        gradients.seal()
        weight = shard.weight
        names = self._buffer_names
        return Contribution(
            gradients,
            weight,
            {name: (value * weight, weight) for name, value in shard.metrics.items()},
            {names[buffer]: proposed for buffer, proposed in proposals.sums.items() if buffer in names},
        )

    def _commit(self, total: Contribution, epoch: int, seconds: float) -> None:
        """Apply one step: parameters, buffers, step count."""
        rate = self.optimizer.rate(self.optimizer.param_groups[0])
        if total.gradients is not None:
            self._refuse_non_finite(total.gradients)
        self._committed = False  # from here on the state is between two steps
        if total.gradients is None:
            self.optimizer.steps += 1  # no shard took part: the rates go on with the run
        else:
            self.optimizer.apply(total.gradients, total.weight)
            self._pool.append(total.gradients)
        for name, (value, weight) in total.buffers.items():
            self.state.buffers[name].commit(value / weight)
        self.step += 1
        means = {name: value / weight for name, (value, weight) in total.metrics.items()}
        self.metrics = {n: v for n, v in self.metrics.items() if n.startswith(VALIDATION)} | means
        examples = self.batches.size(self.step - 1)
        self.emit("step", epoch=epoch, lr=rate, examples=examples, seconds=round(seconds, 6), **means)
        if self.step % self.batches.steps_per_epoch == 0:
            self._end_epoch()
        self._committed = True
        self._save_if_due(last=False)

    def _refuse_non_finite(self, gradients: GradientBuffer) -> None:
        """Raise NonFiniteLoss, before anything is applied, if the step's gradient is not finite everywhere."""
        # A sum shows every NaN and infinity in one pass; that finite numbers add up to infinity is looked into.
        if all(math.isfinite(array.sum()) for array in gradients.arrays):
            return
        names: dict[Any, str] = {p: name for name, p in self.state.parameters.items()}
        bad = [names[p] for p, view in gradients.slots if not np.isfinite(view).all()]
        if bad:
            raise NonFiniteLoss(
                f"the gradient of {', '.join(bad[:5])} is not finite at step {self.step} though the loss is; nothing "
                "of this step is applied; dist_dp.debug.anomaly() finds the operation it comes from"
            )

    def _end_epoch(self) -> None:
        if self.validate is None:
            return
        measured = self.validate()
        for schedule in self.optimizer.schedules:
            schedule.observe(measured["loss"])
        self.metrics.update({f"{VALIDATION}{name}": value for name, value in measured.items()})
        self.emit("validation", **measured)

    # --- the run directory ----------------------------------------------------------------------------------------

    def _open(self, stack: ExitStack) -> None:
        """Take the run directory, check that it is this run, restore its newest good checkpoint, open the sinks."""
        sinks = list(self._options["sinks"])
        log: JsonLines | None = None
        if self.directory is not None:
            self.directory.create()
            stack.enter_context(run_lock(self.directory.lock_path))
            self.directory.agree(self._manifest())
            log = JsonLines(self.directory.metrics_path)
            sinks.append(log)
        if self._options["progress"] is not False:
            sinks.append(Progress(self.total_steps, self.batches.steps_per_epoch))
        self._sink = Tee(sinks)
        stack.callback(self._sink.close)
        if self.directory is not None:
            found = self.directory.newest(lambda error: self._warn(damaged_message(error)))
            if found is not None:
                self.state.restore(found)
                self.metrics = {name: float(value) for name, value in found.meta["metrics"].items()}
                self.step = self._saved_step = found.step
            assert log is not None
            log.truncate_after(self.step)
        self.emit("start", total_steps=self.total_steps, shards=self.batches.shards, version=__version__)

    def _manifest(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "batch_size": self.batches.batch_size,
            "shards": self.batches.shards,
            "seed": self.batches.seed,
            "shuffle": self.batches.shuffle,
            "drop_last": self.batches.drop_last,
        }
        if self.optimizer.uses_total_steps:  # else a run may be prolonged
            settings["total_steps"] = self.total_steps
        return {
            "format": MANIFEST_FORMAT,
            "version": __version__,
            "program": program(),
            "model": {
                "class": type(self.model).__qualname__,
                "arrays": {n: f"{a.dtype}{list(a.shape)}" for n, a in self.state.model_arrays().items()},
            },
            "optimizer": self.optimizer.describe(),
            "data": self.source.describe(),
            "settings": settings,
            "fingerprint": dict(fingerprint()),
        }

    def digest(self) -> str:
        """SHA-256 over all parameters and buffers of the model."""
        return self.state.digest()

    def _save_if_due(self, last: bool) -> None:
        if self.directory is None or self._saved_step == self.step or (last and self.step == 0):
            return
        if not last:
            every = self._options["checkpoint_every"]
            if every is not None:
                due = every > 0 and self.step % every == 0
            else:
                waited = time.monotonic() - self._saved_at
                due = waited > _SECONDS_BETWEEN_CHECKPOINTS or (
                    self.step % self.batches.steps_per_epoch == 0 and waited > 1.0
                )
            if not due:
                return
        arrays, optimizer = self.state.saved()
        digest = self.digest()
        try:
            checkpoint.save(
                self.directory.checkpoints,
                self.step,
                arrays,
                # As text: a metric may be NaN, which is no JSON.
                {
                    "optimizer": optimizer,
                    "metrics": {name: repr(value) for name, value in self.metrics.items()},
                },
                digest=digest,
                keep_last=self._options["keep_last"],
                keep_every=self._options["keep_every"],
            )
            self.directory.record_digest(digest, self.step)
        except (CheckpointNotSaved, OSError) as error:
            self._warn(
                f"step {self.step} was not saved ({error}); training goes on, the last good checkpoint is kept"
            )
        else:
            self._saved_step = self.step
            self.emit("checkpoint", digest=digest)
        self._saved_at = time.monotonic()

    # --- events ---------------------------------------------------------------------------------------------------

    def emit(self, kind: str, **values: Any) -> None:
        """Report something that happened at the present step to every sink."""
        self._sink.emit(Event(kind, self.step, values))

    def _warn(self, message: str) -> None:
        self.emit("warning", message=message)
        if self._options["progress"] is False:  # else the progress display has said it
            _log.warning(message)


def _check(model: Any, optimizer: Any, given: Mapping[str, Any]) -> None:
    if not isinstance(model, Module):
        raise TypeError(f"model must be a dist_dp.nn.Module, got {type(model).__name__}")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a dist_dp.optim optimizer, got {type(optimizer).__name__}")
    for name in given:
        if name == "validation":
            raise TypeError("validation is an option of fit; in a loop of your own, call dist_dp.evaluate")
        if name not in DEFAULTS:
            near = difflib.get_close_matches(name, [*DEFAULTS, "batch_size", "epochs", "validation"], 1)
            raise TypeError(
                f"unknown option {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; known are {sorted(DEFAULTS)}")
            )
    for name in ("checkpoint_every", "keep_every", "keep_last", "max_steps", "prefetch"):
        value, least = given.get(name), 0 if name in ("checkpoint_every", "prefetch") else 1
        if name in given and value is None and DEFAULTS[name] is None:  # type: ignore[literal-required]
            continue
        if name in given and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} must be an int >= {least}, got {value!r}")
    progress, sinks = given.get("progress"), given.get("sinks", ())
    if progress not in (None, True, False):
        raise TypeError(f"progress must be True, False or None, got {progress!r:.80}")
    if not isinstance(sinks, (tuple, list)) or not all(callable(getattr(s, "emit", None)) for s in sinks):
        raise TypeError(
            f"sinks must be a list of sinks (with emit and close, see runtime.events), got {sinks!r:.80}"
        )
