"""What examples come from: arrays, or anything with a length and items, behind one way to take some of them.

A `Source` has a length, takes the examples at an array of indices as one batch, and describes itself for
the run manifest, so that a run is not resumed on other data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_dp.data.indices import index_array

_RAGGED = "pass collate= to as_source (collate=list hands the examples over as a list)"


class Source(ABC):
    """Examples that can be taken by index.  Derive from it for data that neither arrays nor items describe.

    >>> class Squares(Source):
    ...     def __len__(self):
    ...         return 100
    ...     def take(self, indices):
    ...         return indices**2
    ...     def describe(self):
    ...         return {"kind": "squares", "length": 100}
    >>> as_source(Squares()).take(np.array([3, 5]))
    array([ 9, 25])
    """

    @abstractmethod
    def __len__(self) -> int:
        """The number of examples."""

    @abstractmethod
    def take(self, indices: NDArray[np.int64]) -> Any:
        """The batch of the examples at `indices`, an int64 array of shape (batch,), in that order.

        It must depend on nothing but the indices and, for augmentations, on the current
        `dist_dp.random.scope`.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the data is, as JSON values: kind, length, and shapes and dtypes of the fields where known."""


class DataError(RuntimeError):
    """A data set failed to load an example: `index` says which, ``__cause__`` is what it raised."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


def as_source(data: Any, collate: Callable[[list[Any]], Any] | None = None) -> Source:
    """Make a `Source` of `data`.

    - An ndarray, or a tuple, named tuple or dict of equally long ndarrays (also nested): the fields of one
      data set.  A batch is the same structure of ``field[indices]``.
    - A list: always a list of examples, whatever they are (trees, sequences, pairs of an image and a label).
      A batch is ``collate([data[i] for i in indices])``.
    - Any other object with ``__len__`` and ``__getitem__(int)``, such as a torch or Hugging Face data set:
      as a list.
    - A `ray.data.Dataset`: a batch is a dict of its columns, or `collate` of its rows (see `RayDataSource`).
    - A `Source`, which is returned.

    `collate` makes a batch of a list of examples; without it `default_collate` does.  It is called in the
    order of the indices, and what a data set raises for one of them comes as a `DataError` that names it.

    Raises TypeError for data of another type and for a tuple or dict with a field that is no ndarray;
    ValueError for data without examples, fields of different lengths and a `collate` where there are no
    items to collate.

    >>> x, y = np.zeros((5, 2), np.float32), np.arange(5)
    >>> images, labels = as_source((x, y)).take(np.array([4, 0]))
    >>> images.shape, labels
    ((2, 2), array([4, 0]))
    >>> as_source([("a", 1), ("b c", 2)]).take(np.array([0, 1]))
    (['a', 'b c'], array([1, 2]))
    """
    if collate is not None and not callable(collate):
        raise TypeError(f"collate must be a function of a list of examples, got {type(collate).__name__}")
    if f"{type(data).__module__}.".startswith("ray.data."):
        from dist_dp.data.ray_data import RayDataSource

        return RayDataSource(data, collate)
    if isinstance(data, (Source, np.ndarray, tuple, Mapping)):
        if collate is not None:
            raise ValueError(
                f"collate is for lists and data sets of items, but data is {_article(data)}, "
                "which gives whole batches; leave collate out"
            )
        return data if isinstance(data, Source) else _ArraySource(data)
    return _ItemSource(data, default_collate if collate is None else collate)


class _ArraySource(Source):
    """A structure of equally long arrays."""

    def __init__(self, data: Any) -> None:
        self._data = data
        self._fields = dict(_fields(data, ""))
        if not self._fields:
            raise ValueError(f"data must hold at least one array, got an empty {type(data).__name__}")
        lengths = {name: len(field) for name, field in self._fields.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the fields of data must be equally long, got lengths {lengths}")
        self._length = next(iter(lengths.values()))
        if self._length == 0:
            raise ValueError("data must hold at least one example, got arrays of length 0")

    def __len__(self) -> int:
        return self._length

    def take(self, indices: NDArray[np.int64]) -> Any:
        return _map_fields(self._data, batch_indices(indices, self._length))

    def describe(self) -> dict[str, Any]:
        fields = {
            name: {"shape": list(field.shape[1:]), "dtype": str(field.dtype)}
            for name, field in self._fields.items()
        }
        return {"kind": "arrays", "length": self._length, "fields": fields}


class _ItemSource(Source):
    """An object with a length and items, and a function that makes a batch of a list of items."""

    def __init__(self, data: Any, collate: Callable[[list[Any]], Any]) -> None:
        usable = hasattr(type(data), "__getitem__") and not isinstance(data, (str, bytes))
        try:
            length = len(data) if usable else None
        except TypeError:  # a SciPy sparse array has a __len__ that refuses
            length = None
        if length is None:
            raise TypeError(
                "data must be an ndarray, a tuple or dict of ndarrays, a list of examples, or an object with "
                f"__len__ and __getitem__, got {_article(data)}; a stream can be read into a list first"
            )
        if length == 0:
            raise ValueError(f"data must hold at least one example, got {_article(data)} of length 0")
        self._data = data
        self._collate = collate
        self._length = length

    def __len__(self) -> int:
        return self._length

    def take(self, indices: NDArray[np.int64]) -> Any:
        numbers = batch_indices(indices, self._length).tolist()
        items = []
        for index in numbers:
            try:
                items.append(self._data[index])
            except Exception as error:
                raise DataError(
                    f"example {index} of {_article(self._data)} failed to load: "
                    f"{type(error).__name__}: {error}",
                    index,
                ) from error
        try:
            return self._collate(items)
        except Exception as error:
            error.add_note(f"while collating the examples {', '.join(map(str, numbers))}")
            raise

    def describe(self) -> dict[str, Any]:
        return {"kind": "items", "length": self._length}


def batch_indices(indices: object, n: int) -> NDArray[np.int64]:
    """The indices that `Source.take` was given, checked: one axis, all in 0, ..., n − 1."""
    array = index_array("indices", indices, n)
    if array.ndim != 1:
        raise ValueError(f"indices must have shape (batch,), got shape {array.shape}")
    return array


def _article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _fields(data: Any, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a structure, each with its path in it, such as "0" or "image.left"."""
    if isinstance(data, (tuple, Mapping)):
        parts = data.items() if isinstance(data, Mapping) else enumerate(data)
        for key, part in parts:
            yield from _fields(part, f"{name}.{key}" if name else str(key))
    elif not isinstance(data, np.ndarray):
        raise TypeError(
            f"data must be made of ndarrays where it is a tuple or a dict (the fields of one data set), but "
            f"field {name!r} is {_article(data)}; use np.asarray on it, or give a list of examples"
        )
    elif data.ndim == 0:
        raise ValueError(f"data must have examples along its first axis, got a 0-d array {name}".rstrip())
    else:
        yield name or "data", data


def _map_fields(data: Any, indices: NDArray[np.int64]) -> Any:
    if isinstance(data, Mapping):
        return {key: _map_fields(part, indices) for key, part in data.items()}
    if isinstance(data, tuple):
        return _tuple_like(data, [_map_fields(part, indices) for part in data])
    return data[indices]


def _tuple_like(example: tuple[Any, ...], parts: list[Any]) -> Any:
    return type(example)(*parts) if hasattr(example, "_fields") else tuple(parts)


def default_collate(items: list[Any]) -> Any:
    """A batch of a list of examples: by what the examples are,

    - arrays and NumPy scalars (anything with ``__array__``: torch tensors too) of one shape are stacked;
    - Python numbers become an array: bool, int64, or float32 if there is a float among them (Python numbers
      never raise the precision of what they meet, here as in the engine);
    - tuples, named tuples and dicts are collated field by field;
    - anything else (strings, lists, trees, ragged sequences as lists) stays a list of what it was.

    No example gives the empty list.  Raises ValueError, naming the field, for arrays of different shapes,
    for tuples and dicts that do not match, and for a mixture of the kinds above.

    >>> default_collate([{"x": np.zeros(3), "n": 1}, {"x": np.ones(3), "n": 2}])["x"].shape
    (2, 3)
    """
    return _collate(items, "examples")


def _collate(items: list[Any], name: str) -> Any:
    kinds = sorted({_kind(item) for item in items})
    if len(kinds) > 1:
        raise ValueError(f"{name} are a mixture of {' and '.join(kinds)}: {_RAGGED}")
    if kinds == ["arrays"]:
        arrays = [np.asarray(item) for item in items]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise ValueError(
                f"{name} have different shapes, such as {shapes[0]} and {shapes[1]}: {_RAGGED}; "
                "the fields of one data set go into a tuple, not a list"
            )
        return np.stack(arrays)
    if kinds == ["numbers"]:
        dtype: type[np.generic] = np.int64
        if any(isinstance(item, float) for item in items):
            dtype = np.float32
        elif all(isinstance(item, bool) for item in items):
            dtype = np.bool_
        return np.array(items, dtype)
    if kinds == ["tuples"]:
        sizes = sorted({len(item) for item in items})
        if len(sizes) > 1:
            raise ValueError(
                f"{name} are tuples of different lengths, such as {sizes[0]} and {sizes[1]}: {_RAGGED}"
            )
        columns = [
            _collate(list(column), f"{name}[{i}]") for i, column in enumerate(zip(*items, strict=True))
        ]
        return _tuple_like(items[0], columns)
    if kinds == ["dicts"]:
        if any(item.keys() != items[0].keys() for item in items):
            raise ValueError(f"{name} are dicts with different keys: {_RAGGED}")
        return {key: _collate([item[key] for item in items], f"{name}[{key!r}]") for key in items[0]}
    return list(items)


def _kind(item: object) -> str:
    # NumPy scalars first: np.float64 is a Python float too.
    if hasattr(item, "__array__"):
        return "arrays"
    if isinstance(item, (bool, int, float)):
        return "numbers"
    if isinstance(item, tuple):
        return "tuples"
    if isinstance(item, Mapping):
        return "dicts"
    return "objects"
