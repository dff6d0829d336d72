"""Containers: modules and parameters in order (by number) or by name, so that the model that holds them finds
them.

Items are attributes like any other, named "0", "1", ... or by their keys: `state_dict` keys are torch's.
"""

from __future__ import annotations

import operator
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from itertools import groupby
from typing import Any, ClassVar, Generic, Self, SupportsIndex, TypeVar, overload

from .module import Module, Parameter

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]

Item = TypeVar("Item", Module, Parameter)


class _Numbered(Module, Generic[Item]):
    """Items named "0", "1", ...: what Sequential, ModuleList and ParameterList share."""

    _kind: ClassVar[type[Any]]

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self.extend(items)

    def _item(self, value: Any) -> Item:
        if not isinstance(value, self._kind):
            raise TypeError(f"{type(self).__name__} holds {self._kind.__name__}s, got {type(value).__name__}")
        return value  # type: ignore[no-any-return]

    def _items(self) -> list[tuple[str, Item]]:
        return [(name, value) for name, value in self.__dict__.items() if isinstance(value, self._kind)]

    def _refill(self, values: Iterable[Item]) -> None:
        values = list(values)
        for name, _ in self._items():
            del self.__dict__[name]
        for i, value in enumerate(values):
            setattr(self, str(i), value)

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Item]:
        return iter([value for _, value in self._items()])

    @overload
    def __getitem__(self, index: SupportsIndex) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            part = type(self)()
            part._refill([value for _, value in self._items()][index])
            return part
        return self._items()[operator.index(index)][1]

    def __setitem__(self, index: SupportsIndex, value: Any) -> None:
        setattr(self, self._items()[operator.index(index)][0], self._item(value))

    def __delitem__(self, index: SupportsIndex | slice) -> None:
        values = list(self)
        del values[index]
        self._refill(values)

    def append(self, value: Any) -> Self:
        """Add one item at the end."""
        setattr(self, str(len(self)), self._item(value))
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add items at the end."""
        if not isinstance(values, Iterable):
            raise TypeError(
                f"{type(self).__name__} takes an iterable of {self._kind.__name__}s, "
                f"got {type(values).__name__}"
            )
        for value in values:
            self.append(value)
        return self

    def insert(self, index: int, value: Any) -> None:
        """Put one item before the item at `index`."""
        values = list(self)
        values.insert(index, self._item(value))
        self._refill(values)


class Sequential(_Numbered[Module]):
    """Modules applied one after the other: out = mₙ(... m₂(m₁(x))).

    Args:
        modules: modules, or one mapping from names to modules.

    >>> from dist_dp import nn
    >>> nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
      (1): ReLU()
      (2): Linear(in_features=3, out_features=2, bias=True)
    )
    """

    _kind = Module

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                self.add_module(name, module)
        else:
            super().__init__(modules)

    def forward(self, x: Any) -> Any:
        for module in self:
            x = module(x)
        return x


class ModuleList(_Numbered[Module]):
    """A list of modules, to be called as the program likes.

    >>> from dist_dp import nn
    >>> layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    >>> len(layers), layers[-1].in_features
    (3, 4)
    >>> layers
    ModuleList(
      (0-2): 3 x Linear(in_features=4, out_features=4, bias=True)
    )
    """

    _kind = Module

    def __repr__(self) -> str:
        lines = []
        for text, run in groupby(self._items(), key=lambda item: repr(item[1]).replace("\n", "\n  ")):
            names = [name for name, _ in run]
            one = len(names) == 1
            lines.append(
                f"({names[0]}): {text}" if one else f"({names[0]}-{names[-1]}): {len(names)} x {text}"
            )
        return f"{type(self).__name__}(" + ("\n  " + "\n  ".join(lines) + "\n" if lines else "") + ")"


class ParameterList(_Numbered[Parameter]):
    """A list of parameters; other tensors and arrays become parameters.

    >>> from dist_dp import nn
    >>> scales = nn.ParameterList([[1.0, 2.0], [3.0]])
    >>> [name for name, _ in scales.named_parameters()]
    ['0', '1']
    """

    _kind = Parameter

    def _item(self, value: Any) -> Parameter:
        return value if isinstance(value, Parameter) else Parameter(value)

    def extra_repr(self) -> str:
        return _rows(self._items())


class _Named(Module, Generic[Item]):
    """Items under names of the caller's choice: what ModuleDict and ParameterDict share."""

    _kind: ClassVar[type[Any]]

    def __init__(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        self.update(items)

    def _items(self) -> dict[str, Item]:
        return {name: value for name, value in self.__dict__.items() if isinstance(value, self._kind)}

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[str]:
        return iter(self._items())

    def __contains__(self, name: object) -> bool:
        return name in self._items()

    def __getitem__(self, name: str) -> Item:
        items = self._items()
        if name not in items:
            raise KeyError(f"{type(self).__name__} has no {name!r}; it has {list(items)}")
        return items[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._take(name, value, self._kind)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def pop(self, name: str) -> Item:
        """Take out the item under `name` and return it. Raises KeyError."""
        value = self[name]
        del self.__dict__[name]
        return value

    def keys(self) -> KeysView[str]:
        """The names, in the order of insertion."""
        return self._items().keys()

    def values(self) -> ValuesView[Item]:
        """The items."""
        return self._items().values()

    def items(self) -> ItemsView[str, Item]:
        """(name, item) pairs."""
        return self._items().items()

    def update(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> None:
        """Set several items."""
        for name, value in items.items() if isinstance(items, Mapping) else items:
            self[name] = value


class ModuleDict(_Named[Module]):
    """Modules by name.

    Raises ValueError for a name with a dot, or of a method of the class ("keys").

    >>> from dist_dp import nn
    >>> heads = nn.ModuleDict({"depth": nn.Linear(8, 1), "kind": nn.Linear(8, 5)})
    >>> list(heads), heads["kind"].out_features
    (['depth', 'kind'], 5)
    """

    _kind = Module


class ParameterDict(_Named[Parameter]):
    """Parameters by name; other tensors and arrays become parameters.

    >>> from dist_dp import nn
    >>> nn.ParameterDict({"shift": [0.0, 0.0]})["shift"].requires_grad
    True
    """

    _kind = Parameter

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value if isinstance(value, Parameter) else Parameter(value))

    def extra_repr(self) -> str:
        return _rows(self._items().items())


def _rows(items: Iterable[tuple[str, Parameter]]) -> str:
    return "\n".join(f"({name}): Parameter of {p.dtype} {p.shape}" for name, p in items)
