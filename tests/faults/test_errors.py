"""Errors of the program and of the disk under several workers: one report, or training goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults.launching import COMMAND, LAST_STEP, PROGRAM, Command, launch

from runtime import checkpoint
from runtime.events import read_events
from runtime.faults import Fault

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def expected() -> str:
    whole = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, check=True)
    return whole.stdout.splitlines()[-1].removeprefix("digest ")


def test_an_exception_on_one_shard_ends_all_with_one_report(tmp_path: Path) -> None:
    fault = Fault(1, "body", 10, "raise", shard=1)
    command = Command(tmp_path, "-n", "3", PROGRAM, faults=[fault])
    assert command.end() == 1
    assert command.plan.landed() == [fault]
    assert command.output.count("Traceback") == 1
    assert command.output.count("Ordered: ordered in worker 1, body, step 10") == 1
    assert "worker 1 of 3 failed" in command.output


def test_a_nan_on_one_shard_is_told_once_and_nothing_of_its_step_is_applied(tmp_path: Path) -> None:
    fault, run = Fault(2, "body", 10, "raise", shard=2), tmp_path / "run"
    command = Command(tmp_path / "place", "-n", "3", PROGRAM, str(run), "1", "0", "nan", faults=[fault])
    assert command.end() == 1
    assert command.plan.landed() == [fault]
    assert command.output.count("Traceback") == 1
    assert command.output.count("NonFiniteLoss: loss is nan at step 10, shard 2, examples [") == 1
    assert checkpoint.available(run / "checkpoints")[0].name == "step-0000000010"


def test_a_bad_example_is_told_once_with_step_shard_and_examples(tmp_path: Path) -> None:
    """The same report as that of one process, but for the frames between."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "import dist_dp as dp\n"
        "from dist_dp import nn, optim\n"
        "def loss(model, batch):\n"
        "    assert 13 not in batch, 'example 13 is bad'\n"
        "    return model(batch).mean()\n"
        "model = nn.Linear(1, 1)\n"
        "data = np.arange(60, dtype=np.float32)[:, None]\n"
        "dp.fit(model, loss, optim.SGD(model.parameters(), lr=0.1), data, batch_size=12, shards=4, progress=False)\n"
    )
    one = Command(tmp_path / "one", str(script))
    several = Command(tmp_path / "several", "-n", "3", str(script))
    assert (one.end(), several.end()) == (1, 1)
    lines = one.output.splitlines()
    (told,) = (line for line in lines if line.startswith("in step"))
    assert several.output.count("AssertionError: example 13 is bad") == several.output.count(told) == 1
    assert several.output.count("Traceback") == 1


@pytest.mark.parametrize("faults", [[], [Fault(1, "body", 5)], [Fault(0, "body", 5), Fault(1, "shard", 5)]])
def test_a_body_that_breaks_off_does_so_on_all_workers(tmp_path: Path, faults: list[Fault]) -> None:
    """Also if one of them dies on the way, and its replacement has to come to the same end."""
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "import dist_dp as dp\n"
        "from dist_dp import nn, optim\n"
        "from runtime import faults\n"
        "dp.seed(1)\n"
        "model, data = nn.Linear(3, 1), np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)\n"
        "def steps(epochs):\n"
        "    optimizer = optim.SGD(model.parameters(), lr=0.1)\n"
        "    return dp.steps(model, optimizer, data, batch_size=6, epochs=epochs, shards=3, progress=False)\n"
        "for shard in steps(1):\n"
        "    faults.here('body', shard.step, shard.index)\n"
        "    if shard.step == 5:\n"
        "        break\n"
        "    shard.backward((model(shard.batch) ** 2).mean())\n"
        "last = steps(40)\n"
        "for shard in last:\n"
        "    shard.backward((model(shard.batch) ** 2).mean())\n"
        "print('digest', last.digest())\n"
    )
    one = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    ended = launch(tmp_path / "place", faults, script=str(script))
    assert ended.digest == one.stdout.split()[-1] and len(ended.landed) == len(faults)


def test_a_disk_that_is_full_during_a_checkpoint_does_not_stop_the_training(
    expected: str, tmp_path: Path
) -> None:
    fault, run = Fault(0, "checkpoint", 10, "disk-full"), tmp_path / "run"
    # Slow enough that each checkpoint is written when the next is due.
    ended = launch(tmp_path / "place", [fault], str(run), "5", "0.05", workers=2)
    assert ended.digest == expected and ended.landed == [fault] and ended.generations == 1
    events = list(read_events(run / "metrics.jsonl"))
    (warning,) = [e for e in events if e.kind == "warning"]
    assert warning.step == 10 and "File too large" in str(warning.values["message"])
    assert "training goes on" in str(warning.values["message"])
    assert [e.step for e in events if e.kind == "checkpoint"] == [5, *range(15, 50, 5), LAST_STEP]
    assert not list((run / "checkpoints").rglob(".*"))


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a file system of its own (Linux)")
def test_a_small_disk_fills_up_and_training_goes_on(expected: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    small = f'mount -t tmpfs -o size=48k small "{disk}" && "$@"; code=$?; ls -R "{disk}"; exit $code'
    alone = ["unshare", "-rm", "sh", "-c", small, "sh"]
    command = [*alone, *COMMAND, "-n", "2", PROGRAM, str(disk / "run"), "1"]
    inside = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "mount" in inside.stderr:
        pytest.skip(inside.stderr)
    assert inside.returncode == 0 and f"digest {expected}" in inside.stdout, inside
    assert "No space left on device" in inside.stderr
    assert "manifest.json" in inside.stdout.split("checkpoints/step-")[1], "the last good checkpoint is kept"
