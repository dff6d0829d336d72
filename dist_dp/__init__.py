"""dist_dp: differentiable programs, trained data-parallel; one run, one answer."""

from ._version import __version__
from .tape import enable_grad, is_grad_enabled, no_grad
from .tensor import Tensor

__all__ = ["Tensor", "__version__", "enable_grad", "is_grad_enabled", "no_grad"]
