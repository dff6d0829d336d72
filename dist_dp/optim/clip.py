"""Norms of gradients, and clipping by them.

Sums of squares are taken in float64 over blocks within each parameter and then added exactly, so that a norm depends on
the gradients alone and not on how parameters are grouped or laid out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..tape import Array, no_grad, writes
from ..tensor import Tensor
from .hyperparameters import number

# Elements that one dot product sums. Part of the order of additions, and so of the result; below the 10,000 from which
# OpenBLAS would cut a dot product into threads.
NORM_BLOCK = 1 << 13


def square_sum(block: Array) -> float:
    """The sum of squares of a 1-D array of at most NORM_BLOCK elements, in float64."""
    wide = block.astype(np.float64, copy=False)
    return float(wide.dot(wide))


def global_norm(arrays: Iterable[Array], norm_type: float = 2.0) -> float:
    """The norm of all elements of `arrays` as one vector: (sum |x|^n)^(1/n), or max |x| for n = inf.

    >>> import numpy as np
    >>> global_norm([np.float32([3.0]), np.float32([[0.0, 4.0]])])
    5.0
    """
    flat = [array.reshape(-1) for array in arrays]
    if norm_type == math.inf:
        return float(np.max([np.abs(a).max() for a in flat if a.size], initial=0.0))
    blocks = (a[lo : lo + NORM_BLOCK] for a in flat for lo in range(0, a.size, NORM_BLOCK))
    if norm_type == 2:
        return math.sqrt(math.fsum(map(square_sum, blocks)))
    total = math.fsum(float(np.sum(np.abs(b.astype(np.float64)) ** norm_type)) for b in blocks)
    return float(total ** (1 / norm_type))


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> float:
    """Scale all gradients by max_norm / (norm + 1e-6) if that is less than 1 (Pascanu et al. 2013); torch's function.

    Args:
        parameters: a tensor or several; those without a gradient are passed over.
        max_norm: the largest norm allowed for all gradients together.
        norm_type: n of the norm (sum |g|^n)^(1/n); `math.inf` for the largest magnitude.

    Returns:
        The norm before clipping.

    Raises:
        TypeError: something that is not a tensor. ValueError: a negative max_norm, or a norm_type that is not positive.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> optim.clip_grad_norm_([w], max_norm=1.0)
    10.0
    >>> w.grad.numpy().round(4)
    array([0.6, 0.8], dtype=float32)
    """
    limit = number("max_norm", max_norm)
    order = number("norm_type", norm_type, above=True, most=True)
    grads = _gradients(parameters)
    with np.errstate(all="ignore"), no_grad():  # a norm of inf or NaN makes NaN of the gradients, as in torch
        norm = global_norm([g.data for g in grads], order)
        scale = limit / (norm + 1e-6)
        if not scale >= 1:
            for g in grads:
                g.mul_(scale)
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clip every element of the gradients to [-clip_value, clip_value]; torch's function.

    Raises:
        TypeError: something that is not a tensor. ValueError: a negative clip_value.

    >>> import dist_dp as dp
    >>> from dist_dp import optim
    >>> w = dp.tensor([3.0, 4.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> optim.clip_grad_value_([w], 7.0)
    >>> w.grad
    tensor([6., 7.])
    """
    limit = number("clip_value", clip_value)
    for g in _gradients(parameters):
        np.clip(g.data, -limit, limit, out=g.data)
        writes.note(g.data, "clip_grad_value_")


def _gradients(parameters: Any) -> list[Tensor]:
    if not isinstance(parameters, Iterable):
        advice = "; pass model.parameters()" if hasattr(parameters, "parameters") else ""
        raise TypeError(
            f"parameters must be a tensor or an iterable of them, got {type(parameters).__name__}{advice}"
        )
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for p in tensors:
        if not isinstance(p, Tensor):
            raise TypeError(f"parameters must be tensors, got {type(p).__name__}")
    return [p.grad for p in tensors if p.grad is not None]
