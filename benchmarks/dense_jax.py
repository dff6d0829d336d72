"""The steps of the five dense models in JAX: forward, backward and AdamW as one compiled function, from our weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

# Before JAX is imported: one thread, on the processor, and no memory taken in advance.
os.environ["NPROC"] = "1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from jax import lax, nn
from jax import numpy as jnp

from .dense import HEADS, KINDS, Training, batch

VERSION = jax.__version__
RATE, BETA1, BETA2, EPSILON, DECAY = 1e-4, 0.9, 0.999, 1e-8, 0.01

Weights = dict[str, Any]  # under the names of `named_parameters`


def step(key: str, ours: Training, **sizes: int) -> Callable[[], None]:
    """A step that continues from the one before; its loss agrees with ours at the start."""
    kind = KINDS[key]
    sizes = kind.sizes | sizes
    x, y = batch(kind, **sizes)
    forward = partial(FORWARD[key], **sizes)
    weights = {
        name: jnp.array(parameter.detach().numpy()) for name, parameter in ours.model.named_parameters()
    }

    def loss(w: Weights) -> Any:
        logits = forward(w, x).reshape(-1, 10 if x.dtype.kind == "f" else w["symbols.weight"].shape[0])
        return -jnp.take_along_axis(nn.log_softmax(logits), y[:, None], 1).mean()

    @partial(jax.jit, donate_argnums=0)
    def update(state: Any) -> Any:
        w, m, v, count = state
        value, g = jax.value_and_grad(loss)(w)
        count += 1
        m = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)

        def moved(w: Any, m: Any, v: Any) -> Any:
            length = m / (1 - BETA1**count) / (jnp.sqrt(v / (1 - BETA2**count)) + EPSILON)
            return w - RATE * DECAY * w - RATE * length

        return (jax.tree.map(moved, w, m, v), m, v, count), value

    m, v = (jax.tree.map(jnp.zeros_like, weights) for _ in range(2))
    state = weights, m, v, jnp.float32(0)
    expected = ours.loss().item()
    state, value = update(state)
    assert np.allclose(value, expected, rtol=1e-4), f"{key}: the losses differ, {expected} and {value}"

    def work() -> None:
        nonlocal state
        state, value = update(state)
        value.block_until_ready()

    return work


# ----- the models -----


def linear(w: Weights, name: str, x: Any) -> Any:
    out = x @ w[f"{name}.weight"].T
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def convolution(w: Weights, name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
    out = lax.conv_general_dilated(x, w[f"{name}.weight"], (stride, stride), [(padding, padding)] * 2)
    return out + w[f"{name}.bias"][:, None, None] if f"{name}.bias" in w else out


def pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


def mlp(w: Weights, x: Any, **_: int) -> Any:
    return linear(w, "4", nn.relu(linear(w, "2", nn.relu(linear(w, "0", x)))))


def lenet(w: Weights, x: Any, **_: int) -> Any:
    x = pool(nn.relu(convolution(w, "0", x, padding=2)))
    x = pool(nn.relu(convolution(w, "3", x))).reshape(len(x), -1)
    return linear(w, "11", nn.relu(linear(w, "9", nn.relu(linear(w, "7", x)))))


def batch_norm(w: Weights, name: str, x: Any) -> Any:
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    scale, shift = (w[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
    return (x - mean) * lax.rsqrt(var + 1e-5) * scale + shift


def block(w: Weights, name: str, x: Any, stride: int) -> Any:
    y = nn.relu(batch_norm(w, f"{name}.body.1", convolution(w, f"{name}.body.0", x, stride, 1)))
    y = batch_norm(w, f"{name}.body.4", convolution(w, f"{name}.body.3", y, padding=1))
    shortcut = f"{name}.shortcut"
    return nn.relu(y + (convolution(w, shortcut, x, stride) if f"{shortcut}.weight" in w else x))


def resnet(w: Weights, x: Any, **_: int) -> Any:
    x = nn.relu(batch_norm(w, "body.1", convolution(w, "body.0", x, padding=1)))
    for name, stride in (("body.3", 1), ("body.4", 2), ("body.5", 2)):
        x = block(w, name, x, stride)
    return linear(w, "head", x.mean((2, 3)))


def layer_norm(w: Weights, name: str, x: Any) -> Any:
    normal = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
    return normal * w[f"{name}.weight"] + w[f"{name}.bias"]


def gpt(w: Weights, codes: Any, layers: int, context: int, **_: int) -> Any:
    x = w["symbols.weight"][codes] + w["places.weight"]
    n, t, c = x.shape
    for i in range(layers):
        name = f"blocks.{i}"
        qkv = linear(w, f"{name}.qkv", layer_norm(w, f"{name}.norm1", x)).reshape(n, t, 3, HEADS, c // HEADS)
        y = nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0), is_causal=True)
        x = x + linear(w, f"{name}.project", y.reshape(n, t, c))
        y = nn.gelu(linear(w, f"{name}.mlp.0", layer_norm(w, f"{name}.norm2", x)), approximate=False)
        x = x + linear(w, f"{name}.mlp.2", y)
    return layer_norm(w, "norm", x) @ w["symbols.weight"].T


def lstm(w: Weights, codes: Any, layers: int, hidden: int, **_: int) -> Any:
    x = w["symbols.weight"][codes]
    for k in range(layers):
        weight_ih, weight_hh, bias_ih, bias_hh = (
            w[f"lstm.{part}_l{k}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )

        def cell(state: Any, gates: Any, weight: Any = weight_hh) -> Any:
            h, c = state
            i, f, g, o = jnp.split(gates + h @ weight.T, 4, -1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((x.shape[1], hidden))
        x = lax.scan(cell, (zeros, zeros), x @ weight_ih.T + bias_ih + bias_hh)[1]
    return linear(w, "head", x)


FORWARD: dict[str, Callable[..., Any]] = {
    "mlp": mlp,
    "lenet": lenet,
    "resnet": resnet,
    "gpt": gpt,
    "lstm": lstm,
}
