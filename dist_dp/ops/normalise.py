"""Normalisation: layer, root-mean-square, group, instance and batch norm, each one fused operation.

Two rows carry all of them. `normalise` works within an example: it sees an array as (examples, groups, entries) and
normalises each row of entries; layer and RMS norm are its case of one group. `batch_norm` works across examples, per
channel. Neither keeps the normalised array: it is cheaper to compute again from the input, a piece at a time in the
cache, than to write and read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..tape import Array
from ..tensor import Tensor
from .activation import floating
from .blocked import BLOCK, as_rows, column_sums, in_blocks, row_sums
from .core import Op, TensorLike, apply
from .elementwise import sqrt
from .views import broadcast_to, lifted

__all__ = ["batch_norm", "group_norm", "layer_norm", "rms_norm"]


# ----- within an example -----


def _grouped(x: Array, lead: int, groups: int) -> Array:
    """`x` as (examples, groups, entries): the first `lead` axes count examples."""
    entries = math.prod(x.shape[lead:]) // groups
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:lead]), groups, entries)


def _spread(weight: Any, groups: int, entries: int) -> Any:
    """A weight per channel (or per entry) as a matrix (groups, entries); None for the scalar that stands for none."""
    if isinstance(weight, float):
        return None
    if weight.size != groups * entries:
        weight = np.repeat(weight.reshape(-1), groups * entries // weight.size)
    return weight.reshape(groups, entries)


def _vectors(weight: Any, bias: Any, grouped: Array) -> tuple[list[Array], int]:
    """Weight and bias as vectors for a kernel, 1 and 0 where there are none, and how many entries an element is for."""
    given = [w for w in (weight, bias) if not isinstance(w, float)]
    count = given[0].size if given else grouped.shape[2]  # without weights all groups are alike
    vectors = [
        np.full(count, v, grouped.dtype) if isinstance(v, float) else np.ascontiguousarray(v).reshape(-1)
        for v in (weight, bias)
    ]
    return vectors, math.prod(grouped.shape[1:]) // max(1, count) if given else 1


def _has_kernel(size: int, grouped: Array, weight: Array, *others: Array) -> bool:
    """Whether a kernel does this: one for a weight per entry of a row, or one for a weight per channel."""
    fits = size >= _ROW or (size == 1 and weight.size == grouped.shape[2])
    return fits and grouped.size > 0 and kernels.suits(grouped, weight, *others)


# A kernel is faster from so many entries of a channel on.
_ROW = 16

# Over so many examples a compiled kernel adds up the gradients of the weights one by one: sums of sums are closer.
_SUMMED = 1024


def _normalise(
    x: Array, weight: Any, bias: Any, lead: int, groups: int, eps: float, centred: bool
) -> tuple[Array, tuple[Array, Array]]:
    grouped = _grouped(x, lead, groups)
    entries = grouped.shape[2]
    out = np.empty_like(grouped)
    mean, scale = np.zeros((2, *grouped.shape[:2], 1), x.dtype)
    vectors, size = _vectors(weight, bias, grouped)
    if _has_kernel(size, grouped, *vectors):
        if size == 1:
            kernels.compiled.normalise(grouped, *vectors, out, mean, scale, entries, eps, centred)
        else:
            members = vectors[0].size // groups
            kernels.compiled.normalise_channels(grouped, *vectors, out, mean, scale, size, members, eps)
            scale = 1 / np.sqrt(scale + eps)
        return out.reshape(x.shape), (mean, scale)
    w, b = _spread(weight, groups, entries), _spread(bias, groups, entries)

    def kernel(x: Array, out: Array, mean: Array, scale: Array) -> None:
        if centred:
            np.divide(row_sums(as_rows(x)).reshape(mean.shape), entries, mean)
            x = np.subtract(x, mean, out)
        squares = np.vecdot(x, x)[..., None]
        squares /= entries
        squares += eps
        np.divide(1, np.sqrt(squares, squares), scale)
        np.multiply(x, scale, out)
        if w is not None:
            np.multiply(out, w, out)
        if b is not None:
            np.add(out, b, out)

    if grouped.size:
        in_blocks(kernel, [grouped, out, mean, scale])
    return out.reshape(x.shape), (mean, scale)


def _normalise_gradient(
    g: Array,
    need: Sequence[bool],
    x: Array,
    weight: Any,
    bias: Any,
    lead: int,
    groups: int,
    centred: bool,
    residuals: tuple[Array, Array],
) -> Sequence[Any]:
    mean, scale = residuals
    grouped, g = _grouped(x, lead, groups), _grouped(g, lead, groups)
    entries = grouped.shape[2]
    d = np.empty_like(grouped)
    vectors, size = _vectors(weight, bias, grouped)
    if _has_kernel(size, grouped, *vectors, g):
        dw, db = _with_kernel(g, grouped, vectors[0], mean, scale, d, size, centred)
    else:
        dw, db = _in_numpy(g, grouped, _spread(weight, groups, entries), mean, scale, d, need, centred)
    return (
        d.reshape(x.shape),
        _per_weight(dw, weight) if need[1] else None,
        _per_weight(db, bias) if need[2] else None,
    )


def _per_weight(total: Array, weight: Array) -> Any:
    """A gradient per entry, or per weight already, in the shape of the weights."""
    return total.reshape(*weight.shape, total.size // max(1, weight.size)).sum(-1)


def _with_kernel(
    g: Array, x: Array, w: Array, mean: Array, scale: Array, d: Array, size: int, centred: bool
) -> Array:
    """Writes the gradient of x into d; returns those of weight and bias."""
    none = np.zeros_like(mean)
    total = np.zeros((2, w.size), x.dtype)
    for start in range(0, len(g), _SUMMED):
        some = slice(start, start + _SUMMED)
        sums = np.zeros_like(total)
        arrays = g[some], x[some], w, mean[some], scale[some]
        if size == 1:
            kernels.compiled.normalise_gradient(*arrays, d[some], *sums, x.shape[2], centred)
        else:
            more = none[some], none[some], d[some], *sums, size, w.size // x.shape[1]
            kernels.compiled.normalise_channels_gradient(*arrays, *more)
        total += sums
    return total


def _in_numpy(
    g: Array, x: Array, w: Any, mean: Array, scale: Array, d: Array, need: Sequence[bool], centred: bool
) -> Array:
    """The same."""
    dw, db = total = np.zeros((2, *x.shape[1:]), x.dtype)
    entries = x.shape[2]

    def kernel(x: Array, g: Array, mean: Array, scale: Array, d: Array, spare: Array) -> None:
        # With t = x - mean and means over a row: d = (g w - mean(g w) - t scale^2 mean(g w t)) scale.
        t = np.subtract(x, mean, spare) if centred else x
        np.multiply(g, t, d)
        if need[1]:  # sum over examples of g t scale, in each group
            dw[...] += np.matmul(scale.transpose(1, 2, 0), d.swapaxes(0, 1))[:, 0]
        if need[2]:
            db[...] += column_sums(g.reshape(len(g), -1)).reshape(db.shape)
        if not need[0]:
            return
        along = row_sums(as_rows(d)).reshape(scale.shape) if w is None else np.vecdot(d, w)[..., None]
        along *= scale * scale / entries
        np.multiply(t, along, spare)
        if w is not None:
            g = np.multiply(g, w, d)
        if centred:
            np.add(spare, row_sums(as_rows(g)).reshape(scale.shape) / entries, spare)
        np.subtract(g, spare, d)
        np.multiply(d, scale, d)

    if x.size:
        in_blocks(kernel, [x, g, mean, scale, d], scratch=1)
    return total


def _composed(x: Any, weight: Any, bias: Any, lead: int, groups: int, eps: float, centred: bool) -> Any:
    rows = x.reshape((*x.shape[:lead], groups, math.prod(x.shape[lead:]) // groups))
    if centred:
        rows = rows - rows.mean(axis=-1, keepdims=True)
    normal = rows / np.sqrt((rows * rows).mean(axis=-1, keepdims=True) + eps)
    ndim = x.ndim - lead
    return normal.reshape(x.shape) * _placed(weight, (), ndim) + _placed(bias, (), ndim)


def _placed(weight: Any, front: tuple[int, ...], ndim: int) -> Any:
    """A weight (behind the axes `front`, which it may lack) with as many axes as broadcast against `ndim` last ones."""
    if isinstance(weight, float):
        return weight
    own = weight.shape[1:] if front else weight.shape
    return weight.reshape((*front, *own, *(1,) * (ndim - len(own))))


def _batched_normalise(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    x, weight, bias = inputs
    lead, *rest = params
    if not batched[0]:
        x = broadcast_to(x, (size, *x.shape))
    if not (batched[1] or batched[2]):
        return apply(op, (x, weight, bias), (lead + 1, *rest))
    out = apply(op, (x, 1.0, 0.0), (lead + 1, *rest))
    weight, bias = (
        _placed(w, (size, *(1,) * lead) if has else (), x.ndim - 1 - lead)
        for w, has in zip(inputs[1:], batched[1:], strict=True)
    )
    return out * weight + bias


# Weight and bias are 1.0 and 0.0 where there are none; otherwise an entry per channel or per normalised entry.
_normalise_op = Op(
    "normalise",
    _normalise,
    "x weight bias",
    "lead groups eps centred",
    joint=_normalise_gradient,
    residuals=True,
    composed=_composed,
    batch=_batched_normalise,
)


def _weights(name: str, shape: tuple[int, ...], weight: Any, bias: Any) -> tuple[Any, Any]:
    """Weight and bias as tensors of `shape`, or the scalars that stand for none."""
    given = []
    for argument, value, none in (("weight", weight, 1.0), ("bias", bias, 0.0)):
        if value is not None:
            value = lifted(value)
            if value.shape != shape:
                raise ValueError(f"{name}: `{argument}` must have shape {shape}, got {value.shape}")
        given.append(none if value is None else value)
    return given[0], given[1]


def _over_last_axes(
    name: str, x: TensorLike, shape: int | Sequence[int], weight: Any, bias: Any, eps: float, centred: bool
) -> Tensor:
    x = floating(x)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if not shape or x.shape[max(x.ndim - len(shape), 0) :] != shape:
        raise ValueError(
            f"{name}: the last axes of `x` must be `normalized_shape` {shape}, got shape {x.shape}"
        )
    weight, bias = _weights(name, shape, weight, bias)
    return apply(_normalise_op, (x, weight, bias), (x.ndim - len(shape), 1, eps, centred))  # type: ignore[no-any-return]


def layer_norm(
    x: TensorLike,
    normalized_shape: int | Sequence[int],
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axes (Ba et al. 2016, arXiv:1607.06450).

    Args:
        x: its last axes are `normalized_shape`.
        normalized_shape: the lengths of the axes over which mean and (biased) variance are taken.
        weight, bias: of shape `normalized_shape`; 1 and 0 if None.
        eps: added to the variance.

    Raises:
        ValueError: the shapes do not fit.

    >>> from dist_dp import ops
    >>> ops.layer_norm([1.0, 3.0], 2, eps=0.0).tolist()
    [-1.0, 1.0]
    """
    return _over_last_axes("layer_norm", x, normalized_shape, weight, bias, eps, True)


def rms_norm(
    x: TensorLike,
    normalized_shape: int | Sequence[int],
    weight: TensorLike | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axes (Zhang & Sennrich 2019, arXiv:1910.07467).

    Args:
        x: its last axes are `normalized_shape`.
        normalized_shape: the lengths of the axes over which the mean of squares is taken.
        weight: of shape `normalized_shape`; 1 if None.
        eps: added to the mean of squares; the machine epsilon of the dtype if None.

    Raises:
        ValueError: the shapes do not fit.

    >>> from dist_dp import ops
    >>> ops.rms_norm([3.0, 3.0], 2).tolist()
    [1.0, 1.0]
    """
    x = floating(x)
    eps = float(np.finfo(x.dtype).eps) if eps is None else eps
    return _over_last_axes("rms_norm", x, normalized_shape, weight, None, eps, False)


def group_norm(
    x: TensorLike,
    num_groups: int,
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Each group of channels of each example to mean 0 and variance 1 (Wu & He 2018, arXiv:1803.08494).

    Args:
        x: (n, channels, ...).
        num_groups: how many groups of consecutive channels; as many as channels gives instance norm.
        weight, bias: (channels,), applied after normalising; 1 and 0 if None.
        eps: added to the (biased) variance.

    Raises:
        ValueError: the shapes do not fit, or the groups do not divide the channels.

    >>> from dist_dp import ops
    >>> ops.group_norm([[1.0, 3.0, 5.0, 5.0]], 2, eps=1e-12).tolist()
    [[-1.0, 1.0, 0.0, 0.0]]
    """
    x = floating(x)
    if x.ndim < 2:
        raise ValueError(f"group_norm: `x` must be (n, channels, ...), got shape {x.shape}")
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(
            f"group_norm: `num_groups`={num_groups} must divide the {x.shape[1]} channels of `x`"
        )
    weight, bias = _weights("group_norm", x.shape[1:2], weight, bias)
    return apply(_normalise_op, (x, weight, bias), (1, num_groups, eps, True))  # type: ignore[no-any-return]


# ----- across examples -----


def _channels(x: Array) -> Iterator[slice]:
    """Channels are independent: as many at a time as make a row (of one example) that fits the cache."""
    step = max(1, BLOCK // max(1, math.prod(x.shape[2:])))
    return (slice(c, c + step) for c in range(0, x.shape[1], step))


def _flat(x: Array, channels: slice) -> Array:
    """Some channels of contiguous `x` as a matrix with a row per example, without a copy."""
    part = x[:, channels]
    return part.reshape(len(part), math.prod(part.shape[1:]))


def _moments(x: Array, size: int) -> tuple[Array, Array]:
    """Mean and biased variance of the channels of a matrix whose rows hold `size` entries of each in turn."""
    sums = np.zeros((2, x.shape[1]), x.dtype)

    def add_up(x: Array) -> None:
        sums[0] += column_sums(x)

    def add_up_squares(x: Array, centred: Array) -> None:
        np.subtract(x, centre, centred)
        np.multiply(centred, centred, centred)
        sums[1] += column_sums(centred)

    in_blocks(add_up, [x])
    mean = sums[0].reshape(-1, size).mean(1) / len(x)
    centre = np.repeat(mean, size)
    in_blocks(add_up_squares, [x], scratch=1)
    return mean, sums[1].reshape(-1, size).mean(1) / len(x)


def _per_row_of(x: Array, values: Any) -> Array:
    """Contiguous values for the channels of `x`, of which there may be one for all."""
    return np.ascontiguousarray(np.broadcast_to(values, x.shape[1:2]), None if np.ndim(values) else x.dtype)


def _in_rows(x: Array, *others: Array) -> bool:
    """Whether the compiled kernels take them, and the entries of a channel are next to each other."""
    return kernels.suits(x, *others) and x.size > 0 and math.prod(x.shape[2:]) >= _ROW


def _batch_norm(x: Array, weight: Any, bias: Any, eps: float) -> tuple[tuple[Array, Array, Array], Any]:
    x = np.ascontiguousarray(x)
    out, size = np.empty_like(x), math.prod(x.shape[2:])
    mean, var = np.empty((2, x.shape[1]), x.dtype)
    w, b = _per_row_of(x, weight), _per_row_of(x, bias)
    if _in_rows(x, w, b):
        kernels.compiled.normalise_channels(x, w, b, out, mean, var, size, 0, eps)
        return (out, mean, var), (mean, var)
    for c in _channels(x):
        mean[c], var[c] = _moments(_flat(x, c), size)
        factor = 1 / np.sqrt(var[c] + eps)
        if not isinstance(weight, float):
            factor *= weight[c]
        shift = None if isinstance(bias, float) else bias[c]
        _shift_scale_shift(_flat(x, c), mean[c], factor, shift, _flat(out, c), size)
    return (out, mean, var), (mean, var)


def _shift_scale_shift(
    x: Array, centre: Array, factor: Array, shift: Array | None, out: Array, size: int
) -> None:
    """out = (x - centre) factor + shift, with an entry of each per channel."""
    centre, factor = np.repeat(centre, size), np.repeat(factor, size)
    shift = None if shift is None else np.repeat(shift, size)

    def kernel(x: Array, out: Array) -> None:
        np.subtract(x, centre, out)
        np.multiply(out, factor, out)
        if shift is not None:
            np.add(out, shift, out)

    in_blocks(kernel, [x, out])


def _batch_norm_gradient(
    gs: tuple[Array, Array, Array],
    need: Sequence[bool],
    x: Array,
    weight: Any,
    bias: Any,
    eps: float,
    residuals: tuple[Array, Array],
) -> Sequence[Any]:
    g, g_mean, g_var = gs
    mean, var = residuals
    x, g = np.ascontiguousarray(x), np.ascontiguousarray(g)
    d, size = np.empty_like(x), math.prod(x.shape[2:])
    count = len(x) * size
    scale = 1 / np.sqrt(var + eps)
    dw, db = np.zeros((2, x.shape[1]), x.dtype)
    w, g_mean, g_var = (_per_row_of(x, value) for value in (weight, g_mean, g_var))
    if _in_rows(x, g, w, g_mean, g_var):
        arrays = g, x, w, mean, scale, g_mean, g_var, d, dw, db
        kernels.compiled.normalise_channels_gradient(*arrays, size, 0)
        return d, dw if need[1] else None, db if need[2] else None
    for c in _channels(x):
        _batch_norm_sums(_flat(x, c), _flat(g, c), mean[c], dw[c], db[c], size)
        # d = a g + b (x - mean) + shift: through the output, its mean and its variance, the mean and the variance.
        a = scale[c] if isinstance(weight, float) else weight[c] * scale[c]
        b = (2 * g_var[c] - a * scale[c] ** 2 * dw[c]) / count
        _combine(_flat(x, c), _flat(g, c), mean[c], a, b, (g_mean[c] - a * db[c]) / count, _flat(d, c), size)
    return d, dw * scale if need[1] else None, db if need[2] else None


def _batch_norm_sums(x: Array, g: Array, mean: Array, along: Array, total: Array, size: int) -> None:
    """Per channel: along = sum g (x - mean), total = sum g."""
    centre = np.repeat(mean, size)
    sums = np.zeros((2, x.shape[1]), x.dtype)

    def kernel(x: Array, g: Array, t: Array) -> None:
        np.subtract(x, centre, t)
        np.multiply(t, g, t)
        sums[0] += column_sums(t)
        sums[1] += column_sums(g)

    in_blocks(kernel, [x, g], scratch=1)
    along[:], total[:] = sums.reshape(2, -1, size).sum(2)


def _combine(x: Array, g: Array, mean: Array, a: Array, b: Array, shift: Array, d: Array, size: int) -> None:
    """d = a g + b (x - mean) + shift, with an entry of each per channel."""
    centre, a, b, shift = (np.repeat(v, size) for v in (mean, a, b, shift))

    def kernel(x: Array, g: Array, d: Array, t: Array) -> None:
        np.subtract(x, centre, t)
        np.multiply(t, b, t)
        np.multiply(g, a, d)
        np.add(d, t, d)
        np.add(d, shift, d)

    in_blocks(kernel, [x, g, d], scratch=1)


def _per_channel(weight: Any, ndim: int) -> Any:
    """A weight per channel so that it broadcasts against (n, channels, ...)."""
    return weight if isinstance(weight, float) else weight.reshape((-1, *(1,) * (ndim - 2)))


def _composed_batch_norm(x: Any, weight: Any, bias: Any, eps: float) -> Any:
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axis=axes, keepdims=True)
    centred = x - mean
    var = (centred * centred).mean(axis=axes, keepdims=True)
    out = centred / np.sqrt(var + eps) * _per_channel(weight, x.ndim) + _per_channel(bias, x.ndim)
    return out, mean.reshape((-1,)), var.reshape((-1,))


def _batched_batch_norm(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    """The channels of all examples side by side."""
    x, weight, bias = (
        a if has or isinstance(a, float) else broadcast_to(a, (size, *a.shape))
        for a, has in zip(inputs, batched, strict=True)
    )
    n, channels, *rest = x.shape[1:]
    side = x.moveaxis(0, 1).reshape((n, size * channels, *rest))
    flat = [w if isinstance(w, float) else w.reshape((-1,)) for w in (weight, bias)]
    out, mean, var = apply(op, (side, *flat), params)
    out = out.reshape((n, size, channels, *rest)).moveaxis(1, 0)
    return out, mean.reshape((size, channels)), var.reshape((size, channels))


_batch_norm_op = Op(
    "batch_norm",
    _batch_norm,
    "x weight bias",
    "eps",
    joint=_batch_norm_gradient,
    outputs=3,
    residuals=True,
    composed=_composed_batch_norm,
    batch=_batched_batch_norm,
)


def batch_norm(
    x: TensorLike,
    weight: TensorLike | None = None,
    bias: TensorLike | None = None,
    eps: float = 1e-5,
    mean: TensorLike | None = None,
    var: TensorLike | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(var + eps) * weight + bias per channel (Ioffe & Szegedy 2015, arXiv:1502.03167).

    Args:
        x: (n, channels, ...).
        weight, bias: (channels,); 1 and 0 if None.
        eps: added to the variance.
        mean, var: (channels,), the statistics to use, as in evaluation; those of `x` if None, as in training, and
            then gradients flow through them.

    Returns:
        (out, mean, var): the result and the statistics that were used; the variance is the biased one, sum of squares
        over count.

    Raises:
        ValueError: the shapes do not fit, only one of `mean` and `var` is given, or `x` has a single value per
            channel to take statistics of.

    >>> from dist_dp import ops
    >>> out, mean, var = ops.batch_norm([[1.0], [3.0]], eps=0.0)
    >>> out.tolist(), mean.tolist(), var.tolist()
    ([[-1.0], [1.0]], [2.0], [1.0])
    """
    x = floating(x)
    if x.ndim < 2:
        raise ValueError(f"batch_norm: `x` must be (n, channels, ...), got shape {x.shape}")
    channels = x.shape[1:2]
    weight, bias = _weights("batch_norm", channels, weight, bias)
    if (mean is None) != (var is None):
        raise ValueError("batch_norm: give both `mean` and `var`, or neither to take them from `x`")
    if mean is None or var is None:
        if x.size // max(1, channels[0]) < 2:
            raise ValueError(
                f"batch_norm: statistics need at least 2 values per channel, got shape {x.shape}; give `mean` and "
                "`var`, as in evaluation"
            )
        return apply(_batch_norm_op, (x, weight, bias), (eps,))  # type: ignore[no-any-return]
    mean, var = lifted(mean), lifted(var)
    for name, value in (("mean", mean), ("var", var)):
        if value.shape != channels:
            raise ValueError(f"batch_norm: `{name}` must have shape {channels}, got {value.shape}")
    scale = weight / sqrt(var + eps)
    return (
        (x - _per_channel(mean, x.ndim)) * _per_channel(scale, x.ndim) + _per_channel(bias, x.ndim),
        mean,
        var,
    )
