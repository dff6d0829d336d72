"""One step of a long short-term memory, for networks that are not a loop over time: recursive ones, decoders.

A cell on a few hundred numbers costs its calls and little else, so there are as few as possible: one tanh does all four
gates, as in `recurrent.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..tape import Array
from ..tensor import Tensor
from .activation import floating
from .core import Op, TensorLike, apply
from .elementwise import sigmoid, tanh
from .views import broadcast_to

__all__ = ["lstm_cell"]


@functools.cache
def _gate_vectors(hidden: int, dtype: Any) -> tuple[Array, Array, Array]:
    """(0.5, 0.5, 1, 0.5), (0.5, 0.5, 0, 0.5) and (0, 0, 1, 0) for the gates i, f, g, o."""
    e = np.repeat(np.array([0, 0, 1, 0], dtype), hidden)
    return (e + 1) / 2, (1 - e) / 2, e


def _forward(gates: Array, c: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    n = c.shape[-1]
    if n and kernels.suits(gates, c):
        v, new, squashed, h = gates.copy(), np.empty_like(c), np.empty_like(c), np.empty_like(c)
        kernels.compiled.lstm_step(np.zeros_like(gates), v, c, new, squashed, h, n)
        return (h, new), (v, squashed)
    half, rest, _ = _gate_vectors(n, c.dtype)
    v = np.multiply(gates, half)
    np.tanh(v, v)
    np.multiply(v, half, v)
    np.add(v, rest, v)
    new = v[..., n : 2 * n] * c
    new += v[..., :n] * v[..., 2 * n : 3 * n]
    squashed = np.tanh(new)
    return (v[..., 3 * n :] * squashed, new), (v, squashed)


def _gradient(
    gs: tuple[Array, Array], need: Sequence[bool], gates: Array, c: Array, residuals: tuple[Array, Array]
) -> Sequence[Array]:
    (gh, gc), (v, squashed) = gs, residuals
    n = c.shape[-1]
    if n and kernels.suits(gh, gc, v, c, squashed):
        d, dc = np.empty_like(v), gc.copy()
        kernels.compiled.lstm_step_gradient(gh, np.zeros_like(gh), v, c, squashed, dc, d, n)
        return d, dc
    _, _, e = _gate_vectors(n, c.dtype)
    dc = squashed * squashed
    np.subtract(1, dc, dc)
    np.multiply(dc, v[..., 3 * n :], dc)
    np.multiply(dc, gh, dc)
    np.add(dc, gc, dc)
    d = np.empty_like(v)
    np.multiply(dc, v[..., 2 * n : 3 * n], d[..., :n])
    np.multiply(dc, c, d[..., n : 2 * n])
    np.multiply(dc, v[..., :n], d[..., 2 * n : 3 * n])
    np.multiply(gh, squashed, d[..., 3 * n :])
    slope = v + e
    np.multiply(d, slope, d)
    np.subtract(1, v, slope)
    np.multiply(d, slope, d)
    return d, np.multiply(dc, v[..., n : 2 * n], dc)


def _composed(gates: Any, c: Any) -> Any:
    i, f, g, o = (gates[..., k * c.shape[-1] : (k + 1) * c.shape[-1]] for k in range(4))
    new = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(new), new


def _batched(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    whole = (x if has else broadcast_to(x, (size, *x.shape)) for x, has in zip(inputs, batched, strict=True))
    return apply(op, tuple(whole))


_lstm_cell = Op(
    "lstm_cell",
    _forward,
    "gates c",
    joint=_gradient,
    outputs=2,
    residuals=True,
    composed=_composed,
    batch=_batched,
)


def lstm_cell(gates: TensorLike, c: TensorLike) -> tuple[Tensor, Tensor]:
    """The state (h, c') of an LSTM after one step (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    c' = sigmoid(f) c + sigmoid(i) tanh(g);  h = sigmoid(o) tanh(c').

    Args:
        gates: i, f, g, o before their functions, (..., 4 hidden).
        c: (..., hidden).

    Raises:
        ValueError: the shapes do not fit.

    >>> from dist_dp import ops
    >>> h, c = ops.lstm_cell([0.0, 0.0, 0.0, 0.0], [1.0])
    >>> c.tolist()
    [0.5]
    """
    gates, c = floating(gates), floating(c)
    if c.ndim < 1 or gates.shape != (*c.shape[:-1], 4 * c.shape[-1]):
        raise ValueError(
            f"lstm_cell: `gates` must be (..., 4 hidden) for `c` (..., hidden), got {gates.shape} and {c.shape}"
        )
    return apply(_lstm_cell, (gates, c))  # type: ignore[no-any-return]
