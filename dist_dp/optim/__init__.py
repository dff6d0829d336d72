"""Optimizers on flat buffers, learning-rate schedules and clipping."""

from .adam import Adam, AdamW
from .flat import Flat, GradientBuffer
from .optimizer import Optimizer
from .schedule import Schedule

__all__ = ["Adam", "AdamW", "Flat", "GradientBuffer", "Optimizer", "Schedule"]
