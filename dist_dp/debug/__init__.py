"""Looking into a differentiable program: are its gradients right, and where did a NaN come from."""

from .gradcheck import GradientMismatch, gradcheck

__all__ = ["GradientMismatch", "gradcheck"]
