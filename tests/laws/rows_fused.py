"""Rows of the fused operations: softmax, losses, normalisation, attention and recurrent networks."""

import functools
import math
from typing import Any

import numpy as np
from laws.rows import Call, Draw, Row

from dist_dp import ops


def np_softmax(x: Any, axis: int = -1) -> Any:
    if x.size == 0:
        return x
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def np_glu(x: Any, axis: int) -> Any:
    a, b = np.split(x, 2, axis)
    return a * sigmoid(b)


def along_an_axis(d: Draw) -> Call:
    x = d.array(d.shape(min_dims=1))
    return Call(x, d.axis(x.ndim))


def halves(d: Draw) -> Call:
    shape = list(d.shape(min_dims=1))
    axis = d.axis(len(shape))
    shape[axis] *= 2
    return Call(d.array(tuple(shape)), axis)


# ----- losses


def np_nll(y: Any, target: Any, **options: Any) -> Any:
    return np_cross_entropy(y, target, **options, log_softmax=lambda x: x)


def np_cross_entropy(
    x: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    log_softmax: Any = lambda x: np.log(np_softmax(x, 1)),
) -> Any:
    classes = x.shape[1]
    weight = np.ones(classes) if weight is None else weight
    log_p = np.moveaxis(log_softmax(x), 1, -1)
    if target.dtype.kind == "f":
        share, counts, total = np.moveaxis(target, 1, -1), np.ones(log_p.shape[:-1]), None
    else:
        counts = target != ignore_index
        share = np.eye(classes)[np.where(counts, target, 0)]
        total = (counts * (share @ weight)).sum()
    share = share * (1 - label_smoothing) + label_smoothing / classes
    losses = -(log_p * share * weight).sum(-1) * counts
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / (losses.size if total is None else total)


def classified(d: Draw) -> Call:
    n, classes, *rest = d.shape(2, 3, empty=False)
    reduction = d.pick("mean", "sum", "none")
    return Call(d.array((n, classes, *rest)), d.integers((n, *rest), 0, classes), reduction=reduction)


def smoothed(d: Draw) -> Call:
    call = classified(d)
    ignored = d.pick(-100, 0)
    x, target = call.args
    if ignored == 0 and x.shape[1] > 1:  # a mean needs one target that counts
        target = target.copy()
        target.flat[0] = 1
    elif x.shape[1] == 1:
        ignored = -100
    options = {"label_smoothing": d.pick(0.0, 0.3), "ignore_index": ignored}
    return Call(x, d.prepared(target), **call.kwargs, **options)


def distributed(d: Draw) -> Call:
    shape = d.shape(2, 3, empty=False)
    reduction = d.pick("mean", "sum", "none")
    return Call(d.array(shape), d.array(shape, 0, 1), reduction=reduction, label_smoothing=d.pick(0.0, 0.3))


def weighted(function: Any) -> Any:
    """`function` with weights for up to three classes that depend on their number alone."""

    @functools.wraps(function)
    def call(x: Any, target: Any, **options: Any) -> Any:
        return function(x, target, weight=np.array([0.5, 2.0, 1.25])[: x.shape[1]], **options)

    return call


# ----- normalisation


def np_normal(x: Any, axes: Any, eps: float, centred: bool = True) -> Any:
    x = x - x.mean(axes, keepdims=True) if centred else x
    return x / np.sqrt((x * x).mean(axes, keepdims=True) + eps)


def np_layer_norm(x: Any, shape: Any, weight: Any = 1.0, bias: Any = 0.0, eps: float = 1e-5) -> Any:
    return np_normal(x, tuple(range(-len(shape), 0)), eps) * weight + bias


def np_rms_norm(x: Any, shape: Any, weight: Any, eps: float) -> Any:
    return np_normal(x, tuple(range(-len(shape), 0)), eps, False) * weight


def of_channels(w: Any, x: Any) -> Any:
    return np.reshape(w, (-1, *(1,) * (x.ndim - 2)))


def np_group_norm(x: Any, groups: int, weight: Any, bias: Any, eps: float) -> Any:
    grouped = x.reshape(x.shape[0], groups, -1)
    return np_normal(grouped, 2, eps).reshape(x.shape) * of_channels(weight, x) + of_channels(bias, x)


def np_batch_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    axes = (0, *range(2, x.ndim))
    out = np_normal(x, axes, eps) * of_channels(weight, x) + of_channels(bias, x)
    return out, x.mean(axes), x.var(axes)


def np_evaluated(x: Any, weight: Any, bias: Any, eps: float, mean: Any, var: Any) -> Any:
    normal = (x - of_channels(mean, x)) / np.sqrt(of_channels(var, x) + eps)
    return normal * of_channels(weight, x) + of_channels(bias, x), mean, var


def last_axes(d: Draw, weights: int) -> tuple[Any, ...]:
    x = d.array(d.shape(1, 3, empty=False))
    shape = x.shape[x.ndim - d.integer(1, x.ndim) :]
    return x, shape, *(d.array(shape) for _ in range(weights))


def channels(d: Draw, groups: int = 1) -> tuple[Any, Any, Any]:
    n, c, *rest = d.shape(2, 4, empty=False)
    return d.array((n + 1, c * groups, *rest)), d.array((c * groups,)), d.array((c * groups,))


def grouped(d: Draw) -> Call:
    groups = d.integer(1, 3)
    x, weight, bias = channels(d, groups)
    return Call(x, groups, weight, bias, eps=0.1)


# ----- attention


def np_attention(q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False, scale: Any = None) -> Any:
    scores = q @ np.swapaxes(k, -1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    e = np.exp(scores - np.maximum(scores.max(-1, keepdims=True, initial=-np.inf), -1e9))
    return e / np.maximum(e.sum(-1, keepdims=True), 1e-300) @ v


def heads(d: Draw) -> tuple[Any, ...]:
    lead = d.shape(0, 3, max_side=2)
    n, m, width, out = (d.integer(1, 4) for _ in range(4))
    return d.array((*lead, n, width)), d.array((*lead, m, width)), d.array((*lead, m, out))


def masked(d: Draw) -> Call:
    q, k, v = heads(d)
    shape = (*q.shape[:-1], k.shape[-2])[d.integer(0, q.ndim - 2) :]
    return Call(q, k, v, d.booleans(shape) if d.flag() else d.array(shape), scale=d.pick(None, 2.0))


# ----- recurrent networks


def np_lstm_cell(gates: Any, c: Any) -> tuple[Any, ...]:
    i, f, g, o = np.split(gates, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def lstm_cell(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, h: Any, c: Any) -> tuple[Any, ...]:
    return np_lstm_cell(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, c)


def states_and_gates(d: Draw) -> Call:
    *lead, hidden = d.shape(1, 3)
    return Call(d.array((*lead, 4 * hidden)), d.array((*lead, hidden)))


def gru_cell(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, h: Any) -> tuple[Any, ...]:
    (ar, az, an), (ur, uz, un) = (np.split(a, 3, -1) for a in (x @ w_ih.T + b_ih, h @ w_hh.T + b_hh))
    z = sigmoid(az + uz)
    return ((1 - z) * np.tanh(an + sigmoid(ar + ur) * un) + z * h,)


def rnn_cell(x: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, h: Any) -> tuple[Any, ...]:
    return (np.tanh(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh),)


def over_time(cell: Any, states: int) -> Any:
    """The loop over sequences and steps that the operation stands for, with one sequence at a time."""

    def reference(x: Any, *inputs: Any, lengths: Any = None, reverse: bool = False) -> Any:
        weights, first = inputs[:4], inputs[4 : 4 + states]
        steps, rows = x.shape[:2]
        out = np.zeros((steps, rows, first[0].shape[1]))
        last = [h.copy() for h in first]
        for row in range(rows):
            end = steps if lengths is None else lengths[row]
            for t in reversed(range(end)) if reverse else range(end):
                state = cell(x[t, row], *weights, *(h[row] for h in last))
                for h, new in zip(last, state, strict=True):
                    h[row] = new
                out[t, row] = state[0]
        return out, *last

    return reference


def sequences(gates: int, states: int) -> Any:
    def build(d: Draw) -> Call:
        steps, features, hidden = d.integer(1, 3), d.integer(1, 2), d.integer(1, 2)
        rows = 0 if d.kind == "empty" else d.integer(1, 3)
        width = gates * hidden
        shapes = [(width, features), (width, hidden), (width,), (width,), *[(rows, hidden)] * states]
        lengths = d.integers((rows,), 0, steps + 1) if d.flag() else None
        return Call(
            d.array((steps, rows, features)), *map(d.array, shapes), lengths=lengths, reverse=d.flag()
        )

    return build


ROWS = [
    Row("softmax", ops.softmax, np_softmax, along_an_axis),
    Row("log_softmax", ops.log_softmax, lambda x, axis: np.log(np_softmax(x, axis)), along_an_axis),
    Row("glu", ops.glu, np_glu, halves),
    Row("cross_entropy", ops.cross_entropy, np_cross_entropy, smoothed),
    Row("cross_entropy.weight", weighted(ops.cross_entropy), weighted(np_cross_entropy), smoothed),
    Row("cross_entropy.probabilities", ops.cross_entropy, np_cross_entropy, distributed),
    Row("nll_loss", ops.nll_loss, np_nll, classified),
    Row("nll_loss.weight", weighted(ops.nll_loss), weighted(np_nll), classified),
    Row("layer_norm", ops.layer_norm, np_layer_norm, lambda d: Call(*last_axes(d, 2), eps=0.1)),
    Row("layer_norm.plain", ops.layer_norm, np_layer_norm, lambda d: Call(*last_axes(d, 0), eps=0.1)),
    Row("rms_norm", ops.rms_norm, np_rms_norm, lambda d: Call(*last_axes(d, 1), eps=0.1)),
    Row("group_norm", ops.group_norm, np_group_norm, grouped),
    Row("batch_norm", ops.batch_norm, np_batch_norm, lambda d: Call(*channels(d), eps=0.1)),
    Row(
        "batch_norm.evaluated",
        lambda x, weight, bias, eps, mean, var: ops.batch_norm(x, weight, bias, eps, mean, var),
        np_evaluated,
        lambda d: Call(*(c := channels(d)), 0.1, d.array(c[1].shape), d.array(c[1].shape, 0.1, 2)),
    ),
    Row(
        "attention",
        ops.scaled_dot_product_attention,
        np_attention,
        lambda d: Call(*heads(d), causal=d.flag()),
    ),
    Row("attention.mask", ops.scaled_dot_product_attention, np_attention, masked),
    Row("lstm_cell", ops.lstm_cell, np_lstm_cell, states_and_gates),
    Row("lstm", ops.lstm, over_time(lstm_cell, 2), sequences(4, 2)),
    Row("gru", ops.gru, over_time(gru_cell, 1), sequences(3, 1)),
    Row("rnn", ops.rnn, over_time(rnn_cell, 1), sequences(1, 1)),
]
