"""Activations that multiply x by a squashed x: GELU and SiLU, fused and in pieces that fit the cache.

The forward pass keeps the squashed values; the gradient is then a few passes in cache. In float32 the normal
distribution function is a rational function of x, fitted to it for this file, because the error function of
`elementwise.py`, good to the last bit, costs ten times as much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..tape import Array
from ..tensor import Tensor
from .blocked import elementwise
from .core import Op, TensorLike, apply, same
from .elementwise import erf, erf_of, sigmoid, sigmoid_of, tanh
from .views import lifted

__all__ = ["gelu", "silu"]

# Phi(x) - 1/2 = x P(x^2) / Q(x^2) for |x| <= _EDGE, from a weighted rational fit on that range; the absolute error in
# float32 arithmetic is at most 3e-7. P carries a factor 1 + 4e-7, so that at the edge the value reaches 1/2 and is
# cut to it: Phi is exactly 0 or 1 beyond, and x Phi(x) vanishes for large negative x.
_EDGE = 5.6
_TOP = (2.21464314e-08, 6.35616677e-06, 1.73820880e-04, 4.70707541e-03, 3.43733445e-02, 3.98942222e-01)
_BOTTOM = (1.18021795e-06, 7.50915267e-05, 1.91280963e-03, 2.89384685e-02, 2.52826913e-01, 1.0)
_TOP = tuple(c * (1 + 4e-7) for c in _TOP)


def _normal_piece(x: Array, out: Array, t: Array, u: Array) -> None:
    """out = Phi(x) in float32, with scratch t and u."""
    np.clip(x, -_EDGE, _EDGE, out=out)
    np.multiply(out, out, t)
    np.multiply(t, _TOP[0], u)
    for c in _TOP[1:-1]:
        np.add(u, c, u)
        np.multiply(u, t, u)
    np.add(u, _TOP[-1], u)
    np.multiply(out, u, out)
    np.multiply(t, _BOTTOM[0], u)
    for c in _BOTTOM[1:-1]:
        np.add(u, c, u)
        np.multiply(u, t, u)
    np.add(u, _BOTTOM[-1], u)
    np.divide(out, u, out)
    np.clip(out, -0.5, 0.5, out=out)
    np.add(out, 0.5, out)


def _gelu(x: Array) -> tuple[Array, Array]:
    if x.dtype != np.float32:
        phi = 0.5 + 0.5 * erf_of(x * np.asarray(math.sqrt(0.5), x.dtype))
        return x * phi, phi

    def kernel(x: Array, out: Array, phi: Array, t: Array, u: Array) -> None:
        _normal_piece(x, phi, t, u)
        np.multiply(x, phi, out)

    return elementwise(kernel, x, outputs=2, scratch=2)  # type: ignore[no-any-return]


def _gelu_gradient(g: Array, need: Sequence[bool], x: Array, residuals: Array) -> list[Array]:
    def kernel(g: Array, x: Array, phi: Array, d: Array) -> None:
        np.multiply(x, x, d)
        np.multiply(d, -0.5, d)
        np.exp(d, d)
        np.multiply(d, 1 / math.sqrt(2 * math.pi), d)
        np.multiply(d, x, d)
        np.add(d, phi, d)
        np.multiply(d, g, d)

    return [elementwise(kernel, g, x, residuals)]


def _silu(x: Array) -> tuple[Array, Array]:
    s = np.asarray(sigmoid_of(x))
    return x * s, s


def _silu_gradient(g: Array, need: Sequence[bool], x: Array, residuals: Array) -> list[Array]:
    def kernel(g: Array, x: Array, s: Array, d: Array) -> None:
        np.subtract(1, s, d)
        np.multiply(d, x, d)
        np.add(d, 1, d)
        np.multiply(d, s, d)
        np.multiply(d, g, d)

    return [elementwise(kernel, g, x, residuals)]


_gelu_op = Op(
    "gelu",
    _gelu,
    joint=_gelu_gradient,
    batch=same,
    residuals=True,
    composed=lambda x: x * (0.5 + 0.5 * erf(x * math.sqrt(0.5))),
)
_silu_op = Op(
    "silu", _silu, joint=_silu_gradient, batch=same, residuals=True, composed=lambda x: x * sigmoid(x)
)


def _floating(x: TensorLike) -> Tensor:
    x = lifted(x)
    return x if x.dtype.kind == "f" else x.astype(np.float32)


def silu(x: TensorLike) -> Tensor:
    """x sigmoid(x), also called swish (Elfwing et al. 2017, arXiv:1702.03118). Elementwise; any shape.

    >>> from dist_dp import ops
    >>> ops.silu([0.0, 1.0])
    tensor([0.       , 0.7310586])
    """
    return apply(_silu_op, (_floating(x),))  # type: ignore[no-any-return]


def gelu(x: TensorLike, approximate: str = "none") -> Tensor:
    """x Phi(x) with Phi the normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415).

    Args:
        x: any shape. In float32 Phi is within 3e-7 of its value, in float64 within rounding.
        approximate: "none" for Phi(x) = (1 + erf(x / sqrt 2)) / 2, or "tanh" for
            (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, which differs by less than 5e-4.

    Raises:
        ValueError: `approximate` is neither.

    >>> from dist_dp import ops
    >>> ops.gelu([0.0, 1.0]).tolist()
    [0.0, 0.841344952583313]
    """
    x = _floating(x)
    if approximate == "none":
        return apply(_gelu_op, (x,))  # type: ignore[no-any-return]
    if approximate == "tanh":
        return x * (0.5 + 0.5 * tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    raise ValueError(f"`approximate` of gelu must be 'none' or 'tanh', got {approximate!r}")
