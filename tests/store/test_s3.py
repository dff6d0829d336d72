"""The S3 server of the tests is one: another process sees what one wrote, and a cut line is a cut line."""

from __future__ import annotations

import subprocess
import sys

import pytest
from store.s3 import S3Server

from runtime.store import store_at


@pytest.mark.process
def test_another_process_reads_what_was_written(s3: S3Server, url: str) -> None:
    store_at(url).write("a/b", [b"1", b"2"])
    program = "import sys; from runtime.store import store_at; print(store_at(sys.argv[1]).read('a/b'))"
    found = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, timeout=60)
    assert found.stdout == "b'12'\n", found.stderr


@pytest.mark.process
def test_a_cut_line_refuses_and_is_counted(s3: S3Server, url: str) -> None:
    store = store_at(url)
    store.write("a", [b"1"])
    s3.cut()
    try:
        with pytest.raises(OSError):
            store.read("a")
        assert s3.refused > 0
    finally:
        s3.mend()
    assert store.read("a") == b"1"
