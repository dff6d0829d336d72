"""`launch` on Ray: the call goes to the workers as they are started, results come back as what they return."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Mapping
from typing import Any

from ... import launch
from ...coordinator import Limits
from ..logs import WorkerLogs
from ..shipped import called, raise_unless_well, report_of, results_of
from .cluster import connected

_LIMITS = Limits()


def call_on_ray(call: bytes, workers: int, threads: int) -> list[Any]:
    """Do a call in every worker; see `runtime.hosts.shipped.launch`.

    Raises:
        ClusterError: there is no cluster to do it on.
    """

    def say(line: str) -> None:
        print(f"dist-dp: {line}", file=sys.stderr)

    with connected(os.environ.get("RAY_ADDRESS"), None, say) as directory:
        from .host import RayHost

        logs = WorkerLogs(workers, sys.stdout, sys.stderr)
        host = RayHost(
            functools.partial(called, call),
            _reported,
            least=workers,
            most=workers,
            bundle={"CPU": float(threads)},
            directory=directory,
            limits=_LIMITS,
            environment=launch.for_workers(threads),
            logs=logs,
            say=say,
        )
        try:
            over = host.run()
        finally:
            logs.close()
    raise_unless_well(over, lambda report: bytes(report["pickled"]))
    return results_of(host.results, workers)


def _reported(error: BaseException) -> Mapping[str, Any]:
    report, data = report_of(error)
    return {**report, "pickled": data}
