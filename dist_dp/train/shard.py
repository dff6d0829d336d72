"""`Shard`: what the body of a training loop sees, one logical shard of one step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..random import Stream
from ..tape import Leaf
from ..tensor import Tensor

if TYPE_CHECKING:
    from .overlap import Overlap


class NonFiniteLoss(ArithmeticError):
    """A shard's loss was NaN or infinite; the message says which step, shard and examples."""


# What a step reports of itself, beside the metrics of its shards.
RESERVED = frozenset(
    {"epoch", "lr", "examples", "seconds", "exchange", "exchange_bytes", "kind", "step", "digest"}
)
VALIDATION = "validation_"


class Shard:
    """One logical shard of a step: some examples, randomness of its own, and where its loss goes.

    Attributes:
        batch: the examples, as the data source gives them.
        indices: their numbers in the data, int64.
        step, epoch, index: which step of the run (from 0), which epoch, which shard of the step.
        rng: a random stream keyed by (seed, step, shard); layers such as Dropout draw from it without being told.
    """

    def __init__(
        self,
        batch: Any,
        indices: NDArray[np.int64],
        step: int,
        epoch: int,
        index: int,
        rng: Stream,
        overlap: Overlap | None = None,
    ) -> None:
        self.batch, self.indices, self.rng = batch, indices, rng
        self.step, self.epoch, self.index = step, epoch, index
        self.weight = 0.0
        self.metrics: dict[str, float] = {}
        self._loss, self._loss_logged = 0.0, False
        self._overlap = overlap

    def __len__(self) -> int:
        return len(self.indices)

    def backward(self, loss: Tensor, weight: float | None = None) -> None:
        """Add `weight` times the gradient of `loss` to the step.

        Args:
            loss: a scalar, the mean over this shard's examples (or over its tokens, nodes, ...).
            weight: how much of the step's total this shard is: the number of things that the mean is over. By
                default the number of examples. The step divides by the sum of all weights once.

        Raises:
            TypeError, ValueError: `loss` is not a scalar tensor that carries a gradient, or `weight` is not positive.
            NonFiniteLoss: the loss is NaN or infinite. Nothing of this step is applied.
        """
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss must be a Tensor, got {type(loss).__name__}")
        if loss.size != 1:
            raise ValueError(
                f"loss must be a scalar (the mean over the shard), got shape {loss.shape}; reduce it with .mean()"
            )
        if loss.node is None or isinstance(loss.node, Leaf):
            raise ValueError(
                "loss carries no gradient: it was not computed from any parameter under recording"
            )
        w = checked_weight(len(self) if weight is None else weight)
        value = float(loss.item())
        if not math.isfinite(value):
            raise NonFiniteLoss(
                f"loss is {value} at step {self.step}, shard {self.index}, examples {_listed(self.indices)}; "
                "dist_dp.debug.anomaly() finds the operation it comes from"
            )
        gradient = np.full(loss.shape, w, loss.dtype)
        if self._overlap is None:
            loss.backward(gradient)
        elif not self._overlap.begun:
            loss.backward(gradient, on_reach=self._overlap.begin, on_ready=self._overlap.ready)
        else:
            raise RuntimeError(
                f"shard.backward was called twice in step {self.step}, shard {self.index}, but with overlap=True the "
                "gradients are on their way after the first; add the losses up, or give overlap=False"
            )
        self.weight += w
        self._loss += w * value
        if not self._loss_logged:
            self.metrics["loss"] = self._loss / self.weight

    def log(self, metrics: Mapping[str, Any] | None = None, /, **values: Any) -> None:
        """Report metrics of this shard; the step reports their means, weighted as the loss is.

        `loss` is reported by `backward` already, unless it is logged here.
        """
        for name, value in named_metrics({**named_metrics(metrics or {}), **values}).items():
            self.metrics[name] = as_metric(name, value)
            self._loss_logged |= name == "loss"


def named_metrics(metrics: Any) -> Mapping[str, Any]:
    """`metrics`; raises TypeError if they are not a dict from names to values."""
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        raise TypeError(
            f"metrics must be a dict from names to numbers, got {metrics!r:.80} ({type(metrics).__name__})"
        )
    for name in metrics:
        if name in RESERVED or name.startswith(VALIDATION):
            raise ValueError(
                f"metric {name!r} is a name that the loop reports itself; call it something else"
            )
    return metrics


def as_metric(name: str, value: Any) -> float:
    """A metric as a float; raises TypeError by name if it is not one number."""
    try:
        if np.size(value) == 1:
            return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError):
        pass
    raise TypeError(
        f"metric {name!r} must be one number, got {type(value).__name__} of shape {np.shape(value)}"
    )


def checked_weight(weight: Any) -> float:
    """`weight` as a float; it must be a finite number above 0."""
    w = as_metric("weight", weight)
    if not (math.isfinite(w) and w > 0):
        raise ValueError(f"weight must be a finite number above 0, got {w}")
    return w


def _listed(indices: NDArray[np.int64], most: int = 8) -> str:
    shown = ", ".join(map(str, indices[:most].tolist()))
    return f"[{shown}]" if len(indices) <= most else f"[{shown}, ... {len(indices)} in all]"
