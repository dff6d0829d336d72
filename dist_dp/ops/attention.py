"""Scaled dot-product attention, fused: scores exist for a few heads and queries at a time, in the cache.

The passes over the scores are what costs beside the products, so there are as few as can be. The scale goes to the
keys, together with the factor that turns e^x into 2^x, the cheaper function. Dividing by the sums is left to the
result, which is smaller. The maximum of a row is subtracted only where something could overflow (see `exp_rows` in
`activation.py`). The compiled kernel does both at once, as it has a row of scores in the first-level cache. Under a
causal mask, keys after the last query of a piece are not looked at.

The exponentials are kept for the backward pass up to 16 MiB of float32. Beyond that they are computed again, piece by
piece, at about a quarter of the time of a forward and backward pass, so that memory grows with the length of the
sequences and not with its square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from ..tape import Array
from ..tensor import Tensor
from .activation import _LARGEST, _SMALLEST_SUM, floating, row_maxima, softmax
from .blocked import as_rows, row_sums
from .comparison import where
from .core import Op, TensorLike, apply
from .views import broadcast_to, lifted

__all__ = ["scaled_dot_product_attention"]

_LOG2_E = 1 / math.log(2)

# Scores in one piece (512 KiB of float32: the products gain from size as long as the second-level cache holds it), and
# those kept for the backward pass.
_PIECE, _KEPT = 1 << 17, 1 << 22


class _Piece(NamedTuple):
    """Some examples (with all their heads), some queries, and the keys that these look at.

    `last` are the last queries of these examples; they look at all keys, and come first.
    """

    examples: slice
    queries: slice
    keys: slice
    last: bool


def _pieces(q: Array, k: Array, causal: bool) -> Iterator[_Piece]:
    (examples, heads, queries, _), keys = q.shape, k.shape[2]
    # A causal piece of many queries would look at many keys for nothing; one of few makes narrow products.
    rows = max(1, min(queries, 64 if causal else _PIECE // max(1, keys)))
    step = max(1, _PIECE // max(1, heads * rows * keys))
    for start in range(0, examples, step):
        for row in reversed(range(0, queries, rows)):
            end = min(row + rows, queries)
            seen = min(end, keys) if causal else keys
            yield _Piece(slice(start, start + step), slice(row, end), slice(0, seen), end == queries)


class _Scores:
    """The softmax of the scores, piece by piece."""

    def __init__(self, q: Array, k: Array, mask: Any, causal: bool, scale: float) -> None:
        self.q, self.kt, self.causal = q, _transposed(k, scale * _LOG2_E), causal
        self.mask = None if isinstance(mask, float) else mask

    def weights(self, piece: _Piece) -> tuple[Array, Array | None]:
        """2^(scores - shift), 0 where masked, and the reciprocals of the row sums (0 for a row that is all masked).

        Or, from the compiled kernel, their product and None.
        """
        q, kt = self.q[piece.examples, :, piece.queries], self.kt[piece.examples, :, :, piece.keys]
        scores = _products(q, kt)
        kept = None
        if self.mask is not None:
            mask = self.mask[piece.examples, :, piece.queries, piece.keys]
            if mask.dtype == bool:
                kept = mask
            else:
                scores += mask * scores.dtype.type(_LOG2_E)
        queries, keys = scores.shape[2:]
        if kernels.suits(scores) and scores.size:
            if kept is not None:
                scores = np.where(kept, scores, scores.dtype.type(-np.inf))
            first = piece.queries.start if self.causal else keys  # from there on a query sees everything
            kernels.compiled.attention_weights(scores, keys, queries, first)
            return scores, None
        if self.causal:
            seen = np.tri(queries, keys, piece.queries.start, np.bool_)
            kept = seen if kept is None else kept & seen
        out = np.empty_like(scores)
        sums = self._safely(scores, kept, out)
        return out, np.divide(1, sums, out=sums).reshape(*scores.shape[:3], 1)

    def _safely(self, scores: Array, kept: Array | None, out: Array) -> Array:
        rows = as_rows(out)
        if np.maximum.reduce(scores, None, initial=-np.inf) <= _LARGEST:
            np.exp2(scores, out)
            if kept is not None:
                np.multiply(out, kept, out)
            sums = row_sums(rows)
            if sums.min(initial=1) >= _SMALLEST_SUM:
                return sums
        if kept is not None:
            scores = np.where(kept, scores, scores.dtype.type(-np.inf))
        np.subtract(scores, row_maxima(scores), out)
        np.exp2(out, out)
        sums = row_sums(rows)
        sums[sums == 0] = np.inf
        return sums


def _transposed(x: Array, factor: float = 1.0) -> Array:
    """Every matrix of x, times a number, transposed: in C order if a kernel can do that.

    OpenBLAS multiplies small matrices by one in C order in three quarters of the time. NumPy's copy would cost as much.
    """
    x = np.multiply(x, x.dtype.type(factor), order="C") if factor != 1 else np.ascontiguousarray(x)
    if kernels.suits(x) and x.size:
        out = np.empty((*x.shape[:2], x.shape[3], x.shape[2]), x.dtype)
        kernels.compiled.transposed(x, out, *x.shape[2:])
        return out
    return x.swapaxes(2, 3)


def _products(x: Array, y: Array) -> Array:
    """x y for every head, in C order: the rows of the result are a matrix."""
    return np.matmul(x, y, out=np.empty((*x.shape[:3], y.shape[3]), x.dtype))


def _add_product(x: Array, y: Array, out: Array, first: bool) -> None:
    """out = x y, the first time, and then out += x y."""
    if first:
        np.matmul(x, y, out=out)
    else:
        out += x @ y


def _empty_like(x: Array, width: int) -> Array:
    """A new (examples, heads, length, width) in the memory order of `x`: heads of one matrix join again."""
    examples, heads, length, _ = x.shape
    if x.strides[1] < x.strides[2]:
        return np.empty((examples, length, heads, width), x.dtype).swapaxes(1, 2)
    return np.empty((examples, heads, length, width), x.dtype)


def _four(x: Array) -> Array:
    """`x` with exactly two axes, examples and heads, in front of its matrices."""
    if x.ndim <= 4:
        return x.reshape((*x.shape[:-2], *(1,) * (4 - x.ndim), *x.shape[-2:]))
    return x.reshape((-1, *x.shape[-3:])) if x.size else x.reshape((math.prod(x.shape[:-3]), *x.shape[-3:]))


def _four_mask(mask: Any, shape: tuple[int, ...]) -> Any:
    """The mask for scores of `shape`, of which it is a view unless there are more than four axes."""
    return mask if isinstance(mask, float) else _four(np.broadcast_to(mask, shape))


def _attention(q: Array, k: Array, v: Array, mask: Any, causal: bool, scale: float) -> tuple[Array, Any]:
    shape = (*q.shape[:-1], v.shape[-1])
    mask = _four_mask(mask, (*q.shape[:-1], k.shape[-2]))
    q, k, v = _four(q), _four(k), _four(v)
    out = _empty_like(q, v.shape[3])
    scores = _Scores(q, k, mask, causal, scale)
    kept: Any = [] if math.prod(q.shape[:3]) * k.shape[2] <= _KEPT else None
    with np.errstate(all="ignore"):
        for piece in _pieces(q, k, causal):
            e, inverse = scores.weights(piece)
            part = out[piece.examples, :, piece.queries]
            np.matmul(e, v[piece.examples, :, piece.keys], out=part)
            if inverse is not None:
                np.multiply(part, inverse, part)
            if kept is not None:
                kept.append((e, inverse))
    return out.reshape(shape), kept


def _attention_gradient(
    g: Array,
    need: Sequence[bool],
    q: Array,
    k: Array,
    v: Array,
    mask: Any,
    out: Array,
    causal: bool,
    scale: float,
    residuals: Any,
) -> Sequence[Any]:
    shapes = q.shape, k.shape, v.shape, (*q.shape[:-1], k.shape[-2])
    mask = _four_mask(mask, (*q.shape[:-1], k.shape[-2]))
    q, k, v, g, out = _four(q), _four(k), _four(v), _four(g), _four(out)
    dq, dk, dv = _empty_like(q, q.shape[3]), _empty_like(k, k.shape[3]), _empty_like(v, v.shape[3])
    dmask = np.zeros((*q.shape[:3], k.shape[2]), q.dtype) if need[3] else None
    vt = _transposed(v)
    factor = scale if dmask is None else 1.0
    scores = _Scores(q, k, mask, causal, scale) if residuals is None else None
    if q.size == 0 or (causal and q.shape[2] < k.shape[2]):  # keys that no query looks at
        dk[...] = dv[...] = 0
    for i, piece in enumerate(_pieces(q, k, causal)):
        examples, queries, keys, last = piece
        e, inverse = residuals[i] if scores is None else scores.weights(piece)
        part = g[examples, :, queries]
        if inverse is not None:
            part = part * inverse
        _add_product(e.swapaxes(2, 3), part, dv[examples, :, keys], last)
        d = _products(part, vt[examples, :, :, keys])
        along = np.ascontiguousarray(np.vecdot(part, out[examples, :, queries]))
        if kernels.suits(d, e, along) and d.size:  # the same bits
            kernels.compiled.attention_weights_gradient(d, e, along, d.shape[3], factor)
        else:
            np.subtract(d, along[..., None], d)
            np.multiply(d, e, d)
            np.multiply(d, factor, d)
        if dmask is not None:
            dmask[examples, :, queries, keys] = d
            np.multiply(d, scale, d)
        np.matmul(d, k[examples, :, keys], out=dq[examples, :, queries])
        _add_product(d.swapaxes(2, 3), q[examples, :, queries], dk[examples, :, keys], last)
    gradients = dq, dk, dv, dmask
    return [d if d is None else d.reshape(shape) for d, shape in zip(gradients, shapes, strict=True)]


def _composed(q: Any, k: Any, v: Any, mask: Any, causal: bool, scale: float) -> Any:
    scores = (q @ k.swapaxes(-1, -2)) * scale
    seen = np.tri(*scores.shape[-2:], dtype=np.bool_) if causal else np.ones(scores.shape[-2:], bool)
    if not isinstance(mask, float):
        values = mask.data if isinstance(mask, Tensor) else mask
        if values.dtype == bool:
            seen = seen & values
        else:
            seen = seen & (values != -np.inf)
            scores = scores + where(values != -np.inf, mask, 0)
    # A large number instead of inf: a row that is all masked has a softmax then, which is multiplied by 0.
    return (softmax(where(seen, scores, float(np.finfo(scores.dtype).min) / 2)) * seen) @ v


def _batched(
    op: Op, size: int, inputs: Sequence[Any], batched: Sequence[bool], params: tuple[Any, ...]
) -> Any:
    q, k, v = (
        x if has else broadcast_to(x, (size, *x.shape))
        for x, has in zip(inputs[:3], batched[:3], strict=True)
    )
    mask = inputs[3]
    if batched[3]:
        mask = mask.reshape((size, *(1,) * (q.ndim - mask.ndim), *mask.shape[1:]))
    return apply(op, (q, k, v, mask), params)


# The mask is 0.0 where there is none.
_attention_op = Op(
    "scaled_dot_product_attention",
    _attention,
    "q k v mask",
    "causal scale",
    joint=_attention_gradient,
    same_dtype=(0, 1, 2),
    residuals=True,
    composed=_composed,
    batch=_batched,
)


def scaled_dot_product_attention(
    q: TensorLike,
    k: TensorLike,
    v: TensorLike,
    mask: TensorLike | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale q k^T + mask) v (Vaswani et al. 2017, arXiv:1706.03762, equation 1), over any leading axes.

    Args:
        q: queries, (..., n, d).
        k: keys, (..., m, d).
        v: values, (..., m, e).
        mask: broadcasts to (..., n, m): booleans, True where a query may look at a key; or numbers that are added
            to the scores.
        causal: query i looks at keys 0, ..., i only.
        scale: factor of the scores; 1 / sqrt(d) if None.

    Returns:
        (..., n, e); 0 for a query that may look at no key.

    Raises:
        ValueError: the shapes do not fit.

    >>> from dist_dp import ops
    >>> q, k, v = [[0.0]], [[1.0], [2.0]], [[2.0], [4.0]]
    >>> ops.scaled_dot_product_attention(q, k, v).tolist()
    [[3.0]]
    """
    q, k, v = floating(q), floating(k), floating(v)
    name = "scaled_dot_product_attention"
    if q.ndim < 2 or not q.ndim == k.ndim == v.ndim or not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        raise ValueError(
            f"{name}: `q`, `k` and `v` must have the same leading axes and two more, got {q.shape}, {k.shape} and "
            f"{v.shape}"
        )
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"{name}: `q` and `k` must have vectors of one length, got {q.shape[-1]} and {k.shape[-1]}"
        )
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"{name}: `k` and `v` must be equally many, got {k.shape[-2]} and {v.shape[-2]}")
    added: Any = 0.0
    if mask is not None:
        added = lifted(mask)
        whole = (*q.shape[:-1], k.shape[-2])
        fits = len(added.shape) <= len(whole) and all(
            n in (1, m) for n, m in zip(added.shape[::-1], whole[::-1], strict=False)
        )
        if not fits:
            raise ValueError(f"{name}: `mask` must broadcast to {whole}, got {added.shape}")
        if added.dtype != bool:
            added = added.astype(q.dtype)
        if added.ndim < 2:
            added = added.reshape((*(1,) * (2 - added.ndim), *added.shape))
    factor = 1 / math.sqrt(max(1, q.shape[-1])) if scale is None else float(scale)
    return apply(_attention_op, (q, k, v, added), (bool(causal), factor))  # type: ignore[no-any-return]
