"""The examples' models in torch: as one would write them there, with the parameters in the same order."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn as tnn
from torch.nn import functional as tf


def digits_cnn() -> tnn.Module:
    return tnn.Sequential(
        tnn.Conv2d(1, 16, 3, padding=1), tnn.ReLU(), tnn.MaxPool2d(2), tnn.Conv2d(16, 32, 3, padding=1), tnn.ReLU(),
        tnn.MaxPool2d(2), tnn.Flatten(), tnn.Linear(128, 10),
    )  # fmt: skip


def fashion_mlp() -> tnn.Module:
    return tnn.Sequential(
        tnn.Flatten(), tnn.Linear(784, 256), tnn.ReLU(), tnn.Linear(256, 128), tnn.ReLU(), tnn.Linear(128, 100),
        tnn.ReLU(), tnn.Linear(100, 10),
    )  # fmt: skip


def lenet() -> tnn.Module:
    return tnn.Sequential(
        tnn.Conv2d(1, 6, 5, padding=2), tnn.ReLU(), tnn.MaxPool2d(2), tnn.Conv2d(6, 16, 5), tnn.ReLU(),
        tnn.MaxPool2d(2), tnn.Flatten(), tnn.Linear(400, 120), tnn.ReLU(), tnn.Linear(120, 84), tnn.ReLU(),
        tnn.Linear(84, 10),
    )  # fmt: skip


class TorchBlock(tnn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = tnn.LayerNorm(channels)
        self.qkv = tnn.Linear(channels, 3 * channels, bias=False)
        self.project = tnn.Linear(channels, channels, bias=False)
        self.norm2 = tnn.LayerNorm(channels)
        self.mlp = tnn.Sequential(
            tnn.Linear(channels, 4 * channels, bias=False),
            tnn.GELU(),
            tnn.Linear(4 * channels, channels, bias=False),
        )

    def forward(self, x: Any) -> Any:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = tf.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(y.permute(0, 2, 1, 3).reshape(n, t, c))
        return x + self.mlp(self.norm2(x))


class TorchGPT(tnn.Module):
    def __init__(self, symbols: int, gpt: Any) -> None:
        super().__init__()
        self.symbols = tnn.Embedding(symbols, gpt.CHANNELS)
        self.places = tnn.Embedding(gpt.CONTEXT, gpt.CHANNELS)
        self.blocks = tnn.Sequential(*(TorchBlock(gpt.CHANNELS, gpt.HEADS) for _ in range(gpt.LAYERS)))
        self.norm = tnn.LayerNorm(gpt.CHANNELS)

    def forward(self, codes: Any) -> Any:
        x = self.symbols(codes) + self.places(torch.arange(codes.shape[1]))
        return self.norm(self.blocks(x)) @ self.symbols.weight.T


class TorchReader(tnn.Module):
    """The same recursion with torch's operations: as one would write it there."""

    def __init__(self, kinds: int, classes: int, hidden: int = 64) -> None:
        super().__init__()
        self.kinds = tnn.Embedding(kinds, hidden)
        self.input = tnn.Linear(hidden, 5 * hidden)
        self.left = tnn.Linear(hidden, 5 * hidden, bias=False)
        self.right = tnn.Linear(hidden, 5 * hidden, bias=False)
        self.head = tnn.Linear(hidden, classes)
        self.none = torch.zeros(hidden)

    def read(self, tree: Any) -> tuple[Any, Any]:
        gates = self.input(self.kinds.weight[tree.kind])
        left = right = None
        if tree.child is not None:
            left, c_left = self.read(tree.child)
            gates = gates + self.left(left)
        if tree.sibling is not None:
            right, c_right = self.read(tree.sibling)
            gates = gates + self.right(right)
        i, f_left, f_right, o, g = gates.chunk(5)
        c = torch.sigmoid(i) * torch.tanh(g)
        if left is not None:
            c = c + torch.sigmoid(f_left) * c_left
        if right is not None:
            c = c + torch.sigmoid(f_right) * c_right
        return torch.sigmoid(o) * torch.tanh(c), c

    def forward(self, trees: list[Any]) -> Any:
        return self.head(torch.stack([self.read(tree)[0] for tree in trees]))
