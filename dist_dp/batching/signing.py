"""What of the arguments of a cell belongs to its signature, what is a value, and how a body is given other values."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..tensor import Tensor
from .lazy import Lazy, Spec, Written
from .ragged import Ragged
from .recorder import constant, frozen, kept

# What a number given to a cell becomes: an array with the batch as its one axis.
INTEGER, FLOAT = Spec((), np.dtype(np.int64)), Spec((), np.dtype(np.float32))

# Makes an argument with other values in the places of its own.
Filling = Callable[[Iterator[Any]], Any]


class Static:
    """An argument that the body sees as it is."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def signed(tree: Any, values: list[Any]) -> Any:
    """What of an argument belongs to the signature; its tensors, arrays and numbers are put into `values`."""
    kind = type(tree)
    if kind is Lazy:
        values.append(tree)
        return tree.spec
    if kind is tuple:
        return tuple([signed(x, values) for x in tree])
    try:
        return _signs[kind](tree, values)
    except KeyError:
        sign = _signs[kind] = _sign_of(kind)
        return sign(tree, values)


def _sign_of(kind: type) -> Callable[[Any, list[Any]], Any]:
    """`signed` for arguments of one type. A value's signature is its spec, a number's that of its array."""
    if kind is Written:
        return lambda x, values: signed(x.now, values)
    if issubclass(kind, (Tensor, np.ndarray)):

        def array(x: Any, values: list[Any]) -> Any:
            if kind is np.ndarray or x.node is None:
                x = Tensor._of(kept(x if kind is np.ndarray else x.data), None)
            values.append(x)
            return Spec(x.shape, x.dtype)

        return array
    if issubclass(kind, (np.integer, np.floating)):

        def value(x: Any, values: list[Any]) -> Any:
            values.append(x)
            return Spec(x.shape, x.dtype)

        return value
    if issubclass(kind, (list, tuple)):
        return lambda tree, values: (kind, *[signed(x, values) for x in tree])
    if kind is dict:
        return lambda tree, values: (dict, *[(type(k), k, signed(v, values)) for k, v in tree.items()])
    if kind is complex:
        return lambda number, values: constant(number)
    if kind.__hash__ is None:
        raise TypeError(f"unhashable type: {kind.__name__!r}")
    if kind in (str, bytes, bool) or issubclass(kind, (type, enum.Enum, np.generic)):
        return lambda it, values: (kind, it)
    if dataclasses.is_dataclass(kind) and kind.__eq__ is not object.__eq__:
        # Field by field, down to their types.
        names = [field.name for field in dataclasses.fields(kind)]
        return lambda it, values: (kind, *[frozen(getattr(it, name)) for name in names])
    # A module and other objects are the same if they are one. (The signature keeps it, so its address stays its own.)
    return lambda it, values: (kind, id(it))


def _integer(x: int, values: list[Any]) -> Spec:
    values.append(x)
    return INTEGER


def _float(x: float, values: list[Any]) -> Spec:
    values.append(x)
    return FLOAT


def _ragged(it: Ragged, values: list[Any]) -> Any:
    items = it.items
    values.append(len(items))
    return (Ragged, _alike(items, values) if items else None)


def _alike(items: Sequence[Any], values: list[Any]) -> Any:
    """What belongs to the signature of each of these items; their values, all first ones before all second ones."""
    if len(items) == 1:
        return signed(items[0], values)
    kinds = set(map(type, items))
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is Lazy:
        values += items
        signs: Any = {item.spec for item in items}
    elif kind is int or kind is float:
        values += items
        return INTEGER if kind is int else FLOAT
    elif kind is tuple and len(set(map(len, items))) == 1:
        return tuple([_alike(parts, values) for parts in zip(*items, strict=True)])
    else:
        each: list[list[Any]] = [[] for _ in items]
        signs = {signed(item, its) for item, its in zip(items, each, strict=True)}
        for same in zip(*each, strict=len(signs) == 1):
            values += same
    if len(signs) > 1:
        one, other, *_ = sorted(map(repr, signs))
        raise ValueError(f"the items of a dp.Ragged must be alike, got {one} and {other}")
    return signs.pop()


_signs: dict[type, Callable[[Any, list[Any]], Any]] = {
    Ragged: _ragged,
    int: _integer,
    float: _float,
    type(None): lambda none, values: None,
    Static: lambda it, values: (Static, constant(it.value)),
}


def specs_of(sign: Any) -> list[Any]:
    """The specs in a signature, in the order of the values; those of an item of a ragged list as a list."""
    if type(sign) is Spec:
        return [sign]
    if type(sign) is not tuple:
        return []
    specs = [spec for part in sign for spec in specs_of(part)]
    if not sign or sign[0] is not Ragged:
        return specs
    if any(type(spec) is list for spec in specs):
        raise TypeError("a dp.Ragged among the items of another: give the cell two lists, or one of tuples")
    return [specs]


def filling(tree: Any) -> Filling:
    """How the argument is made with other values in the places that `signed` found.

    What it needs of the argument is read now: a list may change after the call, and values need not be kept.
    """
    kind = type(tree)
    if isinstance(tree, (Tensor, np.ndarray, np.integer, np.floating)) or kind is int or kind is float:
        return next
    if isinstance(tree, (tuple, list)):
        parts = [filling(x) for x in tree]
        if hasattr(kind, "_fields"):
            return lambda inputs: kind(*[part(inputs) for part in parts])
        sequence = list if isinstance(tree, list) else tuple
        return lambda inputs: sequence([part(inputs) for part in parts])
    if kind is dict:
        fields = {k: filling(v) for k, v in tree.items()}
        return lambda inputs: {k: field(inputs) for k, field in fields.items()}
    if kind is Ragged:
        item = filling(tree.items[0]) if tree else None

        def lists(inputs: Iterator[Any]) -> Ragged:
            its = Ragged.of_calls(next(inputs))
            if item is not None:
                its.values = item(inputs)
            return its

        return lists
    it = tree.value if kind is Static else tree
    return lambda inputs: it
