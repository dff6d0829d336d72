"""Breaking runs at random for as long as wanted: `python -m benchmarks.soak --minutes 20 [--workers 2-4] [--seed N]`.

Run after run of `soak_program.py`, each with its own number of workers, backend and mode. Two things break them:
faults that are ordered by step and phase (`runtime.faults`), and this process, which sends signals to workers, and
sometimes to their launcher, at any moment. Every run must end with the digest of one undisturbed process; one that does
not end is a hang. What was not right leaves its directory behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dist_dp as dp
from runtime.coordinator import Limits
from runtime.events import read_events
from runtime.faults import FAULTS, PHASES, Fault, FaultPlan
from runtime.hosts.local import BACKENDS, LocalHost
from runtime.hosts.logs import WorkerLogs

PROGRAM = str(Path(__file__).with_name("soak_program.py"))
TABLE = Path(__file__).parent.parent / "docs" / "benchmarks" / "soak.md"
STEPS = 90
TOO_LONG = 120.0  # seconds; a run takes about 5
LIMITS = Limits(heartbeat=1.5, hang=6.0, losses=12)
PAUSE = 0.4  # seconds that a worker stands still, at most, before it is told to go on

# How often each is drawn. Ordered faults strike a worker in a phase; the others come at any moment.
ORDERED = {"kill": 8, "exit": 2, "stop": 3, "delay": 3, "hang": 1, "disk-full": 2}
AT_ANY_TIME = {"SIGKILL": 8, "SIGSTOP": 3, "pause": 3, "kill the launcher": 1, "Ctrl-C": 1}
OF_THE_LAUNCHER = {"kill the launcher": signal.SIGKILL, "Ctrl-C": signal.SIGINT}
LOSSES = ("kill", "exit", "SIGKILL")  # noticed at once; a stop or a hang only after a while


@dataclass
class Tally:
    """What has happened so far."""

    runs: int = 0
    landed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    resumed: int = 0  # launches after the launcher itself was ended
    lost: Counter[str] = field(default_factory=Counter)  # runs that gave up, and why; they were resumed too
    stepping: dict[str, list[float]] = field(default_factory=dict)  # seconds from a fault to the next step
    whole: list[float] = field(default_factory=list)  # seconds from a loss until all workers are there again


# --- one launch, in a process of its own ------------------------------------------------------------------------------


def launcher(workers: int, backend: str, output: str, arguments: Sequence[str]) -> int:
    """What `dist-dp run` does, with the limits of this benchmark."""
    command = [sys.executable, "-m", "dist_dp.cli", "run", "--threads", "1", PROGRAM, *arguments]
    with open(output, "a", encoding="utf-8") as file:
        logs = WorkerLogs(workers, file, file, "all")
        over = LocalHost(command, workers, backend=backend, limits=LIMITS, logs=logs).run()
        logs.close()
        file.write(f"over {over.code}: {over.reason}\n{over.report.get('traceback', '')}")
    return over.code


class Launch:
    """A launcher and its workers, and what is done to them."""

    def __init__(self, place: Path, workers: int, backend: str, mode: str, pace: float) -> None:
        self.workers, self.plan = workers, place / "plan.json"
        arguments = [str(place / "run"), f"{pace:.4f}", mode]
        options = [str(workers), backend, str(place / "output"), *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", "--launch", *options],
            env={**os.environ, FAULTS: str(self.plan)},
            stdin=subprocess.DEVNULL,
        )

    def children(self) -> list[int]:
        """The workers that are there."""
        pid = self.process.pid
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def strike(self, what: str, chance: random.Random) -> bool:
        """Break something now; whether there was something to break."""
        workers = self.children()
        if not workers:
            return False
        if what in OF_THE_LAUNCHER:
            self.process.send_signal(OF_THE_LAUNCHER[what])
            return True
        victim = chance.choice(workers)
        # The launcher waits for its workers, so an id is theirs until it has; one that has ended takes no notice.
        if Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        os.kill(victim, signal.SIGKILL if what == "SIGKILL" else signal.SIGSTOP)
        if what == "pause":
            time.sleep(chance.uniform(0.0, PAUSE))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
        return True

    def end(self) -> None:
        """End everything at once."""
        workers = self.children()
        self.process.kill()
        self.process.wait()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


# --- one run ----------------------------------------------------------------------------------------------------------


def one_run(tally: Tally, chance: random.Random, most: tuple[int, int], place: Path, expected: str) -> bool:
    """Do a run until it has come to its end, over as many launches as it takes. Whether all was right."""
    workers, backend = chance.randint(*most), chance.choice(BACKENDS)
    mode = chance.choice(["plain", "plain", "overlap", "spread"])
    pace = chance.choice([0.0, 0.005, 0.02])
    name = f"{workers} workers, {backend}, {mode}, pace {pace:g}, {place}"
    faults = [
        Fault(
            chance.randrange(workers),
            "checkpoint" if action == "disk-full" else chance.choice(PHASES[:-1]),
            chance.randrange(STEPS),
            action,
            seconds=chance.uniform(0.0, 0.5),
        )
        for action in _draw(chance, ORDERED, chance.choice([0, 1, 2, 3]))
    ]
    plan = FaultPlan.order(place / "plan.json", faults)
    strikes = _draw(chance, AT_ANY_TIME, chance.choice([0, 1, 2, 4]))
    struck: list[tuple[float, str]] = []
    tally.runs += 1
    for _ in range(10):
        launch = Launch(place, workers, backend, mode, pace)
        if not _disturb(launch, strikes, struck, chance):
            launch.end()
            tally.hangs.append(f"{name}: {faults}, {struck}")
            return False
        code = launch.process.returncode
        if code == 0:
            break
        if code not in (3, 130, -signal.SIGKILL):
            tally.failed.append(f"{name}: exit code {code}\n{_tail(place)}")
            return False
        if code == 3:
            tally.lost[re.findall(r"^over 3: (.*)$", _output(place), re.MULTILINE)[-1]] += 1
        tally.resumed += 1
    for _, what in struck:
        tally.landed[what] += 1
    for fault in plan.landed():
        tally.landed[f"{fault.action}, ordered"] += 1
    _measure(tally, place, workers, struck, plan)
    events = read_events(place / "run" / "metrics.jsonl")
    ends = {str(event.values["digest"]) for event in events if event.kind == "end"}
    found = ends | set(re.findall(r"digest (\w+)", _output(place)))  # what each worker printed
    if found != {expected}:
        tally.wrong.append(f"{name}: {found}, not {expected}")
        return False
    return True


def _disturb(
    launch: Launch, strikes: list[str], struck: list[tuple[float, str]], chance: random.Random
) -> bool:
    """Send signals until the launch has ended; whether it has in time. What was struck is taken out of `strikes`."""
    begun = time.monotonic()
    after = chance.uniform(0.0, 2.5)
    while time.monotonic() - begun < TOO_LONG:
        with contextlib.suppress(subprocess.TimeoutExpired):
            launch.process.wait(max(0.01, min(after, 1.0)))
            return True
        after -= 1.0
        if strikes and after <= 0:
            at = time.time()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if launch.strike(strikes[-1], chance):
                    struck.append((at, strikes.pop()))
            after = chance.uniform(0.0, 2.5)
    return False


def _measure(
    tally: Tally, place: Path, workers: int, struck: list[tuple[float, str]], plan: FaultPlan
) -> None:
    """How long it took from each fault to the next step, and until all workers were there again."""
    events = list(read_events(place / "run" / "metrics.jsonl"))
    begun = min((event.time for event in events), default=0.0)
    at = list(struck)
    for line, fault in zip(plan.landed_lines(), plan.landed(), strict=True):
        at.append((float(line.split()[-1]), fault.action))
    for moment, what in at:
        if what not in LOSSES or moment < begun:
            continue
        steps = [event.time - moment for event in events if event.kind == "step" and event.time > moment]
        if steps:
            tally.stepping.setdefault(what, []).append(min(steps))
        whole = [
            event.time - moment
            for event in events
            if event.kind == "generation" and event.time > moment and event.values["workers"] == workers
        ]
        if whole:
            tally.whole.append(min(whole))


def _draw(chance: random.Random, weights: dict[str, int], count: int) -> list[str]:
    return chance.choices(list(weights), list(weights.values()), k=count)


def _output(place: Path) -> str:
    return (place / "output").read_text(encoding="utf-8", errors="replace")


def _tail(place: Path) -> str:
    return "\n".join(_output(place).splitlines()[-40:])


# --- all runs ---------------------------------------------------------------------------------------------------------


def oracle(place: Path) -> str:
    """The digest of one undisturbed process."""
    command = [sys.executable, "-m", "dist_dp.cli", "run", PROGRAM, str(place / "run"), "0", "plain"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def soak(minutes: float, most: tuple[int, int], seed: int) -> tuple[Tally, float]:
    """Runs until the time is over; what came of them, and the minutes they took."""
    tally, chance = Tally(), random.Random(seed)
    root = Path(tempfile.mkdtemp(prefix="dist-dp-soak-"))
    expected = oracle(root)
    begun = time.monotonic()
    while time.monotonic() - begun < 60 * minutes:
        place = root / str(tally.runs)
        place.mkdir()
        right = one_run(tally, chance, most, place, expected)
        if right:
            shutil.rmtree(place)
        state = "right" if right else f"NOT RIGHT: {(tally.wrong + tally.hangs + tally.failed)[-1]}"
        print(f"run {tally.runs}: {sum(tally.landed.values())} faults so far, {state}", flush=True)
    return tally, (time.monotonic() - begun) / 60


def lines(tally: Tally, minutes: float, command: str) -> Iterator[str]:
    yield "# Runs broken at random\n"
    yield f"Made by `{command}`. Run after run of a small program,"
    yield "some seconds each, over every backend of one machine, with and without overlap and a spread optimizer, while"
    yield "workers and launchers are killed, stopped, paused and hung: at places of the step that are drawn beforehand,"
    yield "and by signals at any moment. Each run must end with the digest of one undisturbed process.\n"
    version = f"dist_dp {dp.__version__}, Python {platform.python_version()}"
    yield f"{version}, {os.cpu_count()} cores, {minutes:.0f} minutes.\n"
    yield "| | |\n|---|---|"
    yield f"| runs | {tally.runs} |"
    yield f"| faults landed | {sum(tally.landed.values())} |"
    yield f"| **wrong digests** | **{len(tally.wrong)}** |"
    yield f"| **hangs** | **{len(tally.hangs)}** |"
    yield f"| **runs that failed** | **{len(tally.failed)}** |"
    yield f"| launches that resumed a run | {tally.resumed} |"
    yield f"| of these after too many losses in a row | {sum(tally.lost.values())} |"
    yield "\n| fault | landed |\n|---|---|"
    for what, count in tally.landed.most_common():
        yield f"| {what} | {count} |"
    yield "\nTime from the death of a worker (kill, exit) to the next step of the run, and until all workers were"
    yield "there again, where the run lasted so long. The workers are more than the cores; where all had died, the time"
    yield f"is that of starting new processes. A stop is noticed after {LIMITS.heartbeat:g} s here, a hang after"
    yield f"{LIMITS.hang:g} s; these are settings.\n"
    yield "| | times measured | median s | worst s |\n|---|---|---|---|"
    stepping = [seconds for found in tally.stepping.values() for seconds in found]
    for name, seconds in (("next step", stepping), ("all workers there", tally.whole)):
        if seconds:
            yield f"| {name} | {len(seconds)} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |"
    for why, count in tally.lost.items():
        yield f"\nGave up and was resumed, {count}: {why}"
    for title, found in (("Wrong", tally.wrong), ("Hung", tally.hangs), ("Failed", tally.failed)):
        for text in found:
            yield f"\n{title}: {text}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--workers", default="2-4", help="how many at least and at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=TABLE)
    parser.add_argument("--launch", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args: Any = parser.parse_args()
    if args.launch:
        workers, backend, output, *arguments = args.launch
        sys.exit(launcher(int(workers), backend, output, arguments))
    least, _, most = args.workers.partition("-")
    tally, minutes = soak(args.minutes, (int(least), int(most or least)), args.seed)
    text = list(lines(tally, minutes, f"python -m benchmarks.soak {' '.join(sys.argv[1:])}".strip()))
    print("\n".join(text))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(text) + "\n", encoding="utf-8")
    sys.exit(1 if tally.wrong or tally.hangs or tally.failed else 0)


if __name__ == "__main__":
    main()
