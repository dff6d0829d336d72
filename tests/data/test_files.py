"""Files as data: the examples are those of the arrays, in the order of the names; what is wrong is said of a file."""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import dist_dp as dp
from dist_dp import nn, optim
from dist_dp.data import DataError, Files, Rows
from dist_dp.data.files import File

X = np.random.default_rng(3).normal(size=(46, 5)).astype(np.float32)
Y = np.arange(46) % 3

_places = itertools.count()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def write(place: str, files: dict[str, bytes]) -> None:
    import fsspec

    for name, content in files.items():
        with fsspec.open(f"{place}/{name}", "wb", auto_mkdir=True) as file:
            file.write(content)


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://files-{next(_places)}"


# --- the same bits as from arrays -------------------------------------------------------------------------------------


def trained(data: Any, **options: Any) -> dp.Result:
    dp.seed(1)
    model = nn.Linear(5, 3)
    return dp.fit(
        model,
        lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        optim.Adam(model.parameters(), lr=0.1),
        data,
        batch_size=10,
        epochs=2,
        shards=4,
        seed=5,
        progress=False,
        **options,
    )


def test_a_run_over_files_has_the_bits_of_the_run_over_the_arrays(place: str) -> None:
    write(place, {f"x/{i:03}.npy": npy(X[lo : lo + 20]) for i, lo in enumerate((0, 20, 40))})
    write(place, {"y/all.npy": npy(Y)})
    write(place, {f"each/{i:03}-{y}.npy": npy(x) for i, (x, y) in enumerate(zip(X, Y, strict=True))})

    def labelled(file: File) -> Any:
        return np.load(file), int(file.name.removesuffix(".npy").partition("-")[2])

    expected = trained((X, Y))
    assert trained(Rows((f"{place}/x/*.npy", f"{place}/y/all.npy"))) == expected
    assert trained(Files(f"{place}/each/*.npy", labelled)) == expected


def test_another_data_set_is_refused_on_resume_and_the_same_in_another_place_is_not(tmp_path: Path) -> None:
    both = {"x.npy": npy(X), "y.npy": npy(Y)}
    write(f"{tmp_path}/a", both)
    write(f"{tmp_path}/b", both)
    write(f"{tmp_path}/c", {**both, "x.npy": npy(X.astype(np.float64))})

    def rows(name: str) -> Rows:
        return Rows((f"{tmp_path}/{name}/x.npy", f"{tmp_path}/{name}/y.npy"))

    first = trained(rows("a"), run=tmp_path / "run")
    assert trained(rows("b"), run=tmp_path / "run") == first
    with pytest.raises(dp.RunMismatch, match=r"data\.fields\.0\.dtype: \"float32\" -> \"float64\""):
        trained(rows("c"), run=tmp_path / "run")


# --- rows -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any),
    st.sampled_from(["<f4", ">f4", "<i8", "?", "<f2", "<c8"]),
    st.sampled_from([(), (3,), (2, 2), (0,)]),
    st.data(),
)
def test_rows_are_those_of_the_concatenated_arrays(
    lengths: list[int], dtype: str, shape: tuple[int, ...], data: st.DataObject
) -> None:
    place = f"memory://rows-{next(_places)}"
    rng = np.random.default_rng(sum(lengths))
    arrays = [(9 * rng.normal(size=(n, *shape))).astype(dtype) for n in lengths]
    write(place, {f"{i}.npy": npy(array) for i, array in enumerate(arrays)})
    whole = np.concatenate(arrays)
    rows = Rows(f"{place}/*.npy", threads=data.draw(st.sampled_from([1, 4])))
    assert len(rows) == len(whole)
    indices = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=12)), np.int64)
    taken = rows.take(indices)
    np.testing.assert_array_equal(taken, whole[indices])
    assert taken.dtype == whole.dtype.newbyteorder("=") and taken.flags.writeable


def test_fields_come_as_they_were_asked_for(place: str) -> None:
    class Pair(NamedTuple):
        x: Any
        y: Any

    write(place, {"x.npy": npy(X), "y.npy": npy(Y)})
    some = np.array([45, 0, 0, 7])
    pair = Rows(Pair(f"{place}/x.npy", f"{place}/y.npy")).take(some)
    assert type(pair) is Pair
    named = Rows({"x": f"{place}/x.npy", "y": f"{place}/y.npy"}).take(some)
    for found in (pair, (named["x"], named["y"])):
        np.testing.assert_array_equal(found[0], X[some])
        np.testing.assert_array_equal(found[1], Y[some])


def test_arrays_of_safetensors_files_are_fields(tmp_path: Path) -> None:
    for i, lo in enumerate((0, 30)):
        save_file(
            {"x": X[lo : lo + 30], "y": Y[lo : lo + 30]}, tmp_path / f"{i}.safetensors", {"made": "here"}
        )
    rows = Rows(tmp_path / "*.safetensors")
    some = np.array([29, 30, 3])
    taken = rows.take(some)
    np.testing.assert_array_equal(taken["x"], X[some])
    np.testing.assert_array_equal(taken["y"], Y[some])
    assert rows.describe()["fields"] == {
        "x": {"shape": [5], "dtype": "float32"},
        "y": {"shape": [], "dtype": "int64"},
    }
    (tmp_path / "long").mkdir()
    many = {f"array number {i:05}": Y for i in range(300)}  # a header longer than what is read first
    save_file(many, tmp_path / "long" / "a.safetensors")
    assert len(Rows(tmp_path / "long" / "*").take(some)) == 300


def test_only_the_rows_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(str(tmp_path), {"a.npy": npy(np.zeros((100_000, 4)))})
    rows, read = Rows(tmp_path / "a.npy"), []
    real = type(rows._files[0]).read

    def counted(self: Any, *arguments: Any) -> bytes:
        content = real(self, *arguments)
        read.append(len(content))
        return content

    monkeypatch.setattr(type(rows._files[0]), "read", counted)
    rows.take(np.array([99_999, 5, 6, 4, 5]))
    assert sorted(read) == [32, 96]


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_order_is_that_of_the_names_below_the_directory(place: str) -> None:
    write(place, {name: name.encode() for name in ("b/2", "a/10", "a/9", "b/1")})
    files = Files(f"{place}/*/*", lambda file: (file.name, file.read()), collate=list)
    assert files.take(np.arange(4)) == [(n, n.encode()) for n in ("a/10", "a/9", "b/1", "b/2")]
    assert files.describe()["length"] == 4 and files.describe()["files"]["bytes"] == 13


def test_files_are_loaded_by_their_suffix(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X[0], n=3)
    (tmp_path / "b.txt").write_bytes(b"text")
    assert Files(tmp_path / "*.txt").take(np.array([0, 0])) == [b"text", b"text"]
    np.testing.assert_array_equal(Files(tmp_path / "*.npz").take(np.array([0]))["x"], X[:1])


def test_a_source_travels_to_another_process(place: str) -> None:
    write(place, {"x.npy": npy(X)})
    for source in (Rows(f"{place}/x.npy"), Files(f"{place}/*.npy")):
        there = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(there.take(np.array([0])), source.take(np.array([0])))
        assert there.describe() == source.describe()


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_file_that_fails_to_load_is_named(place: str) -> None:
    write(place, {"0.npy": npy(X), "1.npy": b"no array"})
    with pytest.raises(DataError, match=r"example 1, .*1\.npy, failed to load: ValueError") as caught:
        Files(f"{place}/*.npy").take(np.array([0, 1]))
    assert caught.value.index == 1
    write(place, {"1.npy": npy(X[:3])})
    with pytest.raises(ValueError, match="different shapes") as uncollated:
        Files(f"{place}/*.npy").take(np.array([0, 1]))
    assert "while collating 0.npy, 1.npy" in uncollated.value.__notes__


def test_a_file_that_changed_or_went_is_named(tmp_path: Path) -> None:
    write(str(tmp_path), {"a.npy": npy(X), "b.npy": npy(X)})
    rows, files = Rows(tmp_path / "*.npy"), Files(tmp_path / "*.npy")
    (tmp_path / "b.npy").write_bytes(npy(X)[:-40])
    with pytest.raises(DataError, match=r"b\.npy has changed: it ends 40 bytes earlier"):
        files.take(np.array([1]))
    with pytest.raises(DataError, match=r"b\.npy has changed"):
        rows.take(np.array([91]))
    (tmp_path / "b.npy").unlink()
    for source, last in ((rows, 91), (files, 1)):
        with pytest.raises(DataError, match=r"b\.npy cannot be read: FileNotFoundError"):
            source.take(np.array([last]))


@pytest.mark.parametrize(
    ("files", "make", "error", "said"),
    [
        ({}, lambda p: Files(f"{p}/*.npy"), FileNotFoundError, r"no file matches .*/\*\.npy"),
        ({}, lambda p: Rows(f"{p}/x.npy"), FileNotFoundError, r"no file matches .*x\.npy"),
        ({"a": b""}, lambda p: Files(f"{p}/a", 3), TypeError, "load must be a function, got int"),
        ({"a": b""}, lambda p: Files(3), TypeError, r"pattern must be a path or URL, got 3 \(int\)"),
        (
            {"a": b""},
            lambda p: Files("abc://x/*"),
            ValueError,
            "pattern 'abc://x/.' cannot be used: Protocol not known",
        ),
        ({"a": b""}, lambda p: Files(f"{p}/a", threads=0), ValueError, "threads must be"),
        ({"a": b""}, lambda p: Rows(f"{p}/a"), TypeError, r"\.npy or \.safetensors files, got .*/a; .*Files"),
        ({"a.npy": b"torn"}, lambda p: Rows(f"{p}/a.npy"), DataError, r"a\.npy is no file of arrays"),
        ({"a.npy": npy([{}])}, lambda p: Rows(f"{p}/a.npy"), DataError, "Python objects"),
        (
            {"a.npy": npy(X.T)},
            lambda p: Rows(f"{p}/a.npy"),
            DataError,
            "Fortran order; save np.ascont",
        ),
        (
            {"a.npy": npy(X)[:-9]},
            lambda p: Rows(f"{p}/a.npy"),
            DataError,
            r"a\.npy is damaged: it has 1039 bytes",
        ),
        ({"a.npy": npy(X[:0])}, lambda p: Rows(f"{p}/a.npy"), ValueError, "at least one row"),
        ({"a.npy": npy(np.float32(3))}, lambda p: Rows(f"{p}/a.npy"), ValueError, "one shape of rows"),
        (
            {"a.safetensors": b"\x00" * 4},
            lambda p: Rows(f"{p}/*"),
            DataError,
            r"a\.safetensors is no file of arrays",
        ),
        (
            {"a.npy": npy(X), "b.npy": npy(Y)},
            lambda p: Rows(f"{p}/*"),
            ValueError,
            r"in a\.npy it is float32\[46, 5\], in b\.npy it is int64\[46\]",
        ),
        (
            {"a.npy": npy(X), "b.npy": npy(Y[:9])},
            lambda p: Rows((f"{p}/a.npy", f"{p}/b.npy")),
            ValueError,
            r"equally long, got lengths \{0: 46, 1: 9\}",
        ),
        ({"a": b""}, lambda p: Rows(()), ValueError, "at least one pattern, got an empty tuple"),
    ],
)
def test_what_cannot_be_a_data_set_is_refused(
    tmp_path: Path, files: dict[str, bytes], make: Callable[[str], Any], error: type[Exception], said: str
) -> None:
    write(str(tmp_path), files)
    with pytest.raises(error, match=said):
        make(str(tmp_path))
