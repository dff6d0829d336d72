"""`RayMetrics`: what a run reports, as metrics of Ray, which each node shows to Prometheus as `ray_dist_dp_...`.

The worker that writes reports, so each value stands once in the cluster. When another worker takes over it goes on from
its own zero, under a `WorkerId` of its own: add counters up over it.
"""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from ...events import Event

# Upper borders of the histogram's buckets, in seconds.
_STEP_SECONDS = [0.001 * 10**k * digit for k in range(5) for digit in (1, 2, 5)]


class RayMetrics:
    """A sink of events (`runtime.events.Sink`); every metric is tagged with the run.

    Args:
        run: what to call it.
        workers: how many it has as long as no event says otherwise.
    """

    def __init__(self, run: str, workers: int) -> None:
        def made(kind: Any, name: str, description: str, **more: Any) -> Any:
            metric = kind(f"dist_dp_{name}", description, tag_keys=("run",), **more)
            return metric.set_default_tags({"run": run})

        self._step = made(Gauge, "step", "Steps that the run has done.")
        self._step_seconds = made(
            Histogram, "step_seconds", "Seconds that a step took.", boundaries=_STEP_SECONDS
        )
        self._samples = made(Counter, "samples", "Examples that were trained on.")
        self._samples_per_second = made(Gauge, "samples_per_second", "Examples a second, in the newest step.")
        self._exchange_seconds = made(
            Counter, "exchange_seconds", "Seconds that steps waited for the exchange of gradients."
        )
        self._exchange_bytes = made(
            Counter, "exchange_bytes", "Bytes of the gradients that workers added up together."
        )
        self._generation = made(Gauge, "generation", "How often the set of workers was formed.")
        self._workers = made(Gauge, "workers", "Workers of the present generation.")
        self._recoveries = made(Counter, "recoveries", "Generations that began because a worker was lost.")
        self._recovery_seconds = made(
            Counter,
            "recovery_seconds",
            "Seconds from the end of a generation until all hold the state again.",
        )
        self._checkpoints = made(Counter, "checkpoints", "Checkpoints that were saved.")
        self._checkpoint_seconds = made(
            Gauge, "checkpoint_seconds", "Seconds that the newest checkpoint took."
        )
        self._warnings = made(Counter, "warnings", "Warnings of the run.")
        self._size = workers

    def emit(self, event: Event) -> None:
        """Take one event."""
        values: Any = event.values
        match event.kind:
            case "start":
                self._step.set(event.step)
                self._workers.set(self._size)
            case "step":
                self._step.set(event.step)
                self._step_seconds.observe(values["seconds"])
                _add(self._samples, values["examples"])
                if values["seconds"] > 0:
                    self._samples_per_second.set(values["examples"] / values["seconds"])
                _add(self._exchange_seconds, values["exchange"])
                _add(self._exchange_bytes, values["exchange_bytes"])
            case "generation":
                self._generation.set(values["number"])
                self._workers.set(values["workers"])
                if values["workers"] - values["newcomers"] < self._size:  # else some came and nobody went
                    self._recoveries.inc()
                    _add(self._recovery_seconds, values["seconds"])
                self._size = values["workers"]
            case "checkpoint":
                self._checkpoints.inc()
                if "seconds" in values:
                    self._checkpoint_seconds.set(values["seconds"])
            case "warning":
                self._warnings.inc()

    def close(self) -> None:
        """Nothing is held; the node keeps showing the newest values for a while."""


def _add(counter: Any, value: float) -> None:
    if value > 0:  # Ray refuses 0
        counter.inc(value)
