"""SIGKILL at any moment, start again: the run ends with the digest of the undisturbed one."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.events import read_events

PROGRAM = Path(__file__).with_name("program.py")
LAST_STEP = 48  # 8 epochs of 6 steps


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(PROGRAM), *arguments], stdout=subprocess.PIPE, text=True)


def digest_of(output: str) -> str:
    return output.strip().splitlines()[-1].removeprefix("digest ")


@pytest.mark.process
@pytest.mark.parametrize("checkpoint_every", ["1", "7"])
def test_a_run_that_is_killed_again_and_again_ends_with_the_digest_of_the_whole_run(
    tmp_path: Path, checkpoint_every: str
) -> None:
    whole = start()
    expected = digest_of(whole.communicate()[0])
    assert whole.returncode == 0 and len(expected) == 64

    chance = random.Random(checkpoint_every)
    killed = []
    for _ in range(5):
        process = start(str(tmp_path / "run"), checkpoint_every, "0.02")  # the disk can keep up
        assert process.stdout is not None
        remaining = chance.randrange(2, 30)  # lines to read, two or three a step, before the kill
        with process:
            last = ""
            for line in process.stdout:
                last, remaining = line, remaining - 1
                if remaining == 0:
                    process.kill()
                    break
        assert process.returncode == -9, "the run ended before it could be killed"
        killed.append(int(last.split()[0]))
    assert len(killed) == 5 and max(killed) > 0

    finished = start(str(tmp_path / "run"), checkpoint_every)
    output = finished.communicate()[0]
    assert finished.returncode == 0
    assert int(output.split()[0]) > 0, "the last launch should have resumed, not started over"
    assert digest_of(output) == expected
    steps = [e.step for e in read_events(tmp_path / "run" / "metrics.jsonl") if e.kind == "step"]
    assert steps == list(range(1, LAST_STEP + 1))
