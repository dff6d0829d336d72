"""The cell of a binary Tree-LSTM as one recorded operation.

A recursive model calls its cell once for every node of every tree, on arrays of a few hundred numbers, where an
operation costs its overhead and little else. Composed of elementary operations a cell is about twenty of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..compact import row_product
from ..tape import Array
from ..tensor import Tensor
from .affine import rows_times, times
from .core import Op, apply
from .views import broadcast_to

__all__ = ["tree_lstm"]

Value = Tensor | Array
State = tuple[Value, Value]


def _matrix(x: Array) -> Array:
    return x[None] if x.ndim == 1 else x


@functools.cache
def _gate_vectors(hidden: int, dtype: Any) -> tuple[Array, Array, Array]:
    """For the gates i, f_left, f_right, o and u: (0.5, ..., 0.5, 1), (0.5, ..., 0.5, 0) and (0, ..., 0, 1)."""
    e = np.repeat(np.array([0, 0, 0, 0, 1], dtype), hidden)
    return (e + 1) / 2, (1 - e) / 2, e


_ABSENT = np.empty(0, np.float32)


def _of_both(arrays: Sequence[Array], sides: tuple[int, ...]) -> list[Array]:
    """Arrays of the subtrees that are there as arrays of left and right."""
    both = [_ABSENT, _ABSENT]
    for array, side in zip(arrays, sides, strict=True):
        both[side] = array
    return both


def _forward(*xs_and_sides: Any) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(h, c), and for the rules the activated gates and tanh(c)."""
    *xs, sides = xs_and_sides
    if sides:
        gates = rows_times(xs[1], xs[3])
        for k in range(1, len(sides)):
            gates += rows_times(xs[3 * k + 1], xs[3 * k + 3])
        gates += xs[0]
    else:
        gates = xs[0].copy()
    n = gates.shape[-1] // 5
    if n and kernels.suits(gates, *xs[2::3]):
        left, right = _of_both(xs[2::3], sides)
        c = np.empty((*gates.shape[:-1], n), gates.dtype)
        tanh_c, h = np.empty_like(c), np.empty_like(c)
        kernels.compiled.tree_step(gates, left, right, c, tanh_c, h, n)
        return (h, c), (gates, tanh_c)
    half, rest, _ = _gate_vectors(n, gates.dtype)
    # One tanh for all five gates: sigmoid(x) = (1 + tanh(x / 2)) / 2.
    gates *= half
    np.tanh(gates, gates)
    gates *= half
    gates += rest
    c = gates[..., :n] * gates[..., 4 * n :]
    for k, side in enumerate(sides):
        c += gates[..., (1 + side) * n : (2 + side) * n] * xs[3 * k + 2]
    tanh_c = np.tanh(c)
    return (gates[..., 3 * n : 4 * n] * tanh_c, c), (gates, tanh_c)


def _joint(g: Any, need: Sequence[bool], xs: Any, sides: tuple[int, ...], residuals: Any) -> list[Any]:
    gates, tanh_c = residuals
    gh, gc = g
    n = tanh_c.shape[-1]
    d = np.empty_like(gates)
    if n and kernels.suits(gh, gc, gates, *xs[2::3]):
        of_c = [np.empty_like(tanh_c) for _ in sides]
        both = (*_of_both(xs[2::3], sides), d, *_of_both(of_c, sides))
        kernels.compiled.tree_step_gradient(gh, gc, gates, tanh_c, *both, n)
    else:
        of_c = _gradients(gh, gc, xs[2::3], sides, gates, tanh_c, d)
    out: list[Any] = [d if need[0] else None]
    for k, of in enumerate(of_c):
        h, _, weight = xs[3 * k + 1 : 3 * k + 4]
        at = 3 * k + 1
        out.append(times(d, weight) if need[at] else None)
        out.append(of if need[at + 1] else None)
        out.append(row_product(_matrix(d), _matrix(h)) if need[at + 2] else None)
    return out


def _gradients(
    gh: Array, gc: Array, cs: Sequence[Array], sides: tuple[int, ...], gates: Array, tanh_c: Array, d: Array
) -> list[Array]:
    """The gradients of the subtrees' c; writes those of the gates into `d`."""
    n = tanh_c.shape[-1]
    _, _, e = _gate_vectors(n, gates.dtype)
    dc = tanh_c * tanh_c
    np.subtract(1, dc, dc)
    dc *= gates[..., 3 * n : 4 * n]
    dc *= gh
    dc += gc
    if len(sides) < 2:
        d.fill(0)
    np.multiply(dc, gates[..., 4 * n :], d[..., :n])
    for c, side in zip(cs, sides, strict=True):
        np.multiply(dc, c, d[..., (1 + side) * n : (2 + side) * n])
    np.multiply(gh, tanh_c, d[..., 3 * n : 4 * n])
    np.multiply(dc, gates[..., :n], d[..., 4 * n :])
    slope = gates + e  # s (1 - s) of a sigmoid, (u + 1) (1 - u) of a tanh
    d *= slope
    np.subtract(1, gates, slope)
    d *= slope
    return [dc * gates[..., (1 + side) * n : (2 + side) * n] for side in sides]


def _composed(*xs_and_sides: Any) -> tuple[Tensor, Tensor]:
    *xs, sides = xs_and_sides
    gates = xs[0]
    for k in range(len(sides)):
        gates = gates + xs[3 * k + 1] @ xs[3 * k + 3].T
    n = gates.shape[-1] // 5
    i, f_left, f_right, o = (gates[..., j * n : (j + 1) * n].sigmoid() for j in range(4))
    c = i * gates[..., 4 * n :].tanh()
    for k, side in enumerate(sides):
        c = c + (f_left, f_right)[side] * xs[3 * k + 2]
    return o * c.tanh(), c


def _batched(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    weights = range(3, len(inputs), 3)
    if any(batched[i] for i in weights):
        return NotImplemented
    if any(
        np.ndim(x) != has + 1
        for i, (x, has) in enumerate(zip(inputs, batched, strict=True))
        if i not in weights
    ):
        return NotImplemented
    xs = [
        x if has or i in weights else broadcast_to(x, (size, *x.shape))
        for i, (x, has) in enumerate(zip(inputs, batched, strict=True))
    ]
    return apply(op, xs, params)


_tree_lstm = Op(
    "tree_lstm",
    _forward,
    "*xs",
    params="sides",
    joint=_joint,
    outputs=2,
    residuals=True,
    composed=_composed,
    batch=_batched,
)


def tree_lstm(
    gates: Value, left: State | None, right: State | None, weight_left: Value, weight_right: Value
) -> tuple[Tensor, Tensor]:
    """The state (h, c) of a tree from its root's input and the states of its two subtrees; either may be absent.

    (i, f_l, f_r, o) = sigmoid and u = tanh of gates + h_l W_l^T + h_r W_r^T;  c = i u + f_l c_l + f_r c_r;
    h = o tanh(c). Tai, Socher and Manning 2015, equations 9 to 14 with N = 2.

    Args:
        gates: what the input adds to the gates, (..., 5 hidden) in the order i, f_l, f_r, o, u.
        left, right: (h, c) of a subtree, each (..., hidden), or None, which counts as zeros.
        weight_left, weight_right: (5 hidden, hidden).

    Raises:
        ValueError: shapes that do not fit.

    >>> import numpy as np
    >>> from dist_dp import ops
    >>> w = np.zeros((10, 2))
    >>> h, c = ops.tree_lstm(np.zeros(10), None, (np.ones(2), np.ones(2)), w, w)
    >>> c.tolist()
    [0.5, 0.5]
    """
    xs: list[Any] = [gates]
    sides: tuple[int, ...] = ()
    width, hidden = weight_left.shape
    if gates.shape[-1:] != (5 * hidden,) or width != 5 * hidden:
        raise ValueError(
            "tree_lstm: gates must be (..., 5 hidden) and the weights (5 hidden, hidden), "
            f"got {gates.shape} and {weight_left.shape}"
        )
    for side, (state, weight) in enumerate(((left, weight_left), (right, weight_right))):
        if state is not None:
            h, c = state
            if h.shape != c.shape or h.shape[-1] != hidden:
                raise ValueError(
                    f"tree_lstm: {('left', 'right')[side]} must be (h, c), both (..., {hidden}), "
                    f"got {h.shape} and {c.shape}"
                )
            xs += (h, c, weight)
            sides += (side,)
    return apply(_tree_lstm, xs, (sides,))  # type: ignore[no-any-return]
