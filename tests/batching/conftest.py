"""What holds after every test of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dist_dp import random
from dist_dp.tape import RECORD, mode


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Mode, random scopes and all that examples had open are as before, whatever a test did."""
    before = mode.state, mode.beneath, mode.interpreter, mode.inspect, len(random.scopes.stack)
    yield
    assert (mode.state, mode.beneath, mode.interpreter, mode.inspect, len(random.scopes.stack)) == before
    assert mode.state == RECORD
