"""`anomaly`: where did a NaN or an infinity come from.

Inside the block every operation goes through an interpreter that notes the line of the user's code on the tape and
looks at the value, and every sweep shows its gradients. Outside, operations pay nothing for it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batching import recorder
from ..batching.lazy import line_of
from ..batching.vectorize import whole
from ..ops.core import Op, apply
from ..tape import Interpreter, Node, applying, mode
from ..tensor import Tensor

_PACKAGE = str(Path(__file__).parent.parent)
_NUMPY = str(Path(np.__file__).parent)
_RECORDER = recorder.__file__


class AnomalyError(FloatingPointError):
    """An operation, or its derivative, made a NaN or an infinity.

    Attributes:
        op: name of the operation.
        site: the line that called it, as `file:line`.
    """

    def __init__(self, message: str, op: str, site: str | None) -> None:
        super().__init__(message)
        self.op, self.site = op, site


class _Site(str):
    """A line; and the calls of a batch that an operation there was applied to together: of which example, where."""

    calls: Sequence[tuple[int, CodeType, int]] = ()


class _Watch(Interpreter):
    """Applies operations as they would be, and looks at what comes out."""

    def __call__(self, op: Op, inputs: tuple[Any, ...], params: tuple[Any, ...]) -> Any:
        with applying(self.outer):
            out = apply(op, inputs, params)
        site = _site()
        for tensor in out if isinstance(out, tuple) else (out,):
            below = whole(tensor)
            if isinstance(below.node, Node):
                below.node.site = site
                for behind in below.node.parents if op.outputs > 1 else ():
                    behind.site = site
            _check_value(op, inputs, below.data, site)
        return out


@contextmanager
def anomaly() -> Iterator[None]:
    """Inside the block, raise at the operation that makes a NaN or an infinity, forward or backward.

    A value is reported where it is made: a NaN always, an infinity where all inputs were finite (a mask of -inf that
    the program puts in itself is left alone). Backward passes are watched too if they run inside the block, and name
    the line that recorded the operation. A gradient that is NaN although nothing depends on the value (the other
    branch of a `where`) is reported as that.

    It slows the program down several times.

    Raises:
        AnomalyError: naming the operation, the line, and the ranges of its inputs.

    >>> import dist_dp as dp
    >>> with dp.debug.anomaly():
    ...     dp.ops.log(dp.tensor([1.0, -1.0]))
    Traceback (most recent call last):
        ...
    dist_dp.debug.anomaly.AnomalyError: log made nan in 1 of 2 elements, first at [1], called at <doctest ...
    """
    before = mode.inspect
    mode.inspect = _check_gradient
    try:
        with applying(_Watch()), np.errstate(all="ignore"):
            yield
    finally:
        mode.inspect = before


def _check_value(op: Op, inputs: tuple[Any, ...], value: NDArray[Any], site: str | None) -> None:
    if value.dtype.kind != "f" or np.isfinite(value).all():
        return
    arrays = {name: _array(x) for name, x in zip(_names(op, inputs), inputs, strict=True)}
    bad = np.isnan(value)
    if not bad.any():
        if any(not np.isfinite(a).all() for a in arrays.values() if a.dtype.kind == "f"):
            return
        bad = np.isinf(value)
    carried = [name for name, a in arrays.items() if a.dtype.kind == "f" and np.isnan(a).any()]
    origin = f"; the nan came in with {', '.join(carried)}, from outside the block" if carried else ""
    raise AnomalyError(
        f"{op.name} made {_where(value, bad)}, called at {site}; {_ranges(arrays)}{origin}", op.name, site
    )


def _check_gradient(node: Node, i: int, g: Any, gradient: Any) -> None:
    """Look at the gradient that `node` gives its input number `i` when the one of its output is `g`."""
    d = getattr(gradient, "data", gradient)
    if d is None or np.isfinite(d).all():
        return
    d = np.asarray(d)
    incoming = [
        np.asarray(getattr(x, "data", x)) for x in (g if isinstance(g, list) else [g]) if x is not None
    ]
    if not all(np.isfinite(x).all() for x in incoming):
        return  # it was there before, and the root gave it: backward(gradient) of the user
    op, bad = node.op, ~np.isfinite(d)
    saved = node.saved or ()
    kept = {
        name: value
        for names, values in zip(op.names, saved, strict=False)
        for name, value in zip(names, values or (), strict=values is not None)
        if isinstance(value, np.ndarray)
    }
    message = (
        f"the derivative of {op.name} with respect to {_name(op, i)} is {_where(d, bad)}, "
        f"recorded at {node.site or 'a line outside the block'}; {_ranges(kept | {'incoming gradient': incoming[0]})}"
    )
    if len(incoming) == 1 and incoming[0].shape == d.shape and not incoming[0][bad].any():
        message += (
            "; the incoming gradient is 0 there, so the result does not use these elements: they are in the inactive "
            "branch of a where() or behind a mask. Make the argument safe first, as in "
            f"where(ok, {op.name}(where(ok, x, 1)), other)"
        )
    calls = getattr(node.site, "calls", ())
    if d.ndim and len(d) == len(calls):
        row = np.argwhere(bad)[0][0]
        example, code, instruction = calls[row]
        line = line_of(code, instruction)
        message += f"; row {row} is a call of example {example} of dp.batched at {code.co_filename}:{line}"
    raise AnomalyError(message, op.name, node.site)


def _site() -> str | None:
    """The innermost line that is neither in this package nor in NumPy; of an operation that a batch computes later,
    the line that its first call was noted at."""
    frame = sys._getframe(2)
    calls = mode.calls
    while frame is not None:
        name = frame.f_code.co_filename
        if (calls and name == _RECORDER) or not name.startswith((_PACKAGE, _NUMPY)):
            site = _Site(calls[0].site if name == _RECORDER else f"{name}:{frame.f_lineno}")
            site.calls = [(call.example, call.code, call.instruction) for call in calls]
            return site
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _names(op: Op, inputs: tuple[Any, ...]) -> list[str]:
    return [_name(op, i) for i in range(len(inputs))]


def _name(op: Op, i: int) -> str:
    return f"{op.inputs[0]}[{i}]" if op.variadic else op.inputs[i]


def _array(x: Any) -> NDArray[Any]:
    return whole(x).data if isinstance(x, Tensor) else np.asarray(x)


def _where(value: NDArray[Any], bad: NDArray[Any]) -> str:
    first = tuple(np.argwhere(bad)[0].tolist())
    count = f" in {int(bad.sum())} of {value.size} elements, first at {list(first)}" if value.ndim else ""
    return f"{value[first]}{count}"


def _ranges(arrays: dict[str, NDArray[Any]]) -> str:
    """`x` between 0 and 1: what the arrays hold, so that a message tells what went in."""
    out = []
    for name, a in arrays.items():
        finite = a[np.isfinite(a)] if a.dtype.kind == "f" else a.ravel()
        span = f"between {finite.min():g} and {finite.max():g}" if finite.size else "no finite value"
        odd = f" besides {a.size - finite.size} not finite" if a.size - finite.size and finite.size else ""
        out.append(f"{name} {a.dtype} {a.shape}: {span}{odd}")
    return ", ".join(out) or "it keeps none of its inputs"
