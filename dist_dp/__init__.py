"""dist_dp: differentiable programs, trained data-parallel; one run, one answer."""

from . import debug, numpy
from ._version import __version__
from .functional import (
    checkpoint,
    custom_vjp,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacobian,
    jacrev,
    jvp,
    linearize,
    stop_gradient,
    value_and_grad,
    vjp,
    vmap,
)
from .tape import enable_grad, is_grad_enabled, no_grad
from .tensor import Tensor

__all__ = [
    "Tensor",
    "__version__",
    "checkpoint",
    "custom_vjp",
    "debug",
    "enable_grad",
    "grad",
    "hessian",
    "hvp",
    "is_grad_enabled",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "linearize",
    "no_grad",
    "numpy",
    "stop_gradient",
    "value_and_grad",
    "vjp",
    "vmap",
]
