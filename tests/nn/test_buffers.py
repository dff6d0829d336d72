"""Buffers change by proposal: at once outside a collector, with the step inside one."""

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_dp import nn


def _norm() -> Any:
    return nn.BatchNorm1d(2)


def test_without_a_collector_a_proposal_is_the_new_value() -> None:
    norm = _norm()
    norm.propose_buffer("running_mean", np.array([1.0, 2.0]), weight=5)
    assert norm.running_mean.tolist() == [1.0, 2.0]
    assert norm.running_mean.dtype == np.float32


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 8)), min_size=1, max_size=6),
    st.integers(0, 5),
)
def test_proposals_fold_to_their_weighted_mean_however_they_are_grouped(
    proposals: list[tuple[int, int]], cut: int
) -> None:
    norm = _norm()
    collected = []
    for part in (proposals[:cut], proposals[cut:]):
        with nn.buffer_proposals() as collector:
            for value, weight in part:
                norm.propose_buffer("running_mean", np.array([value, -value]), weight)
        collected.append(collector)
    assert norm.running_mean.tolist() == [0.0, 0.0]
    whole = nn.BufferProposals()
    sums = [c.sums[norm.running_mean] for c in collected if c.sums]
    whole.sums[norm.running_mean] = (sum(s[0] for s in sums), sum(s[1] for s in sums))  # type: ignore[assignment]
    whole.commit()
    expected = sum(v * w for v, w in proposals) / sum(w for _, w in proposals)
    np.testing.assert_allclose(norm.running_mean.data, [expected, -expected], rtol=1e-6, atol=1e-6)


def test_a_step_in_shards_moves_the_statistics_as_the_mean_of_the_shards() -> None:
    rng = np.random.default_rng(0)
    shards = [rng.normal(size=(n, 2)) for n in (3, 5, 2)]
    norm = nn.BatchNorm1d(2, momentum=0.25, dtype=np.float64)
    norm.running_mean = nn.Buffer(np.array([1.0, -1.0]))
    with nn.buffer_proposals() as collector:
        for shard in shards:
            norm(shard)
            assert norm.running_mean.tolist() == [1.0, -1.0]
    collector.commit()
    every = np.concatenate(shards)
    np.testing.assert_allclose(norm.running_mean.data, 0.75 * np.array([1, -1]) + 0.25 * every.mean(0))
    unbiased = sum(len(s) * s.var(0, ddof=1) for s in shards) / len(every)
    np.testing.assert_allclose(norm.running_var.data, 0.75 + 0.25 * unbiased)  # type: ignore[union-attr]
    assert norm.num_batches_tracked.item() == 1  # type: ignore[union-attr]


def test_counters_come_back_exact() -> None:
    module = nn.Module()
    module.count = nn.Buffer(np.array(2**53 // 1000, np.int64))
    with nn.buffer_proposals() as collector:
        for weight in (0.1, 0.7, 0.3):  # whose sums are rounded
            module.propose_buffer("count", module.count.item() + 1, weight)
    collector.commit()
    assert module.count.item() == 2**53 // 1000 + 1


def test_collectors_nest_and_belong_to_their_thread() -> None:
    norm = _norm()
    with nn.buffer_proposals() as outer:
        with nn.buffer_proposals() as inner:
            norm.propose_buffer("running_mean", [1.0, 1.0])
        thread = threading.Thread(target=lambda: norm.propose_buffer("running_var", [3.0, 3.0]))
        thread.start()
        thread.join()
    assert list(inner.sums) == [norm.running_mean]
    assert not outer.sums
    assert norm.running_var.tolist() == [3.0, 3.0]


def test_assigning_an_array_keeps_a_buffer_and_is_refused_where_it_would_escape_the_step() -> None:
    module = nn.Module()
    module.register_buffer("mean", np.zeros(2), persistent=False)
    module.mean = np.ones(2)
    assert isinstance(module.mean, nn.Buffer)
    assert list(module.state_dict()) == []
    with nn.buffer_proposals(), pytest.raises(RuntimeError, match=r"call self.propose_buffer\('mean', value"):
        module.mean = module.mean + 1


def test_what_cannot_be_proposed() -> None:
    norm = _norm()
    with pytest.raises(KeyError, match="BatchNorm1d has no buffer 'mean'; it has"):
        norm.propose_buffer("mean", 1.0)
    with pytest.raises(ValueError, match=r"value must have the buffer's shape \(2,\), got \(3,\)"):
        norm.propose_buffer("running_mean", np.zeros(3))
    with pytest.raises(ValueError, match="weight must be positive, got 0"):
        norm.propose_buffer("running_mean", np.zeros(2), weight=0)
