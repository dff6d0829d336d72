"""x weightᵀ for few rows, which is computed by another product than for many."""

from __future__ import annotations

import numpy as np
import pytest

from dist_dp.ops.affine import rows_times


@pytest.mark.parametrize("rows", [0, 1, 2, 12, 13, 32, 33])
@pytest.mark.parametrize("features", [7, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_rows_give_the_same_as_many(rows: int, features: int, dtype: type) -> None:
    rng = np.random.default_rng(rows)
    x, weight = (rng.normal(size=(n, features)).astype(dtype) for n in (rows, 100))
    for left in (x, np.asfortranarray(x), np.repeat(x, 2, 0)[::2]):
        out = rows_times(left, weight)
        assert out.dtype == dtype and out.shape == (rows, 100) and out.flags.c_contiguous
        np.testing.assert_allclose(out, x @ weight.T, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            rows_times(left, weight, weight[:, 0]), out + weight[:, 0], rtol=0, atol=1e-5
        )
