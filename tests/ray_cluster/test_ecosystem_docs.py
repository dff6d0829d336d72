"""The programs of docs/ray_ecosystem.md run, and nothing imports Ray unasked."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ray_cluster import clusters

import dist_dp as dp
from dist_dp import nn, optim

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def programs() -> dict[str, str]:
    """By the heading that each stands under."""
    text = (ROOT / "docs" / "ray_ecosystem.md").read_text()
    return dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", text, re.M | re.S))


def test_programs_run(programs, tmp_path):
    assert set(programs) == {"Ray Train", "Ray Data", "Metrics"}
    with clusters.Nodes(num_cpus=8) as nodes, ThreadPoolExecutor() as together:

        def run(name: str) -> str:
            place = tmp_path / name.replace(" ", "")
            place.mkdir()
            file = place / "program.py"
            file.write_text(programs[name].replace("/tmp/shared", str(place)))
            launcher = ["-m", "dist_dp.cli", "run", "--ray", "-n", "2"] if name == "Ray Data" else []
            ended = subprocess.run(
                [sys.executable, *launcher, str(file)],
                env={**nodes.environment, "PYTHONPATH": str(ROOT)},
                cwd=place,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert ended.returncode == 0, f"{name}: {ended.stdout}{ended.stderr}"
            return ended.stdout

        printed = dict(zip(programs, together.map(run, programs), strict=True))
    # A line of its own: Ray may have warned of something before it.
    assert re.search(r"^[0-9a-f]{64} Checkpoint\(", printed["Ray Train"], re.M)
    # The Dataset, executed by two workers, gives the answer of arrays in one process.
    i = np.arange(300)
    arrays = {"x": np.stack([np.sin(i), np.cos(i)], 1).astype(np.float32), "label": i % 3}
    dp.seed(0)
    model = nn.Linear(2, 3)
    digest = dp.fit(
        model,
        lambda model, batch: nn.functional.cross_entropy(model(batch["x"]), batch["label"]),
        optim.SGD(model.parameters(), lr=0.1),
        arrays,
        batch_size=30,
        shards=4,
        progress=False,
    ).digest
    assert f"digest {digest}\n" in printed["Ray Data"]


def test_nothing_imports_ray_unasked():
    code = "import sys, dist_dp, dist_dp.cli; sys.exit(bool({'ray', 'fsspec', 'mpi4py', 'pyarrow'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
