"""Nested containers of arrays: taken apart into a flat list of leaves and put together again.

The functional transforms take and return dicts, lists, tuples and named tuples of arrays, nested as the
user likes (the parameters of a model are such a dict). A leaf is anything that is none of these containers;
None is an empty container, as in JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Structure:
    """The shape of a tree without its leaves.

    Attributes:
        kind: the container's type, or None for a leaf.
        keys: what its children are called: keys of a dict, positions of a sequence.
        children: their structures.
    """

    kind: type | None
    keys: tuple[Any, ...] = ()
    children: tuple[Structure, ...] = ()

    @property
    def size(self) -> int:
        """The number of leaves."""
        return 1 if self.kind is None else sum(child.size for child in self.children)


LEAF = Structure(None)


def _is_named(tree: Any) -> bool:
    return isinstance(tree, tuple) and hasattr(tree, "_fields")


def _children(tree: Any) -> tuple[type, tuple[Any, ...], list[Any]] | None:
    """(kind, keys, children) of a container; None for a leaf."""
    if tree is None:
        return type(None), (), []
    if isinstance(tree, dict):
        return dict, tuple(tree), list(tree.values())
    if isinstance(tree, (list, tuple)):
        kind = type(tree) if _is_named(tree) else list if isinstance(tree, list) else tuple
        return kind, tuple(range(len(tree))), list(tree)
    return None


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves of `tree` from left to right, and its structure.

    >>> leaves, structure = flatten({"w": 1, "layers": [2, (3, None)]})
    >>> leaves
    [1, 2, 3]
    >>> unflatten(structure, [10, 20, 30])
    {'w': 10, 'layers': [20, (30, None)]}
    """
    found = _children(tree)
    if found is None:
        return [tree], LEAF
    kind, keys, parts = found
    flat = [flatten(part) for part in parts]
    return [leaf for leaves, _ in flat for leaf in leaves], Structure(kind, keys, tuple(s for _, s in flat))


def unflatten(structure: Structure, leaves: Sequence[Any]) -> Any:
    """The tree of this structure with `leaves` in their places, from left to right.

    Raises:
        ValueError: there are not as many leaves as places.
    """
    if len(leaves) != structure.size:
        raise ValueError(f"leaves: the tree has {structure.size} places, got {len(leaves)} leaves")
    return _build(structure, iter(leaves))


def _build(structure: Structure, leaves: Any) -> Any:
    kind = structure.kind
    if kind is None:
        return next(leaves)
    if kind is type(None):
        return None
    children = [_build(child, leaves) for child in structure.children]
    if kind is dict:
        return dict(zip(structure.keys, children, strict=True))
    return kind(*children) if hasattr(kind, "_fields") else kind(children)


def flatten_like(structure: Structure, tree: Any, name: str, prefix: bool = False) -> list[Any]:
    """The leaves of `tree`, one for each leaf of `structure`, which it must match; dicts are matched by key.

    Args:
        structure: of the tree to match.
        tree: what to take apart.
        name: of the argument, for the message.
        prefix: a leaf (or None) of `tree` may stand where `structure` has a container, and counts for all
            its leaves.

    Raises:
        ValueError: the trees differ; the message says at which place.
    """
    if structure.kind is None:
        return [tree]
    found = _children(tree)
    if prefix and (found is None or found[0] is type(None)):
        return [tree] * structure.size
    if found is None or found[0] is not structure.kind or set(found[1]) != set(structure.keys):
        raise ValueError(f"{name} must be nested as {described(structure)}, got {_kind(tree, found)}")
    parts = dict(zip(found[1], found[2], strict=True))
    places = zip(structure.keys, structure.children, strict=True)
    return [
        leaf for key, child in places for leaf in flatten_like(child, parts[key], f"{name}[{key!r}]", prefix)
    ]


def paths(structure: Structure) -> list[str]:
    """Where each leaf stands, as it would be written after the tree's name.

    >>> paths(flatten({"w": 1, "layers": [2, 3]})[1])
    ["['w']", "['layers'][0]", "['layers'][1]"]
    """
    if structure.kind is None:
        return [""]
    places = zip(structure.keys, structure.children, strict=True)
    return [f"[{key!r}]{rest}" for key, child in places for rest in paths(child)]


def map_leaves(fn: Callable[..., Any], tree: Any) -> Any:
    """The same tree with `fn(leaf)` for every leaf.

    >>> map_leaves(lambda n: n + 1, {"a": 1, "b": (2, 3)})
    {'a': 2, 'b': (3, 4)}
    """
    leaves, structure = flatten(tree)
    return unflatten(structure, [fn(leaf) for leaf in leaves])


def described(structure: Structure) -> str:
    if structure.kind is None:
        return "one value"
    if structure.kind is dict:
        return f"a dict with keys {list(structure.keys)}"
    kind = structure.kind.__name__
    return "None" if kind == "NoneType" else f"a {kind} of {len(structure.keys)}"


def _kind(tree: Any, found: tuple[type, tuple[Any, ...], list[Any]] | None) -> str:
    if found is None:
        return type(tree).__name__
    return described(Structure(found[0], found[1]))
