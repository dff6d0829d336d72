"""The affine map of a layer, x Wᵀ + b, as one recorded operation.

It is what a model calls most. Composed of a transposition, a product and a sum it would leave three nodes and
pass over the output twice; here the bias is added into the product's own memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..compact import row_product
from ..kernels.product import dot, takes
from ..tape import RECORD, Node, mode
from ..tensor import Tensor
from .core import Op, TensorLike, apply, as_array

__all__ = ["linear"]


def _rows(x: Any) -> Any:
    return x if x.ndim == 2 else x[None] if x.ndim == 1 else x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


def times(x: Any, w: Any) -> Any:
    """The rows of x against the matrix w: one GEMM, whatever the leading axes."""
    return np.dot(x, w) if x.ndim < 2 else dot(_rows(x), w).reshape((*x.shape[:-1], w.shape[1]))


def rows_times(x: Any, weight: Any, bias: Any = None) -> Any:
    """The rows of x (..., n) against those of `weight` (m, n): x weightᵀ + bias, as one GEMM.

    OpenBLAS copies a transposed factor before it multiplies, which for few rows takes several times as long as the
    product: where the compiled kernel does not take them, it is faster to transpose them and the result (measured for
    weights from 10 x 128 to 2048 x 512). Where the product has few elements, nothing is copied.
    """
    rows = x if x.ndim == 2 else _rows(x)
    n = len(rows)
    if 1 < n <= _FEW and n * len(weight) > _SMALL and not takes(n, weight.T):
        out = np.ascontiguousarray(np.dot(weight, np.ascontiguousarray(rows.T)).T)
        if bias is not None:
            np.add(out, bias, out)
    else:
        out = dot(rows, weight.T, bias)
    return out if x.ndim == 2 else out.reshape((*x.shape[:-1], len(weight)))


_FEW, _SMALL = 32, 1200


def _batch(op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]) -> Any:
    x, weight, *bias = inputs
    if not any(batched[1:]):
        return apply(op, inputs)
    lead = x.shape[batched[0] : -1]
    x = x.reshape((*x.shape[: batched[0]], math.prod(lead), x.shape[-1]))
    out = np.matmul(x, np.swapaxes(weight, -1, -2))
    if bias:
        out = out + (bias[0][:, None] if batched[2] else bias[0])
    return out.reshape((size, *lead, out.shape[-1]))


def _with_shape(x: TensorLike, name: str) -> Any:
    return x if isinstance(x, Tensor) else as_array(x, name)


_x = lambda g, weight: times(g, weight)  # noqa: E731
_weight = lambda g, x: row_product(_rows(g), _rows(x))  # noqa: E731

_linear = Op(
    "linear",
    rows_times,
    "x weight bias",
    vjp=(_x, _weight, lambda g: g),
    jvp=(lambda t, weight: times(t, weight.T), lambda t, x: times(x, t.T), lambda t: t),
    batch=_batch,
)
_linear_without_bias = Op(
    "linear_without_bias",
    rows_times,
    "x weight",
    vjp=(_x, _weight),
    jvp=(lambda t, weight: times(t, weight.T), lambda t, x: times(x, t.T)),
    batch=_batch,
)


def linear(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """out = x weightᵀ + bias, along the last axis of `x`.

    Args:
        x: (..., in_features).
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (..., out_features).

    Raises:
        ValueError: shapes that do not fit.

    >>> import numpy as np
    >>> from dist_dp import ops
    >>> ops.linear(np.ones((4, 3)), np.ones((2, 3)), np.zeros(2)).shape
    (4, 2)
    """
    if bias is not None and mode.state <= RECORD and isinstance(x, Tensor) and isinstance(weight, Tensor):
        # What a recursive model calls thousands of times a step: three tensors of one dtype that fit.
        a, w = x.data, weight.data
        if isinstance(bias, Tensor) and a.shape[-1:] == w.shape[1:] and bias.shape == w.shape[:1]:
            b = bias.data
            if a.dtype is w.dtype is b.dtype:
                out = rows_times(a, w, b)
                p, q, r = x.node, weight.node, bias.node
                if mode.state != RECORD or p is q is r is None:
                    return Tensor._of(out, None)
                saved = (None if p is None else (w,), None if q is None else (a,), ())
                return Tensor._of(out, Node(_linear, (p, q, r), saved, (), out.shape))
    given = (x, weight) if bias is None else (x, weight, bias)
    inputs = [
        _with_shape(v, f"linear: {name}") for v, name in zip(given, ("x", "weight", "bias"), strict=False)
    ]
    shape, features = inputs[0].shape, inputs[1].shape
    if len(features) != 2:
        raise ValueError(f"linear: weight must be (out_features, in_features), got shape {features}")
    if not shape or shape[-1] != features[1]:
        raise ValueError(
            f"linear: x must be (..., in_features={features[1]}) for weight {features}, got shape {shape}"
        )
    if bias is None:
        return apply(_linear_without_bias, inputs)  # type: ignore[no-any-return]
    if inputs[2].shape != features[:1]:
        raise ValueError(
            f"linear: bias must have shape {features[:1]} for weight {features}, got {inputs[2].shape}"
        )
    return apply(_linear, inputs)  # type: ignore[no-any-return]
