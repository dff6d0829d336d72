"""Models on disk in 16 bits: rounded once, to the nearest, and read as they are."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dist_dp import nn

FLOATS = st.floats(-60_000, 60_000, width=32)


def model_of(values: Any) -> nn.Module:
    model = nn.Module()
    model.w = nn.Parameter(values)
    model.norm = nn.BatchNorm1d(2)
    return model


@pytest.mark.parametrize(("dtype", "precision"), [("float16", 11), ("bfloat16", 8)])
@given(values=arrays(np.float32, st.integers(1, 9), elements=FLOATS))
def test_floats_are_rounded_once_to_the_nearest(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, precision: int, values: Any
) -> None:
    path = tmp_path_factory.mktemp("state") / "model.safetensors"
    other = model_of(np.zeros_like(values))
    nn.save_state(model_of(values), path, dtype)
    nn.load_state(other, path)
    found = other.w.detach().numpy()
    assert found.dtype == np.float32 and other.norm.num_batches_tracked.dtype == np.int64
    exact = np.float64(values)
    smallest = 2.0**-25 if dtype == "float16" else 2.0**-134  # half of the smallest number above 0
    assert (abs(found - exact) <= np.maximum(abs(exact) * 2.0**-precision, smallest)).all()
    again = path.with_name("again")
    nn.save_state(other, again, dtype)
    assert again.read_bytes() == path.read_bytes()


def test_a_process_that_has_not_heard_of_bfloat16_reads_it(tmp_path: Path) -> None:
    nn.save_state(model_of(np.array([0.5, 1.0], np.float32)), tmp_path / "model", "bfloat16")
    program = (
        "import numpy as np\nfrom dist_dp import nn\nmodel = nn.Module()\n"
        "model.w, model.norm = nn.Parameter(np.zeros(2)), nn.BatchNorm1d(2)\n"
        f"nn.load_state(model, {str(tmp_path / 'model')!r})\nprint(model.w.tolist())"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[0.5, 1.0]\n"


def test_what_is_missing_or_unknown_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = model_of(np.zeros(2))
    with pytest.raises(ValueError, match="dtype must be None, 'float16' or 'bfloat16', got 'half'"):
        nn.save_state(model, tmp_path / "model", "half")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ValueError, match=r"dtype='bfloat16' needs .* pip install 'dist-dp\[bfloat16\]'"):
        nn.save_state(model, tmp_path / "model", "bfloat16")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    model, path = nn.Linear(2, 1), tmp_path / "model"
    nn.save_state(model, path)
    whole, before = path.read_bytes(), repr(model.state_dict())
    for content in (b"", whole[:5], whole[:-1], b"\xff" * 8 + whole[8:], b"not a model, but some text"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=f"load_state: path must be a whole safetensors file, got '{path}'"
        ) as e:
            nn.load_state(model, path)
        assert e.value.__cause__ is not None
    head = json.dumps({"weight": {"dtype": "F8_E4M3", "shape": [1, 2], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(2))
    with pytest.raises(ValueError, match=f"load_state: '{path}' must hold dtypes.*got float8_e4m3fn"):
        nn.load_state(model, path)
    assert repr(model.state_dict()) == before


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs a folder in which nobody may write")
def test_what_cannot_be_written_is_told_without_a_temporary_name() -> None:
    with pytest.raises(OSError, match=r"^save_state: path '/proc/model' cannot be written: [^/]*$") as e:
        nn.save_state(nn.Linear(2, 1), "/proc/model")
    assert e.value.__cause__ is not None
