"""Laws of `agree`: where workers go on depends on where they stand, not on who they are or in which order they come."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.member import Agreement, Position, SoloMember, agree


@st.composite
def positions(draw: st.DrawFn) -> list[Position]:
    """Of one run: survivors at the furthest op or one behind, newcomers, and workers in sessions that are over."""
    session, op = draw(st.integers(0, 3)), draw(st.integers(-1, 5))
    furthest = Position(session, op)
    one = st.sampled_from([furthest, Position(session, -1), Position(session, max(op - 1, -1))])
    if session:
        one |= st.builds(Position, st.integers(0, session - 1), st.integers(-1, 9))
    return draw(st.permutations([furthest, *draw(st.lists(one, max_size=8))]))


@given(positions())
def test_all_go_on_at_the_furthest(given: list[Position]) -> None:
    agreed = agree(given)
    assert agreed.position == max(given)
    assert agreed.members == tuple(i for i, p in enumerate(given) if p.session == agreed.position.session)


@given(positions())
def test_whoever_has_no_state_is_given_one_if_there_is_one(given: list[Position]) -> None:
    agreed = agree(given)
    without = {i for i in agreed.members if given[i].op < 0}
    if agreed.position.op < 0:
        assert without == set(agreed.members) and agreed.donor is None and not agreed.newcomers
    else:
        assert agreed.newcomers == without
        assert agreed.donor in set(agreed.members) - without


@given(positions())
def test_a_survivor_is_at_most_the_pending_op_behind(given: list[Position]) -> None:
    agreed = agree(given)
    for i in set(agreed.members) - agreed.newcomers:
        assert agreed.position.op - given[i].op in (0, 1)


@given(positions(), st.randoms())
def test_the_order_does_not_matter(given: list[Position], random: Random) -> None:
    order = list(range(len(given)))
    random.shuffle(order)
    agreed, shuffled = agree(given), agree([given[i] for i in order])
    assert shuffled.position == agreed.position
    assert {order[i] for i in shuffled.members} == set(agreed.members)
    assert {order[i] for i in shuffled.newcomers} == agreed.newcomers
    assert (shuffled.donor is None) == (agreed.donor is None)


@given(positions())
def test_agreed_is_agreed(given: list[Position]) -> None:
    """Lost at once again, before anything was done: all go on from the same place, with the same members."""
    agreed = agree(given)
    again = agree([agreed.position for _ in agreed.members])
    assert again.position == agreed.position
    assert again.members == tuple(range(len(agreed.members)))
    assert not again.newcomers


@given(positions(), st.data())
def test_a_newcomer_that_never_settled_is_one_again(given: list[Position], data: st.DataObject) -> None:
    """The next generation may break before anybody took it up; where all stand is as before, less those lost."""
    agreed = agree(given)
    left = [given[i] for i in agreed.members]
    lost = data.draw(st.integers(0, len(left) - 1))
    if len(left) > 1:
        again = agree(left[:lost] + left[lost + 1 :])
        assert again.position <= agreed.position
        assert again.position.session == agreed.position.session


@given(positions(), st.integers(0, 3), st.integers(-1, 9))
def test_who_is_in_a_session_that_is_over_decides_nothing(given: list[Position], back: int, op: int) -> None:
    agreed = agree(given)
    past = Position(agreed.position.session - 1 - back, op)
    assert agree([*given, past]) == agreed


@given(st.integers(0, 3), st.integers(2, 9), st.data())
def test_workers_more_than_one_op_apart_are_refused(session: int, op: int, data: st.DataObject) -> None:
    behind = Position(session, data.draw(st.integers(0, op - 2)))
    with pytest.raises(ValueError, match="more than one op apart"):
        agree(data.draw(st.permutations([Position(session, op), behind])))


def test_somebody_must_be_there() -> None:
    with pytest.raises(ValueError, match="at least"):
        agree([])


def test_a_survivor_between_sessions_goes_on_without_those_that_are_behind() -> None:
    assert agree([Position(2, 4), Position(3, -1)]) == Agreement(Position(3, -1), (1,), None, frozenset())


def test_one_process_agrees_with_itself() -> None:
    member = SoloMember()
    formation = member.form(Position(2, 5))
    assert (formation.position, formation.donor, formation.past) == (Position(2, 5), None, False)
    assert member.group is formation.group and member.group.size == 1
