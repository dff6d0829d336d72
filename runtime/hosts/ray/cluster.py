"""Connecting to a Ray cluster, and what may be wrong with it, told so that it can be put right."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

TESTED = "2.60"  # the version of Ray that dist_dp is tested with

_INSTALL = f"pip install 'ray[default]=={TESTED}.*'"

_PATIENCE = 5.0  # seconds to wait for an answer at the cluster's address

_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set for the driver of a submitted job
_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


class ClusterError(Exception):
    """A cluster cannot be used as it is; the message says what to do."""


def check_version(version: str) -> None:
    """Raise ClusterError for a version of Ray that dist_dp is not tested with.

    >>> check_version("2.60.0")
    >>> check_version("2.9.3")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    runtime.hosts.ray.cluster.ClusterError: Ray 2.9.3 is not the version that dist_dp is tested with, 2.60; install ...
    """
    if version.split(".")[:2] != TESTED.split("."):
        raise ClusterError(
            f"Ray {version} is not the version that dist_dp is tested with, {TESTED}; install that on all nodes and "
            f"here: {_INSTALL}"
        )


def explicit_authentication(environment: Mapping[str, str], own: bool) -> dict[str, str]:
    """What to add to an environment so that Ray's authentication is what it says, and no file of the user decides.

    Args:
        own: a cluster is started for this run alone: it gets a token of its own.

    >>> explicit_authentication({"RAY_AUTH_MODE": "token"}, own=False), explicit_authentication({}, own=False)
    ({}, {'RAY_AUTH_MODE': 'disabled'})
    """
    if _MODE in environment:
        return {}
    if _TOKEN in environment or _TOKEN_PATH in environment:
        return {_MODE: "token"}
    return {_MODE: "token", _TOKEN: secrets.token_hex(32)} if own else {_MODE: "disabled"}


@contextmanager
def connected(
    address: str | None, working_dir: str | None, say: Callable[[str], None]
) -> Iterator[str | None]:
    """Be a driver of the cluster at `address`; None: of one for this run alone, on this machine.

    If the process is one already (in a notebook, say) that connection is used, and kept.

    Args:
        working_dir: a directory to send to the nodes. None: the present one, unless the cluster is on this machine
            alone, or the process is the driver of a submitted job, whose directory was sent with it.
        say: what to do with a line about the state of things.

    Yields: the directory where workers run; None: the one that was sent.

    Raises:
        ClusterError: no cluster is there, or it does not take this driver, or this directory.
    """
    address = address or None  # an empty RAY_ADDRESS is none
    if "ray" not in sys.modules:  # it reads these when it is loaded
        os.environ.update(explicit_authentication(os.environ, own=address is None))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # What Ray prints in the driver about workers that end, which the driver tells itself.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        if address is not None:  # it is there, so this is how long a wrong token takes to be told
            os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "5")
    try:
        import ray
        from ray.exceptions import AuthenticationError, RayError
    except ImportError:
        raise ClusterError(f"Ray is not installed here: {_INSTALL}") from None
    check_version(ray.__version__)
    if ray.is_initialized():
        yield _directory()
        return
    here = address is None or address.startswith(("127.", "localhost"))
    if working_dir is None and not here and not in_a_job():
        working_dir = os.getcwd()
    if address is not None:
        _check_address(address)
    else:
        say("starting a Ray on this machine, for this run alone")
    own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(
            address=address or "local",
            runtime_env={} if working_dir is None else {"working_dir": working_dir},
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if address is None else {}),
        )
    except (AuthenticationError, ConnectionError) as error:
        # Something listens there, or it would not have come so far. Ray seldom says that it is the token.
        raise ClusterError(
            f"the Ray cluster at {address!r} does not take this driver ({_first_line(error)}); RAY_AUTH_MODE and "
            "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, must be as on its nodes, and the port that of its GCS, as "
            "`ray start --head` told"
        ) from None
    except (ValueError, RuntimeError, RayError) as error:
        ray.shutdown()
        if "exceeds the maximum size" in str(error) or "size limit" in str(error):
            raise ClusterError(
                f"--working-dir {working_dir} is too large to be sent to the nodes ({_first_line(error)}); name what "
                "they do not need in .rayignore, or give a smaller directory that holds the script"
            ) from None
        raise ClusterError(f"the Ray cluster at {address!r} cannot be used: {_first_line(error)}") from None
    try:
        yield _directory()
    finally:
        ray.shutdown()


def _directory() -> str | None:
    """Where workers of this driver run; None: where Ray has put what was sent."""
    import ray

    return None if ray.get_runtime_context().runtime_env.get("working_dir") else os.getcwd()


def in_a_job() -> bool:
    """Whether this process is the driver of a submitted job: its directory is gone after it."""
    return _JOB in os.environ


def _check_address(address: str) -> None:
    """Raise ClusterError if nothing listens at HOST:PORT; Ray itself would try for more than a minute."""
    if "://" in address:
        raise ClusterError(f"RAY_ADDRESS must be the HOST:PORT that `ray start --head` told, got {address!r}")
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.rpartition("/")[2], int(port)), _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"there is no Ray cluster at {address!r} ({_first_line(error)}); start one with `ray start --head`, or "
            "give RAY_ADDRESS the address that it told"
        ) from None


def fitting(bundle: Mapping[str, float]) -> int:
    """How many workers that take so much the cluster has room for, all else aside; one at least."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(
        1, sum(int(min(has.get(name, 0) / amount for name, amount in bundle.items())) for has in nodes)
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
