"""Attention against plain NumPy, with every kind of mask; the Transformer block."""

from typing import Any

import numpy as np
import pytest

from dist_dp import nn
from dist_dp.nn import functional as F
from dist_dp.random import Key, Stream

RNG = np.random.default_rng(0)


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _reference(layer: Any, q: Any, k: Any, v: Any, mask: Any = 0.0) -> tuple[Any, Any]:
    """One example (L, E), (S, K), (S, V): output, and weights for every head. `mask` is added, (L, S) or per head."""
    n, heads = layer.embed_dim, layer.num_heads
    if layer.in_proj_weight is not None:
        weights = np.split(layer.in_proj_weight.data, 3)
    else:
        weights = [getattr(layer, f"{name}_proj_weight").data for name in "qkv"]
    biases = [0, 0, 0] if layer.in_proj_bias is None else np.split(layer.in_proj_bias.data, 3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q, k, v), weights, biases, strict=True))
    d = n // heads
    outs, all_weights = [], []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        added = mask[h] if np.ndim(mask) == 3 else mask
        w = _softmax(q[:, part] @ k[:, part].T / np.sqrt(d) + added)
        outs.append(w @ v[:, part])
        all_weights.append(w)
    bias = 0 if layer.out_proj.bias is None else layer.out_proj.bias.data
    return np.concatenate(outs, axis=1) @ layer.out_proj.weight.data.T + bias, np.array(all_weights)


def _layer(**settings: Any) -> Any:
    layer = nn.MultiheadAttention(8, 2, dtype=np.float64, **settings)
    for p in layer.parameters():
        p.data[...] = RNG.normal(size=p.shape)
    return layer


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"kdim": 6, "vdim": 4}])
def test_cross_attention(settings: Any) -> None:
    layer = _layer(batch_first=True, **settings)
    q, k, v = (RNG.normal(size=(3, *s)) for s in ((5, 8), (7, layer.kdim), (7, layer.vdim)))
    out, weights = layer(q, k, v)
    _, per_head = layer(q, k, v, average_attn_weights=False)
    fused, none = layer(q, k, v, need_weights=False)
    assert none is None
    for i in range(3):
        expected, expected_weights = _reference(layer, q[i], k[i], v[i])
        np.testing.assert_allclose(out.data[i], expected, rtol=1e-9)
        np.testing.assert_allclose(fused.data[i], expected, rtol=1e-9)
        np.testing.assert_allclose(per_head.data[i], expected_weights, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(weights.data[i], expected_weights.mean(0), rtol=1e-9, atol=1e-12)
        single, single_weights = layer(q[i], k[i], v[i])
        np.testing.assert_allclose(single.data, expected, rtol=1e-9)
        assert single_weights.shape == (5, 7)


def test_the_layouts_hold_the_same_numbers() -> None:
    first, last = _layer(batch_first=True), _layer()
    last.load_state_dict(first.state_dict())
    x = RNG.normal(size=(3, 5, 8))
    other = np.swapaxes(x, 0, 1).copy()
    np.testing.assert_allclose(
        first(x, x, x)[0].data, np.swapaxes(last(other, other, other)[0].data, 0, 1), rtol=1e-12
    )


@pytest.mark.parametrize("need_weights", [False, True])
def test_masks(need_weights: bool) -> None:
    layer = _layer(batch_first=True)
    x = RNG.normal(size=(3, 5, 8))
    hidden = np.zeros((3, 5), bool)
    hidden[0, 3:] = hidden[2, 1] = True
    later = np.triu(np.ones((5, 5), bool), 1)
    added = RNG.normal(size=(6, 5, 5))
    minus = np.where(hidden, -np.inf, 0)
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"key_padding_mask": hidden}, lambda i: minus[i]),
        ({"key_padding_mask": minus}, lambda i: minus[i]),
        ({"attn_mask": later}, lambda i: np.where(later, -np.inf, 0)),
        ({"is_causal": True}, lambda i: np.where(later, -np.inf, 0)),
        ({"attn_mask": added}, lambda i: added.reshape(3, 2, 5, 5)[i]),
        ({"attn_mask": added, "key_padding_mask": hidden}, lambda i: added.reshape(3, 2, 5, 5)[i] + minus[i]),
    ]
    for given, mask in cases:
        out, _ = layer(x, x, x, need_weights=need_weights, **given)
        for i in range(3):
            np.testing.assert_allclose(
                out.data[i], _reference(layer, x[i], x[i], x[i], mask(i))[0], rtol=1e-9
            )


def test_dropout_of_weights_is_a_function_of_its_key_and_of_training() -> None:
    layer, x = _layer(dropout=0.5), RNG.normal(size=(5, 3, 8))
    for need_weights in (False, True):
        layer.train()
        one, two, again = (
            layer(x, x, x, need_weights=need_weights, rng=Stream(Key(k)))[0].data for k in (0, 1, 0)
        )
        assert (one != two).any()
        np.testing.assert_array_equal(one, again)
        layer.eval()
        out = layer(x, x, x, need_weights=need_weights)[0].data
        np.testing.assert_allclose(out[:, 0], _reference(layer, x[:, 0], x[:, 0], x[:, 0])[0], rtol=1e-9)


def test_the_function_with_dropout_keeps_the_mean() -> None:
    q, k, v = (np.ones((1, 200, 4)) for _ in range(3))
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5, rng=Stream(Key(0))).data
    assert abs(out.mean() - 1) < 0.02
    assert out.std() > 0.01


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_block_is_its_parts(norm_first: bool) -> None:
    block = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, activation="gelu", norm_first=norm_first, batch_first=True, dtype=np.float64
    )
    x = RNG.normal(size=(2, 5, 8))

    def attend(x: Any) -> Any:
        return block.self_attn(x, x, x, is_causal=True)[0]

    def feed(x: Any) -> Any:
        return block.linear2(F.gelu(block.linear1(x)))

    if norm_first:
        y = x + attend(block.norm1(x))
        expected = y + feed(block.norm2(y))
    else:
        y = block.norm1(x + attend(x))
        expected = block.norm2(y + feed(y))
    np.testing.assert_allclose(block(x, is_causal=True).data, expected.data, rtol=1e-9)


def test_a_causal_block_does_not_see_what_comes() -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
    x = RNG.normal(size=(1, 6, 8)).astype(np.float32)
    changed = x.copy()
    changed[0, 4:] += 1
    np.testing.assert_allclose(
        block(x, is_causal=True).data[0, :4], block(changed, is_causal=True).data[0, :4], atol=1e-6
    )


def test_what_calls_refuse() -> None:
    layer, x = nn.MultiheadAttention(8, 2), np.zeros((5, 3, 8), np.float32)
    cases: list[tuple[Any, str]] = [
        (
            lambda: layer(x[..., :6], x, x),
            r"last axes embed_dim, kdim, vdim = \(8, 8, 8\), got shapes \(5, 3, 6\)",
        ),
        (lambda: layer(x[:, 0], x, x), r"expected query, key and value \(L, N, ·\)"),
        (lambda: layer(x, x[:, :2], x[:, :2]), "same number of examples"),
        (lambda: layer(x, x, x[:4]), "key and value the same length"),
        (
            lambda: layer(x, x, x, attn_mask=np.zeros((5, 4), bool)),
            r"attn_mask must be \(L, S\) = \(5, 5\) or",
        ),
        (
            lambda: layer(x, x, x, key_padding_mask=np.zeros((5, 3), bool)),
            r"key_padding_mask must be \(N, S\) = \(3, 5\), got shape \(5, 3\)",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
