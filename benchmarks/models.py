"""Training steps of the four examples' models, and of their twins in torch: forward, backward, Adam."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn as tnn
from torch.nn import functional as tf

import dist_dp as dp
from dist_dp import nn, optim

from .pairs import Pair, compare

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class Case(NamedTuple):
    """One model twice: `forward` and `twin` compute the loss of one batch, with ours and with theirs."""

    name: str
    model: nn.Module
    forward: Callable[[], Any]
    other: tnn.Module
    twin: Callable[[], Any]


def same_parameters(model: nn.Module, other: tnn.Module) -> None:
    """Give torch's model our parameters; the two list them in the same order."""
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert tuple(theirs.shape) == ours.shape, name
        with torch.no_grad():
            theirs.copy_(torch.from_numpy(ours.detach().numpy().copy()))


def classifier(name: str, model: nn.Module, other: tnn.Module, batch: int, shape: tuple[int, ...]) -> Case:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch, *shape)).astype(np.float32), rng.integers(0, 10, batch)
    xt, yt = torch.from_numpy(x), torch.from_numpy(y)
    return Case(
        name,
        model,
        lambda: nn.functional.cross_entropy(model(x), y),
        other,
        lambda: tf.cross_entropy(other(xt), yt),
    )


def digits_cnn() -> Case:
    twin = tnn.Sequential(
        tnn.Conv2d(1, 16, 3, padding=1), tnn.ReLU(), tnn.MaxPool2d(2), tnn.Conv2d(16, 32, 3, padding=1), tnn.ReLU(),
        tnn.MaxPool2d(2), tnn.Flatten(), tnn.Linear(128, 10),
    )  # fmt: skip
    return classifier("digits CNN, batch 64", example("digits").cnn(), twin, 64, (1, 8, 8))


def fashion_mlp() -> Case:
    twin = tnn.Sequential(
        tnn.Flatten(), tnn.Linear(784, 256), tnn.ReLU(), tnn.Linear(256, 128), tnn.ReLU(), tnn.Linear(128, 100),
        tnn.ReLU(), tnn.Linear(100, 10),
    )  # fmt: skip
    return classifier(
        "MLP 784-256-128-100-10, batch 128", example("fashion_mnist").mlp(), twin, 128, (1, 28, 28)
    )


def lenet() -> Case:
    twin = tnn.Sequential(
        tnn.Conv2d(1, 6, 5, padding=2), tnn.ReLU(), tnn.MaxPool2d(2), tnn.Conv2d(6, 16, 5), tnn.ReLU(),
        tnn.MaxPool2d(2), tnn.Flatten(), tnn.Linear(400, 120), tnn.ReLU(), tnn.Linear(120, 84), tnn.ReLU(),
        tnn.Linear(84, 10),
    )  # fmt: skip
    return classifier("LeNet-5, batch 128", example("fashion_mnist").lenet(), twin, 128, (1, 28, 28))


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


def char_gpt() -> Case:
    gpt = example("char_gpt")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 83, (12, gpt.CONTEXT)), rng.integers(0, 83, (12, gpt.CONTEXT))
    xt, yt = torch.from_numpy(x), torch.from_numpy(y)
    model, other = gpt.GPT(83), TorchGPT(83, gpt)
    return Case(
        "char-GPT, 12 x 64 characters",
        model,
        lambda: gpt.loss(model, (x, y)),
        other,
        lambda: tf.cross_entropy(other(xt).reshape(-1, 83), yt.reshape(-1)),
    )


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


def tree_lstm() -> Case:
    reader = example("ast_depth")
    batch = reader.load(largest=40)[1][:32]
    labels = torch.tensor([e.label for e in batch])
    model, other = reader.Reader(), TorchReader(len(reader.KINDS), reader.DEEPEST + 1)
    return Case(
        "recursive Tree-LSTM, 32 trees",
        model,
        lambda: reader.loss(model, batch)[0],
        other,
        lambda: tf.cross_entropy(other([e.tree for e in batch]), labels),
    )


def measure(rounds: int) -> Iterator[tuple[str, Pair]]:
    """Seconds of one training step of each model."""
    dp.seed(0)
    torch.manual_seed(0)
    for make in (fashion_mlp, digits_cnn, lenet, char_gpt, tree_lstm):
        case = make()
        if make is not tree_lstm:  # there the two lay their parameters out differently
            same_parameters(case.model, case.other)
            difference = abs(case.forward().item() - case.twin().item())
            assert difference < 1e-4, f"{case.name}: the twins differ by {difference}"
        adam = optim.Adam(case.model.parameters(), lr=1e-4)
        other_adam = torch.optim.Adam(case.other.parameters(), lr=1e-4)

        def ours(case: Case = case, adam: Any = adam) -> None:
            case.forward().backward()
            adam.step()
            adam.zero_grad()

        def theirs(case: Case = case, adam: Any = other_adam) -> None:
            case.twin().backward()
            adam.step()
            adam.zero_grad()

        yield case.name, compare(ours, theirs, rounds, 0.2)
