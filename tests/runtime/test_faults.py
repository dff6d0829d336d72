"""Orders of faults: each strikes once in a run, whoever reads the plan anew, and is noted before it strikes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import faults
from runtime.faults import PHASES, STEP_PHASES, Fault, FaultPlan, Ordered, drawn


def test_a_fault_strikes_once_though_the_plan_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    ordered = [Fault(1, "shard", 3, "raise", shard=2), Fault(1, "shard", 3, "raise")]
    plan = FaultPlan.order(path, ordered)
    plan.strike(0, "shard", 3, 2)  # another worker
    plan.strike(1, "apply", 3)  # another phase
    plan.strike(1, "shard", 2, 2)  # an earlier step
    assert plan.landed() == []
    with pytest.raises(Ordered, match="worker 1, shard, step 3"):
        plan.strike(1, "shard", 4, 0)  # the second: any shard, the first step after it that comes
    assert plan.landed() == [ordered[1]], "noted before it struck"
    again = FaultPlan(path)
    again.strike(1, "shard", 4, 1)
    with pytest.raises(Ordered):
        again.strike(1, "shard", 4, 2)
    FaultPlan(path).strike(1, "shard", 5, 2)
    assert again.landed() == [ordered[1], ordered[0]]
    assert all(" step 4 process " in line for line in again.landed_lines())
    assert FaultPlan.order(path, ordered).landed() == [], "a plan that is written anew has not struck"


def test_without_a_plan_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(faults.FAULTS, raising=False)
    faults._plan.cache_clear()
    for phase in PHASES:
        assert faults.here(phase, 0, 0) is None
    faults._plan.cache_clear()


def test_a_full_disk_tears_one_file_and_there_is_room_again(tmp_path: Path) -> None:
    plan = FaultPlan.order(tmp_path / "plan.json", [Fault(0, "checkpoint", 0, "disk-full")])
    plan.strike(0, "checkpoint", 0)
    with pytest.raises(OSError) as raised, open(tmp_path / "file", "wb", buffering=0) as file:
        for _ in range(100):
            file.write(b"ten bytes\n")
    assert raised.value.errno == errno.EFBIG
    assert 0 < (tmp_path / "file").stat().st_size < 1000
    assert (tmp_path / "next").write_bytes(bytes(1000)) == 1000


@given(st.integers(), st.integers(1, 6), st.integers(1, 100), st.integers(0, 10))
def test_faults_that_are_drawn_lie_in_the_run(seed: int, workers: int, steps: int, count: int) -> None:
    found = drawn(seed, workers, steps, count)
    assert len(found) == count and found == drawn(seed, workers, steps, count)
    assert all(0 <= f.worker < workers and 0 <= f.step < steps and f.phase in STEP_PHASES for f in found)
    struck = [sum(f.worker == worker for f in found) for worker in range(workers)]
    assert max(struck) - min(struck) <= 1, "spread over the workers"


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"phase": "lunch"}, "phase must be one of shard"),
        ({"action": "tickle"}, "action must be one of kill"),
    ],
)
def test_what_cannot_be_ordered(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fault(**{"worker": 0, "phase": "shard", "step": 0, **wrong})  # type: ignore[arg-type]
