"""The allocator is asked where it can be, and left alone where the user says so or it cannot."""

from __future__ import annotations

import ctypes
import platform
from typing import Any

import pytest

from runtime.allocator import keep_freed_memory

OWN = ("DIST_DP_MALLOC", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What mallopt is called with."""
    calls: list[Any] = []

    class Library:
        def mallopt(self, *arguments: int) -> int:
            calls.append(arguments)
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    return calls


def test_both_thresholds_are_set(asked: list[Any]) -> None:
    assert keep_freed_memory()
    assert [option for option, _ in asked] == [-1, -3]


@pytest.mark.parametrize("name", OWN)
def test_what_the_user_set_stands(asked: list[Any], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "system")
    assert not keep_freed_memory()
    assert asked == []


def test_a_library_without_mallopt_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked")
def test_glibc_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    assert keep_freed_memory()
