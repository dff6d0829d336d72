"""Settings for the whole suite: one BLAS thread, a token for Ray, and the Hypothesis profiles.

The thread settings must be in the environment before NumPy is first imported, which is why they stand here; so do those
of Ray, which reads them when it is imported.
The profile `ci` (the default) tries the same examples in every run, so that a failure is a failure of the
change and not of chance; `DIST_DP_HYPOTHESIS=explore` looks for new ones.
"""

import os
import secrets
import signal

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(name, "1")

# A token of this run alone: no cluster of a test can be used by others, nor does any use what belongs to the user.
os.environ.update(
    RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_USAGE_STATS_ENABLED="0", RAY_ADDRESS=""
)

# A shell that starts a command in the background has it ignore Ctrl-C, and all that it starts; here it is tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

from hypothesis import HealthCheck, settings  # noqa: E402

# Deadlines would be timing assertions; examples are kept in memory, because a database is a hidden input of
# a test run.
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("ci"), derandomize=False, max_examples=500)
settings.load_profile(os.environ.get("DIST_DP_HYPOTHESIS", "ci"))

from typing import Any  # noqa: E402

import pytest  # noqa: E402

import dist_dp  # noqa: E402, F401
from dist_dp.ops import table  # noqa: E402

# Taken before any test module is imported: tests define operations of their own.
_SHIPPED = dict(table)


@pytest.fixture(scope="session")
def shipped_ops() -> dict[str, Any]:
    """Every operation of the package by name."""
    return _SHIPPED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `pytest -n 2 --dist loadgroup`: a file's tests in one process, all that start clusters in one of them."""
    for item in items:
        folder = item.path.parent.name
        group = "clusters" if folder in ("cluster", "ray_cluster") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
