"""Initialisers: overwrite a tensor with a first value, under torch's names (`nn.init`).

Each returns the tensor it was given, writes in place outside the tape, and draws from the current scope of
`dist_dp.random` unless a stream is given, so a model is a function of the seed and of the order of its
layers.

The scale of a layer follows from its fans: fan_in, the number of inputs that reach one output, and fan_out,
the number of outputs that one input reaches. For a weight (out, in, *kernel): fan_in = in * prod(kernel),
fan_out = out * prod(kernel).
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from .. import random
from ..random import Stream
from ..tape import writes
from ..tensor import Tensor

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

T = TypeVar("T", bound=Tensor)
FanMode = Literal["fan_in", "fan_out"]

_GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv_transpose1d": 1.0,
    "conv_transpose2d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


def _write(tensor: T, values: ArrayLike) -> T:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"tensor must be a Tensor, got {type(tensor).__name__}")
    np.copyto(tensor.data, values, casting="same_kind")
    writes.note(tensor.data, "nn.init")
    return tensor


def _fans(tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise ValueError(f"tensor must have at least 2 axes (out, in, ...), got shape {tensor.shape}")
    kernel = math.prod(tensor.shape[2:])
    return tensor.shape[1] * kernel, tensor.shape[0] * kernel


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance of signals through a nonlinearity; `param` is the slope of a leaky
    ReLU (0.01).

    1 for linear, convolutions and sigmoid, 5/3 for tanh, √2 for relu, √(2 / (1 + slope²)) for leaky_relu, 3/4
    for selu.

    Raises:
        ValueError: another name.

    >>> round(calculate_gain("leaky_relu", 0.2), 4)
    1.3868
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity not in _GAINS:
        raise ValueError(f"nonlinearity must be one of {[*_GAINS, 'leaky_relu']}, got {nonlinearity!r}")
    return _GAINS[nonlinearity]


def uniform_(tensor: T, a: float = 0.0, b: float = 1.0, rng: Stream | None = None) -> T:
    """U(a, b).

    >>> from dist_dp import nn
    >>> w = nn.init.uniform_(nn.Parameter([0.0] * 100), -0.1, 0.1)
    >>> bool((abs(w.data) <= 0.1).all())
    True
    """
    return _write(tensor, (rng or random.current()).uniform(tensor.shape, tensor.dtype, low=a, high=b))


def normal_(tensor: T, mean: float = 0.0, std: float = 1.0, rng: Stream | None = None) -> T:
    """N(mean, std²)."""
    return _write(tensor, (rng or random.current()).normal(tensor.shape, tensor.dtype, mean=mean, std=std))


def trunc_normal_(
    tensor: T, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, rng: Stream | None = None
) -> T:
    """N(mean, std²) conditioned on [a, b]: values outside are drawn again.

    Raises:
        ValueError: std <= 0, or less than one draw in a thousand would lie in [a, b].
    """
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    low, high = (a - mean) / std, (b - mean) / std
    inside = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
    if inside < 1e-3:
        raise ValueError(f"[a, b] must hold a part of N({mean}, {std}²) worth drawing from, got [{a}, {b}]")
    generator = (rng or random.current()).next_key().generator()
    values = generator.standard_normal(tensor.shape)
    while (outside := (values < low) | (values > high)).any():
        values[outside] = generator.standard_normal(int(outside.sum()))
    return _write(tensor, np.clip((values * std + mean).astype(tensor.dtype), a, b))


def constant_(tensor: T, val: float) -> T:
    """`val` everywhere."""
    return _write(tensor, np.asarray(val, tensor.dtype))


def ones_(tensor: T) -> T:
    """1 everywhere."""
    return constant_(tensor, 1.0)


def zeros_(tensor: T) -> T:
    """0 everywhere."""
    return constant_(tensor, 0.0)


def eye_(tensor: T) -> T:
    """The identity matrix, also for a matrix that is not square. Raises ValueError unless there are 2
    axes.
    """
    if tensor.ndim != 2:
        raise ValueError(f"tensor must have 2 axes, got shape {tensor.shape}")
    return _write(tensor, np.eye(*tensor.shape, dtype=tensor.dtype))


def dirac_(tensor: T) -> T:
    """The convolution that returns its input: 1 at the centre of the kernel where in- and output channel are
    the same.

    Raises:
        ValueError: not a convolution weight (out, in, *kernel) of 3 to 5 axes.
    """
    if not 3 <= tensor.ndim <= 5:
        raise ValueError(f"tensor must have 3 to 5 axes (out, in, *kernel), got shape {tensor.shape}")
    values = np.zeros(tensor.shape, tensor.dtype)
    centre = tuple(n // 2 for n in tensor.shape[2:])
    for channel in range(min(tensor.shape[:2])):
        values[(channel, channel, *centre)] = 1
    return _write(tensor, values)


def xavier_uniform_(tensor: T, gain: float = 1.0, rng: Stream | None = None) -> T:
    """U(-a, a) with a = gain √(6 / (fan_in + fan_out)): Glorot and Bengio 2010, eq. 16.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> w = nn.init.xavier_uniform_(nn.Parameter(np.zeros((30, 70), np.float32)))
    >>> bool(abs(w.data).max() <= (6 / 100) ** 0.5)
    True
    """
    bound = gain * math.sqrt(6.0 / sum(_fans(tensor)))
    return uniform_(tensor, -bound, bound, rng)


def xavier_normal_(tensor: T, gain: float = 1.0, rng: Stream | None = None) -> T:
    """N(0, gain² · 2 / (fan_in + fan_out)): Glorot and Bengio 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_fans(tensor))), rng)


def _kaiming_std(tensor: Tensor, a: float, mode: FanMode, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = _fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: T,
    a: float = 0.0,
    mode: FanMode = "fan_in",
    nonlinearity: str = "leaky_relu",
    rng: Stream | None = None,
) -> T:
    """U(-b, b) with b = gain √(3 / fan): He, Zhang, Ren, Sun 2015, eq. 10; `a` is the slope of the leaky
    ReLU.
    """
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, rng)


def kaiming_normal_(
    tensor: T,
    a: float = 0.0,
    mode: FanMode = "fan_in",
    nonlinearity: str = "leaky_relu",
    rng: Stream | None = None,
) -> T:
    """N(0, gain² / fan): He, Zhang, Ren, Sun 2015, eq. 10; `a` is the slope of the leaky ReLU."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), rng)


def orthogonal_(tensor: T, gain: float = 1.0, rng: Stream | None = None) -> T:
    """`gain` times a (semi-)orthogonal matrix, all axes but the first counted as columns: Saxe et al. 2013.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> w = nn.init.orthogonal_(nn.Parameter(np.zeros((3, 5)))).data
    >>> bool(np.allclose(w @ w.T, np.eye(3)))
    True
    """
    if tensor.ndim < 2:
        raise ValueError(f"tensor must have at least 2 axes, got shape {tensor.shape}")
    rows = tensor.shape[0]
    columns = math.prod(tensor.shape[1:])
    drawn: Any = (rng or random.current()).normal((max(rows, columns), min(rows, columns)), np.float64)
    q, r = np.linalg.qr(drawn)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # without it Q is not uniform over the orthogonal matrices
    q = q if rows >= columns else q.T
    return _write(tensor, (gain * q).reshape(tensor.shape).astype(tensor.dtype))
