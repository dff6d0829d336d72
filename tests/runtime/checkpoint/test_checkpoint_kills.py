"""A kill, a full disk or a power cut at any point of a save leaves the old checkpoint or the new one."""

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import checkpoint, store
from runtime.checkpoint import CheckpointDamaged, CheckpointNotSaved, layout

PRIMITIVES = ["make_directory", "write_file", "sync_directory", "rename", "remove_file", "remove_tree"]


class Killed(BaseException):
    """The process ends here: no handler may do anything after it, for every later primitive raises it too."""


class Faults:
    """Wraps the primitives of the store so that the ``at``-th call does a part of its work and fails."""

    def __init__(
        self, patch: pytest.MonkeyPatch, at: int, error: Callable[[], BaseException], last: bool
    ) -> None:
        self.calls = 0
        self.landed = 0
        self._at, self._error, self._last = at, error, last
        for name in PRIMITIVES:
            patch.setattr(store, name, self._wrap(name, getattr(store, name)))

    def _wrap(self, name: str, primitive: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, *rest: Any) -> None:
            self.calls += 1
            if self.calls == self._at:
                self.landed += 1
                if name == "write_file":
                    whole = b"".join(rest[0])
                    path.write_bytes(whole[: len(whole) // 2])
                elif name == "remove_tree" and path.exists():
                    for file in list(path.iterdir())[:1]:
                        file.unlink()
                raise self._error()
            if self.landed and not self._last:
                raise self._error()
            primitive(path, *rest)

        return call


def state(value: float) -> dict[str, Any]:
    return {"w": np.full(4, value), "b": np.array(value)}


def save(root: Path, step: int, value: float) -> None:
    checkpoint.save(root, step, state(value), {"value": value}, keep_last=2)


def refuse(damage: CheckpointDamaged) -> None:
    raise damage


def value_of_latest(root: Path) -> float | None:
    """The value of the newest checkpoint, which must be whole and met at once."""
    found = checkpoint.latest(root, refuse)
    if found is None:
        return None
    for path in checkpoint.available(root)[1:]:
        checkpoint.load(path)  # those before it are whole, too
    value: float = found.meta["value"]
    assert all((array == value).all() for array in found.arrays.values())
    return value


def nothing(root: Path) -> None:
    pass


def some(root: Path) -> None:
    for step in (10, 20, 30):
        save(root, step, step)


def same_step(root: Path) -> None:
    some(root)
    save(root, 40, 30.0)


def leftovers(root: Path) -> None:
    """What kills leave: parts of other attempts, half a file, checkpoints that were never finished."""
    same_step(root)
    (root / "step-0000000040" / "arrays-1-of-2.0ddba11f.safetensors").write_bytes(b"part")
    (root / "step-0000000040" / ".partial-manifest.json.0ddba11f").write_bytes(b"{")
    (root / "step-0000000035").mkdir()
    (root / "step-0000000035" / layout.ARRAYS).write_bytes(b"arrays")


def unfinished(root: Path) -> None:
    """Killed before the manifest was written."""
    same_step(root)
    (root / "step-0000000040" / layout.MANIFEST).unlink()


SCENES = [nothing, some, same_step, leftovers, unfinished]


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that it has written, synced or not."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def faulty_saves(scene: Callable[[Path], None], tmp_path: Path, **kind: Any) -> Iterator[tuple[Path, Any]]:
    """Save step 40 over the scene, with the fault at the first primitive, the second, ... to the last."""
    for at in range(1, 100):
        root = tmp_path / str(at)
        scene(root)
        raised: BaseException | None = None
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, at, **kind)
            try:
                save(root, 40, 40.0)
            except (Killed, CheckpointNotSaved) as error:
                raised = error
        if not faults.landed:
            assert raised is None
            return
        yield root, raised
    raise AssertionError("a save has no end")


def check_the_next_save(root: Path) -> None:
    save(root, 50, 50.0)
    assert value_of_latest(root) == 50.0
    kept = checkpoint.available(root)
    assert sorted(root.iterdir()) == sorted(
        saved.local for saved in kept if saved.local
    )  # nothing half-made is left
    assert len(kept) <= 2
    assert {path.name for path in (root / "step-0000000050").iterdir()} == {layout.ARRAYS, layout.MANIFEST}


@pytest.mark.parametrize(
    ("scene", "least"), [(nothing, 9), (some, 12), (same_step, 9), (leftovers, 9), (unfinished, 8)]
)
def test_a_kill_at_any_primitive_leaves_the_old_or_the_new(
    tmp_path: Path, scene: Callable[[Path], None], least: int
) -> None:
    scene(tmp_path / "before")
    old = value_of_latest(tmp_path / "before")
    found = []
    for root, raised in faulty_saves(scene, tmp_path, error=Killed, last=False):
        assert isinstance(raised, Killed)
        found.append(value_of_latest(root))
        assert found[-1] in (old, 40.0)
        check_the_next_save(root)
    assert len(found) >= least
    # Once the new one is in place it stays there: the old one, then the new one, and never back.
    assert found == sorted(found, key=lambda value: value == 40.0)
    assert {old, 40.0} == set(found)


def test_a_second_kill_while_the_first_is_being_cleared_up(tmp_path: Path) -> None:
    landed = 0
    for scene in (some, same_step):
        first = faulty_saves(scene, tmp_path / scene.__name__, error=Killed, last=False)
        for root, _ in first:
            again = value_of_latest(root)

            def copy(target: Path, root: Path = root) -> None:
                shutil.copytree(root, target)

            for twice, _ in faulty_saves(
                copy, root.with_name(f"again-{root.name}"), error=Killed, last=False
            ):
                assert value_of_latest(twice) in (again, 40.0)
                check_the_next_save(twice)
                landed += 1
    assert landed > 100


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("last", [True, False], ids=["passing", "lasting"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_costs_no_checkpoint(
    tmp_path: Path, scene: Callable[[Path], None], last: bool, code: int
) -> None:
    scene(tmp_path / "before")
    old = value_of_latest(tmp_path / "before")
    refusals = 0
    for root, raised in faulty_saves(
        scene, tmp_path, error=lambda: OSError(code, os.strerror(code)), last=last
    ):
        found = value_of_latest(root)
        if raised is None:  # only the removal of old ones failed
            assert found == 40.0
        else:
            refusals += 1
            assert f"step 40 was not saved: [Errno {code}] {os.strerror(code)}" in str(raised)
            assert isinstance(raised.__cause__, OSError)
            assert found in (old, 40.0)
        check_the_next_save(root)
    assert refusals >= 6


def test_a_refused_save_gives_its_space_back(tmp_path: Path) -> None:
    some(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a real refusal by the kernel, mid-write
        with pytest.raises(CheckpointNotSaved, match=r"step 40 was not saved: \[Errno 27\]"):
            checkpoint.save(tmp_path, 40, {"w": np.zeros(4096)}, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(CheckpointNotSaved, match="not saved"):
        save(tmp_path / "run" / "checkpoints", 1, 1.0)


@pytest.mark.parametrize("scene", [nothing, some, same_step])
def test_nothing_gets_its_name_before_it_is_on_the_medium(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Callable[[Path], None]
) -> None:
    """A power cut keeps what was synced, and of the rest what it likes."""
    root = tmp_path / "run" / "checkpoints"
    scene(root)
    log: list[int | str] = []  # the inodes synced and the names given and taken, in order
    rename, unlink = os.rename, os.unlink

    def logged_rename(source: Path, target: Path) -> None:
        assert log[-1] == source.stat().st_ino
        rename(source, target)
        log.append(target.name)

    def logged_unlink(path: Any, **rest: Any) -> None:
        unlink(path, **rest)
        log.append(f"no {Path(path).name}")

    monkeypatch.setattr(os, "fsync", lambda descriptor: log.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "rename", logged_rename)
    monkeypatch.setattr(os, "unlink", logged_unlink)
    save(root, 40, 40.0)
    directory = root / layout.directory_name(40)
    given = [
        place for place, entry in enumerate(log) if isinstance(entry, str) and not entry.startswith("no ")
    ]
    assert [log[place] for place in given] == [
        path.name for path in (arrays_of(directory), directory / layout.MANIFEST)
    ]
    assert all(log[place + 1] == directory.stat().st_ino for place in given)
    if scene is not same_step:  # the directory is new, and those above it
        new = [root] if scene is some else [root, root.parent, tmp_path]
        assert log[: len(new)] == [path.stat().st_ino for path in new]
    if (
        scene is some
    ):  # a checkpoint that is removed is none before any of it is gone, whatever a power cut keeps
        gone = log.index(f"no {layout.MANIFEST}")
        assert isinstance(log[gone + 1], int) and log.index(f"no {layout.ARRAYS}") > gone + 1


def arrays_of(directory: Path) -> Path:
    (arrays,) = (path for path in directory.iterdir() if path.name != layout.MANIFEST)
    return arrays


def test_on_macos_the_drive_is_asked_to_write_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    synced: list[int] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda descriptor, command: asked.append(command))
    monkeypatch.setattr(os, "fsync", synced.append)
    store.write_file(tmp_path / "a", [b"a"])
    assert (asked, len(synced)) == ([51], 0)

    def refuse(descriptor: int, command: int) -> None:
        raise OSError(errno.ENOTSUP, "not on this file system")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    store.write_file(tmp_path / "b", [b"b"])
    assert len(synced) == 1


SAVER = """
import sys, itertools
import numpy as np
from runtime import checkpoint, store
for step in itertools.count(1):
    for again in range(2):
        value = step + again / 2
        checkpoint.save(sys.argv[1], step, {"w": np.full(20_000, value)}, {"value": value}, keep_last=2)
        print(value, flush=True)
"""


@pytest.mark.process
@pytest.mark.parametrize("lines", [3, 8, 12])
def test_a_real_kill_loses_nothing_that_was_reported_saved(tmp_path: Path, lines: int) -> None:
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVER, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    )
    assert saver.stdout
    with saver.stdout:
        reported = [float(saver.stdout.readline()) for _ in range(lines)]
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        reported += [float(line) for line in saver.stdout.read().splitlines()]
    found = value_of_latest(tmp_path)
    assert found is not None
    assert reported[-1] <= found <= reported[-1] + 0.5
