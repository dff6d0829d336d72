"""Small operations and chains of them, where the time is overhead: recorded forward, and forward with backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

import dist_dp as dp

from .pairs import Pair, compare, python_calls
from .tables import Settings, reached, table

GOAL = 1.5  # of chains, with backward


def polynomial(x: Any, y: Any) -> Any:
    """Horner's scheme, of degree 8."""
    for _ in range(8):
        y = y * x + 0.5
    return y


def recurrence(x: Any, y: Any) -> Any:
    """A recurrent network, eight steps."""
    h = x
    for _ in range(8):
        h = (h @ y + x).tanh()
    return h


def by_hand(x: Any, y: Any) -> Any:
    """A softmax, and the cross-entropy of it and another."""
    e, f = x.exp(), y.exp()
    p, q = e / e.sum(), f / f.sum()
    return -(p * q.log()).sum()


def rows(x: Any, y: Any) -> Any:
    """Sums over the rows of a matrix, one by one."""
    total = y[0]
    for i in range(4):
        total = total + x[i] * y[i]
    return total


# what is done by chains, how many operations that are, and how
CHAINS: list[tuple[str, int, Callable[..., Any]]] = [
    ("a polynomial of degree 8", 16, polynomial),
    ("a recurrent network, 8 steps", 24, recurrence),
    ("softmax and cross-entropy by hand", 10, by_hand),
    ("rows of a matrix, one by one", 13, rows),
]

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


def lines(settings: Settings) -> Iterator[str]:
    yield "\n## Small operations\n"
    yield "4 × 4 float64, recorded. Overhead is our forward time less NumPy's own call; calls are the Python functions"
    yield "that are entered.\n"
    forward = "operation", "NumPy alone µs", "forward µs", "overhead µs", "calls", "torch µs", "ratio"
    yield from table((*forward, "with backward µs", "calls", "torch µs", "ratio"), _operations(settings))
    yield "\n## Chains of small operations\n"
    yield f"The same, with many operations behind each other. Goal: {GOAL}, with backward.\n"
    head = (
        "chain",
        "operations",
        "forward µs",
        "torch µs",
        "ratio",
        "with backward µs",
        "torch µs",
        "ratio",
        "goal",
    )
    yield from table(head, _chains(settings))


class Both(NamedTuple):
    """The figures of an operation, with ours and torch's: forward alone, and with backward."""

    forward: Pair
    backward: Pair
    done: Any  # our result
    seed: Any  # our gradient of it


def _both(ours: Callable[..., Any], theirs: Callable[..., Any], settings: Settings) -> Both:
    a, b = _operands()
    x, y = (dp.tensor(v, requires_grad=True) for v in (a, b))
    xt, yt = (torch.tensor(v, requires_grad=True) for v in (a, b))
    done = ours(x, y)
    seed, seed_t = np.ones(done.shape), torch.ones(done.shape, dtype=torch.float64)
    seconds = settings.seconds / 5  # thousands of calls as it is
    return Both(
        compare(lambda: ours(x, y), lambda: theirs(xt, yt), settings.rounds, seconds),
        compare(
            lambda: ours(x, y).backward(seed),
            lambda: theirs(xt, yt).backward(seed_t),
            settings.rounds,
            seconds,
        ),
        done,
        seed,
    )


def _operands() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, 4)), rng.normal(size=(4, 4))


def _operations(settings: Settings) -> Iterator[tuple[object, ...]]:
    a, b = _operands()
    x, y = (dp.tensor(v, requires_grad=True) for v in (a, b))
    for name, ours, theirs, plain in CASES:
        forward, both, done, seed = _both(ours, theirs, settings)
        bare = compare(lambda op=plain: op(a, b), lambda: None, 3, settings.seconds / 5).ours
        calls = python_calls(lambda op=ours: op(x, y)) - 1  # the lambda of the table
        calls_backward = python_calls(lambda d=done, g=seed: d.backward(g, retain_graph=True))
        yield (
            *(f"`{name}`", micro(bare), micro(forward.ours), micro(forward.ours - bare)),
            *(calls, micro(forward.theirs), f"{forward.ratio:.2f}"),
            *(micro(both.ours), calls_backward, micro(both.theirs), f"{both.ratio:.2f}"),
        )


def _chains(settings: Settings) -> Iterator[tuple[object, ...]]:
    for name, operations, chain in CHAINS:
        forward, both, *_ = _both(chain, chain, settings)
        yield (
            *(name, operations, micro(forward.ours), micro(forward.theirs), forward),
            *(micro(both.ours), micro(both.theirs), both, reached(both.ratio, GOAL)),
        )


def micro(seconds: float) -> str:
    return f"{seconds * 1e6:.2f}"
