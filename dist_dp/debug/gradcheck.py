"""`gradcheck`: are the derivatives of a function right? Measured against differences, in float64.

With random v and t, and J the Jacobian of the function at its inputs:

- backward gives Jᵀv, compared element by element with central differences of <v, fn(x)>;
- forward mode gives Jt, and <v, Jt> = <Jᵀv, t> must hold (the dot-product test);
- of second order, Jᵀv as a function of (x, v) and Jt as a function of (x, t) are checked in the same way,
  which covers all four combinations of forward and reverse mode; and the recorded sweep must give the
  gradients of the unrecorded one.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import check_function
from ..backward import backward, forward
from ..ops.core import apply, identity
from ..pytree import flatten, paths, unflatten
from ..tape import Leaf, enable_grad
from ..tensor import Tensor

Array = NDArray[Any]
Function = Callable[..., Sequence[Tensor]]


class GradientMismatch(AssertionError):
    """A derivative differs from what differences (or the other mode) say.

    Attributes:
        input: name of the input, such as `"x"` or `"params['w']"`; None for the dot-product test.
        index: the element of that input.
        got: the derivative found.
        expected: what it should be.
    """

    def __init__(
        self,
        message: str,
        input: str | None,
        index: tuple[int, ...] | None = None,
        got: float = math.nan,
        expected: float = math.nan,
    ) -> None:
        super().__init__(message)
        self.input, self.index, self.got, self.expected = input, index, got, expected


@dataclass(frozen=True)
class _Check:
    """One function under check: its names and the comparisons made."""

    what: str
    f: Function
    xs: Sequence[Array]
    names: Sequence[str]
    eps: float
    rtol: float
    atol: float

    def close(self, a: float, b: float, scale: float = 0.0) -> bool:
        return bool(abs(a - b) <= self.atol + self.rtol * max(abs(a), abs(b), scale))

    def run(self, each: bool) -> list[Array]:
        """Check backward against differences and forward mode against backward; returns the gradients.

        With `each`, every element is measured; otherwise one random direction, and the elements only if that
        disagrees.
        """
        random = np.random.default_rng(0)
        inputs = [Tensor(x.copy(), requires_grad=True) for x in self.xs]
        with enable_grad():
            outs = self.f(*inputs)
        vs = [_frozen(random.standard_normal(o.shape)) for o in outs]
        ts = [_frozen(random.standard_normal(x.shape)) for x in self.xs]
        live = [(o.node, v) for o, v in zip(outs, vs, strict=True) if o.node is not None]
        found = backward(live, targets=[x.node for x in inputs], retain_graph=True)
        gradients = [np.zeros_like(x) if g is None else g for g, x in zip(found, self.xs, strict=True)]
        for name, g, x in zip(self.names, gradients, self.xs, strict=True):
            if g.shape != x.shape or g.dtype != x.dtype:
                message = f"the gradient of {name} is {g.dtype} {g.shape}, the input {x.dtype} {x.shape}"
                raise GradientMismatch(f"{self.what}: {message}", name)
        along = sum(float(np.vdot(g, t)) for g, t in zip(gradients, ts, strict=True))
        size = sum(float(np.vdot(abs(g), abs(t))) for g, t in zip(gradients, ts, strict=True))
        seeds = {x.node: t for x, t in zip(inputs, ts, strict=True)}
        tangents = forward(seeds, [node for node, _ in live], create_graph=False)
        pairs = [(v, t) for (_, v), t in zip(live, tangents, strict=True) if t is not None]
        pushed = sum(float(np.vdot(v, t)) for v, t in pairs)
        if not self.close(pushed, along, size):
            message = f"forward mode gives <v, Jt> = {pushed!r}, backward gives <Jᵀv, t> = {along!r}"
            raise GradientMismatch(f"{self.what}: {message}", None, None, pushed, along)
        if each or not self.close(self.slope(ts, vs, self.eps), along, size):
            for i, g in enumerate(gradients):
                for index in np.ndindex(g.shape):
                    self.element(vs, i, index, float(g[index]))
        return gradients

    def element(self, vs: Sequence[Array], i: int, index: tuple[int, ...], got: float) -> None:
        """Compare one element of a gradient with differences, with smaller steps where they disagree."""
        axis = [np.zeros_like(x) for x in self.xs]
        axis[i][index] = scale = max(1.0, abs(float(self.xs[i][index])))
        steps = [self.eps, self.eps / 10, self.eps / 100]
        slopes = []
        for step in steps:
            slopes.append(self.slope(axis, vs, step) / scale)
            if self.close(got, slopes[-1]):
                return
        # No step agrees. A kink shows in one-sided slopes that stay apart as the step shrinks; there, any
        # number between them is an honest derivative (relu'(0), the halves of maximum at a tie).
        wide, narrow = (
            sorted(s / scale for s in self.sides(axis, vs, step)) for step in (steps[0], steps[2])
        )
        gap, (low, high) = wide[1] - wide[0], narrow
        slack = self.atol + self.rtol * max(abs(low), abs(high)) + gap * 1e-3
        kink = high - low > 10 * slack and 0.5 * gap <= high - low <= 2 * gap
        if kink and low - slack <= got <= high + slack:
            return
        numbers = f"central differences give {slopes[0]!r}"
        if kink:
            numbers = f"between {low!r} and {high!r}, the slopes on the two sides of a kink, it should be"
        place = _place(self.names[i], index)
        message = f"{self.what} with respect to {place}: the gradient is {got!r}; {numbers}"
        raise GradientMismatch(message, self.names[i], index, got, slopes[0])

    def slope(self, ts: Sequence[Array], vs: Sequence[Array], step: float) -> float:
        """d<v, f(x + s t)>/ds at s = 0 by the four-point central difference, whose error is O(step⁴)."""
        plus, minus, plus2, minus2 = (self.moved(ts, k * step) for k in (1, -1, 2, -2))
        return sum(
            float(np.vdot(v, 8 * (a - b) - (c - d))) / (12 * step)
            for v, a, b, c, d in zip(vs, plus, minus, plus2, minus2, strict=True)
        )

    def sides(self, ts: Sequence[Array], vs: Sequence[Array], step: float) -> tuple[float, float]:
        """The slopes to the left and to the right."""
        minus, here, plus = (self.moved(ts, s) for s in (-step, 0.0, step))
        left = sum(float(np.vdot(v, b - a)) for v, a, b in zip(vs, minus, here, strict=True))
        right = sum(float(np.vdot(v, c - b)) for v, b, c in zip(vs, here, plus, strict=True))
        return left / step, right / step

    def moved(self, ts: Sequence[Array], by: float) -> list[Array]:
        outs = self.f(*[Tensor(x + by * t) for x, t in zip(self.xs, ts, strict=True)])
        return [np.array(o.data) for o in outs]


def gradcheck(
    fn: Callable[..., Any],
    *inputs: Any,
    order: int = 1,
    eps: float = 1e-4,
    rtol: float = 1e-5,
    atol: float = 1e-8,
) -> None:
    """Check the derivatives of `fn` at `inputs` against central differences; silent if they are right.

    Floating arrays and Tensors among the inputs, also inside dicts, lists and tuples, are converted to
    float64 and differentiated; everything else is passed on as it is. `fn` must be deterministic, and may
    return a Tensor or any nesting of them; outputs that are not floating are not looked at.

    Where the function has a kink (relu at 0), a derivative between the slopes of the two sides is accepted.
    Kinks nearer than 2 `eps` to an input, but not at it, are avoided by smaller steps. A jump is an error.

    Args:
        fn: the function.
        inputs: its positional arguments.
        order: 1 for backward and forward mode; 2 for their derivatives too.
        eps: step of the differences, relative to elements above 1 in magnitude.
        rtol, atol: |a - b| <= atol + rtol max(|a|, |b|) counts as equal.

    Raises:
        GradientMismatch: naming the input, the element and both numbers.
        TypeError: no floating array among the inputs, or no floating Tensor among the outputs.
        ValueError: `order` is neither 1 nor 2.

    >>> import dist_dp as dp, numpy as np
    >>> dp.debug.gradcheck(lambda x, y: x * y, np.ones((2, 3)), np.ones(3), order=2)
    """
    check_function(fn, "fn")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    leaves, structure = flatten(inputs)
    leaves = [_float64(x) for x in leaves]
    chosen = [i for i, x in enumerate(leaves) if isinstance(x, np.ndarray) and x.dtype.kind == "f"]
    if not chosen:
        raise TypeError(f"inputs: gradcheck needs a floating array or Tensor among them, got {inputs!r:.200}")

    def f(*xs: Tensor) -> list[Tensor]:
        full = list(leaves)
        for i, x in zip(chosen, xs, strict=True):
            full[i] = x
        outs, _ = flatten(fn(*unflatten(structure, full)))
        floating = [o for o in outs if isinstance(o, Tensor) and o.dtype.kind == "f"]
        if not floating:
            raise TypeError(f"fn must return a floating Tensor, got {[type(o).__name__ for o in outs]}")
        return floating

    xs = [leaves[i] for i in chosen]
    all_names = _names(fn, inputs)
    names = [all_names[i] for i in chosen]
    first = _Check("first order", f, xs, names, eps, rtol, atol).run(each=True)
    if order == 2:
        n, random = len(xs), np.random.default_rng(0)
        vs = [random.standard_normal(o.shape) for o in f(*map(Tensor, xs))]  # the v of the first order
        ts = [random.standard_normal(x.shape) for x in xs]
        again = [g.data for g in _gradient(f, list(map(Tensor, xs)), list(map(Tensor, vs)))]
        for name, a, b in zip(names, first, again, strict=True):
            for index in map(tuple, np.argwhere(~np.isclose(a, b, rtol, atol)).tolist()):
                numbers = f"{float(a[index])!r}, but {float(b[index])!r} under create_graph=True"
                raise GradientMismatch(f"the gradient of {_place(name, index)} is {numbers}", name, index)
        both = [
            ("the gradient's derivative", _gradient, vs, [f"v{i}" for i in range(len(vs))]),
            ("the tangent's derivative", _tangent, ts, [f"t{i}" for i in range(n)]),
        ]
        for what, sweep, seeds, extra in both:
            function = functools.partial(_split, sweep, f, n)
            _Check(what, function, [*xs, *seeds], [*names, *extra], eps, rtol, atol).run(each=False)


def _place(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def _split(sweep: Callable[..., list[Tensor]], f: Function, n: int, *args: Tensor) -> list[Tensor]:
    return sweep(f, args[:n], args[n:])


def _gradient(f: Function, xs: Sequence[Tensor], vs: Sequence[Tensor]) -> list[Tensor]:
    """Jᵀv as a recorded function of x and v."""
    with enable_grad():
        inputs = _aliases(xs)
        outs = f(*inputs)
    roots = [(o.node, v) for o, v in zip(outs, vs, strict=True) if o.node is not None]
    found = backward(roots, targets=[x.node for x in inputs], create_graph=True)
    return [Tensor(np.zeros_like(x.data)) if g is None else g for g, x in zip(found, xs, strict=True)]


def _tangent(f: Function, xs: Sequence[Tensor], ts: Sequence[Tensor]) -> list[Tensor]:
    """Jt as a recorded function of x and t."""
    with enable_grad():
        inputs = _aliases(xs)
        outs = f(*inputs)
    found = forward(
        {x.node: t for x, t in zip(inputs, ts, strict=True)}, [o.node for o in outs], create_graph=True
    )
    return [Tensor(np.zeros_like(o.data)) if t is None else t for t, o in zip(found, outs, strict=True)]


def _aliases(xs: Sequence[Tensor]) -> list[Tensor]:
    return [apply(identity, (Tensor._of(x.data, x.node or Leaf(x.shape, x.dtype)),)) for x in xs]


def _moved(f: Function, xs: Sequence[Array], ts: Sequence[Array], by: float) -> list[Array]:
    return [np.array(o.data) for o in f(*[Tensor(x + by * t) for x, t in zip(xs, ts, strict=True)])]


def _float64(x: Any) -> Any:
    if isinstance(x, (np.ndarray, Tensor)) and x.dtype.kind == "f":
        return np.array(x.data if isinstance(x, Tensor) else x, np.float64)
    return x


def _frozen(a: Array | float) -> Array:
    """Read-only, so that a rule that writes into the gradient it is given is caught."""
    a = np.array(a)
    a.flags.writeable = False
    return a


def _names(fn: Callable[..., Any], inputs: Sequence[Any]) -> list[str]:
    """A name for every leaf of the inputs: the parameter's, with its path inside a container."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    out = []
    for i, x in enumerate(inputs):
        name = plain[i] if i < len(plain) else f"input {i}"
        _, structure = flatten(x)
        out += [name] if structure.kind is None else [f"{name}{path}" for path in paths(structure)]
    return out
