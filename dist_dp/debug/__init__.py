"""Looking into a differentiable program: are its gradients right, and where did a NaN come from."""

from .anomaly import AnomalyError, anomaly
from .gradcheck import GradientMismatch, gradcheck

__all__ = ["AnomalyError", "GradientMismatch", "anomaly", "gradcheck"]
