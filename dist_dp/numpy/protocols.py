"""How NumPy's functions reach ours: a function of `ops` under the signature of the NumPy function of that name.

What is entered here is what np.f(tensor) is handed to (`tensor.numpy_functions`). NumPy's parameters that we have are
passed on, those that we do not have (`out`, `where`, `order`, ...) are accepted at their defaults and refused by name
otherwise: nothing is ever ignored.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from ..tensor import Tensor, numpy_functions

F = TypeVar("F", bound=Callable[..., Any])
_EMPTY = inspect.Parameter.empty


def stands_for(*theirs: Any) -> Callable[[F], F]:
    """Hand NumPy's functions `theirs`, called on a Tensor, to the decorated one, which has their signature."""

    def enter(function: F) -> F:
        for each in theirs:
            numpy_functions[each] = function
        return function

    return enter


def same(theirs: Any, ours: F) -> F:
    """`ours` as it is: a ufunc, of which NumPy passes on the arrays alone."""
    numpy_functions[theirs] = ours
    return ours


def refuse(name: str, **given: Any) -> None:
    """Raise for arguments of NumPy's function `name` that we do not have and that are not None."""
    for argument, value in given.items():
        if value is not None:
            raise TypeError(
                f"np.{name}: {argument}= is not supported on tensors, leave it out; got {value!r:.60}"
            )


def like(theirs: Any, ours: Callable[..., Any], **renamed: str) -> Callable[..., Any]:
    """`ours` under the signature of NumPy's function `theirs`, which is handed to it when called on a Tensor.

    Required parameters are matched in order, the others by name or as `renamed` says (theirs=ours). Where the two have
    different defaults, NumPy's holds.
    """
    parameters = inspect.signature(theirs).parameters
    mine = inspect.signature(ours).parameters
    names: dict[str, str] = {}  # NumPy's name -> ours
    defaults: dict[str, Any] = {}  # ours -> NumPy's default, where it differs
    positions = iter(mine)
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:  # np.pad's, which NumPy looks at by mode
            names |= {n: n for n in mine if n not in parameters and mine[n].default is not _EMPTY}
        elif parameter.default is _EMPTY:
            names[name] = next(positions)
        elif renamed.get(name, name) in mine:
            to = names[name] = renamed.get(name, name)
            if parameter.default is not np._NoValue and parameter.default != mine[to].default:
                defaults[to] = parameter.default
    order = [n for n, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variadic = len(order) < len(parameters) and any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    direct = 0  # so many leading arguments mean the same in both
    for name, to in zip(order, mine, strict=False):
        if names.get(name) != to:
            break
        direct += 1
    label = f"{theirs.__module__.removeprefix('numpy').lstrip('.')}.{theirs.__name__}".lstrip(".")

    def function(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and not defaults and (variadic or len(args) <= direct):
            return ours(*args)
        if variadic:
            given, leading = kwargs, args
        else:
            if len(args) > len(order):
                raise TypeError(
                    f"np.{label} takes at most {len(order)} positional arguments, got {len(args)}"
                )
            given, leading = dict(zip(order, args, strict=False)), ()
            for name in kwargs.keys() & given.keys():
                raise TypeError(f"np.{label} got two values for `{name}`")
            given.update(kwargs)
        call = dict(defaults)
        for name, value in given.items():
            if name in names:
                if value is not np._NoValue:
                    call[names[name]] = value
            elif name not in parameters:
                raise TypeError(f"np.{label} has no argument `{name}`; it has {', '.join(parameters)}")
            elif value is not parameters[name].default and value is not np._NoValue:
                refuse(label, **{name: value})
        return ours(*leading, **call)

    function.__name__ = function.__qualname__ = theirs.__name__
    function.__doc__ = ours.__doc__
    function.__signature__ = inspect.signature(theirs)  # type: ignore[attr-defined]
    numpy_functions[theirs] = function
    return function


def _plain(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.data
    return type(x)(map(_plain, x)) if type(x) in (list, tuple) else x


def _wrapped(x: Any) -> Any:
    if isinstance(x, (np.ndarray, np.generic)):
        return Tensor._of(np.asarray(x), None)
    return tuple(map(_wrapped, x)) if type(x) is tuple else x


def on_values(theirs: Any) -> Callable[..., Any]:
    """NumPy's function `theirs` on the values of tensors: for results that carry no gradient (counts, shapes)."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return _wrapped(theirs(*map(_plain, args), **{k: _plain(v) for k, v in kwargs.items()}))

    function.__name__ = function.__qualname__ = theirs.__name__
    with suppress(ValueError):  # some of NumPy's compiled functions do not know theirs
        function.__signature__ = inspect.signature(theirs)  # type: ignore[attr-defined]
    function.__doc__ = (
        f"NumPy's `{theirs.__name__}` of the values of its arguments; its result carries no gradient."
    )
    numpy_functions[theirs] = function
    return function


def reducing(ufunc: np.ufunc, function: Callable[..., Any]) -> None:
    """Hand `ufunc.reduce`, whose axis is 0 by default, to a reduction with NumPy's signature."""

    def reduce(array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, **more: Any) -> Any:
        refuse(f"{ufunc.__name__}.reduce", dtype=dtype, out=out)
        return function(array, axis=axis, **more)

    numpy_functions[ufunc, "reduce"] = reduce
