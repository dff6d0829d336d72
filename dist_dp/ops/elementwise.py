"""Elementwise operations: one row each, value and derivative side by side.

Every rule is diagonal: the gradient that an element receives is the incoming one times a factor of its own, so
the same text serves as vjp and as jvp. Where a factor can be infinite (`log` at 0, `sqrt` at 0, division by 0) the
rule goes through `settled`: an element to which no gradient flows receives none, instead of 0 * inf = NaN. That
keeps `where(x > 0, log(x), 0)` and masks honest. Comparisons, logic, rounding and selection are in `comparison.py`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import kernels
from ..arguments import check_number
from ..tape import Array
from ..tensor import Tensor
from .blocked import elementwise
from .core import Op, Rule, TensorLike, aligned, binary, same, unary

__all__ = [
    "abs",
    "add",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "cbrt",
    "copysign",
    "cos",
    "cosh",
    "deg2rad",
    "divide",
    "elu",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "floor_divide",
    "fmod",
    "hypot",
    "leaky_relu",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "positive",
    "power",
    "rad2deg",
    "reciprocal",
    "relu",
    "remainder",
    "rsqrt",
    "sigmoid",
    "sin",
    "sinh",
    "softplus",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
]


def settled(g: Any, gradient: Any) -> Any:
    """`gradient`, with 0 where the incoming gradient `g` is 0 (looked at only if something is not finite)."""
    values = gradient.data if isinstance(gradient, Tensor) else gradient
    if math.isfinite(np.vdot(values, values)):  # no temporary; overflow is a false alarm
        return gradient
    return np.where(g == 0, 0, gradient)


def masked(g: Any, condition: Any) -> Any:
    """`np.where(condition, g, 0)`, which branches and so takes ten times as long where the condition is irregular.

    Here the bits of g are multiplied by 1 or 0 as integers: infinities and NaN go as well.
    """
    arrays = type(g) is type(condition) is np.ndarray and condition.dtype == np.bool_
    if arrays and g.dtype.kind == "f" and g.itemsize <= 8:
        return (g.view(f"i{g.itemsize}") * condition).view(g.dtype)
    return np.where(condition, g, 0)


def one(name: str, forward: Callable[..., Any], rule: Rule | None = None) -> Op:
    """The row of an elementwise function of one argument."""
    rules = None if rule is None else (rule,)
    return Op(name, forward, "x", vjp=rules, jvp=rules, batch=same)


def two(name: str, forward: Callable[..., Any], x: Rule | None = None, y: Rule | None = None) -> Op:
    """The row of an elementwise function of two arguments that broadcast."""
    rules = None if x is None else (x, y)
    return Op(name, forward, "x y", vjp=rules, jvp=rules, batch=aligned, broadcasts=True)


Function1 = Callable[[TensorLike], Tensor]
Function2 = Callable[[TensorLike, TensorLike], Tensor]


def function1(op: Op, doc: str, dtype: str = "the dtype of `x`") -> Function1:
    """The public function of a row made by `one`."""

    def function(x: TensorLike) -> Tensor:
        return unary(op, x)

    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = f"{doc}\n\nElementwise; any shape; {dtype}."
    return function


def function2(op: Op, doc: str, dtype: str = "the wider floating dtype of the two") -> Function2:
    """The public function of a row made by `two`."""

    def function(x: TensorLike, y: TensorLike) -> Tensor:
        return binary(op, x, y)

    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = f"{doc}\n\nElementwise; `x` and `y` broadcast against each other; {dtype}."
    return function


# ----- arithmetic -----

# Tensor's operators apply these five rows themselves, which saves a call.
add_op = two("add", np.add, lambda g: g, lambda g: g)
subtract_op = two("subtract", np.subtract, lambda g: g, lambda g: -g)
multiply_op = two("multiply", np.multiply, lambda g, y: g * y, lambda g, x: g * x)
divide_op = two(
    "divide", np.true_divide, lambda g, y: settled(g, g / y), lambda g, y, out: settled(g, -g * out / y)
)
negative_op = one("negative", np.negative, lambda g: -g)


def _power_base(g: Any, x: Any, y: Any) -> Any:
    if isinstance(y, (int, float)):  # x**2 and its like: no logarithm, no general power
        if y == 0:
            return np.zeros_like(g)
        return g * y if y == 1 else 2 * g * x if y == 2 else settled(g, g * y * x ** (y - 1))
    return settled(g, g * y * np.where((x == 0) & (y == 0), 1, x) ** (y - 1))


def _power_exponent(g: Any, x: Any, out: Any) -> Any:
    # d x^y/dy = x^y log x; at x = 0 the limit 0 for every y > 0, as in torch and JAX.
    if isinstance(x, (int, float)):
        return np.zeros_like(g) if x == 0 else settled(g, g * out * (math.log(x) if x > 0 else math.nan))
    return settled(g, g * np.where(x == 0, 0, out * np.log(np.where(x == 0, 1, x))))


# The operator knows short ways for squares and roots that the ufunc does not.
_power = two("power", operator.pow, _power_base, _power_exponent)
_floor_divide = two("floor_divide", np.floor_divide)
_remainder = two("remainder", np.remainder, lambda g: g, lambda g, x, y: settled(g, -g * np.floor(x / y)))
_fmod = two("fmod", np.fmod, lambda g: g, lambda g, x, y: settled(g, -g * np.trunc(x / y)))
_maximum = two(
    "maximum",
    np.maximum,
    lambda g, x, y: masked(g, x > y) + masked(0.5 * g, x == y),
    lambda g, x, y: masked(g, y > x) + masked(0.5 * g, x == y),
)
_minimum = two(
    "minimum",
    np.minimum,
    lambda g, x, y: masked(g, x < y) + masked(0.5 * g, x == y),
    lambda g, x, y: masked(g, y < x) + masked(0.5 * g, x == y),
)
_arctan2 = two(
    "arctan2",
    np.arctan2,
    lambda g, x, y: settled(g, g * y / (x * x + y * y)),
    lambda g, x, y: settled(g, -g * x / (x * x + y * y)),
)
_hypot = two(
    "hypot",
    np.hypot,
    lambda g, x, out: g * np.where(out == 0, 0, x / out),
    lambda g, y, out: g * np.where(out == 0, 0, y / out),
)


def _share(g: Any, x: Any, y: Any, out: Any) -> Any:
    # e^(x - out). Where that is inf - inf: all of the gradient to the argument that is +inf, none where both are -inf.
    infinite = np.isinf(out)
    weighted = g * np.exp(np.where(infinite, 0, x - out))
    return np.where(infinite, np.where((x == out) & (out > 0), np.where(x == y, 0.5 * g, g), 0), weighted)


_logaddexp = two("logaddexp", np.logaddexp, _share, lambda g, x, y, out: _share(g, y, x, out))
_copysign = two("copysign", np.copysign, lambda g, x, out: g * (np.sign(x) * np.sign(out)), None)

add = function2(add_op, "x + y. Derivatives: 1 and 1.")
subtract = function2(subtract_op, "x - y. Derivatives: 1 and -1.")
multiply = function2(multiply_op, "x y. Derivatives: y and x.")
divide = function2(divide_op, "x / y; integers give float64, as in NumPy. Derivatives: 1/y and -x/y^2.")
negative = function1(negative_op, "-x. Derivative: -1.")
positive = function1(one("positive", np.positive, lambda g: g), "+x. Derivative: 1.")
power = function2(_power, "x^y. Derivatives: y x^(y-1) and x^y log x (0 at x = 0).")
floor_divide = function2(_floor_divide, "floor(x / y), Python's `//`. A step function: carries no gradient.")
remainder = function2(
    _remainder, "x - floor(x / y) y, Python's `%`, with the sign of y. Derivatives: 1 and -floor(x / y)."
)
fmod = function2(
    _fmod, "x - trunc(x / y) y, C's `fmod`, with the sign of x. Derivatives: 1 and -trunc(x / y)."
)
maximum = function2(
    _maximum, "The larger of x and y; NaN if either is. Equal arguments share the gradient in halves."
)
minimum = function2(
    _minimum, "The smaller of x and y; NaN if either is. Equal arguments share the gradient in halves."
)
arctan2 = function2(_arctan2, "The angle of the point (y, x), radians. Derivatives: y / r^2 and -x / r^2.")
hypot = function2(
    _hypot, "sqrt(x^2 + y^2) without overflow. Derivatives: x / out and y / out; 0 at the origin."
)
logaddexp = function2(
    _logaddexp,
    "log(e^x + e^y) without overflow. Derivatives: e^(x - out) and e^(y - out); 0 where both are -inf.",
)


def copysign(x: TensorLike, y: TensorLike) -> Tensor:
    """|x| with the sign of y. Derivative: sign(x) sign(y); y carries none. Elementwise; the two broadcast.

    >>> from dist_dp import ops
    >>> ops.copysign([1.0, 2.0], -1.0)
    tensor([-1., -2.])
    """
    return binary(_copysign, x, y.detach() if isinstance(y, Tensor) else y)


# ----- functions of one argument -----


def _unary(name: str, forward: Callable[..., Any], rule: Rule | None, doc: str) -> Function1:
    return function1(one(name, forward, rule), doc)


abs = _unary("abs", np.abs, lambda g, x: g * np.sign(x), "|x|. Derivative: sign(x), 0 at 0.")
exp = _unary("exp", np.exp, lambda g, out: settled(g, g * out), "e^x. Derivative: e^x.")
exp2 = _unary("exp2", np.exp2, lambda g, out: g * (out * math.log(2)), "2^x. Derivative: 2^x log 2.")
expm1 = _unary("expm1", np.expm1, lambda g, out: g * (out + 1), "e^x - 1, accurate near 0. Derivative: e^x.")
log = _unary("log", np.log, lambda g, x: settled(g, g / x), "Natural logarithm. Derivative: 1/x.")
log2 = _unary(
    "log2",
    np.log2,
    lambda g, x: settled(g, g / (x * math.log(2))),
    "Base-2 logarithm. Derivative: 1/(x log 2).",
)
log10 = _unary(
    "log10",
    np.log10,
    lambda g, x: settled(g, g / (x * math.log(10))),
    "Base-10 logarithm. Derivative: 1/(x log 10).",
)
log1p = _unary(
    "log1p",
    np.log1p,
    lambda g, x: settled(g, g / (1 + x)),
    "log(1 + x), accurate near 0. Derivative: 1/(1+x).",
)
sqrt = _unary(
    "sqrt", np.sqrt, lambda g, out: settled(g, g * 0.5 / out), "Square root. Derivative: 1/(2 sqrt x)."
)
cbrt = _unary(
    "cbrt", np.cbrt, lambda g, out: settled(g, g / (3 * out * out)), "Cube root. Derivative: 1/(3 out^2)."
)
square = _unary("square", np.square, lambda g, x: 2 * g * x, "x^2. Derivative: 2x.")
reciprocal = _unary(
    "reciprocal", np.reciprocal, lambda g, x: settled(g, -g / (x * x)), "1/x. Derivative: -1/x^2."
)
rsqrt = _unary(
    "rsqrt",
    lambda x: 1 / np.sqrt(x),
    lambda g, x: settled(g, -0.5 * g / (x * np.sqrt(x))),
    "1/sqrt(x). Derivative: -x^(-3/2)/2.",
)
sin = _unary("sin", np.sin, lambda g, x: g * np.cos(x), "Sine of an angle in radians. Derivative: cos x.")
cos = _unary("cos", np.cos, lambda g, x: -g * np.sin(x), "Cosine of an angle in radians. Derivative: -sin x.")
tan = _unary(
    "tan",
    np.tan,
    lambda g, out: g * (1 + out * out),
    "Tangent of an angle in radians. Derivative: 1 + tan^2 x.",
)
arcsin = _unary(
    "arcsin",
    np.arcsin,
    lambda g, x: settled(g, g / np.sqrt(1 - x * x)),
    "Inverse sine, radians. Derivative: 1/sqrt(1-x^2).",
)
arccos = _unary(
    "arccos",
    np.arccos,
    lambda g, x: settled(g, -g / np.sqrt(1 - x * x)),
    "Inverse cosine, radians. Derivative: -1/sqrt(1-x^2).",
)
arctan = _unary(
    "arctan", np.arctan, lambda g, x: g / (1 + x * x), "Inverse tangent, radians. Derivative: 1/(1+x^2)."
)
sinh = _unary("sinh", np.sinh, lambda g, x: g * np.cosh(x), "Hyperbolic sine. Derivative: cosh x.")
cosh = _unary("cosh", np.cosh, lambda g, x: g * np.sinh(x), "Hyperbolic cosine. Derivative: sinh x.")
tanh = _unary(
    "tanh", np.tanh, lambda g, out: g * (1 - out * out), "Hyperbolic tangent. Derivative: 1 - tanh^2 x."
)
arcsinh = _unary(
    "arcsinh", np.arcsinh, lambda g, x: g / np.sqrt(x * x + 1), "Inverse of sinh. Derivative: 1/sqrt(x^2+1)."
)
arccosh = _unary(
    "arccosh",
    np.arccosh,
    lambda g, x: settled(g, g / np.sqrt(x * x - 1)),
    "Inverse of cosh. Derivative: 1/sqrt(x^2-1).",
)
arctanh = _unary(
    "arctanh", np.arctanh, lambda g, x: settled(g, g / (1 - x * x)), "Inverse of tanh. Derivative: 1/(1-x^2)."
)
deg2rad = _unary("deg2rad", np.deg2rad, lambda g: g * (math.pi / 180), "Degrees to radians.")
rad2deg = _unary("rad2deg", np.rad2deg, lambda g: g * (180 / math.pi), "Radians to degrees.")


def sigmoid_of(x: Any) -> Any:
    """The values of the sigmoid."""
    # tanh never overflows: 1/(1+e^-x) = (1 + tanh(x/2))/2.
    out = np.asarray(np.tanh(x * 0.5))
    out *= 0.5
    out += 0.5
    return out


sigmoid = _unary(
    "sigmoid",
    sigmoid_of,
    lambda g, out: g * (out * (1 - out)),
    "1/(1+e^-x). Derivative: out (1 - out).",
)
softplus = _unary(
    "softplus",
    lambda x: np.logaddexp(x, 0),
    lambda g, out: -g * np.expm1(-out),  # sigmoid(x) = 1 - e^-out, accurate in both tails
    "log(1 + e^x) without overflow. Derivative: sigmoid(x).",
)


# Elements from which on more calls pay that give the same bits.
_LARGE = 4096


def _positive_part(x: Array, out: Array) -> None:
    # NumPy takes three times as long for a number, of which it makes no vectors.
    np.maximum(x, np.zeros(x.shape, x.dtype), out=out)


def _relu(x: Any) -> Any:
    if x.size < _LARGE:
        return np.maximum(x, 0)
    if not kernels.suits(x):
        return elementwise(_positive_part, x)
    out = np.empty_like(x)
    kernels.compiled.relu(x, out)
    return out


def _relu_gradient(g: Any, out: Any) -> Any:
    arrays = isinstance(g, np.ndarray) and g.shape == out.shape  # else tensors, for an order above the first
    if not arrays or g.size < _LARGE:
        return g * (out > 0)
    if not kernels.suits(g, out):
        d = (out > 0).astype(g.dtype)
        return np.multiply(g, d, d)
    d = np.empty_like(g)
    kernels.compiled.relu_gradient(g, out, d)
    return d


relu = _unary(
    "relu",
    _relu,
    _relu_gradient,
    "max(x, 0). Derivative: 1 where x > 0, else 0.",
)

# Numerators and denominators of the two rational approximations, highest power first.
_ERF_NEAR = (
    (1.857777061846031526730e-1, 3.161123743870565596947, 1.138641541510501556495e2,
     3.774852376853020208137e2, 3.209377589138469472562e3),
    (1.0, 2.360129095234412093499e1, 2.440246379344441733056e2,
     1.282616526077372275645e3, 2.844236833439170622273e3),
)  # fmt: skip
_ERF_FAR = (
    (2.15311535474403846343e-8, 5.64188496988670089180e-1, 8.88314979438837594118, 6.61191906371416294775e1,
     2.98635138197400131132e2, 8.81952221241769090411e2, 1.71204761263407058314e3, 2.05107837782607146532e3,
     1.23033935479799725272e3),
    (1.0, 1.57449261107098347253e1, 1.17693950891312499305e2, 5.37181101862009857509e2,
     1.62138957456669018874e3, 3.29079923573345962678e3, 4.36261909014324715820e3, 3.43936767414372163696e3,
     1.23033935480374942043e3),
)  # fmt: skip


def _ratio(x: Array, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Array:
    """The quotient of two polynomials in `x`, by Horner's scheme."""
    top, bottom = [np.full_like(x, c[0]) for c in coefficients]
    for a, b in zip(coefficients[0][1:], coefficients[1][1:], strict=True):
        top *= x
        top += a
        bottom *= x
        bottom += b
    top /= bottom
    return top


def _erf_piece(x: Array, out: Array) -> None:
    size = np.minimum(np.abs(x, dtype=np.float64), 6)
    squared = size * size
    far = 1 - np.exp(-squared) * _ratio(size, _ERF_FAR)
    near = size * _ratio(np.minimum(squared, 1), _ERF_NEAR)
    np.copysign(np.where(size <= 0.46875, near, far), x, out, casting="same_kind")


def erf_of(x: Array) -> Array:
    """erf of a floating array, by the rational approximations of W. J. Cody (Math. Comp. 23, 1969, 631-637).

    x P(x^2)/Q(x^2) up to |x| = 0.46875, and 1 - e^(-x^2) R(|x|)/S(|x|) above it; from |x| = 6 on, erf is 1 in
    float64. The second holds up to there as far as 1 minus something below 2e-8 can show, so Cody's third interval
    is not needed. Computed in float64 for every dtype: float32 results are the nearest, float64 within 4 ulp.
    """
    out: Array = elementwise(_erf_piece, x)
    return out


erf = _unary(
    "erf",
    lambda x: erf_of(x if x.dtype.kind == "f" else x.astype(np.float64)),
    lambda g, x: g * (np.exp(-x * x) * (2 / math.sqrt(math.pi))),
    "The error function, 2/sqrt(pi) ∫ e^(-t^2) dt from 0 to x. Derivative: 2/sqrt(pi) e^(-x^2).",
)


_elu = Op(
    "elu",
    lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))),
    params="alpha",
    vjp=(lambda g, x, out, alpha: np.where(x > 0, g, g * (out + alpha)),),
    jvp=(lambda t, x, out, alpha: np.where(x > 0, t, t * (out + alpha)),),
    batch=same,
)


def elu(x: TensorLike, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha (e^x - 1) (Clevert et al. 2015, arXiv:1511.07289). Elementwise; any shape.

    >>> from dist_dp import ops
    >>> ops.elu([-1.0, 2.0])
    tensor([-0.63212055,  2.        ])
    """
    check_number(alpha, "alpha of elu")
    return unary(_elu, x, (alpha,))


def _leaky(g: Any, x: Any, slope: float) -> Any:
    """g where x > 0, else slope g."""
    if not isinstance(g, np.ndarray) or g.dtype.kind != "f":
        return np.where(x > 0, g, slope * g)
    # The same, but `np.where` branches: where signs are irregular it takes four times as long.
    return g * np.array([slope, 1], g.dtype).take((x > 0).view(np.uint8))


_leaky_relu = Op(
    "leaky_relu",
    lambda x, slope: _leaky(x, x, slope),
    params="slope",
    vjp=(_leaky,),
    jvp=(_leaky,),
    batch=same,
)


def leaky_relu(x: TensorLike, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, else negative_slope x. Elementwise; any shape.

    >>> from dist_dp import ops
    >>> ops.leaky_relu([-1.0, 2.0])
    tensor([-0.01,  2.  ])
    """
    check_number(negative_slope, "negative_slope of leaky_relu")
    return unary(_leaky_relu, x, (negative_slope,))
