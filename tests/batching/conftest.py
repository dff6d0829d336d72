"""What holds after every test of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dist_dp import random
from dist_dp.tape import RECORD, mode


def state() -> tuple[Any, ...]:
    its = mode.state, mode.beneath, mode.interpreter, mode.inspect, mode.watch, mode.calls, mode.segment
    return *its, len(random.scopes.stack)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Mode, random scopes and all that examples had open are as before, whatever a test did."""
    before = state()
    yield
    assert state() == before
    assert mode.state == RECORD
