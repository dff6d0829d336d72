"""What checkpoints cost the steps: `python -m benchmarks checkpoint [--rounds 7]`.

The same training of a model of ten million parameters runs without checkpoints, with one every 50 steps on the local
disk, and with one every 50 steps on an S3 server on this machine; they take turns. Needs s3fs and moto[server].
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import dist_dp as dp
from benchmarks.tables import spread
from benchmarks.turns import Programs
from dist_dp.train.run_directory import RunDirectory
from runtime.hosts import cores

PROGRAM = str(Path(__file__).with_name("checkpoint_program.py"))
OUTPUT = Path(__file__).parent.parent / "docs" / "benchmarks" / "checkpoint.md"
EVERY = 50
WITHOUT = "without"
WORKERS = (1, 2)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks checkpoint", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    text = []
    for line in lines(args.rounds):
        print(line, flush=True)
        text.append(line)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("\n".join(text) + "\n", encoding="utf-8")


def lines(rounds: int) -> Iterator[str]:
    before = os.getloadavg()[0]
    yield "# Checkpoints\n"
    yield f"Made by `python -m benchmarks checkpoint --rounds {rounds}` with dist_dp {dp.__version__}, NumPy"
    yield f"{np.__version__}, Python {platform.python_version()}, on {cores.available()} cores.\n"
    yield "A perceptron of 10 million parameters is trained with Adam, batch 128 in 2 shards: a state of 120 MB. The"
    yield f"same run goes without checkpoints, with one every {EVERY} steps in a directory, and with one every {EVERY}"
    yield "steps on an S3 server (moto, a process on the same machine). All are started once and take turns of 100"
    yield f"steps, in each of {rounds} rounds; a turn has two checkpoints in it, and both are written before its end."
    yield "Given are medians over the rounds, of costs the median of the ratios of each round, in brackets their middle"
    yield "half. The goal is at most 2 % of the time of a step.\n"
    yield "- *cost*: seconds of a step over those of the run without checkpoints in the same round, less one;"
    yield "- *written in*: from the copy of the state to the manifest, in the background;"
    yield "- *left out*: checkpoints that were due while the one before was still being written.\n"
    yield "| workers | step ms | checkpoints | step ms | cost | written in s | left out |"
    yield "|---|---|---|---|---|---|---|"
    for workers in WORKERS:
        yield from table(workers, rounds)
    yield f"\nThe machine's load average was {before:.1f} before and {os.getloadavg()[0]:.1f} after; the runs"
    yield "themselves make about 1 (of one worker) to 2."


def table(workers: int, rounds: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder, s3_server() as bucket:
        places = {
            WITHOUT: (f"{folder}/without", 0),
            "directory": (f"{folder}/with", EVERY),
            "S3": (bucket, EVERY),
        }
        command = [sys.executable, "-m", "dist_dp.cli", "run", "-n", str(workers), PROGRAM]
        commands = {
            name: [([*command, f"{place}/run", str(every)], {})] for name, (place, every) in places.items()
        }
        found: dict[str, list[float]] = {name: [] for name in places}
        with Programs(commands, dict.fromkeys(places, workers)) as programs:
            programs.ready()
            for name in places:
                programs.seconds(
                    [name], EVERY // 2 - 1
                )  # so that turns begin in the middle between checkpoints
            for _ in range(rounds):
                for name in places:
                    found[name] += programs.seconds([name], 2 * EVERY - 1)
            programs.over()
        base = statistics.median(found[WITHOUT])
        for name in list(places)[1:]:
            events = list(RunDirectory(f"{places[name][0]}/run").events())
            written = [float(e.values["seconds"]) for e in events if e.kind == "checkpoint"]
            late = sum(e.kind == "warning" for e in events)
            pairs = zip(found[name], found[WITHOUT], strict=True)
            cost = spread((a / b - 1 for a, b in pairs), ".1%")
            cells = [
                str(workers),
                f"{1e3 * base:.1f}",
                name,
                f"{1e3 * statistics.median(found[name]):.1f}",
                cost,
            ]
            cells += [f"{statistics.median(written):.2f}", "some" if late else "none"]
            yield f"| {' | '.join(cells)} |"


@contextmanager
def s3_server() -> Iterator[str]:
    """An S3 server on this machine; gives the URL of a bucket, which this process and its children may use."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", address.rpartition(":")[2]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    keys = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1"}
    os.environ.update(keys, AWS_ENDPOINT_URL=address)
    try:
        until = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(
                    urllib.request.Request(f"{address}/bucket", method="PUT"), timeout=10
                ).close()
                break
            except urllib.error.URLError:
                if server.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the S3 server did not start: pip install 'moto[server]'") from None
                time.sleep(0.05)
        yield "s3://bucket"
    finally:
        server.kill()
        server.wait()
