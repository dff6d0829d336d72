"""The named methods of a tensor: one-line calls into `ops/`.

torch's names and NumPy's; `dim`/`keepdim` and `axis`/`keepdims` mean the same. Where torch and NumPy disagree about a
value, a method does what an ndarray's does (`std` and `var` divide by n, `repeat` repeats elements), except that the
keyword `dim` of `max`, `min` and `median` asks for torch's pair of values and indices.
"""

from __future__ import annotations

from typing import Any

from . import places, shapes, values
from .base import Extremum as Extremum
from .places import Places
from .shapes import Shapes
from .values import Values


class Methods(Values, Places, Shapes):
    """Base of `Tensor`: everything that has a name and is not stored."""

    __slots__ = ()


def bind(namespace: Any) -> None:
    """Give the methods the operations they call, once these are there (they make tensors, which have the methods)."""
    for module in (values, places, shapes):
        vars(module)["ops"] = namespace
    for name, operation in values.same_as.items():
        setattr(Methods, name, getattr(namespace, operation))
