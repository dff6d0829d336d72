"""Every law of the operations is tried with the compiled kernels and without."""

from __future__ import annotations

from typing import Any

import pytest

from dist_dp import kernels

_CHOICES = [None] if kernels.compiled is None else [kernels.compiled, None]


@pytest.fixture(
    autouse=True,
    params=_CHOICES,
    ids=lambda choice: "numpy" if choice is None else "compiled",
    scope="module",
)
def _kernels(request: pytest.FixtureRequest) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compiled", request.param)
        yield
