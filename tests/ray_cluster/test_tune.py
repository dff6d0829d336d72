"""The sweep of the examples runs, and its best trial is a plain run."""

import re
import subprocess
import sys
from pathlib import Path

from ray_cluster import clusters

import dist_dp as dp
from dist_dp import nn, optim

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_best_trial_can_be_had_again(tmp_path, monkeypatch):
    with clusters.Nodes(num_cpus=2) as nodes:
        command = [sys.executable, str(EXAMPLES / "tune_digits.py"), "--epochs=2", f"--storage={tmp_path}"]
        ended = subprocess.run(command, env=nodes.environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    found = re.search(r"best: lr (\S+), width (\d+): test accuracy (\S+)   digest (\w+)", ended.stdout)
    assert found, ended.stdout
    lr, width, accuracy, digest = float(found[1]), int(found[2]), float(found[3]), found[4]
    assert accuracy > 0.7

    monkeypatch.syspath_prepend(EXAMPLES)
    import digits

    train, _ = digits.load()
    dp.seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    optimizer = optim.Adam(model.parameters(), lr=lr)
    result = dp.fit(model, digits.loss, optimizer, train, batch_size=64, epochs=2, progress=False)
    assert result.digest.startswith(digest)
