"""Multi-head attention and the Transformer block, with torch's parameter names and layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import ops
from ..ops.affine import linear
from ..ops.core import TensorLike
from ..ops.views import lifted
from ..random import Stream
from ..tensor import Tensor
from . import functional as F
from . import init
from .arguments import check_flags, count, probability
from .dropout import Dropout
from .functional.layer import attention_weights
from .linear import Linear
from .module import Module, Parameter
from .norm import LayerNorm

__all__ = ["MultiheadAttention", "TransformerEncoderLayer"]


class MultiheadAttention(Module):
    """out = (head_1, ..., head_h) W_oᵀ + b_o, head_i = softmax(q_i k_iᵀ / √d) v_i: Vaswani et al. 2017, section 3.2.

    q, k and v are affine maps of query, key and value, cut into `num_heads` parts of d = embed_dim / num_heads.

    Parameters: `in_proj_weight` (3 embed_dim, embed_dim), rows for q, k and v in this order, or `q_proj_weight`,
    `k_proj_weight` and `v_proj_weight` where kdim or vdim differ from embed_dim; `in_proj_bias` (3 embed_dim,);
    `out_proj.weight` (embed_dim, embed_dim) and `out_proj.bias`. Input weights from Xavier's uniform distribution,
    biases 0.

    Args:
        embed_dim: length of queries and outputs.
        num_heads: number of heads, a divisor of embed_dim.
        dropout: probability of dropping an attention weight in training.
        bias: whether there are biases.
        kdim, vdim: lengths of keys and values, embed_dim by default.
        batch_first: inputs and outputs are (N, L, ·) instead of (L, N, ·).
        dtype: of the parameters.

    Raises:
        ValueError: a size below 1, heads that do not divide embed_dim, dropout outside [0, 1]; at the call, inputs or
        masks of other shapes.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> x = np.ones((2, 5, 8), np.float32)
    >>> out, weights = nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)
    >>> out.shape, weights.shape
    ((2, 5, 8), (2, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        dtype: DTypeLike = np.float32,
    ) -> None:
        layer = "MultiheadAttention"
        self.embed_dim = count(layer, "embed_dim", embed_dim)
        self.num_heads = count(layer, "num_heads", num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"{layer}: embed_dim={embed_dim} must be divisible by num_heads={num_heads}")
        self.dropout = probability(layer, dropout)
        check_flags(layer, bias=bias, batch_first=batch_first)
        self.kdim = embed_dim if kdim is None else count(layer, "kdim", kdim)
        self.vdim = embed_dim if vdim is None else count(layer, "vdim", vdim)
        self.batch_first = batch_first
        together = self.kdim == self.vdim == embed_dim
        shapes = {"q": embed_dim, "k": self.kdim, "v": self.vdim}
        self.in_proj_weight = Parameter(np.empty((3 * embed_dim, embed_dim), dtype)) if together else None
        for name, size in shapes.items():
            separate = None if together else Parameter(np.empty((embed_dim, size), dtype))
            self.register_parameter(f"{name}_proj_weight", separate)
        self.in_proj_bias = Parameter(np.zeros(3 * embed_dim, dtype)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype)
        for name, parameter in self.named_parameters():
            if name.endswith("proj_weight"):
                init.xavier_uniform_(parameter)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: TensorLike,
        key: TensorLike,
        value: TensorLike,
        key_padding_mask: TensorLike | None = None,
        need_weights: bool = True,
        attn_mask: TensorLike | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        rng: Stream | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(output, attention weights or None).

        Args:
            query: (L, N, embed_dim), with `batch_first` (N, L, embed_dim), or (L, embed_dim).
            key, value: the same with S in place of L, and kdim, vdim.
            key_padding_mask: (N, S) or (S,): True for keys to ignore, or floats to add to the scores.
            need_weights: whether to return the weights; without, less is computed.
            attn_mask: (L, S) or (N num_heads, L, S): True where a query may not look, or floats to add.
            average_attn_weights: weights as (N, L, S), their mean over the heads; else (N, num_heads, L, S).
            is_causal: query i looks at keys 0 to i only.
            rng: stream of the dropout.
        """
        same_qk, same_kv = query is key, key is value
        q, k, v = (lifted(x) for x in (query, key, value))
        self._check(q, k, v)
        single = q.ndim == 2
        if single:
            q, k, v = (ops.expand_dims(x, 0) for x in (q, k, v))
        elif not self.batch_first:
            q, k, v = (ops.swapaxes(x, 0, 1) for x in (q, k, v))
        examples, length, _ = q.shape
        heads = self._heads(q, k, v, same_qk and same_kv)
        mask = self._mask(attn_mask, key_padding_mask, examples, length, k.shape[1])
        drop = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            weights = attention_weights(heads[0], heads[1], mask, is_causal, None)
            if drop:
                weights = F.dropout(weights, drop, True, rng)
            out = weights @ heads[2]
        else:
            out = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], mask, drop, is_causal, rng=rng)
        out = ops.reshape(ops.swapaxes(out, 1, 2), (examples, length, self.embed_dim))
        out = self.out_proj(out)
        if weights is not None and average_attn_weights:
            weights = ops.mean(weights, axis=1)
        if single:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else ops.swapaxes(out, 0, 1), weights

    def _check(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        sizes, shapes = (self.embed_dim, self.kdim, self.vdim), (q.shape, k.shape, v.shape)
        ranks = {len(shape) for shape in shapes}
        if ranks not in ({2}, {3}) or tuple(shape[-1] for shape in shapes) != sizes:
            layout = "(N, L, ·)" if self.batch_first else "(L, N, ·)"
            raise ValueError(
                f"MultiheadAttention: expected query, key and value {layout} or (L, ·) with last axes embed_dim, kdim, "
                f"vdim = {sizes}, got shapes {q.shape}, {k.shape} and {v.shape}"
            )
        length = -2 if self.batch_first else 0
        examples = {shape[0 if self.batch_first else 1] for shape in shapes if len(shape) == 3}
        if len(examples) > 1 or k.shape[length] != v.shape[length]:
            raise ValueError(
                "MultiheadAttention: query, key and value must have the same number of examples, key and value "
                f"the same length, got shapes {q.shape}, {k.shape} and {v.shape}"
            )

    def _heads(self, q: Tensor, k: Tensor, v: Tensor, same: bool) -> list[Tensor]:
        """Query, key and value for every head: (N, num_heads, L, d) each."""
        n = self.embed_dim
        if same and self.in_proj_weight is not None:
            joint = linear(q, self.in_proj_weight, self.in_proj_bias)
            parts = [joint[..., i * n : (i + 1) * n] for i in range(3)]
        else:
            bias: Any = (None,) * 3
            if self.in_proj_bias is not None:
                bias = [self.in_proj_bias[i * n : (i + 1) * n] for i in range(3)]
            if self.in_proj_weight is not None:
                weight: list[Any] = [self.in_proj_weight[i * n : (i + 1) * n] for i in range(3)]
            else:
                weight = [getattr(self, f"{name}_proj_weight") for name in "qkv"]
            parts = [linear(x, w, b) for x, w, b in zip((q, k, v), weight, bias, strict=True)]
        shape = (self.num_heads, n // self.num_heads)
        return [ops.swapaxes(ops.reshape(x, (*x.shape[:2], *shape)), 1, 2) for x in parts]

    def _mask(
        self, attn: TensorLike | None, padding: TensorLike | None, examples: int, length: int, keys: int
    ) -> Any:
        """Both masks as one that is added to the scores (N, num_heads, L, S), or None."""
        total = None
        if attn is not None:
            m = _added(attn)
            if m.shape == (examples * self.num_heads, length, keys) and m.ndim == 3:
                m = ops.reshape(m, (examples, self.num_heads, length, keys))
            elif m.shape != (length, keys):
                raise ValueError(
                    f"MultiheadAttention: attn_mask must be (L, S) = {(length, keys)} or (N num_heads, L, S) = "
                    f"{(examples * self.num_heads, length, keys)}, got shape {m.shape}"
                )
            total = m
        if padding is not None:
            m = _added(padding)
            if m.shape not in ((examples, keys), *([(keys,)] if examples == 1 else [])):
                raise ValueError(
                    f"MultiheadAttention: key_padding_mask must be (N, S) = {(examples, keys)}, got shape {m.shape}"
                )
            total = _both(total, ops.reshape(m, (examples, 1, 1, keys)))
        return total

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"


def _added(mask: TensorLike) -> Any:
    """A mask of booleans (True: not to be looked at) as floats to add."""
    m = lifted(mask)
    return ops.where(m, np.float32(-np.inf), np.float32(0)) if m.dtype == np.bool_ else m


def _both(first: Any, second: Any) -> Any:
    return second if first is None else first + second


class TransformerEncoderLayer(Module):
    """Self-attention, then two affine maps with an activation between, each added to its input: Vaswani et al. 2017.

        x = norm1(x + attention(x));  x = norm2(x + linear2(activation(linear1(x))))
        with norm_first:  x = x + attention(norm1(x));  x = x + linear2(activation(linear1(norm2(x))))

    With `is_causal` at the call it is the block of a decoder-only model (GPT).

    Parameters: those of `self_attn` (MultiheadAttention), `linear1`, `linear2`, `norm1` and `norm2`.

    Args:
        d_model: length of the vectors.
        nhead: number of heads.
        dim_feedforward: length between the affine maps.
        dropout: probability, on attention weights, after the activation, and on both branches.
        activation: "relu", "gelu", or a function.
        layer_norm_eps: eps of the norms.
        batch_first: inputs and outputs are (N, L, d_model) instead of (L, N, d_model).
        norm_first: where the norms stand.
        bias: whether there are biases.
        dtype: of the parameters.

    Raises:
        ValueError: a size below 1, heads that do not divide d_model, another activation; at the call, an input or masks
            of
        other shapes.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> block(np.ones((3, 5, 8), np.float32), is_causal=True).shape
    (3, 5, 8)
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        dtype: DTypeLike = np.float32,
    ) -> None:
        check_flags("TransformerEncoderLayer", batch_first=batch_first, norm_first=norm_first, bias=bias)
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype
        )
        self.linear1 = Linear(
            d_model, count("TransformerEncoderLayer", "dim_feedforward", dim_feedforward), bias, dtype
        )
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        if isinstance(activation, str):
            named: dict[str, Callable[[Any], Tensor]] = {"relu": ops.relu, "gelu": ops.gelu}
            if activation not in named:
                raise ValueError(
                    f"TransformerEncoderLayer: activation must be {list(named)} or a function, got {activation!r}"
                )
            activation = named[activation]
        self.activation: Callable[[Tensor], Tensor] = activation

    def forward(
        self,
        src: TensorLike,
        src_mask: TensorLike | None = None,
        src_key_padding_mask: TensorLike | None = None,
        is_causal: bool = False,
        rng: Stream | None = None,
    ) -> Tensor:
        """The block's output, of the input's shape; masks as `attn_mask` and `key_padding_mask` of
        MultiheadAttention.
        """

        def attend(x: Any) -> Tensor:
            out, _ = self.self_attn(
                x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal, rng=rng
            )
            return self.dropout1(out, rng)  # type: ignore[no-any-return]

        def feed(x: Tensor) -> Tensor:
            inner = self.dropout(self.activation(self.linear1(x)), rng)
            return self.dropout2(self.linear2(inner), rng)  # type: ignore[no-any-return]

        x = lifted(src)
        if self.norm_first:
            x = ops.add(x, attend(self.norm1(x)))
            return ops.add(x, feed(self.norm2(x)))
        x = self.norm1(ops.add(x, attend(x)))
        return self.norm2(x + feed(x))  # type: ignore[no-any-return]
