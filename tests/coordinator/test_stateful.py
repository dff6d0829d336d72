"""Hypothesis plays the network, the machines and fate; wherever it stops, a fair schedule comes to an end."""

from __future__ import annotations

from coordinator.simulated import Cluster, Process
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.coordinator import Limits
from runtime.member import Position

PICK = st.integers(0, 10**6)


class Run(RuleBasedStateMachine):
    """The checks of each action are the cluster's own."""

    cluster: Cluster

    @initialize(
        workers=st.integers(1, 4),
        program=st.lists(st.integers(0, 3), min_size=1, max_size=3),
        losses=st.sampled_from([2, 10**6]),
        joining=st.sampled_from([None, 1.0]),
        infectious=st.booleans(),
        delays=st.lists(st.sampled_from([0.0, 3.0, 40.0]), max_size=6),
        least=st.integers(1, 4),
    )
    def begin(
        self,
        workers: int,
        program: list[int],
        losses: int,
        joining: float | None,
        infectious: bool,
        delays: list[float],
        least: int,
    ) -> None:
        limits = Limits(losses=losses, joining=joining)
        self.cluster = Cluster(
            workers,
            program,
            limits=limits,
            infectious=infectious,
            delays=delays,
            least=min(least, workers),
        )
        self.failed = self.stopped = False

    def pick(self, number: int) -> Process:
        processes = list(self.cluster.processes.values())
        return processes[number % len(processes)]

    @precondition(lambda self: self.cluster.over is None)
    @rule(number=PICK)
    def happen(self, number: int) -> None:
        if choices := self.cluster.choices():
            choices[number % len(choices)][0]()

    @precondition(lambda self: self.cluster.over is None and self.cluster.processes)
    @rule(number=PICK, turns=st.integers(1, 30))
    def one_goes_ahead(self, number: int, turns: int) -> None:
        process = self.pick(number)
        for _ in range(turns):
            if process.can_step:
                process.step()

    @precondition(lambda self: self.cluster.over is None)
    @rule(turns=st.integers(1, 60))
    def all_go_on(self, turns: int) -> None:
        for _ in range(turns):
            if self.cluster.over is None:
                self.cluster.turn()

    @precondition(lambda self: self.cluster.over is None and self.cluster.processes)
    @rule(number=PICK, kind=st.sampled_from(["die", "die", "stall", "hang", "slow", "break"]))
    def lose(self, number: int, kind: str) -> None:
        process = self.pick(number)
        if process.steps is not None:
            self.cluster.inflict(process, kind)

    @precondition(lambda self: self.cluster.over is None and self.cluster.there and self.cluster.processes)
    @rule(number=PICK, goes=st.booleans())
    def room_goes(self, number: int, goes: bool) -> None:
        worker = self.pick(number).worker
        if goes:
            self.cluster.take_room(worker)
        else:
            self.cluster.drain(worker)

    @precondition(lambda self: self.cluster.over is None and not self.failed)
    @rule()
    def lose_the_coordinator(self) -> None:
        self.cluster.lose()

    @precondition(lambda self: self.cluster.over is None and self.cluster.processes)
    @rule(number=PICK)
    def fail(self, number: int) -> None:
        process = self.pick(number)
        if number % 5 == 0 and process.steps is not None:
            self.failed = True
            self.cluster.inflict(process, "raise")

    @precondition(lambda self: self.cluster.over is None and self.cluster.processes)
    @rule(number=PICK)
    def stop(self, number: int) -> None:
        if number % 5 == 0:
            self.stopped = True
            self.pick(number).stubborn = True
            self.cluster.stop()

    @precondition(lambda self: self.cluster.over is None)
    @rule(times=st.integers(1, 30))
    def time_passes(self, times: int) -> None:
        for _ in range(times):
            if self.cluster.over is None:
                self.cluster.pass_time()

    @precondition(lambda self: self.cluster.over is None and self.cluster.there)
    @rule(seconds=st.sampled_from([11.0, 1000.0]))
    def the_launcher_sleeps(self, seconds: float) -> None:
        known = set(self.cluster.known)
        self.cluster.now += seconds
        self.cluster.carry_out(self.cluster.coordinator.tick(self.cluster.now))
        assert known == self.cluster.known or self.cluster.stopping

    @precondition(lambda self: self.cluster.there)
    @rule(worker=st.integers(0, 5))
    def who_does_not_count_changes_nothing(self, worker: int) -> None:
        cluster = self.cluster
        ended = cluster.processes.keys() - cluster.known
        worker = min(ended, default=worker)
        if worker in cluster.known:
            return
        coordinator, now = cluster.coordinator, cluster.now
        assert coordinator.ask(worker, Position(9, 9), now) == []
        assert coordinator.heartbeat(worker, 1, False, now) == []
        assert coordinator.left(worker, now) == []
        assert coordinator.failed(worker, {"error": "stale"}, now) == []
        if worker not in cluster.processes:
            assert coordinator.lost(worker, "again", now) == []

    @invariant()
    def members_are_there(self) -> None:
        cluster = self.cluster
        if cluster.over is None and cluster.there:
            assert set(cluster.coordinator.members) <= cluster.processes.keys()
            assert 0 <= cluster.coordinator.deadline(cluster.now) <= cluster.limits.heartbeat

    def teardown(self) -> None:
        cluster = self.cluster
        over = cluster.over or cluster.run()
        assert over.code in {
            0,
            1 if self.failed else 0,
            130 if self.stopped else 0,
            3 if cluster.deaths >= 2 else 0,
        }
        if over.code == 0:
            assert cluster.finished


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
