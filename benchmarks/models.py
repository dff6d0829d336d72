"""Training steps of the four examples' models, and of their twins in torch: forward, backward, Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn as tnn
from torch.nn import functional as tf

import dist_dp as dp
from dist_dp import nn, optim

from . import twins
from .examples import example
from .pairs import Pair, compare
from .workloads import plain_reader


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
    return classifier("digits CNN, batch 64", example("digits").cnn(), twins.digits_cnn(), 64, (1, 8, 8))


def fashion_mlp() -> Case:
    return classifier(
        "MLP 784-256-128-100-10, batch 128",
        example("fashion_mnist").mlp(),
        twins.fashion_mlp(),
        128,
        (1, 28, 28),
    )


def lenet() -> Case:
    return classifier("LeNet-5, batch 128", example("fashion_mnist").lenet(), twins.lenet(), 128, (1, 28, 28))


def char_gpt() -> Case:
    gpt = example("char_gpt")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 83, (12, gpt.CONTEXT)), rng.integers(0, 83, (12, gpt.CONTEXT))
    xt, yt = torch.from_numpy(x), torch.from_numpy(y)
    model, other = gpt.GPT(83), twins.TorchGPT(83, gpt)
    return Case(
        "char-GPT, 12 x 64 characters",
        model,
        lambda: gpt.loss(model, (x, y)),
        other,
        lambda: tf.cross_entropy(other(xt).reshape(-1, 83), yt.reshape(-1)),
    )


def tree_lstm() -> Case:
    reader = example("ast_depth")
    batch = reader.load(largest=40)[1][:32]
    labels = torch.tensor([e.label for e in batch])
    model, other = plain_reader(reader), twins.TorchReader(len(reader.KINDS), reader.DEEPEST + 1)
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
