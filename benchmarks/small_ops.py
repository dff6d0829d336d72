"""Small operations, where the time is overhead: 4 x 4 float64, recorded forward, and forward with backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

import dist_dp as dp

from .pairs import Pair, compare, python_calls

# name, the operation on dist_dp tensors, on torch tensors, and on arrays
CASES: list[tuple[str, Callable[..., Any], Callable[..., Any], Callable[..., Any]]] = [
    ("x * y", lambda x, y: x * y, lambda x, y: x * y, lambda x, y: x * y),
    ("x + y", lambda x, y: x + y, lambda x, y: x + y, lambda x, y: x + y),
    ("x * 2.0", lambda x, y: x * 2.0, lambda x, y: x * 2.0, lambda x, y: x * 2.0),
    ("exp(x)", lambda x, y: x.exp(), lambda x, y: x.exp(), lambda x, y: np.exp(x)),
    ("x @ y", lambda x, y: x @ y, lambda x, y: x @ y, lambda x, y: x @ y),
    ("x.sum()", lambda x, y: x.sum(), lambda x, y: x.sum(), lambda x, y: x.sum()),
    ("x[1]", lambda x, y: x[1], lambda x, y: x[1], lambda x, y: x[1]),
    (
        "x.reshape(2, 8)",
        lambda x, y: x.reshape(2, 8),
        lambda x, y: x.reshape(2, 8),
        lambda x, y: x.reshape(2, 8),
    ),
    (
        "concatenate([x, y])",
        lambda x, y: dp.numpy.concatenate([x, y]),
        lambda x, y: torch.cat([x, y]),
        lambda x, y: np.concatenate([x, y]),
    ),
]


class Row(NamedTuple):
    """Figures of one operation; `bare` is NumPy's own call, in seconds, `calls` are Python calls."""

    name: str
    bare: float
    forward: Pair
    both: Pair
    forward_calls: int
    backward_calls: int


def measure(rounds: int) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    x, y = (dp.tensor(v, requires_grad=True) for v in (a, b))
    xt, yt = (torch.tensor(v, requires_grad=True) for v in (a, b))
    for name, ours, theirs, plain in CASES:
        out = ours(x, y)
        seed, seed_t = np.ones(out.shape), torch.ones(out.shape, dtype=torch.float64)

        def both(op: Any = ours, g: Any = seed) -> None:
            op(x, y).backward(g)

        def both_t(op: Any = theirs, g: Any = seed_t) -> None:
            op(xt, yt).backward(g)

        forward = compare(lambda op=ours: op(x, y), lambda op=theirs: op(xt, yt), rounds, 0.02)
        bare = compare(lambda op=plain: op(a, b), lambda: None, 3, 0.02).ours
        done = ours(x, y)
        backward_calls = python_calls(lambda d=done, g=seed: d.backward(g, retain_graph=True))
        forward_calls = python_calls(lambda op=ours: op(x, y)) - 1  # the lambda of the table
        yield Row(name, bare, forward, compare(both, both_t, rounds, 0.02), forward_calls, backward_calls)
