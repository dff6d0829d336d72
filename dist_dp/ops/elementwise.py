"""Elementwise operations: one row each, value and derivative side by side.

Every rule is diagonal: the gradient that an element receives is the incoming one times a factor of its own, so the same
text serves as vjp and as jvp. Where a factor can be infinite (`log` at 0, `sqrt` at 0, division by 0) the rule goes through
`settled`: an element to which no gradient flows receives none, instead of 0 * inf = NaN. That keeps
`where(x > 0, log(x), 0)` and masks honest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..tensor import Tensor
from .core import Op, Rule, TensorLike, aligned, apply, binary, same, unary

_SQRT_PI = math.sqrt(math.pi)


def settled(g: Any, gradient: Any) -> Any:
    """`gradient`, with 0 where the incoming gradient `g` is 0 (checked only if something is not finite)."""
    values = gradient.data if isinstance(gradient, Tensor) else gradient
    return gradient if math.isfinite(values.sum()) else np.where(g == 0, np.zeros_like(values), gradient)


def _one(name: str, forward: Callable[..., Any], rule: Rule | None = None) -> Op:
    rules = None if rule is None else (rule,)
    return Op(name, forward, "x", vjp=rules, jvp=rules, batch=same)


def _two(name: str, forward: Callable[..., Any], x: Rule | None = None, y: Rule | None = None) -> Op:
    rules = None if x is None else (x, y)
    return Op(name, forward, "x y", vjp=rules, jvp=rules, batch=aligned, broadcasts=True)


# ----- arithmetic -----

add = _two("add", np.add, lambda g: g, lambda g: g)
subtract = _two("subtract", np.subtract, lambda g: g, lambda g: -g)
multiply = _two("multiply", np.multiply, lambda g, y: g * y, lambda g, x: g * x)
divide = _two(
    "divide", np.true_divide, lambda g, y: settled(g, g / y), lambda g, y, out: settled(g, -g * out / y)
)
negative = _one("negative", np.negative, lambda g: -g)


def _power_base(g: Any, x: Any, y: Any) -> Any:
    if isinstance(y, (int, float)):  # x**2 and its like: no logarithm, no general power
        return 2 * g * x if y == 2 else settled(g, g * y * x ** (y - 1))
    return settled(g, g * np.where(y == 0, 0.0, y) * x ** np.where(y == 0, 1.0, y - 1))


def _power_exponent(g: Any, x: Any, out: Any) -> Any:
    # d x^y/dy = x^y log x; at x = 0 the limit 0 for every y > 0, as in torch and JAX.
    return settled(g, g * np.where(x == 0, 0.0, out * np.log(np.where(x == 0, 1.0, x))))


_power = _two("power", np.power, _power_base, _power_exponent)
_remainder = _two("remainder", np.remainder, lambda g: g, lambda g, x, y: -g * np.floor(x / y))
_maximum = _two(
    "maximum",
    np.maximum,
    lambda g, x, y: np.where(x > y, g, np.where(x == y, 0.5 * g, 0)),
    lambda g, x, y: np.where(y > x, g, np.where(x == y, 0.5 * g, 0)),
)
_minimum = _two(
    "minimum",
    np.minimum,
    lambda g, x, y: np.where(x < y, g, np.where(x == y, 0.5 * g, 0)),
    lambda g, x, y: np.where(y < x, g, np.where(x == y, 0.5 * g, 0)),
)
_arctan2 = _two(
    "arctan2",
    np.arctan2,
    lambda g, x, y: settled(g, g * y / (x * x + y * y)),
    lambda g, x, y: settled(g, -g * x / (x * x + y * y)),
)
_hypot = _two("hypot", np.hypot, lambda g, x, out: settled(g, g * x / out), lambda g, y, out: settled(g, g * y / out))
_logaddexp = _two(
    "logaddexp", np.logaddexp, lambda g, x, out: g * np.exp(x - out), lambda g, y, out: g * np.exp(y - out)
)

Function1 = Callable[[TensorLike], Tensor]
Function2 = Callable[[TensorLike, TensorLike], Tensor]


def _function1(op: Op, doc: str) -> Function1:
    def function(x: TensorLike) -> Tensor:
        return unary(op, x)

    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = doc + "\n\nElementwise; any shape; the dtype of `x`."
    return function


def _function2(op: Op, doc: str) -> Function2:
    def function(x: TensorLike, y: TensorLike) -> Tensor:
        return binary(op, x, y)

    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = doc + "\n\nElementwise; `x` and `y` broadcast against each other."
    return function


power = _function2(_power, "x^y. Derivatives: y x^(y-1) and x^y log x.")
remainder = _function2(_remainder, "x - floor(x / y) y, Python's `%`. Derivatives: 1 and -floor(x / y).")
maximum = _function2(_maximum, "The larger of x and y; NaN if either is. Equal arguments share the gradient in halves.")
minimum = _function2(_minimum, "The smaller of x and y; NaN if either is. Equal arguments share the gradient in halves.")
arctan2 = _function2(_arctan2, "The angle of the point (y, x), in radians. Derivatives: y / r^2 and -x / r^2.")
hypot = _function2(_hypot, "sqrt(x^2 + y^2) without overflow. Derivatives: x / out and y / out; 0 at the origin.")
logaddexp = _function2(_logaddexp, "log(e^x + e^y) without overflow. Derivatives: e^(x - out) and e^(y - out).")


# ----- functions of one argument -----


def _unary(name: str, forward: Callable[..., Any], rule: Rule | None, doc: str) -> Function1:
    return _function1(_one(name, forward, rule), doc)


abs = _unary("abs", np.abs, lambda g, x: g * np.sign(x), "|x|. Derivative: sign(x), 0 at 0.")
exp = _unary("exp", np.exp, lambda g, out: g * out, "e^x. Derivative: e^x.")
exp2 = _unary("exp2", np.exp2, lambda g, out: g * (out * math.log(2)), "2^x. Derivative: 2^x log 2.")
expm1 = _unary("expm1", np.expm1, lambda g, out: g * (out + 1), "e^x - 1, accurate near 0. Derivative: e^x.")
log = _unary("log", np.log, lambda g, x: settled(g, g / x), "Natural logarithm. Derivative: 1/x.")
log2 = _unary("log2", np.log2, lambda g, x: settled(g, g / (x * math.log(2))), "Base-2 logarithm. Derivative: 1/(x log 2).")
log10 = _unary(
    "log10", np.log10, lambda g, x: settled(g, g / (x * math.log(10))), "Base-10 logarithm. Derivative: 1/(x log 10)."
)
log1p = _unary("log1p", np.log1p, lambda g, x: settled(g, g / (1 + x)), "log(1 + x), accurate near 0. Derivative: 1/(1+x).")
sqrt = _unary("sqrt", np.sqrt, lambda g, out: settled(g, g * 0.5 / out), "Square root. Derivative: 1/(2 sqrt x).")
cbrt = _unary("cbrt", np.cbrt, lambda g, out: settled(g, g / (3 * out * out)), "Cube root. Derivative: 1/(3 out^2).")
square = _unary("square", np.square, lambda g, x: 2 * g * x, "x^2. Derivative: 2x.")
reciprocal = _unary("reciprocal", np.reciprocal, lambda g, out: settled(g, -g * out * out), "1/x. Derivative: -1/x^2.")
rsqrt = _unary(
    "rsqrt", lambda x: 1 / np.sqrt(x), lambda g, out: settled(g, -0.5 * g * out * out * out), "1/sqrt(x). Derivative: -out^3/2."
)
sin = _unary("sin", np.sin, lambda g, x: g * np.cos(x), "Sine of an angle in radians. Derivative: cos x.")
cos = _unary("cos", np.cos, lambda g, x: -g * np.sin(x), "Cosine of an angle in radians. Derivative: -sin x.")
tan = _unary("tan", np.tan, lambda g, out: g * (1 + out * out), "Tangent of an angle in radians. Derivative: 1 + tan^2 x.")
arcsin = _unary(
    "arcsin", np.arcsin, lambda g, x: settled(g, g / np.sqrt(1 - x * x)), "Inverse sine, radians. Derivative: 1/sqrt(1-x^2)."
)
arccos = _unary(
    "arccos", np.arccos, lambda g, x: settled(g, -g / np.sqrt(1 - x * x)), "Inverse cosine, radians. Derivative: -1/sqrt(1-x^2)."
)
arctan = _unary("arctan", np.arctan, lambda g, x: g / (1 + x * x), "Inverse tangent, radians. Derivative: 1/(1+x^2).")
sinh = _unary("sinh", np.sinh, lambda g, x: g * np.cosh(x), "Hyperbolic sine. Derivative: cosh x.")
cosh = _unary("cosh", np.cosh, lambda g, x: g * np.sinh(x), "Hyperbolic cosine. Derivative: sinh x.")
tanh = _unary("tanh", np.tanh, lambda g, out: g * (1 - out * out), "Hyperbolic tangent. Derivative: 1 - tanh^2 x.")
arcsinh = _unary("arcsinh", np.arcsinh, lambda g, x: g / np.sqrt(x * x + 1), "Inverse of sinh. Derivative: 1/sqrt(x^2+1).")
arccosh = _unary(
    "arccosh", np.arccosh, lambda g, x: settled(g, g / np.sqrt(x * x - 1)), "Inverse of cosh. Derivative: 1/sqrt(x^2-1)."
)
arctanh = _unary("arctanh", np.arctanh, lambda g, x: settled(g, g / (1 - x * x)), "Inverse of tanh. Derivative: 1/(1-x^2).")
deg2rad = _unary("deg2rad", np.deg2rad, lambda g: g * (math.pi / 180), "Degrees to radians.")
rad2deg = _unary("rad2deg", np.rad2deg, lambda g: g * (180 / math.pi), "Radians to degrees.")


def _sigmoid_forward(x: Any) -> Any:
    # tanh never overflows: 1/(1+e^-x) = (1 + tanh(x/2))/2.
    out = np.asarray(np.tanh(x * 0.5))
    out *= 0.5
    out += 0.5
    return out


sigmoid = _unary("sigmoid", _sigmoid_forward, lambda g, out: g * (out * (1 - out)), "1/(1+e^-x). Derivative: out (1 - out).")
relu = _unary("relu", lambda x: np.maximum(x, 0), lambda g, out: g * (out > 0), "max(x, 0). Derivative: 1 where x > 0, else 0.")
