"""The operations under NumPy's names, signatures and semantics; and what np.f(tensor) is handed to.

>>> import numpy as np
>>> import dist_dp as dp
>>> x = dp.Tensor([0.0, 1.0], requires_grad=True)
>>> np.sum(np.square(x) * np.arange(2)).backward()
>>> x.grad
tensor([0., 2.])

Differences from NumPy: results are Tensors; floats given as Python numbers or lists become float32, and so does what
the creation functions make unless a dtype is given; an integer array beside a float32 one leaves it float32; `out=`,
`where=` and `order=` are refused. A NumPy function that is not listed here raises a TypeError with its name when called
on a Tensor: no gradient is ever lost in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..ops.core import TensorLike
from ..ops.views import lifted
from ..tensor import Tensor
from . import linalg  # noqa: F401
from .creation import *  # noqa: F403
from .protocols import like, on_values, reducing, refuse, same, stands_for

# ----- constants and dtypes -----

pi, e, euler_gamma, inf, nan, newaxis = np.pi, np.e, np.euler_gamma, np.inf, np.nan, np.newaxis
float16, float32, float64, bool_ = np.float16, np.float32, np.float64, np.bool_
int8, int16, int32, int64 = np.int8, np.int16, np.int32, np.int64
uint8, uint16, uint32, uint64 = np.uint8, np.uint16, np.uint32, np.uint64
dtype, finfo, iinfo = np.dtype, np.finfo, np.iinfo

# ----- ufuncs -----

add = same(np.add, ops.add)
subtract = same(np.subtract, ops.subtract)
multiply = same(np.multiply, ops.multiply)
divide = true_divide = same(np.true_divide, ops.divide)
floor_divide = same(np.floor_divide, ops.floor_divide)
remainder = mod = same(np.remainder, ops.remainder)
fmod = same(np.fmod, ops.fmod)
power = pow = same(np.power, ops.power)
maximum = same(np.maximum, ops.maximum)
minimum = same(np.minimum, ops.minimum)
arctan2 = atan2 = same(np.arctan2, ops.arctan2)
hypot = same(np.hypot, ops.hypot)
logaddexp = same(np.logaddexp, ops.logaddexp)
copysign = same(np.copysign, ops.copysign)
matmul = same(np.matmul, ops.matmul)

negative = same(np.negative, ops.negative)
positive = same(np.positive, ops.positive)
absolute = abs = same(np.absolute, ops.abs)
fabs = same(np.fabs, ops.abs)
exp = same(np.exp, ops.exp)
exp2 = same(np.exp2, ops.exp2)
expm1 = same(np.expm1, ops.expm1)
log = same(np.log, ops.log)
log2 = same(np.log2, ops.log2)
log10 = same(np.log10, ops.log10)
log1p = same(np.log1p, ops.log1p)
sqrt = same(np.sqrt, ops.sqrt)
cbrt = same(np.cbrt, ops.cbrt)
square = same(np.square, ops.square)
reciprocal = same(np.reciprocal, ops.reciprocal)
sin = same(np.sin, ops.sin)
cos = same(np.cos, ops.cos)
tan = same(np.tan, ops.tan)
arcsin = asin = same(np.arcsin, ops.arcsin)
arccos = acos = same(np.arccos, ops.arccos)
arctan = atan = same(np.arctan, ops.arctan)
sinh = same(np.sinh, ops.sinh)
cosh = same(np.cosh, ops.cosh)
tanh = same(np.tanh, ops.tanh)
arcsinh = asinh = same(np.arcsinh, ops.arcsinh)
arccosh = acosh = same(np.arccosh, ops.arccosh)
arctanh = atanh = same(np.arctanh, ops.arctanh)
deg2rad = radians = same(np.deg2rad, ops.deg2rad)
rad2deg = degrees = same(np.rad2deg, ops.rad2deg)
same(np.radians, ops.deg2rad)
same(np.degrees, ops.rad2deg)

equal = same(np.equal, ops.equal)
not_equal = same(np.not_equal, ops.not_equal)
less = same(np.less, ops.less)
less_equal = same(np.less_equal, ops.less_equal)
greater = same(np.greater, ops.greater)
greater_equal = same(np.greater_equal, ops.greater_equal)
logical_and = same(np.logical_and, ops.logical_and)
logical_or = same(np.logical_or, ops.logical_or)
logical_xor = same(np.logical_xor, ops.logical_xor)
logical_not = same(np.logical_not, ops.logical_not)
bitwise_and = same(np.bitwise_and, ops.bitwise_and)
bitwise_or = same(np.bitwise_or, ops.bitwise_or)
bitwise_xor = same(np.bitwise_xor, ops.bitwise_xor)
bitwise_not = bitwise_invert = invert = same(np.invert, ops.bitwise_not)
sign = same(np.sign, ops.sign)
signbit = same(np.signbit, ops.signbit)
floor = same(np.floor, ops.floor)
ceil = same(np.ceil, ops.ceil)
trunc = same(np.trunc, ops.trunc)
isnan = same(np.isnan, ops.isnan)
isinf = same(np.isinf, ops.isinf)
isfinite = same(np.isfinite, ops.isfinite)

# ----- elementwise functions that are not ufuncs -----

round = around = like(np.round, ops.round)
stands_for(np.around)(round)
nan_to_num = like(np.nan_to_num, ops.nan_to_num)
isclose = like(np.isclose, ops.isclose)
allclose = like(np.allclose, ops.allclose)
array_equal = like(np.array_equal, ops.array_equal)
copy = like(np.copy, ops.copy)
astype = like(np.astype, ops.astype)


@stands_for(np.clip)
def clip(
    a: TensorLike,
    a_min: TensorLike | None = None,
    a_max: TensorLike | None = None,
    out: None = None,
    *,
    min: TensorLike | None = None,
    max: TensorLike | None = None,
) -> Tensor:
    """a, but not below `a_min` (or `min`) nor above `a_max` (or `max`).

    >>> from dist_dp import numpy as dnp
    >>> dnp.clip([-1.0, 0.5, 2.0], 0.0, 1.0)
    tensor([0. , 0.5, 1. ])
    """
    refuse("clip", out=out)
    return ops.clip(a, min if a_min is None else a_min, max if a_max is None else a_max)


@stands_for(np.where)
def where(condition: TensorLike, x: TensorLike | None = None, y: TensorLike | None = None, /) -> Any:
    """x where the condition holds, else y; with the condition alone, the indices at which it holds.

    >>> from dist_dp import numpy as dnp
    >>> dnp.where([True, False], 1.0, [2.0, 3.0])
    tensor([1., 3.])
    """
    if x is None and y is None:
        return ops.nonzero(condition)
    if x is None or y is None:
        raise ValueError("either both or neither of `x` and `y` of where must be given")
    return ops.where(condition, x, y)


@stands_for(np.rint)
def rint(x: TensorLike, /) -> Tensor:
    """The nearest integers; halves go to the even one. No gradient.

    >>> from dist_dp import numpy as dnp
    >>> dnp.rint([0.4, 1.5])
    tensor([0., 2.])
    """
    return ops.round(x)


# ----- shapes -----


@stands_for(np.reshape)
def reshape(a: TensorLike, /, shape: int | Sequence[int], order: str = "C", *, copy: None = None) -> Tensor:
    """The same elements in C order under another shape.

    >>> from dist_dp import numpy as dnp
    >>> dnp.reshape([1.0, 2.0], (2, -1)).shape
    (2, 1)
    """
    refuse("reshape", order=None if order == "C" else order, copy=copy)
    return ops.reshape(a, shape)


ravel = like(np.ravel, ops.ravel)
transpose = permute_dims = like(np.transpose, ops.transpose)
stands_for(np.permute_dims)(transpose)
swapaxes = like(np.swapaxes, ops.swapaxes)
moveaxis = like(np.moveaxis, ops.moveaxis)
expand_dims = like(np.expand_dims, ops.expand_dims)
squeeze = like(np.squeeze, ops.squeeze)
broadcast_to = like(np.broadcast_to, ops.broadcast_to)
broadcast_arrays = like(np.broadcast_arrays, ops.broadcast_arrays)
broadcast_shapes = np.broadcast_shapes
atleast_1d = like(np.atleast_1d, ops.atleast_1d)
atleast_2d = like(np.atleast_2d, ops.atleast_2d)
atleast_3d = like(np.atleast_3d, ops.atleast_3d)
meshgrid = like(np.meshgrid, ops.meshgrid)
stack = like(np.stack, ops.stack)
hstack = like(np.hstack, ops.hstack)
vstack = like(np.vstack, ops.vstack)
dstack = like(np.dstack, ops.dstack)
column_stack = like(np.column_stack, ops.column_stack)
split = like(np.split, ops.split)
array_split = like(np.array_split, ops.array_split)
pad = like(np.pad, ops.pad)
tile = like(np.tile, ops.tile)
repeat = like(np.repeat, ops.repeat)
flip = like(np.flip, ops.flip)
roll = like(np.roll, ops.roll)
rot90 = like(np.rot90, ops.rot90)
tril = like(np.tril, ops.tril)
triu = like(np.triu, ops.triu)
diag = like(np.diag, ops.diag)
diagonal = like(np.diagonal, ops.diagonal)
trace = like(np.trace, ops.trace)


@stands_for(np.concatenate, np.concat)
def concatenate(
    arrays: Sequence[TensorLike],
    /,
    axis: int | None = 0,
    out: None = None,
    *,
    dtype: DTypeLike | None = None,
    casting: str = "same_kind",
) -> Tensor:
    """The arrays one after another along `axis`.

    >>> from dist_dp import numpy as dnp
    >>> dnp.concatenate([[1.0, 2.0], [3.0]])
    tensor([1., 2., 3.])
    """
    if out is not None or casting != "same_kind":  # a call less where there is nothing to refuse
        refuse("concatenate", out=out, casting=None if casting == "same_kind" else casting)
    joined = ops.concatenate(arrays, axis)
    return joined if dtype is None else ops.astype(joined, dtype)


concat = concatenate


@stands_for(np.hsplit)
def hsplit(ary: TensorLike, indices_or_sections: int | Sequence[int]) -> list[Tensor]:
    """`split` along the second axis (of a vector: along its only one).

    >>> from dist_dp import numpy as dnp
    >>> [x.shape for x in dnp.hsplit([[1.0, 2.0]], 2)]
    [(1, 1), (1, 1)]
    """
    ary = lifted(ary)
    return ops.split(ary, indices_or_sections, 1 if ary.ndim > 1 else 0)


@stands_for(np.vsplit)
def vsplit(ary: TensorLike, indices_or_sections: int | Sequence[int]) -> list[Tensor]:
    """`split` along the first axis.

    >>> from dist_dp import numpy as dnp
    >>> [x.shape for x in dnp.vsplit([[1.0, 2.0], [3.0, 4.0]], 2)]
    [(1, 2), (1, 2)]
    """
    return ops.split(ary, indices_or_sections, 0)


@stands_for(np.dsplit)
def dsplit(ary: TensorLike, indices_or_sections: int | Sequence[int]) -> list[Tensor]:
    """`split` along the third axis.

    >>> from dist_dp import numpy as dnp
    >>> [x.shape for x in dnp.dsplit([[[1.0, 2.0]]], 2)]
    [(1, 1, 1), (1, 1, 1)]
    """
    return ops.split(ary, indices_or_sections, 2)


@stands_for(np.unstack)
def unstack(x: TensorLike, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The arrays that `stack` would put together along `axis`.

    >>> from dist_dp import numpy as dnp
    >>> dnp.unstack([[1.0, 2.0], [3.0, 4.0]])
    (tensor([1., 2.]), tensor([3., 4.]))
    """
    return tuple(ops.moveaxis(x, axis, 0))


@stands_for(np.append)
def append(arr: TensorLike, values: TensorLike, axis: int | None = None) -> Tensor:
    """`values` joined behind `arr` along `axis`; both flattened without one.

    >>> from dist_dp import numpy as dnp
    >>> dnp.append([[1.0, 2.0]], 3.0)
    tensor([1., 2., 3.])
    """
    if axis is None:
        return ops.concatenate([ops.ravel(arr), ops.ravel(values)], 0)
    return ops.concatenate([arr, values], axis)


@stands_for(np.fliplr)
def fliplr(m: TensorLike) -> Tensor:
    """A view with the second axis reversed.

    >>> from dist_dp import numpy as dnp
    >>> dnp.fliplr([[1.0, 2.0]])
    tensor([[2., 1.]])
    """
    return ops.flip(m, 1)


@stands_for(np.flipud)
def flipud(m: TensorLike) -> Tensor:
    """A view with the first axis reversed.

    >>> from dist_dp import numpy as dnp
    >>> dnp.flipud([1.0, 2.0])
    tensor([2., 1.])
    """
    return ops.flip(m, 0)


@stands_for(np.matrix_transpose)
def matrix_transpose(x: TensorLike, /) -> Tensor:
    """A view with the last two axes exchanged.

    >>> from dist_dp import numpy as dnp
    >>> dnp.matrix_transpose([[1.0, 2.0]]).shape
    (2, 1)
    """
    return ops.swapaxes(x, -1, -2)


@stands_for(np.diff)
def diff(a: TensorLike, n: int = 1, axis: int = -1) -> Tensor:
    """The n-th differences of neighbours along `axis`: a[i + 1] - a[i], n times.

    Raises:
        ValueError: n is negative.

    >>> from dist_dp import numpy as dnp
    >>> dnp.diff([1.0, 4.0, 9.0])
    tensor([3., 5.])
    """
    if n < 0:
        raise ValueError(f"`n` of diff must be from 0 on, got {n}")
    a = ops.moveaxis(a, axis, -1)
    for _ in range(n):
        a = a[..., 1:] - a[..., :-1]
    return ops.moveaxis(a, -1, axis)


# ----- products -----

outer = like(np.outer, ops.outer)
tensordot = like(np.tensordot, ops.tensordot)
kron = like(np.kron, ops.kron)
cross = like(np.cross, ops.cross)


@stands_for(np.dot)
def dot(a: TensorLike, b: TensorLike, out: None = None) -> Tensor:
    """The last axis of a against the next-to-last (or only) one of b; a scalar multiplies.

    >>> from dist_dp import numpy as dnp
    >>> dnp.dot([1.0, 2.0], [3.0, 4.0])
    tensor(11.)
    """
    refuse("dot", out=out)
    return ops.dot(a, b)


@stands_for(np.inner)
def inner(a: TensorLike, b: TensorLike, /) -> Tensor:
    """The product summed over the last axes of both.

    >>> from dist_dp import numpy as dnp
    >>> dnp.inner([1.0, 2.0], [3.0, 4.0])
    tensor(11.)
    """
    return ops.inner(a, b)


@stands_for(np.vdot)
def vdot(a: TensorLike, b: TensorLike, /) -> Tensor:
    """The product of both, flattened, summed.

    >>> from dist_dp import numpy as dnp
    >>> dnp.vdot([[1.0, 2.0]], [[3.0, 4.0]])
    tensor(11.)
    """
    return ops.vdot(a, b)


@stands_for(np.einsum)
def einsum(*operands: Any, out: None = None, optimize: Any = False) -> Tensor:
    """Einstein's summation: `einsum(subscripts, *operands)`; every order of contraction gives the same values.

    >>> from dist_dp import numpy as dnp
    >>> dnp.einsum("i,i->", [1.0, 2.0], [3.0, 4.0])
    tensor(11.)
    """
    refuse("einsum", out=out)
    return ops.einsum(*operands)


# ----- reductions -----

sum = like(np.sum, ops.sum)
mean = like(np.mean, ops.mean)
prod = like(np.prod, ops.prod)
var = like(np.var, ops.var)
std = like(np.std, ops.std)
max = amax = like(np.max, ops.max)
min = amin = like(np.min, ops.min)
stands_for(np.amax)(max)
stands_for(np.amin)(min)
ptp = like(np.ptp, ops.ptp)
median = like(np.median, ops.median)
average = like(np.average, ops.average)
argmax = like(np.argmax, ops.argmax)
argmin = like(np.argmin, ops.argmin)
all = like(np.all, ops.all)
any = like(np.any, ops.any)
count_nonzero = like(np.count_nonzero, ops.count_nonzero)
cumsum = like(np.cumsum, ops.cumsum)
cumprod = like(np.cumprod, ops.cumprod)

reducing(np.add, sum)
reducing(np.multiply, prod)
reducing(np.maximum, max)
reducing(np.minimum, min)
reducing(np.logical_and, all)
reducing(np.logical_or, any)

# ----- choosing and ordering -----

take = like(np.take, ops.take)
take_along_axis = like(np.take_along_axis, ops.take_along_axis)
sort = like(np.sort, ops.sort)
argsort = like(np.argsort, ops.argsort)
searchsorted = like(np.searchsorted, ops.searchsorted)
nonzero = like(np.nonzero, ops.nonzero)
unique = like(np.unique, ops.unique)

# ----- values without gradient -----


@stands_for(np.shape)
def shape(a: TensorLike) -> tuple[int, ...]:
    """The lengths of the axes.

    >>> from dist_dp import numpy as dnp
    >>> dnp.shape([[1.0, 2.0]])
    (1, 2)
    """
    return lifted(a).shape


@stands_for(np.ndim)
def ndim(a: TensorLike) -> int:
    """The number of axes.

    >>> from dist_dp import numpy as dnp
    >>> dnp.ndim([[1.0, 2.0]])
    2
    """
    return lifted(a).ndim


@stands_for(np.size)
def size(a: TensorLike, axis: int | None = None) -> int:
    """The number of elements, or of those along `axis`.

    >>> from dist_dp import numpy as dnp
    >>> dnp.size([[1.0, 2.0]])
    2
    """
    return lifted(a).size if axis is None else lifted(a).shape[axis]


argwhere = on_values(np.argwhere)
flatnonzero = on_values(np.flatnonzero)
array_equiv = on_values(np.array_equiv)
isin = on_values(np.isin)
digitize = on_values(np.digitize)
lexsort = on_values(np.lexsort)
iscomplexobj = on_values(np.iscomplexobj)
isrealobj = on_values(np.isrealobj)
result_type = on_values(np.result_type)
can_cast = on_values(np.can_cast)
shares_memory = on_values(np.shares_memory)
may_share_memory = on_values(np.may_share_memory)
ravel_multi_index = on_values(np.ravel_multi_index)
unravel_index = on_values(np.unravel_index)
array_repr = on_values(np.array_repr)
array_str = on_values(np.array_str)
array2string = on_values(np.array2string)

__all__ = [name for name in dir() if hasattr(np, name)]
