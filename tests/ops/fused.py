"""What the tests of fused operations share: a fused operation against its own composition."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dist_dp.backward import backward
from dist_dp.tensor import Tensor


def leaf(x: Any) -> Tensor:
    return Tensor(np.array(x), requires_grad=True)


def agree(fn: Callable[..., Any], *arrays: Any, rtol: float = 1e-10) -> None:
    """Values and first gradients of `fn`, whose result is one recorded fused operation, equal its composition's.

    The gradients with `create_graph` go through the composition.
    """
    inputs = [leaf(x) for x in arrays]
    outs = fn(*inputs)
    outs = outs if isinstance(outs, tuple) else (outs,)
    random = np.random.default_rng(0)
    gs = [random.normal(size=o.shape).astype(o.dtype) for o in outs]
    targets = [x.node for x in inputs]
    roots = [o.node for o in outs]
    fused = backward(list(zip(roots, gs, strict=True)), targets=targets, retain_graph=True)
    recorded = backward(
        [(node, Tensor(g)) for node, g in zip(roots, gs, strict=True)], targets=targets, create_graph=True
    )
    for array, a, b in zip(arrays, fused, recorded, strict=True):
        assert a.dtype == array.dtype and a.shape == array.shape
        np.testing.assert_allclose(a, b.data, rtol=rtol, atol=rtol * max(1.0, np.abs(b.data).max(initial=0)))
