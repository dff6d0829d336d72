"""Cross-entropy and negative log-likelihood of classes.

The commonest case, logits against class indices, is one fused operation: the softmax that gives the loss is kept, and
the gradient is that softmax less one at the target. Targets that are distributions (given, or by label smoothing) are a
composition over `log_softmax`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..tape import Array
from ..tensor import Tensor
from .activation import floating, log_softmax, row_maxima
from .blocked import in_blocks, row_sums
from .comparison import where
from .core import Op, TensorLike, apply
from .views import broadcast_to, lifted

__all__ = ["cross_entropy", "nll_loss"]

_REDUCTIONS = ("mean", "sum", "none")


# ----- logits against class indices -----


def _at(x: Any, target: Array) -> Any:
    """x[i, target[i]] for every row i."""
    return x[np.arange(len(target)), target]


def _counted(name: str, target: Array, classes: int, weight: Any, ignore_index: int) -> tuple[Array, Any]:
    """Class indices, 0 where they are to be ignored, and the weight of each row: 1.0 if all count fully."""
    ignored = 0 <= ignore_index < classes
    if not ignored and target.min(initial=0) >= 0 and target.max(initial=0) < classes:
        return target, weight[target] if np.ndim(weight) else 1.0
    counts = (target >= 0) & (target < classes) & (target != ignore_index)
    wrong = ~counts & (target != ignore_index)
    if wrong.any():
        raise ValueError(
            f"{name}: `target` must hold class indices in [0, {classes - 1}] or ignore_index={ignore_index}, got "
            f"{target[wrong][0]}"
        )
    target = np.where(counts, target, 0)
    return target, counts * (weight[target] if np.ndim(weight) else np.float32(1))


def _reduced(losses: Any, weight: Any, reduction: str) -> Any:
    """Losses of rows, multiplied by their `weight` already, reduced: the mean is a weighted one."""
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total * _share(weight, losses.shape[0])


def _share(weight: Any, rows: int) -> float:
    """What a row of weight 1 has in the mean: NaN in the mean of nothing."""
    divisor = float(weight.sum()) if np.ndim(weight) else rows
    return 1 / divisor if divisor else math.nan


def _cross_entropy(x: Array, target: Array, weight: Any, ignore_index: int, reduction: str) -> Any:
    target, weight = _counted("cross_entropy", target, x.shape[1], weight, ignore_index)
    p, losses = np.empty(x.shape, x.dtype), np.empty(len(x), x.dtype)

    def kernel(x: Array, p: Array, target: Array, losses: Array) -> None:
        np.subtract(x, row_maxima(x), p)
        shifted = _at(p, target)
        sums = row_sums(np.exp(p, p))
        np.subtract(np.log(sums), shifted, losses)
        np.divide(p, sums[:, None], p)

    with np.errstate(invalid="ignore", divide="ignore"):
        in_blocks(kernel, [x, p, target, losses])
    if np.ndim(weight):
        losses *= weight
        losses[weight == 0] = 0  # also where a row that does not count is infinite
    return np.asarray(_reduced(losses, weight, reduction), x.dtype), (p, target, weight)


def _cross_entropy_gradient(
    g: Array, need: Sequence[bool], x: Array, target: Array, weight: Any, reduction: str, residuals: Any
) -> Sequence[Any]:
    p, target, weight = residuals
    scale = np.empty(len(p), p.dtype)
    np.multiply(g if reduction != "mean" else g * _share(weight, len(p)), weight, scale)
    d = np.empty_like(p)
    in_blocks(lambda p, scale, d: np.multiply(p, scale[:, None], d), [p, scale, d])
    d[np.arange(len(p)), target] -= scale
    if np.ndim(weight):
        d[weight == 0] = 0
    return d, None, None


def _composed(x: Any, target: Array, weight: Any, ignore_index: int, reduction: str) -> Any:
    return _negative_likelihood("cross_entropy", log_softmax(x, 1), target, weight, ignore_index, reduction)


def _negative_likelihood(
    name: str, x: Any, target: Array, weight: Any, ignore_index: int, reduction: str
) -> Any:
    target, weight = _counted(name, target, x.shape[1], weight, ignore_index)
    losses = -_at(x, target)
    if np.ndim(weight):
        losses = where(weight != 0, losses * weight, 0)
    return _reduced(losses, weight, reduction)


def _batched(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    x, target = (
        a if has else broadcast_to(a, (size, *a.shape))
        for a, has in zip(inputs[:2], batched[:2], strict=True)
    )
    ignore_index, reduction = params
    rows = x.reshape((-1, x.shape[-1]))
    indices = np.asarray(target).reshape(-1)
    losses = apply(op, (rows, indices, inputs[2]), (ignore_index, "none")).reshape(target.shape)
    if reduction == "none":
        return losses
    losses = losses.sum(axis=1)
    if reduction == "sum":
        return losses
    _, weight = _counted("cross_entropy", indices, x.shape[-1], inputs[2], ignore_index)
    weights = np.broadcast_to(weight, indices.shape).reshape(target.shape)
    return losses * np.array([_share(w, len(w)) for w in weights], x.dtype)


# Rows of logits (n, classes), an index for each row, and a weight for each class or 1.0.
_cross_entropy_op = Op(
    "cross_entropy",
    _cross_entropy,
    "x target weight",
    "ignore_index reduction",
    joint=_cross_entropy_gradient,
    same_dtype=(0, 2),
    residuals=True,
    composed=_composed,
    batch=_batched,
)


# ----- the public functions -----


def _rows_of_classes(x: Tensor) -> Tensor:
    """(n, classes, d1, ...) as (n d1 ..., classes); (classes,) as one row."""
    if x.ndim > 2:
        x = x.moveaxis(1, -1)
    return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


def _checked(name: str, input: Any, target: Any, weight: Any, reduction: str) -> tuple[Tensor, Tensor, Any]:
    """The arguments as tensors of a common dtype, after the checks that depend on shapes; the weight 1.0 if None."""
    x = floating(input)
    if x.ndim == 0:
        raise ValueError(f"{name}: `input` needs an axis of classes, got a scalar")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{name}: `reduction` must be one of {_REDUCTIONS}, got {reduction!r}")
    target = lifted(target)
    expected = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    if target.dtype.kind == "f" and name == "cross_entropy":
        if target.shape != x.shape:
            raise ValueError(
                f"{name}: a floating `target` holds probabilities, of shape {x.shape} like `input`, got "
                f"{target.shape}; class indices must be integers"
            )
    elif target.dtype.kind not in "iu":
        raise TypeError(f"{name}: `target` must hold class indices, integers, got {target.dtype}")
    elif target.shape != expected:
        raise ValueError(
            f"{name}: `target` must hold class indices of shape {expected} for an `input` of shape {x.shape}, got "
            f"shape {target.shape}"
        )
    if weight is None:
        return x, target, 1.0
    weight = np.asarray(weight, x.dtype)
    classes = x.shape[min(1, x.ndim - 1)]
    if weight.shape != (classes,):
        raise ValueError(
            f"{name}: `weight` must have one entry per class, shape ({classes},), got {weight.shape}"
        )
    return x, target, weight


def cross_entropy(
    input: TensorLike,
    target: TensorLike,
    weight: TensorLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(input)[target]: what a classifier is trained on.

    Args:
        input: logits of shape (classes,), (n, classes) or (n, classes, d1, ...).
        target: class indices, integers of the shape of `input` without its classes; or probabilities, of the
            shape of `input`.
        weight: a factor per class, shape (classes,).
        ignore_index: target index of entries that do not count.
        reduction: "mean" (over entries that count, weighted by `weight` for class indices), "sum" or "none".
        label_smoothing: share of every target that is spread evenly over all classes, in [0, 1]
            (Szegedy et al. 2015, arXiv:1512.00567, section 7).

    Returns:
        A scalar, or with "none" the losses in the shape of the indices.

    Raises:
        TypeError, ValueError: an argument has another shape, kind or range.

    >>> from dist_dp import ops
    >>> ops.cross_entropy([[0.0, 0.0], [100.0, 0.0]], [1, 0], reduction="none").tolist()
    [0.6931471824645996, 0.0]
    """
    x, target, weight = _checked("cross_entropy", input, target, weight, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: `label_smoothing` must be in [0, 1], got {label_smoothing}")
    rows = _rows_of_classes(x)
    classes = rows.shape[1]
    row_weight: Any = 1.0
    if target.dtype.kind == "f":
        share = _rows_of_classes(target)
    elif label_smoothing:
        indices, row_weight = _counted(
            "cross_entropy", np.asarray(target).reshape(-1), classes, weight, ignore_index
        )
        share = (np.arange(classes) == indices[:, None]).astype(x.dtype)
    else:
        losses = apply(_cross_entropy_op, (rows, target.reshape((-1,)), weight), (ignore_index, reduction))
        return losses if reduction != "none" else losses.reshape(target.shape)  # type: ignore[no-any-return]
    if label_smoothing:
        share = share * (1 - label_smoothing) + label_smoothing / classes
    losses = -(log_softmax(rows, 1) * (share * weight)).sum(axis=1)
    if np.ndim(row_weight):
        losses = where(row_weight != 0, losses, 0)
    losses = _reduced(losses, row_weight, reduction)
    return losses if reduction != "none" else losses.reshape(x.shape[:1] + x.shape[2:] if x.ndim > 1 else ())


def nll_loss(
    input: TensorLike,
    target: TensorLike,
    weight: TensorLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-input[target], the negative log-likelihood, for logarithms of probabilities as `log_softmax` gives them.

    Args: as for `cross_entropy`, with `input` log-probabilities and `target` class indices.

    >>> from dist_dp import ops
    >>> ops.nll_loss([[-0.5, -1.0], [-2.0, -0.25]], [1, 1]).item()
    0.625
    """
    x, target, weight = _checked("nll_loss", input, target, weight, reduction)
    indices = np.asarray(target).reshape(-1)
    losses = _negative_likelihood("nll_loss", _rows_of_classes(x), indices, weight, ignore_index, reduction)
    return losses if reduction != "none" else losses.reshape(target.shape)
