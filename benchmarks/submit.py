"""What `dist-dp submit` adds to a bare `ray job submit` of the same run: `python -m benchmarks.submit [--rounds 5]`.

A Ray of two nodes is started on this machine once. Then, in turn, the digits example is submitted by `ray job submit --
python -m dist_dp.cli run --ray ...` and by `dist-dp submit`, from a directory that holds it alone. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "benchmarks" / "submit.md"
GOAL = 3.0  # seconds
_SCRIPT = ["-n", "2", "digits.py", "--epochs", "3"]
_RAY = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", "."]
WAYS = {
    "ray job submit": [*_RAY, "--", "python", "-m", "dist_dp.cli", "run", "--ray", *_SCRIPT],
    "dist-dp submit": [sys.executable, "-m", "dist_dp.cli", "submit", *_SCRIPT],
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.submit", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=TABLE)
    args = parser.parse_args(argv)
    os.environ.update(
        RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0"
    )
    os.environ["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # jobs call `python`
    )
    sys.path.insert(0, str(ROOT / "tests"))
    from ray_cluster.clusters import Nodes

    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    digests = set()
    with Nodes(num_cpus=1, dashboard=True) as nodes, tempfile.TemporaryDirectory() as directory:
        nodes.add(num_cpus=1)
        shutil.copy(ROOT / "examples" / "digits.py", directory)
        for number in range(args.rounds + 1):  # the first of each uploads the directory
            for way in WAYS if number % 2 else reversed(WAYS):
                took, digest = _submit(WAYS[way], directory, nodes.environment)
                digests.add(digest)
                print(f"{way}: {took:.1f} s  {digest}", flush=True)
                if number:
                    seconds[way].append(took)
    if len(digests) != 1:
        raise SystemExit(f"the digests differ: {digests}")
    args.output.write_text("\n".join(_table(seconds)) + "\n")


def _submit(command: list[str], directory: str, environment: dict[str, str]) -> tuple[float, str]:
    """Seconds until the command has ended, and the digest that the run told."""
    begun = time.perf_counter()
    ended = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300
    )
    took = time.perf_counter() - begun
    if ended.returncode:
        raise SystemExit(f"{command} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return took, ended.stdout.partition("test accuracy")[2].split()[2]


def _table(seconds: dict[str, list[float]]) -> Iterator[str]:
    import ray

    bare, ours = (statistics.median(seconds[way]) for way in WAYS)
    yield "# What `dist-dp submit` adds to a job"
    yield ""
    yield "Made by `python -m benchmarks.submit`. The digits example, 3 epochs with 2 workers, on a Ray of two nodes"
    yield "that runs on this machine, submitted by `ray job submit -- python -m dist_dp.cli run --ray ...` and by"
    yield "`dist-dp submit`, in turn: seconds from the command to its end. The runs ended with equal digests."
    yield ""
    yield f"Ray {ray.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores."
    yield ""
    yield "| | runs | median | least | most |"
    yield "|---|---|---|---|---|"
    for way, took in seconds.items():
        yield f"| {way} | {len(took)} | {statistics.median(took):.1f} | {min(took):.1f} | {max(took):.1f} |"
    yield ""
    verdict = "met" if ours - bare <= GOAL else "missed"
    yield f"**{ours - bare:+.1f} s**; the goal is at most {GOAL:g} s more: {verdict}."


if __name__ == "__main__":
    main()
