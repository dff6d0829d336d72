"""`LocalMember` against a launcher that a test plays: what it asks and says, and what it makes of what it is told."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from runtime.group import GroupBroken
from runtime.hosts.control import Incoming, send
from runtime.hosts.local_worker import LocalMember
from runtime.member import SAVING, Formation, Lost, Position
from runtime.transports.shm import ShmGroup
from runtime.transports.solo import SoloGroup

ALONE = {"tell": "form", "rank": 0, "size": 1, "position": (2, 7), "donor": None, "newcomers": []}
ALONE |= {"hosts": [[0]], "addresses": [None]}


class Launcher:
    """The other side of a member's connection."""

    def __init__(self, backend: str) -> None:
        self.control, theirs = socket.socketpair()
        self.control.settimeout(10.0)
        self.incoming = Incoming(self.control)
        self.member = LocalMember(theirs, 3, 4, backend, b"secret")
        self.said: list[Any] = []
        self.thread = threading.Thread(target=self._converse, daemon=True)
        self.thread.start()
        self.program = ThreadPoolExecutor(1)

    def _converse(self) -> None:
        with contextlib.suppress(SystemExit):  # see the fixture
            self.member._converse()

    def hear(self, say: str) -> Any:
        """The next message of a kind, which comes soon; others are left out."""
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            while self.said:
                if (message := self.said.pop(0))["say"] == say:
                    return message
            self.said += [message for message, _ in self.incoming.receive()]
            assert not self.incoming.ended
        raise TimeoutError(say)

    def tell(self, *messages: Any, descriptors: tuple[int, ...] = ()) -> None:
        for message in messages:
            send(self.control, message, descriptors)

    def form(self, op: int = 7) -> Future[Formation]:
        """Let the program ask; returns when its question has come."""
        answer = self.program.submit(self.member.form, Position(2, op))
        assert self.hear("ask")["position"] == (2, op)
        return answer


@pytest.fixture
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", end)
    launcher = Launcher(getattr(request, "param", "shm"))
    yield launcher
    launcher.program.shutdown()
    launcher.control.close()
    launcher.thread.join(10.0)
    member = launcher.member  # what ends with its process
    for held in (
        member._connection,
        member._wake,
        member._waker,
        member._listener,
        member._former,
        member.group,
    ):
        if held is not None:
            held.close()
    assert codes == [3]


def test_a_generation_is_asked_for_and_formed(launcher: Launcher) -> None:
    answer = launcher.form()
    descriptor = ShmGroup.new_file(2)
    told = {"rank": 1, "size": 2, "donor": 0, "newcomers": [1], "generation": 5, "hosts": [[0, 1]]}
    launcher.tell({**ALONE, **told}, descriptors=(descriptor,))
    formation = answer.result(10.0)
    assert (formation.group.rank, formation.group.size, formation.group.generation) == (1, 2, 5)
    assert launcher.member.group is formation.group and isinstance(formation.group, ShmGroup)
    assert formation == Formation(formation.group, Position(2, 7), 0, frozenset({1}))
    other = ShmGroup(descriptor, 0, 2, 5)  # they share the file
    os.close(descriptor)
    other.send(1, b"hello")
    assert formation.group.recv(0) == b"hello"

    launcher.tell({"tell": "abort", "generation": 5, "reason": "worker 0 was lost"})
    while not other.broken:
        pass
    assert formation.group.broken and launcher.member.regroup_wanted
    other.close()


def test_of_a_generation_that_ends_before_the_group_is_built_the_next_is_asked_for(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = LocalMember._build

    def slow_build(member: LocalMember, told: Any, descriptors: Any) -> Any:
        while member._aborted < 1:  # it arrives meanwhile
            pass
        if told["generation"] == 2:
            raise GroupBroken("the other one is gone")
        return build(member, told, descriptors)

    monkeypatch.setattr(LocalMember, "_build", slow_build)
    answer = launcher.form()
    launcher.tell({**ALONE, "generation": 1}, {"tell": "abort", "generation": 1, "reason": "it ended"})
    for generation in (2, 3):
        assert launcher.hear("ask")["position"] == (2, 7)
        launcher.tell({**ALONE, "generation": generation})
    assert answer.result(10.0).group.generation == 3


@pytest.mark.parametrize("launcher", ["tcp"], indirect=True)
def test_forming_over_sockets_is_given_up_when_the_generation_ends(launcher: Launcher) -> None:
    answer = launcher.program.submit(launcher.member.form, Position(2, 7))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = [launcher.hear("ask")["address"], silent.getsockname()]
        launcher.tell({**ALONE, "size": 2, "generation": 1, "addresses": addresses})
        silent.accept()[0].close()  # it connects: it is at it
        launcher.tell({"tell": "abort", "generation": 1, "reason": "it ended"})
        assert launcher.hear("ask")["address"] == addresses[0]
    launcher.tell({**ALONE, "generation": 2})
    assert answer.result(10.0).group.size == 1


def test_a_session_that_is_over_is_gone_through_alone(launcher: Launcher) -> None:
    answer = launcher.form()
    launcher.tell({"tell": "past", "position": (3, 1)})
    formation = answer.result(10.0)
    assert formation.past and formation.position == (3, 1) and formation.group.size == 1
    assert launcher.member.group is None, "the next session must ask again"


def test_an_invitation_stands_until_the_next_generation(launcher: Launcher) -> None:
    answer = launcher.form()
    launcher.tell({**ALONE, "generation": 1})
    answer.result(10.0)
    assert not launcher.member.regroup_wanted
    launcher.tell({"tell": "invite"})
    while not launcher.member.regroup_wanted:
        pass
    answer = launcher.form()
    launcher.tell({**ALONE, "generation": 2})
    answer.result(10.0)
    assert not launcher.member.regroup_wanted


def test_a_group_is_closed_when_nobody_can_ask_for_its_pending_total_any_more(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    monkeypatch.setattr(SoloGroup, "close", lambda group: closed.append(group.generation))
    for generation, closed_by_then in ((1, []), (2, []), (3, [1]), (4, [1, 2])):
        answer = launcher.form()
        launcher.tell({**ALONE, "generation": generation})
        answer.result(10.0)
        assert closed == closed_by_then


def test_heartbeats_tell_progress_and_whether_it_waits_or_saves(launcher: Launcher) -> None:
    member = launcher.member

    def alive() -> tuple[int, bool, bool]:
        said = launcher.hear("alive")
        return said["progress"], said["waiting"], said["saving"]

    assert alive() == (0, True, False)  # in no session
    member.progress(4, "shard 0")
    assert alive() == (1, False, False)
    member.progress(4, "exchange")
    assert alive() == (2, True, False)
    member.progress(4, "apply")
    answer = launcher.form()
    assert alive() == (3, True, False)
    launcher.tell({**ALONE, "generation": 1})
    answer.result(10.0)
    assert alive() == (3, False, False)
    member.progress(5, SAVING)
    assert alive() == (4, False, True)


def test_what_the_program_says_arrives_before_it_goes_on(launcher: Launcher) -> None:
    launcher.member.began(None)
    launcher.member.began("runs/x")
    assert launcher.hear("began") == {"say": "began", "run": "runs/x"}
    launcher.member.progress(7, "shard 3")
    launcher.member.progress(7, "")  # through with it: that is where it was last
    launcher.member.failed({"error": "ValueError"})
    launcher.member.leave()  # what comes first holds
    launcher.control.settimeout(0.0)
    assert launcher.hear("failed") == {
        "say": "failed",
        "report": {"error": "ValueError", "step": 7, "doing": "shard 3"},
    }
    with pytest.raises(BlockingIOError):
        launcher.hear("left")


def test_stop_interrupts_the_program_and_nothing_is_formed_any_more(launcher: Launcher) -> None:
    threading.Timer(0.2, launcher.tell, [{"tell": "stop", "reason": "interrupted"}]).start()
    with pytest.raises(KeyboardInterrupt):
        launcher.member.form(Position(2, 7))
    with pytest.raises(Lost, match="the run ends: interrupted; the same command resumes it"):
        launcher.member.form(Position(2, 7))
    assert launcher.member.stopped


def test_a_program_in_another_thread_or_past_its_end_is_not_interrupted(launcher: Launcher) -> None:
    before = signal.signal(signal.SIGINT, lambda *_: interrupts.append(1))
    interrupts: list[int] = []
    try:
        answer = launcher.form()
        launcher.tell({"tell": "stop", "reason": "interrupted"})
        with pytest.raises(Lost):
            answer.result(10.0)
        assert interrupts == [1]
        launcher.member.leave()
        launcher.tell({"tell": "stop", "reason": "once more"})
        launcher.hear("alive")
        launcher.hear("alive")
        assert interrupts == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_worker_whose_launcher_is_gone_ends_itself_and_says_so(
    launcher: Launcher, capfd: pytest.CaptureFixture[str]
) -> None:
    launcher.control.close()
    launcher.thread.join(10.0)
    assert capfd.readouterr().err == "worker 3: the launcher is gone, this process ends\n"
