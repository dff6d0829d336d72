"""A `ray.data.Dataset` as a source: its rows in their order, taken by index.

The Dataset is executed once, when the source is made, with the order of its rows preserved; from then on its blocks lie
in Ray's object store. An example's number says in which block it is, and where; blocks are fetched whole, and those
used last are kept.

Every worker of a run makes its own source. So a Dataset that is not materialised is executed by each of them, and lies
in the object store once for each; what is materialised before the workers begin is shared (docs/ray_ecosystem.md).
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.block import BlockAccessor
from ray.data.dataset import MaterializedDataset

from .source import DataError, Source, batch_indices, default_collate

_KEPT = 64 << 20  # bytes of the blocks that are kept
_PATIENCE = 60.0  # seconds
_SAMPLE = 16  # rows of which the description holds a hash

Columns = dict[str, NDArray[Any]]


class RayDataSource(Source):
    """The rows of a Dataset. Without `collate` a batch is a dict of its columns, each an array of the column's dtype
    (or a list, where `default_collate` would make one); with it, `collate` of the rows, which are dicts.

    Raises:
        TypeError: `dataset` is no Dataset, such as an iterator over one.
        ValueError: it has no rows.
        RuntimeError: it is not materialised, and no processor is free to execute it.
    """

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
        if not isinstance(dataset, ray.data.Dataset):
            raise TypeError(
                f"data must be a ray.data.Dataset, got {type(dataset).__name__}; give the whole Dataset, not an "
                "iterator over a part of it: dist_dp deals out its rows to the workers"
            )
        self._collate = collate
        self._dataset = _materialized(dataset)  # as long as it lives, so do its blocks
        blocks = [block for bundle in self._dataset.iter_internal_ref_bundles() for block in bundle.blocks]
        self._blocks = [block.ref for block in blocks if block.metadata.num_rows]
        self._ends = np.cumsum([block.metadata.num_rows for block in blocks if block.metadata.num_rows])
        if not self._blocks:
            raise ValueError("data must hold at least one example, got a Dataset without rows")
        self._kept: OrderedDict[int, Columns] = OrderedDict()
        self._fields = self._fetch([0])[0]
        self._sample = hashlib.sha256()
        for number in np.linspace(0, len(self) - 1, _SAMPLE).astype(np.int64):  # one block at a time
            for row in self._rows(number[None]):
                self._sample.update(b"".join(_bytes_of(value) for value in row.values()))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, indices: NDArray[np.int64]) -> Any:
        numbers = batch_indices(indices, len(self))
        if self._collate is not None:
            return self._collate(self._rows(numbers))
        where, rows = self._places(numbers)
        used = np.unique(where).tolist() or [0]  # of no rows the columns are known all the same
        blocks = self._fetch(used)
        parts = [(np.flatnonzero(where == block), blocks[block]) for block in used]
        return {
            name: _gathered(name, [(at, columns[name][rows[at]]) for at, columns in parts], len(rows))
            for name in self._fields
        }

    def describe(self) -> dict[str, Any]:
        fields = {
            name: {"shape": list(column.shape[1:]), "dtype": str(column.dtype)}
            for name, column in self._fields.items()
        }
        # Workers, or launches, that executed a plan which gives other rows each time are told apart by it.
        sample = self._sample.hexdigest()
        return {"kind": "ray.data", "length": len(self), "fields": fields, "sha256 of some rows": sample}

    def _places(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each row, the number of its block, and where it is in it."""
        where = np.searchsorted(self._ends, numbers, side="right")
        return where, numbers - np.concatenate([[0], self._ends])[where]

    def _rows(self, numbers: NDArray[np.int64]) -> list[dict[str, Any]]:
        where, rows = self._places(numbers)
        blocks = self._fetch(np.unique(where).tolist())
        places = zip(where.tolist(), rows.tolist(), strict=True)
        return [{name: column[row] for name, column in blocks[block].items()} for block, row in places]

    def _fetch(self, numbers: Iterable[int]) -> dict[int, Columns]:
        """The columns of these blocks."""
        blocks = {number: self._kept.pop(number) for number in numbers if number in self._kept}
        missing = [number for number in numbers if number not in blocks]
        try:
            fetched = ray.get([self._blocks[number] for number in missing])
        except ray.exceptions.RayError as error:
            raise DataError(f"blocks of the Dataset could not be fetched: {error}") from error
        for number, block in zip(missing, fetched, strict=True):
            blocks[number] = BlockAccessor.for_block(block).to_numpy()
        self._kept.update(blocks)
        while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > _KEPT:
            self._kept.popitem(last=False)
        return blocks


def _materialized(dataset: Any) -> Any:
    if isinstance(dataset, MaterializedDataset):
        return dataset
    _wait_for_a_processor()
    context = dataset.context
    options = context.execution_options
    before = options.preserve_order, context.enable_progress_bars
    options.preserve_order, context.enable_progress_bars = True, False  # each worker would show bars
    try:
        return dataset.materialize()
    finally:
        options.preserve_order, context.enable_progress_bars = before


def _wait_for_a_processor() -> None:
    """Ray Data would wait for one for ever: the workers of this run may have taken them all."""
    until = time.monotonic() + _PATIENCE
    while ray.available_resources().get("CPU", 0) < 1:
        if time.monotonic() > until:
            raise RuntimeError(
                f"data: the Dataset is yet to be executed, and for {_PATIENCE:g} s no processor was free for that; "
                "launch fewer workers than there are processors, or materialize the Dataset before they begin"
            )
        time.sleep(0.1)


def _gathered(name: str, parts: list[tuple[NDArray[np.int64], NDArray[Any]]], length: int) -> Any:
    """One column of a batch, of which each block has the rows at some places. How rows lie in blocks makes no
    difference: one batch may come from a single block, the same rows elsewhere from many."""
    kinds = {(values.dtype, values.shape[1:]) for _, values in parts}
    dtype, shape = next(iter(kinds))
    if len(kinds) == 1 and dtype.kind != "O":
        column = np.empty((length, *shape), dtype)
        for at, values in parts:
            column[at] = values
        return column
    items: list[Any] = [None] * length
    for at, values in parts:
        for place, value in zip(at.tolist(), values, strict=True):
            items[place] = value
    return default_collate([{name: item} for item in items])[name] if items else items


def _bytes_of(value: Any) -> bytes:
    array = np.asarray(value)
    if not array.dtype.hasobject:
        return array.tobytes()
    return repr(
        value if isinstance(value, str | bytes) else type(value)
    ).encode()  # of others it may hold an address


def _nbytes(columns: Columns) -> int:
    return sum(column.nbytes for column in columns.values())
