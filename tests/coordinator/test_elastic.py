"""Room that comes and goes, drained workers, and a coordinator that is lost itself, at drawn moments: whoever comes to
the end applied the ops of the undisturbed program, each once. What every generation must be, the cluster checks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from coordinator.simulated import PHASES, Cluster, Fault, Turn
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.coordinator import Coordinator, End, Form, Invite, Limits, Over, Standing, Start
from runtime.member import Position


@st.composite
def clusters(
    draw: st.DrawFn,
    turns: Sequence[str],
    kinds: Sequence[str] = (),
    most: int = 5,
    least: int | None = None,
    losses: int = 10**6,
) -> Cluster:
    workers = draw(st.integers(1, most))
    program = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    drawn_turns = st.lists(
        st.builds(Turn, st.sampled_from(turns), st.integers(0, 400), st.integers(0, workers - 1)), max_size=8
    )
    faults: list[Fault] = []
    if kinds:
        fault = st.builds(
            Fault,
            st.sampled_from(kinds),
            st.integers(0, workers - 1),
            st.integers(0, len(program) - 1),
            st.integers(-1, max(program)),
            st.sampled_from(PHASES),
        )
        faults = draw(st.lists(fault, max_size=4))
    return Cluster(
        workers,
        program,
        seed=draw(st.integers(0, 2**32)),
        faults=faults,
        infectious=draw(st.booleans()),
        delays=draw(st.lists(st.sampled_from([0.0, 0.3, 3.0, 20.0]), max_size=2 * workers)),
        least=draw(st.integers(1, workers)) if least is None else least,
        turns=draw(drawn_turns),
        limits=Limits(losses=losses),
    )


def check(cluster: Cluster) -> None:
    assert cluster.run().code == 0
    assert cluster.finished


# --- room -------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(clusters(["room"], losses=2))
def test_room_that_goes_is_no_loss(cluster: Cluster) -> None:
    check(cluster)
    assert cluster.deaths == cluster.moved + cluster.needless


@settings(max_examples=100, deadline=None)
@given(clusters(["room", "drained"], ["die", "stall", "slow"]))
def test_a_run_survives_rooms_that_come_and_go_among_deaths(cluster: Cluster) -> None:
    check(cluster)


@settings(max_examples=25, deadline=None)
@given(
    workers=st.integers(1, 5),
    turns=st.lists(
        st.builds(
            Turn, st.sampled_from(["room", "drained", "coordinator"]), st.integers(0, 400), st.integers(0, 4)
        ),
        max_size=6,
    ),
    seed=st.integers(0, 2**32),
    infectious=st.booleans(),
)
def test_everybody_with_room_comes_in(workers: int, turns: list[Turn], seed: int, infectious: bool) -> None:
    cluster = Cluster(workers, [4, 150], seed=seed, turns=turns, infectious=infectious)
    check(cluster)
    assert sorted(cluster.finished) == list(range(workers))
    assert cluster.forms[-1].members == tuple(range(workers))


def test_it_waits_for_room_and_says_so() -> None:
    coordinator = Coordinator(3, least=2)
    assert coordinator.lacking == 2
    assert coordinator.room(1, 0.0) == [Start(1)] and coordinator.lacking == 1
    assert coordinator.ask(1, Position(0, -1), 0.1) == []
    assert coordinator.room(2, 0.2) == [Start(2)] and coordinator.lacking == 0
    (form,) = coordinator.ask(2, Position(0, -1), 0.3)
    assert isinstance(form, Form) and form.members == (1, 2)
    coordinator.lost(1, "its node is gone", 0.4, room=False)
    assert coordinator.lacking == 1 and coordinator.ask(2, Position(0, 7), 0.5) == []
    start, form = coordinator.room(0, 99.0)
    assert start == Start(0) and isinstance(form, Form) and form.members == (2,), "who comes later is invited"


def test_a_worker_may_take_long_to_start_while_that_is_known() -> None:
    coordinator = Coordinator(1)
    coordinator.room(0, 0.0)
    for now in range(1, 100):
        assert coordinator.pending(0, float(now)) == coordinator.tick(float(now)) == []
    coordinator.heartbeat(0, 0, False, 100.0)
    for now in range(101, 105):
        assert coordinator.pending(0, float(now)) == coordinator.tick(float(now)) == []
    assert coordinator.tick(105.0) == [End(0, "it said nothing for 5 s")]


# --- drained ----------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(clusters(["drained"], losses=1))
def test_a_drained_worker_costs_no_step_and_is_no_loss(cluster: Cluster) -> None:
    check(cluster)
    assert cluster.redone == 0 and not cluster.aborts
    assert cluster.deaths == cluster.moved + cluster.needless
    # Nobody begins a session anew that others had begun: the state is never lost.
    positions = [form.position for form in cluster.forms]
    assert positions == sorted(positions)


def test_drained_workers_go_in_the_midst_of_a_session() -> None:
    went = 0
    for seed in range(40):
        cluster = Cluster(3, [12], seed=seed, turns=[Turn("drained", 60, 1), Turn("drained", 60, 2)])
        check(cluster)
        assert cluster.redone == 0
        went += cluster.moved
    assert went > 60


def test_a_drained_worker_stays_until_another_has_its_state() -> None:
    coordinator = Coordinator(2)
    coordinator.room(0, 0.0)
    coordinator.ask(0, Position(0, -1), 0.1)
    assert coordinator.drain(0, "its node goes", 0.2) == [Invite((0,))]
    (form,) = coordinator.ask(0, Position(0, 1), 0.3)
    assert isinstance(form, Form) and form.members == (0,)
    coordinator.room(1, 0.4)
    assert coordinator.ask(1, Position(0, -1), 0.5) == [Invite((0,))]
    form, invite = coordinator.ask(0, Position(0, 2), 0.6)
    assert isinstance(form, Form) and form.members == (0, 1) and (form.donor, form.newcomers) == (0, {1})
    assert invite == Invite((0, 1))
    coordinator.ask(1, Position(0, 3), 0.7)
    end, form = coordinator.ask(0, Position(0, 3), 0.8)
    assert end.worker == 0 and isinstance(form, Form) and form.members == (1,)  # type: ignore[union-attr]


# --- the coordinator is lost ------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(clusters(["coordinator"]))
def test_a_run_survives_its_coordinator(cluster: Cluster) -> None:
    check(cluster)
    assert cluster.deaths == cluster.needless, "nobody is lost because of it"


@settings(max_examples=150, deadline=None)
@given(clusters(["coordinator", "coordinator", "room", "drained"], ["die", "stall", "hang", "break", "slow"]))
def test_a_run_survives_its_coordinator_among_all_else(cluster: Cluster) -> None:
    check(cluster)


@settings(max_examples=100, deadline=None)
@given(clusters(["coordinator", "room"]), st.integers(0, 300))
def test_a_request_to_stop_outlives_the_coordinator(cluster: Cluster, turns: int) -> None:
    for _ in range(turns):
        if cluster.over is None:
            cluster.turn()
    ended = cluster.over
    cluster.stop()
    over = cluster.run()
    assert over.code == 130 or over is ended or cluster.finished


@pytest.mark.parametrize("complete", [False, True])
def test_a_run_that_had_come_to_its_end_does_not_begin_again(complete: bool) -> None:
    coordinator, actions = Coordinator.restored(2, Limits(), 1, {}, 5.0, complete)
    assert actions == [Over(0, "the program came to its end")] * complete
    assert coordinator.room(0, 5.1) == [Start(0)] * (not complete)


def test_a_sound_generation_goes_on_under_the_next_coordinator() -> None:
    standing = Standing(7, (0, 1), Position(0, 3))
    coordinator, actions = Coordinator.restored(2, Limits(), 1, {0: standing, 1: standing}, 5.0)
    assert actions == [] and (coordinator.generation, coordinator.members) == (7, (0, 1))


def test_who_waited_to_come_in_is_let_in_by_the_next_coordinator() -> None:
    there = {0: Standing(7, (0,), Position(0, 3)), 1: Standing(asked=Position(0, -1))}
    _, actions = Coordinator.restored(2, Limits(), 1, there, 5.0)
    assert actions == [Invite((0,))]
