"""The compiled kernels: the same bits however they are compiled, right arguments or none, and NumPy without them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernels.calls import CALLS, results

from dist_dp import kernels, ops, optim
from dist_dp.kernels import build
from dist_dp.ops import along, pooling
from dist_dp.tensor import Tensor

needed = pytest.mark.skipif(
    kernels.compiled is None, reason="there was no C compiler when dist_dp was installed"
)


def loaded(path: Path) -> Any:
    loader = importlib.machinery.ExtensionFileLoader("_compiled", str(path))
    spec = importlib.util.spec_from_file_location("_compiled", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@needed
def test_every_kernel_is_among_the_calls() -> None:
    assert {name for name in dir(kernels.compiled) if callable(getattr(kernels.compiled, name))} - {
        "__loader__"
    } == set(CALLS)


@needed
@pytest.mark.parametrize(
    "flags",
    [
        ("-O1",),
        ("-O3", "-fno-tree-vectorize"),
        *([("-march=x86-64-v3",), ("-march=x86-64-v2",)] if platform.machine() == "x86_64" else []),
    ],
    ids=" ".join,
)
def test_the_bits_are_those_of_the_text_however_it_is_compiled(
    flags: tuple[str, ...], tmp_path: Path
) -> None:
    other = loaded(build.build(tmp_path / "_compiled.abi3.so", "-DKERNEL=", *flags))
    for name, seed in itertools.product(CALLS, range(4)):
        for one, two in zip(results(kernels.compiled, name, seed), results(other, name, seed), strict=True):
            np.testing.assert_array_equal(one.view(np.int32), two.view(np.int32), err_msg=name)


@needed
def test_the_source_is_that_of_these_files() -> None:
    assert kernels.compiled.source == build.digest(), "compile again: python -m dist_dp.kernels.build"


@needed
@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_are_refused_before_anything_is_written(name: str) -> None:
    function = getattr(kernels.compiled, name)
    given_, written = CALLS[name](np.random.default_rng(0))
    with pytest.raises(TypeError, match=f"expected {len(given_)} arguments, got 0"):
        function()
    for i, argument in enumerate(given_):
        if not isinstance(argument, np.ndarray):
            continue
        before = [given_[k].copy() for k in written]
        wider = np.float64 if argument.dtype == np.float32 else np.int32
        for wrong, error in (
            (argument.astype(wider), TypeError),
            (np.repeat(argument, 2)[::2], (BufferError, ValueError)),
            (None, TypeError),
        ):
            with pytest.raises(error):
                function(*given_[:i], wrong, *given_[i + 1 :])
        if i in written:
            fixed = argument.copy()
            fixed.flags.writeable = False
            with pytest.raises((BufferError, ValueError)):
                function(*given_[:i], fixed, *given_[i + 1 :])
        for k, array in zip(written, before, strict=True):
            np.testing.assert_array_equal(given_[k], array)


def cut_from_bytes(x: Any) -> Any:
    """`x` where it does not lie at a multiple of its element's size, as in a file behind a byte or two."""
    found = np.ndarray(x.shape, x.dtype, bytearray(x.nbytes + 1), 1)
    found[...] = x
    assert not found.flags.aligned
    return found


@needed
@pytest.mark.parametrize(
    ("fn", "shapes"),
    [
        (ops.softmax, [(4, 5)]),
        (ops.linear, [(64, 64), (64, 64), (64,)]),
        (ops.matmul, [(256, 256), (256, 256)]),
        (lambda x: ops.cross_entropy(x, cut_from_bytes(np.array([1, 0, 2]))), [(3, 5)]),
        (lambda x: ops.embedding(x, cut_from_bytes(np.array([1, 0]))).exp(), [(3, 5)]),
        (lambda x: ops.conv2d(x, np.ones((16, 16, 3, 3), np.float32)), [(1, 16, 9, 9)]),
    ],
)
def test_arrays_cut_from_bytes_are_taken(fn: Any, shapes: list[tuple[int, ...]]) -> None:
    arrays = [np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in shapes]

    def computed(*inputs: Any) -> list[Any]:
        out = fn(*inputs)
        if isinstance(inputs[0], np.ndarray):
            return [out.data]
        out.sum().backward()
        return [out.data, *(x.grad.data for x in inputs)]

    cut = [cut_from_bytes(x) for x in arrays]
    leaves = [[Tensor(x, requires_grad=True) for x in some] for some in (arrays, cut)]
    for one, two in ((arrays, cut), leaves):
        for a, b in zip(computed(*one), computed(*two), strict=True):
            np.testing.assert_array_equal(a, b)


@needed
@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.Adam([p], 0.01, weight_decay=0.1),
        lambda p: optim.AdamW([p], 0.01, weight_decay=0.1),
        lambda p: optim.SGD([p], 0.01, momentum=0.9, dampening=0.3, weight_decay=0.1),
        lambda p: optim.SGD([p], 0.01, momentum=0.9, nesterov=True),
    ],
    ids=["Adam", "AdamW", "SGD", "SGD, nesterov"],
)
@given(n=st.integers(1, 70), steps=st.integers(1, 4), seed=st.integers(0, 99))
def test_updates_have_numpys_bits(make: Any, n: int, steps: int, seed: int) -> None:
    def updated() -> list[Any]:
        rng = np.random.default_rng(seed)
        p = Tensor(rng.normal(size=n).astype(np.float32), requires_grad=True)
        optimizer = make(p)
        for _ in range(steps):
            p.grad = Tensor(rng.normal(size=n).astype(np.float32))
            optimizer.step()
        return [p.data, *optimizer.parts[0].state.values()]

    with_kernels = updated()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compiled", None)
        without = updated()
    for one, two in zip(with_kernels, without, strict=True):
        np.testing.assert_array_equal(one, two)


@needed
def test_gates_are_as_exact_as_numpys() -> None:
    """Over all magnitudes: sigmoids to 1.5 units in the last place of 1, tanh to 3 of its value."""
    rng = np.random.default_rng(0)
    x = (10.0 ** rng.uniform(-12, 6, 1 << 16) * rng.choice([-1, 1], 1 << 16)).astype(np.float32)
    x[:7] = 0, np.inf, -np.inf, np.nan, 0.625, -0.625, 88.5
    n = len(x)
    v = np.tile(x, 4)
    zeros, c, s, h = np.zeros(4 * n, np.float32), *(np.zeros(n, np.float32) for _ in range(3))
    kernels.compiled.lstm_step(zeros, v, np.zeros(n, np.float32), c, s, h, n)
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        sigmoid = 1 / (1 + np.exp(-wide))
    for k in (0, 1, 3):
        np.testing.assert_allclose(v[k * n : (k + 1) * n], sigmoid, rtol=0, atol=1.8e-7)
    np.testing.assert_allclose(v[2 * n : 3 * n], np.tanh(wide), rtol=3.6e-7, atol=0)


@needed
@given(st.data())
def test_gradients_of_maxima_are_numpys(data: st.DataObject) -> None:
    kernel, stride, dilation = (tuple(data.draw(st.integers(1, 3)) for _ in range(2)) for _ in range(3))
    padding = tuple(
        data.draw(st.integers(0, (d * (k - 1) + 1) // 2)) for k, d in zip(kernel, dilation, strict=True)
    )
    size = tuple(
        d * (k - 1) + 1 + data.draw(st.integers(0, 9)) for k, d in zip(kernel, dilation, strict=True)
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    x = rng.integers(-2, 3, (2, 3, *size)).astype(np.float32)  # many of them equal
    x[rng.random(x.shape) < 0.1] = data.draw(st.sampled_from([0.0, np.nan, -np.inf]))
    axes = pooling._windows(
        "max_pool2d", Tensor(x), kernel, stride, padding, dilation, data.draw(st.booleans())
    )
    out = pooling._max(x, axes)
    g = rng.normal(size=out.shape).astype(np.float32)
    compiled = pooling._to_maxima(g, x, out, axes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "compiled", None)
        np.testing.assert_array_equal(compiled, pooling._to_maxima(g, x, out, axes))


@needed
@pytest.mark.parametrize("entry", range(11))
@pytest.mark.parametrize("wrong", [-1, 50, 1 << 40])
def test_windows_beyond_the_images_are_refused(entry: int, wrong: int) -> None:
    layout, *arrays = CALLS["unpool"](np.random.default_rng(0))[0]
    layout[entry] = wrong
    with pytest.raises(ValueError):
        kernels.compiled.unpool(layout, *arrays)


@needed
def test_added_rows_have_numpys_bits_and_a_wrong_index_is_refused() -> None:
    (out, index, rows), _ = CALLS["add_rows"](np.random.default_rng(0))
    expected = out.copy()
    np.add.at(expected, index, rows)
    kernels.compiled.add_rows(out, index, rows)
    np.testing.assert_array_equal(out, expected)
    for wrong in (-6, 5):
        index[-1] = wrong
        with pytest.raises(IndexError, match=f"index {wrong} is out of bounds for axis 0 with size 5"):
            kernels.compiled.add_rows(out, index, rows)
    with pytest.raises(ValueError, match="rows of the two arrays have different lengths"):
        kernels.compiled.add_rows(out, np.zeros(2, np.int64), rows)
    np.testing.assert_array_equal(out, expected)


@needed
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_rows_are_added_by_the_kernel_for_indices_of_every_width(
    dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out, index, rows), _ = CALLS["add_rows"](np.random.default_rng(0))
    index %= len(out)
    expected = out.copy()
    np.add.at(expected, index, rows)
    calls = []
    add_rows = kernels.compiled.add_rows
    recorder = SimpleNamespace(add_rows=lambda *a: (calls.append(a), add_rows(*a)))
    monkeypatch.setattr(kernels, "compiled", recorder)
    along.add_rows(out, index.astype(dtype), rows)
    np.testing.assert_array_equal(out, expected)
    assert len(calls) == 1


def test_without_a_compiler_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    headers, output = tmp_path / "include", tmp_path / "_compiled.abi3.so"
    monkeypatch.setattr(build.sysconfig, "get_path", lambda name: str(headers))
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))
    with pytest.raises(build.NotCompiled, match="header files are not in"):
        build.build(output)
    headers.mkdir()
    (headers / "Python.h").touch()
    with pytest.raises(build.NotCompiled, match="there is no C compiler"):
        build.build(output)
    for compiler in ("true", "echo"):  # succeeds and makes nothing
        monkeypatch.setenv("CC", compiler)
        with pytest.raises(build.NotCompiled, match=f"{compiler} is no C compiler"):
            build.build(output)
    assert not output.exists()


COMPILED = "dist_dp.kernels._compiled"


def started(choice: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DIST_DP_KERNELS": choice}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)


@pytest.mark.process
@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (
            f"sys.modules['{COMPILED}'] = None",
            "not compiled when dist_dp was installed: install a C compiler and",
        ),
        (
            f"""
class Damaged:
    def find_spec(name, *rest):
        if name == '{COMPILED}':
            raise ImportError('file too short')
sys.meta_path.insert(0, Damaged)""",
            "cannot be loaded: file too short; install dist_dp again",
        ),
    ],
    ids=["none", "damaged"],
)
def test_kernels_that_are_not_there_are_refused_if_asked_for_and_else_the_reason_is_kept(
    found: str, reason: str
) -> None:
    program = f"import sys\n{found}\nfrom dist_dp import kernels\nprint(kernels.why_not)"
    assert reason in started("", "-c", program).stdout
    assert started("numpy", "-c", program).stdout == "DIST_DP_KERNELS=numpy\n"
    refused = started("compiled", "-c", program)
    assert refused.returncode == 1
    assert "ValueError: DIST_DP_KERNELS=compiled, but the compiled kernels are not there" in refused.stderr
    assert reason in refused.stderr and ", or unset DIST_DP_KERNELS to go on with NumPy" in refused.stderr


@pytest.mark.process
def test_a_wrong_choice_of_kernels_is_told_by_the_command_in_a_line() -> None:
    done = started("foo", "-m", "dist_dp.cli", "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "Error: DIST_DP_KERNELS must be 'compiled' or 'numpy', got 'foo'; unset it for what is there\n"
    )


@needed
def test_the_environment_leaves_them_out_and_the_fingerprint_says_so() -> None:
    program = "import dist_dp\nfrom runtime.fingerprint import fingerprint\nprint(fingerprint()['kernels'])"

    def told(choice: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DIST_DP_KERNELS": choice}
        return subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )

    assert told("numpy").stdout.strip() == "numpy"
    assert told("").stdout.strip() == f"compiled {kernels.compiled.source}"
    assert "DIST_DP_KERNELS must be 'compiled' or 'numpy', got 'fast'" in told("fast").stderr
