"""Faults at drawn places of a drawn program, in clusters of up to 64 workers: whoever comes to the end applied the ops
of the undisturbed program, each once."""

from __future__ import annotations

import pytest
from coordinator.simulated import PHASES, Cluster, Fault
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def clusters(draw: st.DrawFn, most: int, kinds: tuple[str, ...], faults: int = 6) -> Cluster:
    workers = draw(st.integers(1, most))
    program = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    session = draw(st.shared(st.just(st.integers(0, len(program) - 1))))
    fault = st.builds(
        Fault,
        st.sampled_from(kinds),
        st.integers(0, workers - 1),
        session,
        st.integers(-1, max(program)),
        st.sampled_from(PHASES),
    )
    return Cluster(
        workers,
        program,
        seed=draw(st.integers(0, 2**32)),
        faults=draw(st.lists(fault, max_size=faults)),
        infectious=draw(st.booleans()),
        delays=draw(st.lists(st.sampled_from([0.0, 0.3, 3.0, 20.0]), max_size=2 * workers)),
    )


def check_survivors(cluster: Cluster) -> None:
    over = cluster.run()
    assert over.code == 0
    assert cluster.finished
    # Each fault that landed ended one process. The only others that ended early are replacements nobody needed.
    deadly = [fault for fault in cluster.landed if fault.kind not in ("slow", "break")]
    assert cluster.deaths == len(deadly) + cluster.needless
    assert len(cluster.finished) <= cluster.size


@settings(max_examples=300, deadline=None)
@given(clusters(most=6, kinds=("die",)))
def test_a_run_survives_deaths_in_any_phase(cluster: Cluster) -> None:
    check_survivors(cluster)
    assert cluster.now <= sum(delay + cluster.limits.heartbeat for delay in cluster.all_delays if delay), (
        "nobody waits for a time to be up"
    )


@settings(max_examples=200, deadline=None)
@given(clusters(most=5, kinds=("die", "stall", "hang")))
def test_a_run_survives_stops_and_hangs(cluster: Cluster) -> None:
    check_survivors(cluster)


@settings(max_examples=100, deadline=None)
@given(clusters(most=4, kinds=("die", "break", "slow")))
def test_a_run_survives_groups_that_break_by_themselves(cluster: Cluster) -> None:
    check_survivors(cluster)


@settings(max_examples=12, deadline=None)
@given(clusters(most=64, kinds=("die", "stall"), faults=40))
def test_a_large_cluster_survives(cluster: Cluster) -> None:
    check_survivors(cluster)


@settings(max_examples=100, deadline=None)
@given(clusters(most=5, kinds=("die", "raise", "raise")))
def test_the_first_failure_ends_everybody_with_its_report(cluster: Cluster) -> None:
    over = cluster.run()
    raised = [fault.worker for fault in cluster.landed if fault.kind == "raise"]
    assert (over.code == 1) == bool(over.report)
    if over.code:
        assert over.report["message"] in {f"of worker {worker}" for worker in raised}
    assert bool(raised) or over.code == 0


@settings(max_examples=100, deadline=None)
@given(clusters(most=5, kinds=("die", "stall")), st.integers(0, 300), st.integers(0, 5))
def test_a_request_to_stop_ends_everybody(cluster: Cluster, turns: int, stubborn: int) -> None:
    for _ in range(turns):
        if cluster.over is None:
            cluster.turn()
    for process in list(cluster.processes.values())[:stubborn]:
        process.stubborn = True
    asked, ended = cluster.now, cluster.over
    cluster.stop()
    over = cluster.run()
    assert over.code == 130 or over is ended
    assert cluster.now <= asked + cluster.limits.grace + 0.1


@settings(max_examples=60, deadline=None)
@given(
    workers=st.integers(2, 6),
    lost=st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 3), st.sampled_from(PHASES)), max_size=4),
    seed=st.integers(0, 2**32),
    infectious=st.booleans(),
)
def test_every_replacement_comes_in(
    workers: int, lost: list[tuple[int, int, str]], seed: int, infectious: bool
) -> None:
    faults = [Fault("die", worker % workers, 0, op, phase) for worker, op, phase in lost]
    cluster = Cluster(workers, [4, 150], seed=seed, faults=faults, infectious=infectious)
    assert cluster.run().code == 0
    assert sorted(cluster.finished) == list(range(workers))
    assert cluster.forms[-1].members == tuple(range(workers))
    assert sum(cluster.starts.values()) == workers + len(cluster.landed) == workers + cluster.deaths


@pytest.mark.parametrize(
    ("phase", "positions"),
    # Where the survivors of a death at (0, 3) in this phase go on, over many orders of events.
    {
        "join": {2, 3},
        "compute": {2, 3},
        "exchange": {3},
        "held": {3, 4},
        "agreed": {3, 4},
        "applied": {2, 3},
    }.items(),
)
def test_only_the_op_in_flight_is_done_again(phase: str, positions: set[int]) -> None:
    seen, apart = set[int](), 0
    for seed in range(60):
        cluster = Cluster(3, [6], seed=seed, faults=[Fault("die", 1, 0, 3, phase)])
        assert cluster.run().code == 0
        assert len(cluster.landed) == 1
        apart += cluster.apart
        seen.add(cluster.forms[1].position.op)
    assert seen <= positions
    assert apart > 0, "in some runs one survivor returned from an op, the other did not"


def test_survivors_of_the_last_op_of_a_session_finish_it_alone() -> None:
    past = 0
    for seed in range(60):
        cluster = Cluster(3, [2, 3], seed=seed, faults=[Fault("die", 1, 0, 1, "agreed")])
        check_survivors(cluster)
        assert len(cluster.landed) == 1
        past += any(form.position.session == 1 and len(form.members) == 1 for form in cluster.forms)
    assert past > 0
