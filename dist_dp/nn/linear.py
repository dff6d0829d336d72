"""Affine and bilinear maps, and layers that only change the shape."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..ops.affine import linear
from ..ops.core import TensorLike
from ..ops.views import lifted
from ..tensor import Tensor
from . import init
from .arguments import check_flags, count
from .module import Module, Parameter

__all__ = ["Bilinear", "Flatten", "Identity", "Linear", "Unflatten"]


class Linear(Module):
    """out = x Wᵀ + b along the last axis.

    Parameters: `weight` (out_features, in_features) and `bias` (out_features,), both from U(-k, k), k = 1/√in_features
    (torch's default; LeCun et al. 1998, section 4.6).

    Args:
        in_features: length of the last axis of the input.
        out_features: length of the last axis of the output.
        bias: whether to add b.
        dtype: of the parameters.

    Raises:
        ValueError: a size below 1; at the call, an input whose last axis is not `in_features`.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.Linear(3, 2)(np.ones((5, 4, 3), np.float32)).shape
    (5, 4, 2)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: DTypeLike = np.float32
    ) -> None:
        self.in_features = count("Linear", "in_features", in_features)
        self.out_features = count("Linear", "out_features", out_features)
        check_flags("Linear", bias=bias)
        self.weight = Parameter(np.empty((out_features, in_features), dtype))
        self.bias = Parameter(np.empty(out_features, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x: TensorLike) -> Tensor:
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


class Bilinear(Module):
    """out_k = x1ᵀ W_k x2 + b_k along the last axes.

    Parameters: `weight` (out_features, in1_features, in2_features), `bias` (out_features,), from U(-k, k),
    k = 1/√in1_features.

    Raises:
        ValueError: a size below 1; at the call, inputs whose last axes or leading shapes do not fit.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.Bilinear(3, 4, 2)(np.ones((5, 3), np.float32), np.ones((5, 4), np.float32)).shape
    (5, 2)
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.in1_features = count("Bilinear", "in1_features", in1_features)
        self.in2_features = count("Bilinear", "in2_features", in2_features)
        self.out_features = count("Bilinear", "out_features", out_features)
        check_flags("Bilinear", bias=bias)
        self.weight = Parameter(np.empty((out_features, in1_features, in2_features), dtype))
        self.bias = Parameter(np.empty(out_features, dtype)) if bias else None
        bound = 1 / math.sqrt(in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, x1: TensorLike, x2: TensorLike) -> Tensor:
        x1, x2 = lifted(x1), lifted(x2)
        if x1.shape[-1:] != (self.in1_features,) or x2.shape != (*x1.shape[:-1], self.in2_features):
            raise ValueError(
                f"Bilinear: expected inputs (..., {self.in1_features}) and (..., {self.in2_features}) with the same "
                f"leading axes, got shapes {x1.shape} and {x2.shape}"
            )
        out = ops.einsum("...i,oij,...j->...o", x1, self.weight, x2)
        return out if self.bias is None else out + self.bias

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class Identity(Module):
    """out = x, whatever the arguments of the constructor: a place holder."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def forward(self, x: Any) -> Any:
        return x


class Flatten(Module):
    """Axes `start_dim` to `end_dim` as one.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.Flatten()(np.ones((5, 3, 2, 2))).shape
    (5, 12)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: TensorLike) -> Tensor:
        return ops.flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Axis `dim` as several of the shape `unflattened_size`.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.Unflatten(1, (3, 4))(np.ones((5, 12))).shape
    (5, 3, 4)
    """

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]) -> None:
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, x: TensorLike) -> Tensor:
        x = lifted(x)
        if not -x.ndim <= self.dim < x.ndim:
            raise ValueError(f"Unflatten: dim={self.dim} is out of range for an input of shape {x.shape}")
        at = self.dim % x.ndim
        return ops.reshape(x, (*x.shape[:at], *self.unflattened_size, *x.shape[at + 1 :]))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
