"""The S3 server of the tests is one: another process sees what one wrote, and a cut line is a cut line."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from store.s3 import BUCKET, S3Server

from dist_dp.data import DataError, Files, Rows
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


@pytest.mark.process
def test_what_the_server_refuses_is_told_with_its_place(s3: S3Server) -> None:
    with pytest.raises(FileNotFoundError, match=r"s3://nobucket/runs/a: The specified bucket does not exist"):
        store_at("s3://nobucket/runs").write("a", [b"1"])
    store = store_at(f"s3://{BUCKET}/exclusive")
    store.create("a", b"1")
    with pytest.raises(FileExistsError, match=rf"s3://{BUCKET}/exclusive/a: it is there already"):
        store.create("a", b"2")
    assert store.read("a") == b"1"


@pytest.mark.process
def test_files_on_the_server_are_data(url: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    store = store_at(url)
    for number in range(4):
        content = io.BytesIO()
        np.save(content, x[10 * number : 10 * number + 10])
        store.write(f"train/{number}.npy", [content.getvalue()])
    some = rng.integers(0, 40, 25)
    np.testing.assert_array_equal(Rows(f"{url}/train/*.npy").take(some), x[some])
    whole = Files(f"{url}/train/*.npy").take(np.array([3, 0]))
    np.testing.assert_array_equal(whole, np.stack([x[30:], x[:10]]))
    rows = Rows(f"{url}/train/*.npy")
    store.remove("train/3.npy")
    with pytest.raises(DataError, match=rf"{url}/train/3\.npy cannot be read: FileNotFoundError"):
        rows.take(np.array([0, 39]))
