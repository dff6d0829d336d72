"""What tests with a real Ray share: the marker, a cluster in this process."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_cluster import clusters


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture(autouse=True)
def interrupts_stay_as_they_were() -> Iterator[None]:
    """Ray Train leaves a handler of SIGINT behind, which would end what is tested later."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def local_cluster() -> Iterator[None]:
    """A Ray with four processors that this process is connected to; one for all tests of a module."""
    with clusters.local():
        yield
