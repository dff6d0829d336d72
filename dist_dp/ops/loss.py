"""Cross-entropy and negative log-likelihood of classes.

Against class indices each is one operation. That of cross-entropy keeps the softmax from which the loss came: its
gradient is that softmax less one at the target. Targets that are distributions are a composition over `log_softmax`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..arguments import check_number
from ..tape import Array
from ..tensor import Tensor
from .activation import exp_rows, floating, log_softmax
from .blocked import in_blocks, row_sums
from .comparison import where
from .core import Op, TensorLike, apply
from .views import broadcast_to, lifted

__all__ = ["cross_entropy", "nll_loss"]

_REDUCTIONS = ("mean", "sum", "none")


# ----- rows, classes and weights -----


def _at(x: Any, target: Array) -> Any:
    """x[i, target[i]] for every row i."""
    return x[np.arange(len(target)), target]


def _counted(x: Any, target: Array, weight: Any, ignore_index: int) -> tuple[Array, Any]:
    """Class indices of rows `x`, 0 where they are ignored, and the weight of each row: 1.0 if all count fully."""
    classes = x.shape[1]
    ignored = 0 <= ignore_index < classes
    if not ignored and target.min(initial=0) >= 0 and target.max(initial=0) < classes:
        return target, 1.0 if isinstance(weight, float) else weight[target]
    counts = (target >= 0) & (target < classes) & (target != ignore_index)
    wrong = ~counts & (target != ignore_index)
    if wrong.any():
        raise ValueError(
            f"`target` must hold class indices in [0, {classes - 1}] or ignore_index={ignore_index}, got "
            f"{target[wrong][0]}"
        )
    target = np.where(counts, target, 0)
    return target, counts.astype(x.dtype) if isinstance(weight, float) else counts * weight[target]


def _reduced(losses: Any, weight: Any, reduction: str) -> Any:
    """Losses of rows, multiplied by their `weight` already, reduced: the mean is a weighted one."""
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total * _share(weight, losses.shape[0])


def _share(weight: Any, rows: int) -> float:
    """What a row of weight 1 has in the mean: NaN in the mean of nothing."""
    divisor = rows if isinstance(weight, float) else float(weight.sum())
    return 1 / divisor if divisor else math.nan


def _cleared(losses: Any, weight: Any) -> Any:
    """0 where a row does not count, even if what was computed there is not finite."""
    if isinstance(weight, float):
        return losses
    return (where if isinstance(losses, Tensor) else np.where)(weight != 0, losses, 0)


def _per_row(g: Array, weight: Any, reduction: str, like: Array) -> Array:
    """The gradient of each row's loss, before the weight of the row: 0 where it does not count."""
    scale = np.empty(len(like), like.dtype)
    if reduction == "mean":
        g = g * _share(weight, len(like))
    scale[:] = g if isinstance(weight, float) else g * (weight != 0)
    return scale


def _batched(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    """All examples as rows of one, reduced example by example."""
    if batched[2]:  # taken apart it would ask for the classes as numbers
        return None
    x, target = (
        a if has else broadcast_to(a, (size, *a.shape))
        for a, has in zip(inputs[:2], batched[:2], strict=True)
    )
    (ignore_index, reduction, *rest), weight = params, inputs[2]
    classes = x.shape[2]
    rows, indices = x.reshape((size * x.shape[1], classes)), target.reshape((size * x.shape[1],))
    losses = apply(op, (rows, indices, weight), (ignore_index, "none", *rest)).reshape(target.shape)
    if reduction == "none":
        return losses
    losses = losses.sum(axis=1)
    if reduction == "sum":
        return losses
    values = weight.data if isinstance(weight, Tensor) else weight
    weights = np.broadcast_to(_counted(rows, lifted(indices).data, values, ignore_index)[1], indices.shape)
    return losses * np.array([_share(w, 0) for w in weights.reshape(target.shape)], x.dtype)


# ----- logits -----


def _cross_entropy(
    x: Array, target: Array, weight: Any, ignore_index: int, reduction: str, smoothing: float
) -> tuple[Array, Any]:
    target, row_weight = _counted(x, target, weight, ignore_index)
    spread = smoothing / max(1, x.shape[1])
    p = np.empty(x.shape, x.dtype)
    losses, evenly = np.zeros((2, len(x)), x.dtype)

    def kernel(x: Array, p: Array, target: Array, losses: Array, evenly: Array) -> None:
        sums, shift = exp_rows(x, p)
        normaliser = np.log(sums, dtype=np.float64)[:, 0]
        hit = x[np.arange(len(x)), target] - np.ravel(shift)
        losses[:] = np.maximum(normaliser - hit, 0)  # no rounding of exponentials shows as a gain
        if smoothing:
            total = row_sums((x - shift) * weight)
            evenly[:] = normaliser * _total(weight, x.shape[1]) - total
        np.divide(p, sums, p)

    with np.errstate(invalid="ignore", divide="ignore"):
        if kernels.suits(x) and x.size and not smoothing:
            indices = np.ascontiguousarray(target, np.int64)
            kernels.compiled.cross_entropy(x, p, losses, indices, x.shape[1])
        else:
            in_blocks(kernel, [x, p, target, losses, evenly])
        if smoothing or not isinstance(row_weight, float):
            losses *= (1 - smoothing) * row_weight
            losses += spread * evenly
    losses = _cleared(losses, row_weight)
    return np.asarray(_reduced(losses, row_weight, reduction), x.dtype), (p, target, row_weight)


def _total(weight: Any, classes: int) -> Any:
    return classes if isinstance(weight, float) else weight.sum()


def _cross_entropy_gradient(
    g: Array,
    need: Sequence[bool],
    x: Array,
    target: Array,
    weight: Any,
    reduction: str,
    smoothing: float,
    residuals: Any,
) -> Sequence[Any]:
    p, target, row_weight = residuals
    scale = _per_row(g, row_weight, reduction, p)
    own = scale * ((1 - smoothing) * row_weight)
    spread = scale * (smoothing / max(1, p.shape[1]))
    both = own + spread * _total(weight, p.shape[1]) if smoothing else own
    d = np.empty_like(p)
    if kernels.suits(p, both, own) and p.size:  # the same bits
        indices = np.ascontiguousarray(target, np.int64)
        kernels.compiled.cross_entropy_gradient(p, both, own, d, indices, p.shape[1])
    else:
        in_blocks(lambda p, both, d: np.multiply(p, both[:, None], d), [p, both, d])
        d[np.arange(len(p)), target] -= own
    if smoothing:
        d -= spread[:, None] * weight
    if not isinstance(row_weight, float):
        d[row_weight == 0] = 0
    return d, None, None


def _composed(x: Any, target: Array, weight: Any, ignore_index: int, reduction: str, smoothing: float) -> Any:
    y = log_softmax(x, 1)
    target, row_weight = _counted(x, target, weight, ignore_index)
    losses = -_at(y, target) * row_weight * (1 - smoothing)
    if smoothing:
        losses = losses - (y * weight).sum(axis=1) * (smoothing / x.shape[1])
    return _reduced(_cleared(losses, row_weight), row_weight, reduction)


# Rows of logits (n, classes), an index for each row, and a weight for each class or 1.0.
_cross_entropy_op = Op(
    "cross_entropy",
    _cross_entropy,
    "x target weight",
    "ignore_index reduction smoothing",
    joint=_cross_entropy_gradient,
    same_dtype=(0, 2),
    residuals=True,
    composed=_composed,
    batch=_batched,
)


# ----- logarithms of probabilities -----


def _nll(x: Any, target: Array, weight: Any, ignore_index: int, reduction: str) -> Any:
    target, row_weight = _counted(x, target, weight, ignore_index)
    return _reduced(_cleared(-_at(x, target) * row_weight, row_weight), row_weight, reduction)


def _nll_forward(x: Array, target: Array, weight: Any, ignore_index: int, reduction: str) -> Any:
    with np.errstate(invalid="ignore"):
        return np.asarray(_nll(x, target, weight, ignore_index, reduction), x.dtype)


def _nll_gradient(
    g: Array, need: Sequence[bool], x: Array, target: Array, weight: Any, ignore_index: int, reduction: str
) -> Sequence[Any]:
    target, row_weight = _counted(x, target, weight, ignore_index)
    d = np.zeros_like(x)
    d[np.arange(len(x)), target] = -_per_row(g, row_weight, reduction, x) * row_weight
    return d, None, None


_nll_op = Op(
    "nll_loss",
    _nll_forward,
    "x target weight",
    "ignore_index reduction",
    joint=_nll_gradient,
    same_dtype=(0, 2),
    composed=_nll,
    batch=_batched,
)


# ----- the public functions -----


def _rows_of_classes(x: Tensor) -> Tensor:
    """(n, classes, d1, ...) as (n d1 ..., classes); (classes,) as one row."""
    if x.ndim > 2:
        x = x.moveaxis(1, -1)
    return x if x.ndim == 2 else x.reshape((-1, x.shape[-1]))


def _checked(
    name: str, input: TensorLike, target: TensorLike, weight: TensorLike | None, reduction: str
) -> tuple[Tensor, Tensor, Any]:
    """The arguments as tensors, after the checks that depend on shapes; the weight 1.0 if None."""
    x = floating(input)
    if x.ndim == 0:
        raise ValueError(f"{name}: `input` needs an axis of classes, got a scalar")
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{name}: `reduction` must be one of {_REDUCTIONS}, got {reduction!r}")
    y = lifted(target, f"{name}: `target`")
    expected = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    if y.dtype.kind == "f" and name == "cross_entropy":
        if y.shape != x.shape:
            raise ValueError(
                f"{name}: a floating `target` holds probabilities, of shape {x.shape} like `input`, got {y.shape}; "
                "class indices must be integers"
            )
    elif y.dtype.kind not in "iu":
        raise TypeError(f"{name}: `target` must hold class indices, integers, got {y.dtype}")
    elif y.shape != expected:
        raise ValueError(
            f"{name}: `target` must hold class indices of shape {expected} for an `input` of shape {x.shape}, got "
            f"shape {y.shape}"
        )
    if weight is None:
        return x, y, 1.0
    w = lifted(weight, f"{name}: `weight`")
    classes = x.shape[min(1, x.ndim - 1)]
    if w.shape != (classes,):
        raise ValueError(f"{name}: `weight` must have one entry per class, shape ({classes},), got {w.shape}")
    if w.requires_grad:
        raise ValueError(
            f"{name}: `weight` carries a gradient, which it cannot get here; use weight.detach()"
        )
    return x, y, w.astype(x.dtype)


def _against_indices(op: Op, x: Tensor, target: Tensor, weight: Any, reduction: str, *params: Any) -> Tensor:
    # Plain indices are no operand of a gradient: nothing is recorded of them.
    flat = Tensor._of(target.data.reshape(-1), None) if type(target) is Tensor else target.reshape((-1,))
    losses: Tensor = apply(op, (_rows_of_classes(x), flat, weight), params)
    return losses if reduction != "none" else losses.reshape(target.shape)


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
    x, y, w = _checked("cross_entropy", input, target, weight, reduction)
    check_number(label_smoothing, "cross_entropy: `label_smoothing`")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"cross_entropy: `label_smoothing` must be in [0, 1], got {label_smoothing}")
    if y.dtype.kind != "f":
        params = (ignore_index, reduction, float(label_smoothing))
        return _against_indices(_cross_entropy_op, x, y, w, reduction, *params)
    rows, share = _rows_of_classes(x), _rows_of_classes(y)
    if label_smoothing:
        share = share * (1 - label_smoothing) + label_smoothing / rows.shape[1]
    losses = _reduced(-(log_softmax(rows, 1) * share * w).sum(axis=1), 1.0, reduction)
    return losses if reduction != "none" else losses.reshape(x.shape[:1] + x.shape[2:] if x.ndim > 1 else ())  # type: ignore[no-any-return]


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
    x, y, w = _checked("nll_loss", input, target, weight, reduction)
    return _against_indices(_nll_op, x, y, w, reduction, ignore_index, reduction)
