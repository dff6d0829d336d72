"""Activations as modules: each calls the function of the same meaning in `nn.functional`."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..arguments import check_number
from ..ops.core import TensorLike
from ..tensor import Tensor
from . import functional as F
from .arguments import count
from .module import Module, Parameter

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmin",
    "Softplus",
    "Softsign",
    "Tanh",
]


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: TensorLike) -> Tensor:
        return ops.relu(x)


class ReLU6(Module):
    """min(max(x, 0), 6)."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.relu6(x)


class LeakyReLU(Module):
    """x where x > 0, else negative_slope x."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        check_number(negative_slope, "LeakyReLU: negative_slope")
        self.negative_slope = negative_slope

    def forward(self, x: TensorLike) -> Tensor:
        return ops.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """x where x > 0, else weight x, with a learned weight for all channels or one for each (axis 1): He et al. 2015.

    Parameter: `weight` (num_parameters,), from the constant `init`.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, dtype: DTypeLike = np.float32) -> None:
        self.num_parameters = count("PReLU", "num_parameters", num_parameters)
        self.weight = Parameter(np.full(num_parameters, init, dtype))

    def forward(self, x: TensorLike) -> Tensor:
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """x where x > 0, else alpha (exp(x) - 1): Clevert et al. 2015."""

    def __init__(self, alpha: float = 1.0) -> None:
        check_number(alpha, f"{type(self).__name__}: alpha")
        self.alpha = alpha

    def forward(self, x: TensorLike) -> Tensor:
        return ops.elu(x, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class CELU(ELU):
    """max(x, 0) + min(alpha (exp(x / alpha) - 1), 0)."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.celu(x, self.alpha)


class SELU(Module):
    """1.0507 elu(x, 1.6733): Klambauer et al. 2017."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.selu(x)


class GELU(Module):
    """x Φ(x), exact, or with approximate="tanh" by a tanh: Hendrycks, Gimpel 2016.

    Raises:
        ValueError: another `approximate`.
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: TensorLike) -> Tensor:
        return ops.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class SiLU(Module):
    """x σ(x)."""

    def forward(self, x: TensorLike) -> Tensor:
        return ops.silu(x)


class Mish(Module):
    """x tanh(softplus(x))."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.mish(x)


class Sigmoid(Module):
    """σ(x) = 1 / (1 + exp(-x))."""

    def forward(self, x: TensorLike) -> Tensor:
        return ops.sigmoid(x)


class LogSigmoid(Module):
    """log σ(x)."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.logsigmoid(x)


class Tanh(Module):
    """tanh(x)."""

    def forward(self, x: TensorLike) -> Tensor:
        return ops.tanh(x)


class Softplus(Module):
    """log(1 + exp(beta x)) / beta."""

    def __init__(self, beta: float = 1.0) -> None:
        check_number(beta, "Softplus: beta")
        if not beta > 0:
            raise ValueError(f"Softplus: beta must be positive, got {beta}")
        self.beta = beta

    def forward(self, x: TensorLike) -> Tensor:
        return F.softplus(x, self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.softsign(x)


class Hardtanh(Module):
    """x kept within [min_val, max_val]."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        check_number(min_val, "Hardtanh: min_val")
        check_number(max_val, "Hardtanh: max_val")
        if not min_val < max_val:
            raise ValueError(f"Hardtanh: min_val must be below max_val, got {min_val} and {max_val}")
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: TensorLike) -> Tensor:
        return F.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


class Hardsigmoid(Module):
    """min(max(x + 3, 0), 6) / 6."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.hardsigmoid(x)


class Hardswish(Module):
    """x hardsigmoid(x)."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.hardswish(x)


class _Along(Module):
    """An activation along one axis."""

    def __init__(self, dim: int) -> None:
        self.dim = count(type(self).__name__, "dim", dim, least=-64)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(_Along):
    """exp(x) / Σ exp(x) along `dim`."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.softmax(x, self.dim)


class LogSoftmax(_Along):
    """x - log Σ exp(x) along `dim`."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.log_softmax(x, self.dim)


class Softmin(_Along):
    """softmax(-x) along `dim`."""

    def forward(self, x: TensorLike) -> Tensor:
        return F.softmin(x, self.dim)


class GLU(_Along):
    """a σ(b) with a and b the two halves of x along `dim`: Dauphin et al. 2017."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__(dim)

    def forward(self, x: TensorLike) -> Tensor:
        return F.glu(x, self.dim)
