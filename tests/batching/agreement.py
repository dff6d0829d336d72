"""What every batched program is compared with: itself, one example after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import dist_dp as dp
from dist_dp.random import Key, scope


def agree(fun: Callable[[Any], Any], examples: Sequence[Any], *leaves: Any) -> list[int]:
    """Batched equals one by one, to the sign of a zero, in the results and the gradients of `leaves`; the sizes of the
    batches without a limit."""
    found = []
    for options in ({"enabled": False}, {"max_batch": 2}, {"max_batch": 1}, {"wave": 2}, {}):
        for leaf in leaves:
            leaf.grad = None
        with scope(Key(5)):
            out = dp.batched(fun, examples, **options)
        if leaves:
            (out * np.cos(np.arange(out.size).reshape(out.shape))).sum().backward()
        found.append([out.data, *[leaf.grad.data for leaf in leaves]])
    for run in found[1:]:
        for expected, got in zip(found[0], run, strict=True):
            assert got.dtype == expected.dtype
            close = {"rtol": 1e-5, "atol": 1e-5} if got.dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-12}
            np.testing.assert_allclose(got, expected, **close)
            assert (np.signbit(got) == np.signbit(expected))[expected == 0].all()
    return [size for sizes in dp.explain_batching().batches.values() for size in sizes]
