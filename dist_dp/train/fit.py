"""`fit`, `steps` and `evaluate`: training and measuring a model over a data source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Unpack

import numpy as np

from runtime.fingerprint import pin_blas_threads
from runtime.fold import Fold
from runtime.group import GroupBroken
from runtime.launch import blas_threads
from runtime.member import SoloMember, acting_as

from .. import random
from ..data import Source, as_source
from ..nn import Module
from ..optim import Optimizer
from ..tape import no_grad
from ..tensor import Tensor
from .contribution import Contribution, ContributionSum
from .half import HalfSteps
from .local_sgd import LocalSteps
from .loop import Steps
from .options import Options
from .session import Session
from .shard import as_metric, checked_weight, named_metrics

# loss(model, batch) -> scalar Tensor | (loss, weight) | (loss, weight, metrics)
Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Result:
    """What a run ended with.

    Attributes:
        digest: SHA-256 over all parameters and buffers: equal runs have equal digests.
        step: steps committed, over all launches of the run.
        metrics: the metrics of the last step, and those of the last validation as `validation_<name>`.
    """

    digest: str
    step: int
    metrics: dict[str, float] = field(default_factory=dict)


def steps(
    model: Module,
    optimizer: Optimizer,
    data: Any,
    *,
    batch_size: int,
    epochs: int = 1,
    **options: Unpack[Options],
) -> Steps:
    """Train with a loop of your own; the body sees one logical shard and may be any Python.

    After the last shard of a step the gradients are added in a fixed order, divided once by the sum of the weights, and
    applied. The weights after step k depend on the program, the data, the seed, the batch size and the number of
    shards, and on nothing else.

    Args:
        model: what is trained.
        optimizer: made from the model's parameters. The loop calls it; the body never does.
        data: arrays (one, or a tuple or dict of equally long ones), or anything with `__len__` and `__getitem__`.
        batch_size: examples per step, over all shards.
        epochs: passes over the data.
        shards: logical shards per step (at most one worker each); 1 by default, or what the run was begun with.
        max_steps: end after this many steps, if that is before the end of the last epoch.
        seed: of the order of examples and of everything random in the shards.
        run: the run directory, a path or a URL (`s3://...`, docs/storage.md). With it, checkpoints are written and a
            run that was interrupted goes on where it was.
        collate: makes a batch of a list of examples, for data that does not stack (trees, ragged sequences).
        shuffle: draw a new order of the examples in every epoch.
        drop_last: leave out the last batch of an epoch where it is short.
        balance: the size of each example (nodes of a tree, tokens), a sequence of whole numbers. The examples of a
            batch are then dealt out so that its shards are of about equal size, and workers wait less for each other.
            It is part of the order of the data: the answer is another one than without, and the run holds on to it.
        checkpoint_every: steps between checkpoints; 0 for one at the end only; by default after an epoch (at most
            one a second) and every 30 s.
        keep_last, keep_every: keep this many newest checkpoints, and all at multiples of `keep_every` steps.
        prefetch: batches loaded ahead in a background thread; 0 for none.
        overlap: send gradients while backward still computes others, bucket by bucket; worth it where messages between
            workers take long. Each shard then calls `backward` once and leaves `p.grad` as it is: it may be gone by
            then. The answer is the same.
        shard_optimizer: keep the optimizer's state (moments) spread over the workers instead of whole in each (ZeRO
            stage 1), with a copy at a neighbour. Checkpoints are then written at steps only: every
            `checkpoint_every`, by default after each epoch, and at the end. The answer is the same.
        wire: "float16" or "bfloat16" to add gradients in 16 bits, for slow networks: another answer than in full
            precision, but again the same for every number of workers (`dist_dp/train/half.py`).
        local: `LocalSGD(every=h)` to let each shard train a copy of the model for h steps and average the copies then:
            another method, whose answer depends on the number of shards, never on that of workers.
        progress: show progress; by default where a terminal or a log is watching.
        sinks: further receivers of events (`runtime.events`).

    Raises:
        TypeError, ValueError: an argument is wrong; the message names it.
        RunMismatch: `run` holds a run with another model, data, optimizer or setting; every difference is named.
        RunInUse: another process trains in `run` now.

    >>> import numpy as np, dist_dp as dp
    >>> from dist_dp import nn, optim
    >>> dp.seed(0)
    >>> model = nn.Linear(2, 1)
    >>> x = np.float32([[0, 0], [0, 1], [1, 0], [1, 1]]); y = x @ np.float32([[2], [-1]])
    >>> loop = dp.steps(model, optim.SGD(model.parameters(), lr=0.5), (x, y), batch_size=4, epochs=200, progress=False)
    >>> for shard in loop:
    ...     inputs, targets = shard.batch
    ...     shard.backward(nn.functional.mse_loss(model(inputs), targets))
    >>> loop.step, model.weight.detach().numpy().round(2).tolist()
    (200, [[2.0, -1.0]])
    """
    if options.get("local") is not None:
        kind: type[Steps] = LocalSteps
    else:
        kind = HalfSteps if options.get("wire") is not None else Steps
    return kind(model, optimizer, data, batch_size=batch_size, epochs=epochs, **options)


def fit(
    model: Module,
    loss: Loss,
    optimizer: Optimizer,
    data: Any,
    *,
    batch_size: int,
    epochs: int = 1,
    validation: Any = None,
    **options: Unpack[Options],
) -> Result:
    """Train `model` to make `loss` small; there is no loop to write.

    Args:
        loss: `loss(model, batch)` returns a scalar Tensor, the mean over the batch it is given (one logical shard), or
            `(loss, weight)` where the mean is over something else than examples (tokens, nodes), or
            `(loss, weight, metrics)` with a dict of numbers to report.
        validation: data on which the model is evaluated after each epoch.
        options: as of `steps`: shards, seed, run, collate, checkpoint_every, ...

    Returns:
        A `Result` with the digest, the metrics and the number of steps.

    Raises:
        As `steps`; an exception in `loss` names the step, the shard and the examples.

    >>> import numpy as np, dist_dp as dp
    >>> from dist_dp import nn, optim
    >>> dp.seed(0)
    >>> model = nn.Linear(1, 1)
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> def loss(model, batch):
    ...     return nn.functional.mse_loss(model(batch), 3 * batch)
    >>> result = dp.fit(model, loss, optim.Adam(model.parameters(), lr=0.1), x, batch_size=8, epochs=30, progress=False)
    >>> result.step, result.metrics["loss"] < 1e-2
    (120, True)
    """
    _check_loss(loss)
    loop = steps(model, optimizer, data, batch_size=batch_size, epochs=epochs, **options)
    if validation is not None:
        held_out = as_source(validation, options.get("collate"))
        loop.validate = lambda session: _mean(session, model, loss, held_out, batch_size)
    if not model.training:
        model.train()  # else leave it: a part may be frozen in evaluation mode
    for shard in loop:
        try:
            value, weight, metrics = parts_of(loss(model, shard.batch), len(shard))
            shard.backward(value, weight)
            shard.log(metrics)
        except Exception as error:
            error.add_note(f"in step {shard.step}, shard {shard.index}, examples {shard.indices.tolist()}")
            raise
    return Result(loop.digest(), loop.step, loop.metrics)


def _check_loss(loss: Any) -> None:
    if not callable(loss):
        raise TypeError(f"loss must be a function loss(model, batch), got {type(loss).__name__}")


def parts_of(returned: Any, examples: int) -> tuple[Tensor, float, dict[str, Any]]:
    """What a loss function returned, as (loss, weight, metrics)."""
    value, weight = returned, examples
    metrics: dict[str, Any] = {}
    if isinstance(returned, tuple):
        if not 1 <= len(returned) <= 3:
            raise ValueError(
                f"loss must return loss, (loss, weight) or (loss, weight, metrics); got a tuple of {len(returned)}"
            )
        value, *rest = returned
        weight = rest[0] if rest else examples
        metrics = rest[1] if len(rest) > 1 else metrics
    if not isinstance(value, Tensor):
        raise TypeError(f"loss must return a Tensor first, got {type(value).__name__}")
    return value, checked_weight(weight), dict(named_metrics(metrics))


def evaluate(
    model: Module,
    loss: Loss,
    data: Any,
    *,
    batch_size: int,
    collate: Callable[[list[Any]], Any] | None = None,
) -> dict[str, float]:
    """The mean loss and metrics of `model` over `data`, exactly: every example counts once, whatever the batches.

    The model is in evaluation mode meanwhile and nothing is recorded. The workers of a run share the batches, which are
    the leaves of a fixed tree, so that the numbers have the same bits however many there are.

    Args:
        loss: as of `fit`.

    Returns:
        `{"loss": ..., <metrics>}`: means weighted as the loss is.
    """
    if not isinstance(model, Module):
        raise TypeError(f"model must be a dist_dp.nn.Module, got {type(model).__name__}")
    _check_loss(loss)
    source = as_source(data, collate)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an int >= 1, got {batch_size!r}")
    session = Session(stateless=True)
    try:
        while True:
            try:
                if session.join() is not None:
                    session.settle()
                return _mean(session, model, loss, source, batch_size)
            except GroupBroken:
                continue
    finally:
        session.end()


def _mean(session: Session, model: Module, loss: Loss, source: Source, batch_size: int) -> dict[str, float]:
    """The means over `source`; each worker measures a range of the batches, and the tree over all of them adds up.

    Raises:
        GroupBroken: the generation ended before all workers had the result.
    """
    count = -(-len(source) // batch_size)
    lo, hi = session.range(count)
    fold = Fold(count, ContributionSum([]), lo, hi)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    limiter = pin_blas_threads(blas_threads())
    try:
        with no_grad(), acting_as(SoloMember()):
            for i in range(lo, hi):
                if session.group.broken:
                    raise GroupBroken("the generation ended while this worker computed")
                session.member.progress(i, "evaluation")
                fold.push(
                    _measured(
                        model, loss, source, np.arange(i * batch_size, min((i + 1) * batch_size, len(source)))
                    )
                )
    finally:
        limiter.restore_original_limits()
        for module, training in modes:  # each its own: a part may be frozen in evaluation mode
            module.training = training
    total = session.fold("evaluating", fold.partials(), count).sum
    return {name: value / weight for name, (value, weight) in total.metrics.items()}


def _measured(model: Module, loss: Loss, source: Source, indices: Any) -> Contribution:
    with random.scope(random.Key(0, "evaluate", int(indices[0]))):
        value, weight, metrics = parts_of(loss(model, source.take(indices)), len(indices))
    numbers = {"loss": value, **metrics}
    return Contribution(
        weight=weight, metrics={n: (as_metric(n, v) * weight, weight) for n, v in numbers.items()}
    )
