"""The lock of a run in a store: never two holders, whatever the order in which contenders, pauses and deaths come."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.run_lock import RunInUse
from runtime.store import Store, store_at
from runtime.store_lock import PATIENCE, Claim, Contender, GuardedStore, StoreLock, Take, Wait, holder

OTHER = Claim(4, "id", "other launch", "host", 12)


# --- what a contender decides -----------------------------------------------------------------------------------------


def test_a_lock_that_nobody_holds_is_taken() -> None:
    assert Contender("mine").seen(None, 0.0) == Take(1)
    assert Contender("mine").seen(replace(OTHER, released=True), 0.0) == Take(5)


@given(st.floats(0, 3600))
def test_a_silent_one_is_taken_after_the_time_of_silence_and_not_before(age: float) -> None:
    expected = Take(5) if age >= PATIENCE else Wait()
    assert Contender("mine").seen(OTHER, age) == expected


@given(st.booleans(), st.booleans())
def test_only_a_successor_of_the_same_launch_takes_it_from_a_living_one(takeover: bool, same: bool) -> None:
    contender = Contender("other launch" if same else "mine", takeover)
    assert contender.seen(OTHER, 1.0) == (Take(5) if takeover and same else Wait())


def test_a_holder_that_renews_between_two_looks_lives() -> None:
    contender = Contender("mine")
    assert contender.seen(OTHER, 5.0) == Wait()
    assert contender.seen(OTHER, 6.0) == Wait()
    renewed = replace(OTHER, renewals=1)
    assert contender.seen(renewed, 0.0) == renewed
    contender = Contender("mine")
    assert contender.seen(OTHER, 59.0) == Wait()
    assert contender.seen(replace(OTHER, number=5, id="third"), 0.0) == replace(OTHER, number=5, id="third")


# --- many contenders, every order -------------------------------------------------------------------------------------


class World:
    """The objects of a lock, with the clock of the store; what each contender does is one atomic operation a turn."""

    def __init__(self) -> None:
        self.now = 0.0
        self.objects: dict[int, tuple[Claim, float]] = {}


class Player:
    """A contender as `StoreLock` carries it out, in single operations on the store."""

    def __init__(self, name: str, launch: str, takeover: bool) -> None:
        self.claim = Claim(0, name, launch, "host", 0)
        self.contender = Contender(launch, takeover)
        self.state, self.renewed, self.began = "look", 0.0, 0.0
        self.seen: Claim | None = None
        self.former: list[int] = []

    def holds(self, world: World) -> bool:
        """Whether it would write now: it is sure for as long as nobody may have found it silent."""
        return self.state in ("held", "renewed") and world.now - self.renewed <= 0.75 * PATIENCE

    def turn(self, world: World) -> None:
        highest = max(world.objects, default=0)
        match self.state:
            case "look":
                self.seen, renewed = world.objects.get(highest, (None, 0.0))
                action = self.contender.seen(self.seen, world.now - renewed)
                if isinstance(action, Take):
                    self.claim, self.state = replace(self.claim, number=action.number, renewals=0), "create"
                elif isinstance(action, Claim):
                    self.state = "refused"
            case "create":
                if self.claim.number in world.objects:
                    self.state = "look"
                else:
                    self.renewed = world.now
                    world.objects[self.claim.number] = self.claim, world.now
                    self.state = "list"
            case "list":
                if highest != self.claim.number:
                    world.objects.pop(self.claim.number, None)
                    self.state = "look"
                else:
                    self.former = [number for number in world.objects if number != highest]
                    self.state = "compare"
            case "compare":
                if self.seen is not None and world.objects.get(self.seen.number, (None,))[0] != self.seen:
                    world.objects.pop(self.claim.number, None)
                    self.state = "look"
                else:
                    self.state = "held"
            case "held":
                if self.former:
                    world.objects.pop(self.former.pop(), None)
                else:
                    self.claim = replace(self.claim, renewals=self.claim.renewals + 1)
                    world.objects[self.claim.number] = self.claim, world.now
                    self.state, self.began = "renewed", world.now
            case "renewed":
                self.state = "lost" if highest > self.claim.number else "held"
                self.renewed = self.began

    def give_back(self, world: World) -> None:
        if self.state == "held" and max(world.objects) == self.claim.number:
            world.objects[self.claim.number] = replace(self.claim, released=True), world.now
            self.state = "gone"


turns = st.lists(
    st.tuples(
        st.sampled_from(["turn", "turn", "turn", "release", "wait", "long"]),
        st.integers(0, 3),
    ),
    max_size=120,
)


@settings(max_examples=1000, deadline=None)
@given(turns)
def test_two_launches_never_hold_a_lock_at_once(script: list[tuple[str, int]]) -> None:
    world = World()
    players = [Player(str(i), f"launch {i}", takeover=False) for i in range(4)]
    for what, who in script:
        match what:
            case "turn":
                players[who].turn(world)
            case "release":
                players[who].give_back(world)
                if players[who].state in ("gone", "refused", "lost"):  # it comes again
                    players[who] = Player(f"{players[who].claim.id}'", f"launch {who}", takeover=False)
            case "wait":
                world.now += 7.0
            case "long":
                world.now += PATIENCE
        assert sum(player.holds(world) for player in players) <= 1


# --- over a store -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Store:
    return store_at(tmp_path if request.param == "local" else f"memory://{tmp_path.name}-{time.time_ns()}")


def quick(store: Store, launch: str = "a", takeover: bool = False) -> StoreLock:
    return StoreLock(store, launch, takeover, every=0.05, patience=1.0)


def killed(store: Store, launch: str = "a", patience: float = 60.0) -> StoreLock:
    """The lock of a holder that was killed: nobody renews it."""
    lock = StoreLock(store, launch, every=3600.0, patience=patience)
    lock.__enter__()
    lock._ended.set()
    return lock


def test_the_second_is_refused_by_name_and_let_in_after_the_first(store: Store) -> None:
    with quick(store) as first:
        with pytest.raises(RunInUse, match=r"process \d+ on .*: wait") as refused, quick(store, "b"):
            pytest.fail("two hold the lock")
        assert refused.value.holder == holder(store) == str(first._mine)
    assert holder(store) is None
    began = time.monotonic()
    with quick(store, "b"):
        assert time.monotonic() - began < 0.5, "a lock that was given back is free at once"
    assert len([name for name in store.names("lock") if name.isdecimal()]) == 1


def test_a_lock_whose_holder_was_killed_is_waited_for_and_taken(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    killed(store)
    with caplog.at_level(logging.WARNING), quick(store, "b"):
        assert "was in use by process" in caplog.text
        assert holder(store) is not None


def test_a_successor_of_the_same_launch_takes_it_at_once_and_the_former_is_told(store: Store) -> None:
    former = killed(store)
    guarded = GuardedStore(store, former)
    guarded.write("before", [b""])
    began = time.monotonic()
    with quick(store, takeover=True):
        assert time.monotonic() - began < 0.5
        former._renew()
        with pytest.raises(RunInUse, match="process"):
            former.check()
        for write in (
            lambda: guarded.write("a", [b""]),
            lambda: guarded.create("a", b""),
            lambda: guarded.remove("before"),
            lambda: guarded.below("x").write("a", [b""]),
        ):
            with pytest.raises(PermissionError, match="was taken over by process"):
                write()
    assert guarded.read("before") == b"" and "a" not in guarded.names() and guarded.names("x") == []


def test_what_a_successor_writes_is_not_removed_by_one_that_has_not_heard_of_it(store: Store) -> None:
    """The former holder was given up by its launch because it was cut off, and still lives."""
    former = killed(store)
    former._renewed -= 1.5
    with quick(store, takeover=True) as lock:
        GuardedStore(store, lock).write("step/part", [b"new"])
        with pytest.raises(PermissionError, match="was taken over by process"):
            GuardedStore(store, former).remove("step")
        assert store.read("step/part") == b"new"


def test_a_holder_that_stood_still_asks_before_it_writes(store: Store) -> None:
    former = killed(store, patience=0.2)
    time.sleep(0.25)
    with quick(store, "b"), pytest.raises(PermissionError):
        GuardedStore(store, former).write("a", [b""])
    assert store.names() == ["lock"]


def test_what_was_written_after_the_lock_was_given_back_is_refused(store: Store) -> None:
    with quick(store) as lock:
        guarded = GuardedStore(store, lock)
    with pytest.raises(PermissionError, match="given back"):
        guarded.write("a", [b""])
    assert holder(store) is None


def test_while_the_store_is_away_the_lock_is_kept_and_renewed_after(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refused = []

    def away(*_: Any) -> Any:
        refused.append(1)
        raise OSError("no route to the store")

    with quick(store) as lock:
        with monkeypatch.context() as patch:
            patch.setattr(type(store), "write", away)
            while len(refused) < 3:
                time.sleep(0.01)
        renewed = lock._mine.renewals
        until = time.monotonic() + 5
        while json.loads(store.read(f"lock/{lock._mine.number:010d}"))["renewals"] <= renewed:
            assert time.monotonic() < until
            time.sleep(0.01)
        lock.check()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be renewed (no route to the store)" in caplog.text


def test_an_answer_that_was_lost_does_not_lock_oneself_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, landed = type(store).create, []

    def unanswered(self: Store, name: str, data: bytes) -> None:  # the client asks a second time
        real(self, name, data)
        landed.append(name)
        real(self, name, data)

    monkeypatch.setattr(type(store), "create", unanswered)
    with quick(store) as lock:
        lock.check()
    assert len(landed) == 1
