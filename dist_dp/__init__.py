"""dist_dp: differentiable programs, trained data-parallel; one run, one answer."""

from typing import TYPE_CHECKING, Any

from runtime.allocator import keep_freed_memory

from . import data, debug, nn, numpy, optim, random
from ._version import __version__
from .batching import Ragged, batched, cell, explain_batching
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
from .ops.create import as_tensor, tensor
from .profiling import Profile, profile
from .random import seed
from .tape import enable_grad, is_grad_enabled, no_grad
from .tensor import Tensor
from .train import LocalSGD, NonFiniteLoss, Result, RunMismatch, Shard, evaluate, fit, group, steps

if TYPE_CHECKING:
    from runtime.hosts.shipped import launch

keep_freed_memory()


def __getattr__(name: str) -> Any:
    """What few programs use and takes a while to import."""
    if name == "launch":
        from runtime.hosts.shipped import launch

        return launch
    raise AttributeError(f"module 'dist_dp' has no attribute {name!r}")


__all__ = [
    "LocalSGD",
    "NonFiniteLoss",
    "Profile",
    "Ragged",
    "Result",
    "RunMismatch",
    "Shard",
    "Tensor",
    "__version__",
    "as_tensor",
    "batched",
    "cell",
    "checkpoint",
    "custom_vjp",
    "data",
    "debug",
    "enable_grad",
    "evaluate",
    "explain_batching",
    "fit",
    "grad",
    "group",
    "hessian",
    "hvp",
    "is_grad_enabled",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "launch",
    "linearize",
    "nn",
    "no_grad",
    "numpy",
    "optim",
    "profile",
    "random",
    "seed",
    "steps",
    "stop_gradient",
    "tensor",
    "value_and_grad",
    "vjp",
    "vmap",
]
