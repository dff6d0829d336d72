"""Recurrent networks over time, fused: a whole sequence is one recorded operation.

All input projections are one matrix product before the loop over time, and every weight gradient is one after the loop
of the backward pass, so that a step multiplies the state alone and works on arrays that stay in the cache. The sigmoid
is (1 + tanh(x/2)) / 2 with the halves put into the weights once: one tanh does all gates of a step. The derivative of
a gate follows from its value v as (1 - v)(v + e), with e = 0 for a sigmoid and 1 for a tanh.

Sequences of different lengths are sorted by length, so that those still running at a step are the first rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..kernels.product import Packed
from ..tape import Array
from ..tensor import Tensor
from .activation import floating
from .blocked import column_sums
from .core import Op, TensorLike, apply
from .elementwise import relu, sigmoid, tanh
from .steps import (
    Plan,
    flat,
    input_gradient,
    product_over_steps,
    projected,
    side_by_side,
    state_memory,
    unrolled,
)
from .views import lifted

__all__ = ["gru", "lstm", "rnn"]


# ----- LSTM: gates i, f, g, o -----


def _gate_vectors(hidden: int, dtype: Any) -> tuple[Array, Array]:
    """(0.5, 0.5, 1, 0.5) for the gates i, f, g, o, and e = (0, 0, 1, 0) of their derivatives."""
    e = np.repeat(np.array([0, 0, 1, 0], dtype), hidden)
    return (e + 1) / 2, e


def _lstm(
    x: Array, lengths: Any, w_ih: Array, w_hh: Array, b_ih: Any, b_hh: Any, h: Array, c: Array, reverse: bool
) -> tuple[tuple[Array, Array, Array], Any]:
    plan = Plan(x.shape, lengths, reverse)
    n, hidden = h.shape
    hs, cs = state_memory(plan.sorted(h, 0), len(x)), state_memory(plan.sorted(c, 0), len(x))
    compiled = kernels.compiled if hidden and kernels.suits(hs) else None
    if compiled is None:
        half, e = _gate_vectors(hidden, x.dtype)
        rest = half - e
        w_ih, w_hh, bias = w_ih * half[:, None], w_hh * half[:, None], half * (b_ih + b_hh)
    else:
        bias = b_ih + b_hh
    gates = projected(plan.sorted(x, 1), w_ih, bias)
    w = Packed(w_hh.T)
    tanh_c = np.empty((len(x), n, hidden), x.dtype)
    product = np.empty((n, 4 * hidden), x.dtype)
    for k, t, m in plan:
        v, new, old, s = gates[t, :m], cs[k + 1, :m], cs[k, :m], tanh_c[t, :m]
        w.dot(hs[k, :m], product[:m])
        if compiled:
            compiled.lstm_step(product[:m], v, old, new, s, hs[k + 1, :m], hidden)
        else:
            np.add(v, product[:m], v)
            np.tanh(v, v)
            np.multiply(v, half, v)  # tanh(x/2) / 2 + 1/2 for sigmoids, tanh(x) + 0 for the candidate
            np.add(v, rest, v)
            np.multiply(v[:, :hidden], v[:, 2 * hidden : 3 * hidden], new)
            np.multiply(v[:, hidden : 2 * hidden], old, s)
            np.add(new, s, new)
            np.tanh(new, s)
            np.multiply(v[:, 3 * hidden :], s, hs[k + 1, :m])
        if m < n:
            hs[k + 1, m:], cs[k + 1, m:] = hs[k, m:], cs[k, m:]
    outs = plan.output(hs), plan.unsorted(hs[-1], 0), plan.unsorted(cs[-1], 0)
    return outs, (plan, gates, hs, cs, tanh_c)


def _lstm_gradient(
    gs: tuple[Array, Array, Array],
    need: Sequence[bool],
    x: Array,
    lengths: Any,
    w_ih: Array,
    w_hh: Array,
    b_ih: Any,
    b_hh: Any,
    h: Array,
    c: Array,
    residuals: Any,
) -> Sequence[Any]:
    plan, gates, hs, cs, tanh_c = residuals
    g, dh, dc = plan.sorted(gs[0], 1), plan.sorted(gs[1], 0).copy(), plan.sorted(gs[2], 0).copy()
    hidden = dh.shape[1]
    compiled = kernels.compiled if hidden and kernels.suits(g, dh, dc) else None
    _, e = _gate_vectors(hidden, x.dtype)
    d_gates = np.empty_like(gates) if plan.order is None else np.zeros_like(gates)
    spare, factor, other = np.empty_like(dh), np.empty_like(gates[0]), np.empty_like(gates[0])
    w = Packed(w_hh)
    for k, t, m in reversed(list(plan)):
        v, d, s, a, dh_m, dc_m = gates[t, :m], d_gates[t, :m], tanh_c[t, :m], spare[:m], dh[:m], dc[:m]
        if compiled:
            compiled.lstm_step_gradient(dh_m, g[t, :m], v, cs[k, :m], s, dc_m, d, hidden)
        else:
            np.add(dh_m, g[t, :m], dh_m)
            np.multiply(dh_m, s, d[:, 3 * hidden :])
            np.multiply(s, s, a)  # dc += dh o (1 - tanh^2 c)
            np.subtract(1, a, a)
            np.multiply(a, v[:, 3 * hidden :], a)
            np.multiply(a, dh_m, a)
            np.add(dc_m, a, dc_m)
            np.multiply(dc_m, v[:, 2 * hidden : 3 * hidden], d[:, :hidden])
            np.multiply(dc_m, cs[k, :m], d[:, hidden : 2 * hidden])
            np.multiply(dc_m, v[:, :hidden], d[:, 2 * hidden : 3 * hidden])
            np.multiply(dc_m, v[:, hidden : 2 * hidden], dc_m)
            np.add(v, e, factor[:m])
            np.subtract(1, v, other[:m])
            np.multiply(factor[:m], other[:m], factor[:m])
            np.multiply(d, factor[:m], d)
        w.dot(d, dh_m)
    db = column_sums(flat(d_gates))
    return (
        input_gradient(plan, d_gates, w_ih, need[0]),
        None,
        product_over_steps(d_gates, plan.sorted(x, 1), need[2]),
        product_over_steps(d_gates, plan.in_time(hs[:-1]), need[3]),
        db if need[4] else None,
        db if need[5] else None,
        plan.unsorted(dh, 0),
        plan.unsorted(dc, 0),
    )


def _composed_lstm(
    x: Any, lengths: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, h: Any, c: Any, reverse: bool
) -> Any:
    def cell(x: Any, h: Any, c: Any) -> tuple[Any, Any]:
        gates = x @ w_ih.T + b_ih + h @ w_hh.T + b_hh
        i, f, g, o = (gates[:, k * h.shape[1] : (k + 1) * h.shape[1]] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    return unrolled(cell, x, lengths, (h, c), reverse)


_INPUTS = "x lengths w_ih w_hh b_ih b_hh h"
_FLOATING = (0, 2, 3, 4, 5, 6)

_lstm_op = Op(
    "lstm",
    _lstm,
    _INPUTS + " c",
    "reverse",
    joint=_lstm_gradient,
    same_dtype=(*_FLOATING, 7),
    outputs=3,
    residuals=True,
    composed=_composed_lstm,
    batch=side_by_side,
)


# ----- GRU: gates r, z, n -----


def _gru(
    x: Array, lengths: Any, w_ih: Array, w_hh: Array, b_ih: Any, b_hh: Any, h: Array, reverse: bool
) -> tuple[tuple[Array, Array], Any]:
    plan = Plan(x.shape, lengths, reverse)
    n, hidden = h.shape
    two = 2 * hidden
    hs = state_memory(plan.sorted(h, 0), len(x))
    compiled = kernels.compiled if hidden and kernels.suits(hs) else None
    half = np.repeat(np.array([1.0 if compiled else 0.5] * 2 + [1], x.dtype), hidden)
    # b_hh of the candidate stands inside its product with r.
    b_both, b_new = half * b_ih, np.zeros(hidden, x.dtype)
    if not isinstance(b_hh, float):
        b_both[:two] += half[:two] * b_hh[:two]
        b_new = np.ascontiguousarray(b_hh[two:])
    gates = projected(plan.sorted(x, 1), w_ih * half[:, None], b_both)
    w = Packed((w_hh * half[:, None]).T)
    recalled = np.empty((len(x), n, hidden), x.dtype)  # what r multiplies
    product = np.empty((n, 3 * hidden), x.dtype)
    for k, t, m in plan:
        v, old, new, u, p = gates[t, :m], hs[k, :m], hs[k + 1, :m], recalled[t, :m], product[:m]
        w.dot(old, p)
        if compiled:
            compiled.gru_step(p, b_new, v, old, u, new, hidden)
        else:
            rz, candidate = v[:, :two], v[:, two:]
            np.add(rz, p[:, :two], rz)
            np.tanh(rz, rz)
            np.multiply(rz, 0.5, rz)
            np.add(rz, 0.5, rz)
            np.add(p[:, two:], b_new, u)
            np.multiply(u, rz[:, :hidden], new)
            np.add(candidate, new, candidate)
            np.tanh(candidate, candidate)
            np.subtract(old, candidate, new)  # (1 - z) n + z h = n + z (h - n)
            np.multiply(new, rz[:, hidden:], new)
            np.add(new, candidate, new)
        if m < n:
            hs[k + 1, m:] = hs[k, m:]
    return (plan.output(hs), plan.unsorted(hs[-1], 0)), (plan, gates, hs, recalled)


def _gru_gradient(
    gs: tuple[Array, Array],
    need: Sequence[bool],
    x: Array,
    lengths: Any,
    w_ih: Array,
    w_hh: Array,
    b_ih: Any,
    b_hh: Any,
    h: Array,
    residuals: Any,
) -> Sequence[Any]:
    plan, gates, hs, recalled = residuals
    g, dh = plan.sorted(gs[0], 1), plan.sorted(gs[1], 0).copy()
    hidden = dh.shape[1]
    two = 2 * hidden
    # Of the products of x and of the state, which differ in the candidate: r stands outside of the latter.
    of_x, of_state = (np.empty_like(gates) if plan.order is None else np.zeros_like(gates) for _ in range(2))
    spare, factor, product = np.empty_like(dh), np.empty_like(gates[0, :, :two]), np.empty_like(dh)
    w = Packed(w_hh)
    compiled = kernels.compiled if hidden and kernels.suits(g, dh) else None
    for k, t, m in reversed(list(plan)):
        v, a, dh_m, old, dx, ds = gates[t, :m], spare[:m], dh[:m], hs[k, :m], of_x[t, :m], of_state[t, :m]
        if compiled:
            compiled.gru_step_gradient(g[t, :m], v, old, recalled[t, :m], dh_m, dx, ds, hidden)
        else:
            r, z, candidate, rz = v[:, :hidden], v[:, hidden:two], v[:, two:], v[:, :two]
            np.add(dh_m, g[t, :m], dh_m)
            np.multiply(candidate, candidate, a)
            np.subtract(1, a, a)
            np.multiply(a, dh_m, a)
            np.subtract(1, z, dx[:, two:])
            np.multiply(dx[:, two:], a, dx[:, two:])
            np.multiply(dx[:, two:], r, ds[:, two:])
            np.multiply(dx[:, two:], recalled[t, :m], dx[:, :hidden])
            np.subtract(old, candidate, dx[:, hidden:two])
            np.multiply(dx[:, hidden:two], dh_m, dx[:, hidden:two])
            np.subtract(1, rz, factor[:m])
            np.multiply(factor[:m], rz, factor[:m])
            np.multiply(dx[:, :two], factor[:m], dx[:, :two])
            ds[:, :two] = dx[:, :two]
            np.multiply(dh_m, z, dh_m)
        np.add(dh_m, w.dot(ds, product[:m]), dh_m)
    return (
        input_gradient(plan, of_x, w_ih, need[0]),
        None,
        product_over_steps(of_x, plan.sorted(x, 1), need[2]),
        product_over_steps(of_state, plan.in_time(hs[:-1]), need[3]),
        column_sums(flat(of_x)) if need[4] else None,
        column_sums(flat(of_state)) if need[5] else None,
        plan.unsorted(dh, 0),
    )


def _composed_gru(
    x: Any, lengths: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, h: Any, reverse: bool
) -> Any:
    def cell(x: Any, h: Any) -> tuple[Any]:
        n = h.shape[1]
        a, u = x @ w_ih.T + b_ih, h @ w_hh.T + b_hh
        r, z = sigmoid(a[:, :n] + u[:, :n]), sigmoid(a[:, n : 2 * n] + u[:, n : 2 * n])
        candidate = tanh(a[:, 2 * n :] + r * u[:, 2 * n :])
        return (candidate + z * (h - candidate),)

    return unrolled(cell, x, lengths, (h,), reverse)


_gru_op = Op(
    "gru",
    _gru,
    _INPUTS,
    "reverse",
    joint=_gru_gradient,
    same_dtype=_FLOATING,
    outputs=2,
    residuals=True,
    composed=_composed_gru,
    batch=side_by_side,
)


# ----- the plain recurrent network -----


def _rnn(
    x: Array,
    lengths: Any,
    w_ih: Array,
    w_hh: Array,
    b_ih: Any,
    b_hh: Any,
    h: Array,
    nonlinearity: str,
    reverse: bool,
) -> tuple[tuple[Array, Array], Any]:
    plan = Plan(x.shape, lengths, reverse)
    pre = projected(plan.sorted(x, 1), w_ih, b_ih + b_hh)
    w = Packed(w_hh.T)
    hs = state_memory(plan.sorted(h, 0), len(x))
    for k, t, m in plan:
        new = hs[k + 1, :m]
        w.dot(hs[k, :m], new)
        np.add(new, pre[t, :m], new)
        np.tanh(new, new) if nonlinearity == "tanh" else np.maximum(new, 0, out=new)
        hs[k + 1, m:] = hs[k, m:]
    return (plan.output(hs), plan.unsorted(hs[-1], 0)), (plan, hs)


def _rnn_gradient(
    gs: tuple[Array, Array],
    need: Sequence[bool],
    x: Array,
    lengths: Any,
    w_ih: Array,
    w_hh: Array,
    b_ih: Any,
    b_hh: Any,
    h: Array,
    nonlinearity: str,
    residuals: Any,
) -> Sequence[Any]:
    plan, hs = residuals
    g, dh = plan.sorted(gs[0], 1), plan.sorted(gs[1], 0).copy()
    d_pre = np.zeros((len(x), *dh.shape), x.dtype)
    w = Packed(w_hh)
    for k, t, m in reversed(list(plan)):
        new, d, dh_m = hs[k + 1, :m], d_pre[t, :m], dh[:m]
        np.add(dh_m, g[t, :m], dh_m)
        if nonlinearity == "tanh":
            np.multiply(new, new, d)
            np.subtract(1, d, d)
            np.multiply(d, dh_m, d)
        else:
            np.multiply(dh_m, new > 0, d)
        w.dot(d, dh_m)
    db = column_sums(flat(d_pre))
    return (
        input_gradient(plan, d_pre, w_ih, need[0]),
        None,
        product_over_steps(d_pre, plan.sorted(x, 1), need[2]),
        product_over_steps(d_pre, plan.in_time(hs[:-1]), need[3]),
        db if need[4] else None,
        db if need[5] else None,
        plan.unsorted(dh, 0),
    )


def _composed_rnn(
    x: Any,
    lengths: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any,
    b_hh: Any,
    h: Any,
    nonlinearity: str,
    reverse: bool,
) -> Any:
    squash = tanh if nonlinearity == "tanh" else relu
    return unrolled(lambda x, h: (squash(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh),), x, lengths, (h,), reverse)


_rnn_op = Op(
    "rnn",
    _rnn,
    _INPUTS,
    "nonlinearity reverse",
    joint=_rnn_gradient,
    same_dtype=_FLOATING,
    outputs=2,
    residuals=True,
    composed=_composed_rnn,
    batch=side_by_side,
)


# ----- the public functions -----


def _prepared(
    name: str,
    gates: int,
    x: TensorLike,
    weights: Sequence[TensorLike | None],
    states: Sequence[tuple[str, TensorLike | None]],
    lengths: TensorLike | None,
) -> list[Any]:
    """The inputs of an op in order, checked: zeros for states that are None, 0.0 for biases, all steps for lengths."""
    x = floating(x)
    if x.ndim != 3 or x.shape[0] < 1:
        raise ValueError(f"{name}: `x` must be (steps >= 1, sequences, features), got shape {x.shape}")
    steps, rows, features = x.shape
    w_ih, w_hh, b_ih, b_hh = (None if w is None else lifted(w) for w in weights)
    if w_ih is None or w_hh is None:
        raise TypeError(f"{name}: `weight_ih` and `weight_hh` must be arrays, got None")
    hidden = w_hh.shape[-1] if w_hh.ndim else 0
    expected = {
        "weight_ih": (w_ih, (gates * hidden, features)),
        "weight_hh": (w_hh, (gates * hidden, hidden)),
        "bias_ih": (b_ih, (gates * hidden,)),
        "bias_hh": (b_hh, (gates * hidden,)),
        **{state: (None if h is None else lifted(h), (rows, hidden)) for state, h in states},
    }
    for argument, (value, shape) in expected.items():
        if value is not None and value.shape != shape:
            raise ValueError(
                f"{name}: `{argument}` must have shape {shape} for `x` {x.shape}, got {value.shape}"
            )
    if lengths is None:
        ends: Any = steps
    else:
        ends = lifted(lengths)
        if ends.shape != (rows,) or ends.dtype.kind not in "iu":
            raise ValueError(
                f"{name}: `lengths` must hold an integer for each of the {rows} sequences, got {ends.dtype} of shape "
                f"{ends.shape}"
            )
    zeros = [np.zeros((rows, hidden), x.dtype) if h is None else h for h, _ in list(expected.values())[4:]]
    return [x, ends, w_ih, w_hh, 0.0 if b_ih is None else b_ih, 0.0 if b_hh is None else b_hh, *zeros]


def lstm(
    x: TensorLike,
    weight_ih: TensorLike,
    weight_hh: TensorLike,
    bias_ih: TensorLike | None = None,
    bias_hh: TensorLike | None = None,
    h0: TensorLike | None = None,
    c0: TensorLike | None = None,
    lengths: TensorLike | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer of long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

    i, f, g, o = weight_ih x_t + bias_ih + weight_hh h + bias_hh, cut in four; c = sigmoid(f) c + sigmoid(i) tanh(g);
    h = sigmoid(o) tanh(c).

    Args:
        x: (steps, sequences, features).
        weight_ih, weight_hh: (4 hidden, features) and (4 hidden, hidden), with the gates in the order i, f, g, o.
        bias_ih, bias_hh: (4 hidden,); 0 if None.
        h0, c0: the state before the first step, (sequences, hidden); 0 if None.
        lengths: integers of shape (sequences,): beyond it a sequence keeps its state and its output is 0.
        reverse: from the last step of each sequence to its first.

    Returns:
        (out, h, c): (steps, sequences, hidden) and the last states, (sequences, hidden) each.

    Raises:
        ValueError: the shapes do not fit, or a length is not in [0, steps].

    >>> import numpy as np
    >>> from dist_dp import ops
    >>> out, h, c = ops.lstm(np.ones((5, 2, 3)), np.ones((16, 3)), np.ones((16, 4)), lengths=[5, 2])
    >>> out.shape, h.shape, out[2:, 1].tolist() == [[0.0] * 4] * 3
    ((5, 2, 4), (2, 4), True)
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    inputs = _prepared("lstm", 4, x, weights, (("h0", h0), ("c0", c0)), lengths)
    return apply(_lstm_op, inputs, (bool(reverse),))  # type: ignore[no-any-return]


def gru(
    x: TensorLike,
    weight_ih: TensorLike,
    weight_hh: TensorLike,
    bias_ih: TensorLike | None = None,
    bias_hh: TensorLike | None = None,
    h0: TensorLike | None = None,
    lengths: TensorLike | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """One layer of gated recurrent units (Cho et al. 2014, arXiv:1406.1078; with r outside the product, as in cuDNN).

    With a = weight_ih x_t + bias_ih and u = weight_hh h + bias_hh, each cut in three: r = sigmoid(a_r + u_r),
    z = sigmoid(a_z + u_z), n = tanh(a_n + r u_n), h = (1 - z) n + z h.

    Args: as for `lstm`, with three gates in the order r, z, n and no c0.

    Returns:
        (out, h): (steps, sequences, hidden) and the last state, (sequences, hidden).

    Raises:
        ValueError: the shapes do not fit, or a length is not in [0, steps].

    >>> import numpy as np
    >>> from dist_dp import ops
    >>> out, h = ops.gru(np.ones((5, 2, 3)), np.ones((12, 3)), np.ones((12, 4)))
    >>> out.shape, bool((out[-1] == h).all())
    ((5, 2, 4), True)
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    inputs = _prepared("gru", 3, x, weights, (("h0", h0),), lengths)
    return apply(_gru_op, inputs, (bool(reverse),))  # type: ignore[no-any-return]


def rnn(
    x: TensorLike,
    weight_ih: TensorLike,
    weight_hh: TensorLike,
    bias_ih: TensorLike | None = None,
    bias_hh: TensorLike | None = None,
    h0: TensorLike | None = None,
    lengths: TensorLike | None = None,
    nonlinearity: str = "tanh",
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """One layer of the recurrent network of Elman (1990): h = f(weight_ih x_t + bias_ih + weight_hh h + bias_hh).

    Args: as for `lstm`, with one gate and no c0; `nonlinearity` is f, "tanh" or "relu".

    Returns:
        (out, h): (steps, sequences, hidden) and the last state, (sequences, hidden).

    Raises:
        ValueError: the shapes do not fit, a length is not in [0, steps], or `nonlinearity` is another.

    >>> import numpy as np
    >>> from dist_dp import ops
    >>> ops.rnn(np.ones((2, 1, 1)), np.ones((1, 1)), np.ones((1, 1)), nonlinearity="relu")[0].tolist()
    [[[1.0]], [[2.0]]]
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"rnn: `nonlinearity` must be 'tanh' or 'relu', got {nonlinearity!r}")
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    inputs = _prepared("rnn", 1, x, weights, (("h0", h0),), lengths)
    return apply(_rnn_op, inputs, (nonlinearity, bool(reverse)))  # type: ignore[no-any-return]
