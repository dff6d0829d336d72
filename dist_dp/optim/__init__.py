"""Optimizers on flat buffers, learning-rate schedules and clipping."""

from .adagrad import Adagrad
from .adam import Adam, AdamW
from .clip import clip_grad_norm_, clip_grad_value_
from .flat import Flat, GradientBuffer
from .lamb import LAMB
from .lion import Lion
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .schedule import (
    Constant,
    Cosine,
    ExponentialDecay,
    LinearDecay,
    MultiStepDecay,
    OneCycle,
    Plateau,
    Schedule,
    StepDecay,
    Warmup,
)
from .sgd import SGD

__all__ = [
    "LAMB",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "ExponentialDecay",
    "Flat",
    "GradientBuffer",
    "LinearDecay",
    "Lion",
    "MultiStepDecay",
    "OneCycle",
    "Optimizer",
    "Plateau",
    "RMSprop",
    "Schedule",
    "StepDecay",
    "Warmup",
    "clip_grad_norm_",
    "clip_grad_value_",
]
