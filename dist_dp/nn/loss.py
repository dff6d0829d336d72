"""Losses as modules: each holds the settings of the function of the same meaning in `nn.functional`.

`reduction` is "mean" over all elements, "sum" or "none". Shapes must be equal: nothing broadcasts.
"""

from __future__ import annotations

from typing import Literal

from ..ops.core import TensorLike
from ..tensor import Tensor
from . import functional as F
from .arguments import check_flags
from .buffers import Buffer
from .functional.loss import Reduction
from .module import Module

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
]


class _Loss(Module):
    _reductions: tuple[str, ...] = ("mean", "sum", "none")

    def __init__(self, reduction: Reduction = "mean") -> None:
        if reduction not in self._reductions:
            raise ValueError(
                f"{type(self).__name__}: reduction must be one of {self._reductions}, got {reduction!r}"
            )
        self.reduction: Reduction = reduction


class MSELoss(_Loss):
    """(x - y)².

    >>> from dist_dp import nn
    >>> nn.MSELoss()([1.0, 2.0], [0.0, 4.0])
    tensor(2.5)
    """

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.mse_loss(input, target, self.reduction)


class L1Loss(_Loss):
    """|x - y|."""

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.l1_loss(input, target, self.reduction)


class SmoothL1Loss(_Loss):
    """(x - y)² / (2 beta) where |x - y| < beta, else |x - y| - beta/2."""

    def __init__(self, reduction: Reduction = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        if not beta >= 0:
            raise ValueError(f"SmoothL1Loss: beta must be at least 0, got {beta}")
        self.beta = beta

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.smooth_l1_loss(input, target, self.reduction, self.beta)


class HuberLoss(_Loss):
    """(x - y)² / 2 where |x - y| <= delta, else delta (|x - y| - delta/2)."""

    def __init__(self, reduction: Reduction = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        if not delta > 0:
            raise ValueError(f"HuberLoss: delta must be positive, got {delta}")
        self.delta = delta

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.huber_loss(input, target, self.reduction, self.delta)


class _Weighted(_Loss):
    """A loss with weights that belong to the problem: a buffer, as in torch, where they are part of the state."""

    def __init__(self, weight: TensorLike | None = None, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.weight = None if weight is None else Buffer(weight)


class CrossEntropyLoss(_Weighted):
    """-w_y log softmax(x)_y of logits (N, C, ...) for class indices (N, ...) or probabilities (N, C, ...).

    Args:
        weight: one weight per class.
        ignore_index: a class index that counts for nothing.
        reduction: "mean", "sum" or "none".
        label_smoothing: share of the target that is spread evenly over all classes.
    """

    def __init__(
        self,
        weight: TensorLike | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, reduction)
        if not 0 <= label_smoothing <= 1:
            raise ValueError(
                f"CrossEntropyLoss: label_smoothing must be between 0 and 1, got {label_smoothing}"
            )
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )


class NLLLoss(_Weighted):
    """-w_y x_y of log probabilities (N, C, ...) for class indices (N, ...)."""

    def __init__(
        self, weight: TensorLike | None = None, ignore_index: int = -100, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(weight, reduction)
        self.ignore_index = ignore_index

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.nll_loss(input, target, self.weight, self.ignore_index, self.reduction)


class BCELoss(_Weighted):
    """-w (y log x + (1 - y) log(1 - x)) of probabilities x."""

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.binary_cross_entropy(input, target, self.weight, self.reduction)


class BCEWithLogitsLoss(_Weighted):
    """-w (p y log σ(x) + (1 - y) log σ(-x)) of logits x, p = `pos_weight`."""

    def __init__(
        self,
        weight: TensorLike | None = None,
        reduction: Reduction = "mean",
        pos_weight: TensorLike | None = None,
    ) -> None:
        super().__init__(weight, reduction)
        self.pos_weight = None if pos_weight is None else Buffer(pos_weight)

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.binary_cross_entropy_with_logits(input, target, self.weight, self.reduction, self.pos_weight)


class KLDivLoss(_Loss):
    """y (log y - x) of log probabilities x; reduction="batchmean" is the mean divergence of the examples."""

    _reductions = ("mean", "sum", "none", "batchmean")

    def __init__(
        self, reduction: Literal["mean", "sum", "none", "batchmean"] = "mean", log_target: bool = False
    ) -> None:
        super().__init__(reduction)  # type: ignore[arg-type]
        check_flags("KLDivLoss", log_target=log_target)
        self.log_target = log_target

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.kl_div(input, target, self.reduction, self.log_target)


class PoissonNLLLoss(_Loss):
    """exp(x) - y x for counts y with log rate x, or x - y log(x + eps) with the rate."""

    def __init__(self, log_input: bool = True, eps: float = 1e-8, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        check_flags("PoissonNLLLoss", log_input=log_input)
        self.log_input, self.eps = log_input, eps

    def forward(self, input: TensorLike, target: TensorLike) -> Tensor:
        return F.poisson_nll_loss(input, target, self.log_input, self.eps, self.reduction)


class GaussianNLLLoss(_Loss):
    """(log v + (x - y)² / v) / 2 with v = max(var, eps), plus log(2π)/2 with `full`."""

    def __init__(self, full: bool = False, eps: float = 1e-6, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        check_flags("GaussianNLLLoss", full=full)
        self.full, self.eps = full, eps

    def forward(self, input: TensorLike, target: TensorLike, var: TensorLike) -> Tensor:
        return F.gaussian_nll_loss(input, target, var, self.full, self.eps, self.reduction)
