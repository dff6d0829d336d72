"""The rules of the coordinator one by one, as conversations; `tests/coordinator` has whole runs."""

from __future__ import annotations

import pytest

from runtime.coordinator import Abort, Action, Coordinator, End, Form, Invite, Limits, Over, Past, Start, Stop
from runtime.member import Position

P = Position
NOBODY: frozenset[int] = frozenset()
LIMITS = Limits()


def formed(workers: int, limits: Limits = LIMITS) -> Coordinator:
    """A coordinator with its first generation, at time 0."""
    coordinator = Coordinator(workers, limits)
    coordinator.begin(0.0)
    for worker in range(workers - 1):
        assert coordinator.ask(worker, P(0, -1), 0.0) == []
    (form,) = coordinator.ask(workers - 1, P(0, -1), 0.0)
    assert isinstance(form, Form) and form.members == tuple(range(workers)) == coordinator.members
    return coordinator


def kinds(actions: list[Action]) -> list[type]:
    return [type(action) for action in actions]


# --- generations ------------------------------------------------------------------------------------------------------


def test_the_first_generation_waits_for_all_that_are_there() -> None:
    coordinator = Coordinator(4)
    assert coordinator.begin(0.0) == [Start(0), Start(1), Start(2), Start(3)]
    assert coordinator.ask(0, P(0, -1), 1.0) == []
    assert coordinator.left(1, 1.0) == []
    assert coordinator.lost(1, "it exited", 1.0) == []  # it left without ever asking: it is simply done
    assert coordinator.lost(2, "killed", 1.0) == [Start(2)]
    assert coordinator.ask(3, P(0, -1), 1.0) == []
    assert coordinator.ask(2, P(0, -1), 1.0) == [Form(1, (0, 2, 3), P(0, -1), None, NOBODY)]


def test_the_first_generation_waits_no_longer_than_joining() -> None:
    coordinator = Coordinator(2, Limits(joining=3.0))
    coordinator.begin(0.0)
    assert coordinator.ask(0, P(0, -1), 1.0) == []
    assert coordinator.tick(2.9) == []
    assert coordinator.deadline(2.9) == pytest.approx(0.1)
    assert coordinator.tick(3.0) == [Form(1, (0,), P(0, -1), None, NOBODY)]
    assert coordinator.ask(1, P(0, -1), 4.0) == [Invite((0,))]


def test_survivors_go_on_before_the_replacement_comes() -> None:
    coordinator = formed(3)
    assert coordinator.lost(1, "killed", 1.0) == [Abort(1, (0, 2), "worker 1 was lost: killed"), Start(1)]
    assert coordinator.members == (0, 2)
    assert coordinator.ask(2, P(0, 4), 1.0) == []
    assert coordinator.ask(0, P(0, 5), 1.0) == [Form(2, (0, 2), P(0, 5), 0, NOBODY)]
    assert coordinator.ask(1, P(0, -1), 1.5) == [Invite((0, 2))]
    assert coordinator.ask(0, P(0, 6), 1.6) == []  # nobody else is disturbed: they regroup by themselves
    assert coordinator.ask(2, P(0, 6), 1.6) == [Form(3, (0, 1, 2), P(0, 6), 0, frozenset({1}))]


def test_a_replacement_that_is_quick_comes_in_at_once() -> None:
    coordinator = formed(3)
    coordinator.lost(1, "killed", 1.0)
    assert coordinator.ask(1, P(0, -1), 1.0) == []
    assert coordinator.ask(0, P(0, 5), 1.0) == []
    assert coordinator.ask(2, P(0, 5), 1.0) == [Form(2, (0, 1, 2), P(0, 5), 0, frozenset({1}))]


def test_members_are_invited_once_a_generation() -> None:
    coordinator = formed(4)
    coordinator.lost(0, "killed", 1.0)
    coordinator.lost(1, "killed", 1.0)
    coordinator.ask(2, P(0, 1), 1.0)
    assert kinds(coordinator.ask(3, P(0, 1), 1.0)) == [Form]
    assert coordinator.ask(0, P(0, -1), 2.0) == [Invite((2, 3))]
    assert coordinator.ask(1, P(0, -1), 2.0) == []
    coordinator.ask(2, P(0, 2), 2.0)
    assert coordinator.ask(3, P(0, 2), 2.0) == [Form(3, (0, 1, 2, 3), P(0, 2), 2, frozenset({0, 1}))]


def test_a_group_that_broke_by_itself_ends_for_all() -> None:
    coordinator = formed(3)
    (abort,) = coordinator.ask(1, P(0, 2), 1.0)
    assert abort == Abort(1, (0, 2), "worker 1 could not go on in it")
    assert coordinator.lost(0, "killed", 1.0) == [Start(0)]  # that was why; nobody is told twice
    assert coordinator.ask(2, P(0, 2), 1.0) == [Form(2, (1, 2), P(0, 2), 1, NOBODY)]


def test_if_nobody_has_a_state_all_begin_anew() -> None:
    coordinator = formed(2, Limits(losses=5))
    coordinator.lost(0, "killed", 1.0)
    coordinator.ask(1, P(0, 7), 1.0)
    assert coordinator.lost(1, "killed", 2.0) == [Start(1)]
    assert coordinator.ask(0, P(0, -1), 2.5) == []  # the other comes soon: it is waited for
    assert coordinator.ask(1, P(0, -1), 3.0) == [Form(3, (0, 1), P(0, -1), None, NOBODY)]


# --- sessions that are over -------------------------------------------------------------------------------------------


def test_a_survivor_of_the_last_op_ends_its_session_alone() -> None:
    coordinator = formed(3)
    coordinator.lost(1, "killed", 1.0)
    assert coordinator.ask(2, P(0, 3), 1.0) == []
    form, past = coordinator.ask(0, P(1, -1), 1.0)
    assert form == Form(2, (0,), P(1, -1), None, NOBODY)
    assert past == Past(2, P(1, -1))
    assert coordinator.ask(2, P(1, -1), 2.0) == [Invite((0,))]
    assert coordinator.ask(0, P(1, 2), 2.0) == [Form(3, (0, 2), P(1, 2), 0, frozenset({2}))]


def test_a_survivor_of_the_last_op_of_all_ends_alone() -> None:
    coordinator = formed(3)
    coordinator.lost(1, "killed", 1.0)
    assert coordinator.ask(2, P(0, 3), 1.0) == []  # worker 0 may have returned from that op
    (end, past) = coordinator.left(0, 1.0)
    assert isinstance(end, End) and end.worker == 1  # the replacement would come too late
    assert past == Past(2, P(0, 3)) and coordinator.members == ()
    assert coordinator.lost(0, "it exited", 1.0) == []
    assert coordinator.lost(1, "ended", 1.0) == []
    assert coordinator.left(2, 1.0) == []
    assert kinds(coordinator.lost(2, "it exited", 1.0)) == [Over]


def test_a_newcomer_is_let_through_sessions_that_are_over() -> None:
    coordinator = formed(2)
    coordinator.lost(1, "killed", 1.0)
    assert coordinator.ask(0, P(0, 4), 1.0) == [Form(2, (0,), P(0, 4), 0, NOBODY)]
    # Where the member is now is not known here: it is asked.
    assert coordinator.ask(1, P(0, -1), 2.0) == [Invite((0,))]
    assert coordinator.ask(0, P(2, 1), 3.0) == [Form(3, (0,), P(2, 1), 0, NOBODY), Past(1, P(2, 1))]
    # Now it is known.
    assert coordinator.ask(1, P(1, -1), 4.0) == [Past(1, P(2, 1))]
    assert coordinator.ask(1, P(2, -1), 5.0) == [Invite((0,))]
    assert coordinator.ask(0, P(2, 9), 6.0) == [Form(4, (0, 1), P(2, 9), 0, frozenset({1}))]


def test_who_goes_alone_is_waited_for_when_nobody_else_is_left() -> None:
    coordinator = formed(2, Limits(losses=5))
    coordinator.lost(1, "killed", 1.0)
    coordinator.ask(0, P(3, 4), 1.0)
    assert kinds(coordinator.ask(1, P(0, -1), 1.0)) == [Past]
    assert coordinator.lost(0, "killed", 2.0) == [Start(0)]
    assert coordinator.ask(0, P(0, -1), 3.0) == []  # worker 1 is further, and must not be left behind
    assert coordinator.ask(1, P(1, -1), 4.0) == [Form(3, (1,), P(1, -1), None, NOBODY), Past(0, P(1, -1))]


# --- who is stopped, who hangs ----------------------------------------------------------------------------------------


def beat(coordinator: Coordinator, now: float, **workers: tuple[int, bool]) -> None:
    for name, (progress, waiting) in workers.items():
        assert coordinator.heartbeat(int(name[1:]), progress, waiting, now) == []


def test_a_silent_worker_is_ended_and_nothing_it_says_counts() -> None:
    coordinator = formed(3)
    beat(coordinator, 3.0, w0=(1, False), w2=(1, True))
    assert coordinator.tick(4.9) == []
    abort, end = coordinator.tick(5.0)
    assert end == End(1, "it said nothing for 5 s")
    assert abort == Abort(1, (0, 2), "worker 1 is ended: it said nothing for 5 s")
    assert coordinator.ask(1, P(0, 9), 5.1) == coordinator.failed(1, {"error": "late"}, 5.1) == []
    coordinator.ask(0, P(0, 1), 5.1)
    assert coordinator.ask(2, P(0, 1), 5.1) == [Form(2, (0, 2), P(0, 1), 0, NOBODY)]
    assert coordinator.lost(1, "ended", 5.2) == [Start(1)]
    assert coordinator.ask(1, P(0, -1), 5.3) == [Invite((0, 2))]


def test_a_starting_interpreter_may_be_silent_for_longer() -> None:
    coordinator = Coordinator(1)
    coordinator.begin(0.0)
    now = 0.0
    while not (actions := coordinator.tick(now)):
        now += coordinator.deadline(now)
    assert now == pytest.approx(30.0) and actions == [End(0, "it said nothing for 30 s")]


def test_a_worker_without_progress_is_ended_unless_it_waits() -> None:
    coordinator = formed(3, Limits(hang=60.0))
    for now in range(0, 60, 2):
        beat(coordinator, now, w0=(now, False), w1=(7, True), w2=(7, False))
        assert coordinator.tick(now) == []
    beat(coordinator, 60, w0=(60, False), w1=(7, True), w2=(7, False))
    assert coordinator.deadline(59.5) == pytest.approx(0.5)
    abort, end = coordinator.tick(60.0)
    assert end == End(2, "it made no progress for 60 s")
    assert isinstance(abort, Abort) and abort.members == (0, 1)
    # After Abort waiting is no excuse.
    for now in range(62, 120, 2):
        beat(coordinator, now, w0=(now, False), w1=(7, True))
        assert coordinator.tick(now) == []
    beat(coordinator, 120, w0=(120, False), w1=(7, True))
    assert kinds(coordinator.tick(120.0)) == [End]


def test_a_long_step_everywhere_is_judged_by_each_ones_progress() -> None:
    coordinator = formed(2, Limits(hang=60.0))
    for now in range(0, 200, 2):
        beat(coordinator, now, w0=(now // 50, False), w1=(now // 50, False))
        assert coordinator.tick(now) == []


def test_who_asks_may_wait_for_ever() -> None:
    coordinator = formed(2, Limits(hang=60.0))
    coordinator.lost(1, "killed", 0.0)
    coordinator.ask(1, P(0, -1), 0.0)
    for now in range(0, 600, 2):
        beat(coordinator, now, w0=(now, False), w1=(1, False))
        assert coordinator.tick(now) == []


def test_workers_that_all_wait_for_one_another_are_let_go() -> None:
    coordinator = formed(2, Limits(hang=60.0))
    for now in range(0, 60, 2):
        beat(coordinator, now, w0=(3, True), w1=(3, True))
        assert coordinator.tick(now) == []
    beat(coordinator, 60, w0=(3, True), w1=(3, True))
    assert coordinator.tick(60.0) == [Abort(1, (0, 1), "all its workers waited for one another for 60 s")]


def test_without_a_limit_nobody_hangs() -> None:
    coordinator = formed(2, Limits(hang=None))
    for now in range(0, 10_000, 2):
        beat(coordinator, now, w0=(1, False), w1=(1, True))
        assert coordinator.tick(now) == []


def test_the_callers_own_sleep_is_not_held_against_the_workers() -> None:
    coordinator = formed(2)
    assert coordinator.tick(1000.0) == []
    assert coordinator.tick(1004.9) == []
    assert kinds(coordinator.tick(1005.0)) == [End, End]


def test_a_worker_that_left_has_time_to_exit_but_not_for_ever() -> None:
    coordinator = formed(1)
    coordinator.left(0, 0.0)
    now = 0.0
    while not (actions := coordinator.tick(now)):
        now += coordinator.deadline(now)
    assert now == pytest.approx(30.0) and kinds(actions) == [End]
    assert coordinator.lost(0, "ended", now) == [Over(0, "the program came to its end")]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_all_left() -> None:
    coordinator = formed(2)
    assert coordinator.left(0, 1.0) == coordinator.left(1, 1.0) == coordinator.lost(1, "it exited", 1.0) == []
    assert coordinator.lost(0, "it exited", 1.0) == [Over(0, "the program came to its end")]
    assert (
        coordinator.lost(0, "it exited", 1.0) == coordinator.stop("late", 2.0) == coordinator.tick(9.0) == []
    )


def test_a_loss_after_the_program_came_to_its_end_is_none() -> None:
    coordinator = formed(3)
    coordinator.left(0, 1.0)
    assert kinds(coordinator.lost(1, "killed", 1.0)) == [Abort]
    coordinator.lost(0, "it exited", 1.0)
    assert kinds(coordinator.lost(2, "killed", 1.0)) == [Over]


def test_the_first_failure_is_the_one_that_is_told() -> None:
    coordinator = formed(3)
    report = {"error": "ValueError", "message": "no such tree", "step": 3}
    abort, stop = coordinator.failed(1, report, 1.0)
    reason = "worker 1 failed with ValueError: no such tree"
    assert abort == Abort(1, (0, 1, 2), reason) and stop == Stop((0, 1, 2), reason)
    assert coordinator.failed(2, {"error": "KeyError"}, 1.1) == coordinator.stop("interrupted", 1.1) == []
    assert coordinator.ask(0, P(0, 3), 1.1) == coordinator.lost(1, "it exited", 1.2) == []
    assert coordinator.lost(2, "it exited", 1.2) == []
    assert coordinator.deadline(1.2) == pytest.approx(1.3)
    assert coordinator.tick(2.4) == []
    assert coordinator.tick(2.5) == [End(0, "it did not end within 1.5 s")]
    assert coordinator.lost(0, "ended", 2.6) == [Over(1, reason, report)]


def test_stop() -> None:
    coordinator = formed(2)
    assert coordinator.stop("interrupted", 1.0) == [
        Abort(1, (0, 1), "interrupted"),
        Stop((0, 1), "interrupted"),
    ]
    assert coordinator.left(0, 1.1) == coordinator.lost(0, "it exited", 1.1) == []
    assert coordinator.lost(1, "it exited", 1.2) == [Over(130, "interrupted")]


def test_too_many_losses_without_a_form_in_between_end_the_run() -> None:
    coordinator = Coordinator(2)
    coordinator.begin(0.0)
    assert coordinator.lost(1, "exit code 1", 0.1) == coordinator.lost(1, "exit code 1", 0.2) == [Start(1)]
    (stop,) = coordinator.lost(1, "exit code 1", 0.3)
    assert isinstance(stop, Stop) and stop.workers == (0,)
    for words in ("3 times in a row", "worker 1 was lost: exit code 1", "the same command resumes"):
        assert words in stop.reason
    assert coordinator.lost(0, "it exited", 0.4) == [Over(3, stop.reason)]


def test_workers_that_die_together_count_once() -> None:
    coordinator = formed(5)
    for worker in (1, 2, 3, 4):
        assert Stop not in kinds(coordinator.lost(worker, "killed", 1.0))
    assert kinds(coordinator.ask(0, P(0, 0), 1.1)) == [Form]


def test_alone_and_lost_too_often() -> None:
    coordinator = Coordinator(1, Limits(losses=1))
    coordinator.begin(0.0)
    assert [action.code for action in coordinator.lost(0, "killed", 0.1) if isinstance(action, Over)] == [3]


@pytest.mark.parametrize("agreed", [True, False])
def test_only_losses_without_an_op_in_between_add_up(agreed: bool) -> None:
    coordinator = formed(4)
    seen: list[type] = []
    for time, worker in enumerate([1, 2, 3, 1, 2, 3]):
        op = time if agreed else 0
        seen += kinds(coordinator.lost(worker, "killed", time))
        for other in coordinator.members:
            seen += kinds(coordinator.ask(other, P(0, op), time))
        if Stop in seen:
            break
        seen += kinds(coordinator.ask(worker, P(0, -1), time))
        for other in coordinator.members:
            seen += kinds(coordinator.ask(other, P(0, op), time))
    assert (Stop in seen) != agreed
    assert seen.count(Abort) == (6 if agreed else 3)


def test_groups_that_break_again_and_again_end_the_run() -> None:
    coordinator = formed(2)
    seen: list[type] = []
    for _ in range(3):
        seen += kinds(coordinator.ask(0, P(0, 5), 1.0)) + kinds(coordinator.ask(1, P(0, 5), 1.0))
    assert seen == [Abort, Form, Abort, Form, Abort, Stop]


def test_positions_that_cannot_be_end_the_run() -> None:
    coordinator = formed(2)
    coordinator.ask(0, P(0, 5), 1.0)
    (stop,) = coordinator.ask(1, P(0, 2), 1.0)
    assert isinstance(stop, Stop) and "more than one" in stop.reason


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, "2"])
def test_the_number_of_workers_is_checked(workers: object) -> None:
    with pytest.raises(ValueError, match="workers must be a whole number above 0"):
        Coordinator(workers)  # type: ignore[arg-type]


def test_who_saves_the_newest_step_is_not_ended_before_it_is_saved():
    limits = Limits(heartbeat=1000.0, grace=1.5, saving=60.0)
    coordinator = formed(3, limits)
    coordinator.stop("Ctrl-C", 0.0)
    coordinator.heartbeat(0, 9, False, 1.0, saving=True)
    assert [a.worker for a in coordinator.tick(2.0) if isinstance(a, End)] == [1, 2]
    assert coordinator.tick(59.0) == []
    coordinator.heartbeat(0, 10, False, 59.5)  # it has saved, and does not end
    assert [a.worker for a in coordinator.tick(59.6) if isinstance(a, End)] == [0]
