"""What a run reports is seen at the node's Prometheus endpoint."""

import re
import time
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
import ray
from ray_cluster import clusters

import dist_dp as dp
from dist_dp import nn, optim
from runtime.events import Event


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    port = clusters.free_port()
    # Ray sends metrics to the endpoint every 10 s, or as often as is said here, but not more often than every second.
    quick = {"metrics_report_interval_ms": 1000}
    with clusters.local(num_cpus=1, _system_config=quick, _metrics_export_port=port):
        yield f"http://127.0.0.1:{port}/metrics"


def seen(endpoint: str, run: str) -> dict[str, float]:
    """Metrics of a run by name; of a histogram the count."""
    with urllib.request.urlopen(endpoint, timeout=5) as page:
        text = page.read().decode()
    lines = re.findall(r"^ray_dist_dp_(\w+)\{(.*?)\} (\S+)$", text, re.MULTILINE)
    return {
        name: float(value)
        for name, labels, value in lines
        # Ray puts a histogram's sum together from the middles of its buckets.
        if f'run="{run}"' in labels and not name.endswith(("_bucket", "_seconds_sum"))
    }


def waited_for(endpoint: str, run: str, last: str) -> dict[str, float]:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            if last in (found := seen(endpoint, run)):
                return found
        except OSError:  # not up yet
            pass
        time.sleep(0.2)
    raise AssertionError(f"no {last} at {endpoint} within 30 s")


def test_each_event_is_counted(endpoint):
    @ray.remote
    def report():
        from runtime.hosts.ray.metrics import RayMetrics

        sink = RayMetrics("by hand", workers=3)
        for kind, step, values in [
            ("start", 0, {"total_steps": 9}),
            ("step", 1, {"examples": 10, "seconds": 0.5, "exchange": 0.125, "exchange_bytes": 400}),
            ("generation", 1, {"number": 2, "workers": 2, "newcomers": 0, "seconds": 0.25}),  # one was lost
            ("generation", 1, {"number": 3, "workers": 4, "newcomers": 2, "seconds": 0.5}),  # two came
            (
                "generation",
                1,
                {"number": 4, "workers": 4, "newcomers": 1, "seconds": 0.5},
            ),  # one was replaced
            ("step", 2, {"examples": 10, "seconds": 0.25, "exchange": 0.25, "exchange_bytes": 400}),
            ("checkpoint", 2, {"digest": "..", "seconds": 0.75}),
            ("unknown", 2, {}),
            ("warning", 2, {"message": "mind the gap"}),
        ]:
            sink.emit(Event(kind, step, values))
        sink.close()
        time.sleep(3)  # a process that ends at once takes along what it has not sent

    task = report.remote()
    found = waited_for(endpoint, "by hand", "warnings_total")
    assert found == {
        "step": 2,
        "step_seconds_count": 2,
        "samples_total": 20,
        "samples_per_second": 40,
        "exchange_seconds_total": 0.375,
        "exchange_bytes_total": 800,
        "generation": 4,
        "workers": 4,
        "recoveries_total": 2,
        "recovery_seconds_total": 0.75,
        "checkpoints_total": 1,
        "checkpoint_seconds": 0.75,
        "warnings_total": 1,
    }
    ray.get(task, timeout=30)


def test_a_run_is_seen(endpoint):
    from runtime.hosts.ray.metrics import RayMetrics

    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    for _ in range(2):  # a second run of the program goes on counting
        model = nn.Linear(3, 1)
        dp.fit(
            model,
            lambda model, batch: (model(batch) ** 2).mean(),
            optim.SGD(model.parameters(), lr=0.01),
            x,
            batch_size=10,
            sinks=[RayMetrics("fitted", workers=1)],
            progress=False,
        )
    until = time.monotonic() + 30
    while (found := waited_for(endpoint, "fitted", "samples_total"))["samples_total"] < 80:
        assert time.monotonic() < until
    assert found["step"] == 4
    assert found["step_seconds_count"] == 8
    assert found["workers"] == 1
    assert "exchange_bytes_total" not in found  # nobody to exchange with
