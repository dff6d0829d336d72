"""The laws of `laws.py` over every transport of `clusters.py`, in threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transports import laws
from transports.case import Case
from transports.clusters import TRANSPORTS, check

from runtime.group import Group

SIZES = [(name, size) for name, t in TRANSPORTS.items() for size in (1, 2, 3, 6) if size <= t.most]


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize(("name", "size"), SIZES)
def test_law(name: str, size: int, law: Callable[[Group], None]) -> None:
    with TRANSPORTS[name].cluster(size) as groups:
        check(groups, law)


@pytest.mark.parametrize("name", TRANSPORTS)
@given(st.data())
@settings(max_examples=60)
def test_an_exchange_has_the_bits_of_one_worker_with_all_shards(name: str, data: st.DataObject) -> None:
    def pick(lo: int, hi: int) -> int:
        return data.draw(st.integers(lo, hi))

    size = pick(1, TRANSPORTS[name].most)
    case = Case.pick(pick, size)
    with TRANSPORTS[name].cluster(size) as groups:
        check(groups, lambda group: laws.exchange(group, case))
