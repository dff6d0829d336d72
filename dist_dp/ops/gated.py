"""Activations of the form x times a gate between 0 and 1: GELU, its tanh form, and SiLU.

As text each is ten or more passes over its array. Here a pass is over a piece in the cache, and the derivative,
gate + x gate', is formed while the piece is there, if it is wanted: backward is one product. Compiled, backward
computes it again from x, and nothing is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..tape import RECORD, Array, mode
from ..tensor import Tensor
from .activation import floating
from .blocked import elementwise
from .core import Op, TensorLike, apply, same
from .elementwise import erf, erf_of, sigmoid, tanh

__all__ = ["gelu", "silu"]


class Gate(NamedTuple):
    """One activation.

    Attributes:
        value: `value(x, gate, spare)` writes the gate of a piece.
        slope: `slope(x, gate, out)` writes the derivative of the gate.
        composed: the activation from elementary operations.
    """

    value: Callable[[Array, Array, Array], None]
    slope: Callable[[Array, Array, Array], None]
    composed: Callable[[Any], Any]


_LOG2E = 1 / math.log(2)


def _logistic_of(gate: Array) -> None:
    """gate = 1 / (1 + 2^gate): the logistic function of -gate ln 2."""
    np.exp2(gate, gate)
    np.add(gate, 1, gate)
    np.divide(1, gate, gate)


# ----- Phi(x), the normal distribution function -----

# Phi(x) = 1 / (1 + 2^(x q(x^2))) with q(u) = c0 + c1 u + c2 / (u^2 + c3 u + c4). The coefficients are a least-squares
# fit of the logit of Phi(x) over x, reweighted until the error of x Phi(x) was even, 4e-7. The error function of
# `elementwise.py`, good to the last bit, costs ten times as much.
_C0, _C1, _C2, _C3, _C4 = (
    -3.13684609744686,
    -0.0565513653121026,
    260.894156913155,
    18.0968039629074,
    312.579867322358,
)


def _normal(x: Array, gate: Array, spare: Array) -> None:
    if x.dtype != np.float32:
        np.multiply(erf_of(x * x.dtype.type(math.sqrt(0.5))), 0.5, gate)
        np.add(gate, 0.5, gate)
        return
    u = np.multiply(x, x, spare)
    np.add(u, _C3, gate)
    np.multiply(gate, u, gate)
    np.add(gate, _C4, gate)
    np.divide(_C2, gate, gate)
    np.multiply(u, _C1, u)
    np.add(gate, u, gate)
    np.add(gate, _C0, gate)
    np.multiply(gate, x, gate)
    _logistic_of(gate)


def _normal_slope(x: Array, gate: Array, out: Array) -> None:
    np.multiply(x, x, out)
    np.multiply(out, -0.5 * _LOG2E, out)
    np.exp2(out, out)
    np.multiply(out, 1 / math.sqrt(2 * math.pi), out)


# ----- logistic functions -----

_S = math.sqrt(2 / math.pi)


def _cubic(x: Array, gate: Array, spare: Array) -> None:
    np.multiply(x, x, gate)
    np.multiply(gate, -2 * 0.044715 * _S * _LOG2E, gate)
    np.add(gate, -2 * _S * _LOG2E, gate)
    np.multiply(gate, x, gate)
    _logistic_of(gate)


def _cubic_slope(x: Array, gate: Array, out: Array) -> None:
    np.multiply(x, x, out)
    np.multiply(out, 6 * 0.044715 * _S, out)
    np.add(out, 2 * _S, out)
    np.multiply(out, gate, out)
    np.multiply(out, 1 - gate, out)


def _logistic(x: Array, gate: Array, spare: Array) -> None:
    np.multiply(x, -_LOG2E, gate)
    _logistic_of(gate)


def _logistic_slope(x: Array, gate: Array, out: Array) -> None:
    np.subtract(1, gate, out)
    np.multiply(out, gate, out)


_gates = {
    "normal": Gate(_normal, _normal_slope, lambda x: x * (0.5 + 0.5 * erf(x * math.sqrt(0.5)))),
    "cubic": Gate(_cubic, _cubic_slope, lambda x: x * (0.5 + 0.5 * tanh(_S * (x + 0.044715 * x * x * x)))),
    "logistic": Gate(_logistic, _logistic_slope, lambda x: x * sigmoid(x)),
}


# ----- the operation -----


def _gated(x: Array, kind: str) -> tuple[Array, Array | None]:
    if kernels.suits(x):
        out = np.empty_like(x)
        getattr(kernels.compiled, f"{kind}_gated")(x, out)
        return out, None
    value, slope, _ = _gates[kind]

    def kernel(x: Array, out: Array, spare: Array) -> None:
        value(x, out, spare)
        np.multiply(out, x, out)

    def kernel_with_derivative(x: Array, out: Array, d: Array) -> None:
        value(x, out, d)
        slope(x, out, d)
        np.multiply(d, x, d)
        np.add(d, out, d)
        np.multiply(out, x, out)

    with np.errstate(over="ignore", invalid="ignore"):  # powers of huge numbers; inf * 0 = NaN at -inf
        if mode.state == RECORD:
            return elementwise(kernel_with_derivative, x, outputs=2)  # type: ignore[no-any-return]
        return elementwise(kernel, x, scratch=1), None


def _gated_gradient(
    g: Array, need: Sequence[bool], x: Array, kind: str, residuals: Array | None
) -> Sequence[Array]:
    if residuals is not None:
        return (g * residuals,)
    d = np.empty_like(x)
    getattr(kernels.compiled, f"{kind}_gated_gradient")(np.ascontiguousarray(g), x, d)
    return (d,)


_gated_op = Op(
    "gated",
    _gated,
    params="kind",
    joint=_gated_gradient,
    residuals=True,
    composed=lambda x, kind: _gates[kind].composed(x),
    batch=same,
)


def gelu(x: TensorLike, approximate: str = "none") -> Tensor:
    """x Phi(x) with Phi the normal distribution function (Hendrycks & Gimpel 2016, arXiv:1606.08415).

    Args:
        x: any shape; integers are taken as float32.
        approximate: "none" for Phi(x) = (1 + erf(x / sqrt 2)) / 2, in float32 to an absolute 4e-7 of the result and
            its rounding; or "tanh" for (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, which differs by less than 5e-4.

    Raises:
        ValueError: `approximate` is neither.

    >>> from dist_dp import ops
    >>> bool(abs(ops.gelu(1.0).item() - 0.8413447) < 1e-6)
    True
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"`approximate` of gelu must be 'none' or 'tanh', got {approximate!r}")
    kind = "normal" if approximate == "none" else "cubic"
    return apply(_gated_op, (floating(x),), (kind,))  # type: ignore[no-any-return]


def silu(x: TensorLike) -> Tensor:
    """x sigmoid(x), also called swish (Elfwing et al. 2017, arXiv:1702.03118). Elementwise; any shape.

    >>> from dist_dp import ops
    >>> ops.silu([0.0, 1.0])
    tensor([0.       , 0.7310586])
    """
    return apply(_gated_op, (floating(x),), ("logistic",))  # type: ignore[no-any-return]
