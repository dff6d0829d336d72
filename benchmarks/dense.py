"""The five dense models that are measured, each written once: `dist_dp.nn` has torch's names.

Nothing of either library is imported before it is asked for, so that a process can hold one of them alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

SYMBOLS, HEADS = 83, 4  # characters of the plays; heads of the GPT


class Library(NamedTuple):
    """What a model is made of, and what makes of an array a tensor that carries a gradient, or an input."""

    nn: Any
    optim: Any
    tensor: Callable[..., Any]
    input: Callable[[Any], Any]


def dist_dp() -> Library:
    import dist_dp as dp
    from dist_dp import nn, optim

    dp.seed(0)
    return Library(nn, optim, dp.tensor, np.asarray)


def torch() -> Library:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    return Library(torch.nn, torch.optim, torch.tensor, torch.from_numpy)


class Training(NamedTuple):
    """A model that learns one batch; a step is forward, backward and optimizer."""

    model: Any
    loss: Callable[[], Any]
    optimizer: Any

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Dense(NamedTuple):
    """A kind of model: how to name and make it, its sizes, sizes that only show that it runs, and the goals."""

    name: str
    make: Callable[..., Any]
    sizes: dict[str, int]
    tiny: dict[str, int]
    goal: float
    compiled_goal: float = 1.3

    def title(self, **sizes: int) -> str:
        return self.name.format(**self.sizes | sizes)

    def model(self, library: Library, **sizes: int) -> Any:
        return self.make(library, **self.sizes | sizes)

    def training(self, library: Library, model: Any, **sizes: int) -> Training:
        x, y = (library.input(a) for a in batch(self, **self.sizes | sizes))

        def loss() -> Any:
            out = model(x)
            rows = out if out.ndim == 2 else out.reshape(-1, out.shape[-1])
            return library.nn.functional.cross_entropy(rows, y)

        return Training(model, loss, library.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01))


def batch(kind: Dense, **sizes: int) -> tuple[Any, Any]:
    """Noise for a model of these sizes to learn: images or characters, and a class for every row of its output."""
    rng = np.random.default_rng(0)
    if kind.make in (gpt, lstm):
        shape = (sizes["batch"], sizes["context"]) if kind.make is gpt else (sizes["steps"], sizes["batch"])
        return rng.integers(0, SYMBOLS, shape), rng.integers(0, SYMBOLS, shape).reshape(-1)
    shape = (sizes["batch"], *{mlp: (784,), lenet: (1, 28, 28), resnet: (3, 32, 32)}[kind.make])
    return rng.normal(size=shape).astype(np.float32), rng.integers(0, 10, sizes["batch"])


# ----- the models -----


def mlp(library: Library, width: int, **_: int) -> Any:
    nn = library.nn
    return nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def lenet(library: Library, **_: int) -> Any:
    nn = library.nn
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
        nn.Linear(84, 10),
    )  # fmt: skip


def resnet(library: Library, channels: int, **_: int) -> Any:
    """ResNet-8 for images of 32 × 32 (He et al. 2015, arXiv:1512.03385, section 4.2), projections as shortcuts."""
    nn = library.nn

    def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> Any:
        return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs), nn.ReLU(),
                convolution(outputs, outputs, 3, 1), nn.BatchNorm2d(outputs),
            )  # fmt: skip
            same = stride == 1 and inputs == outputs
            self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride)

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.body(x) + self.shortcut(x))

    class ResNet(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                convolution(3, channels, 3, 1), nn.BatchNorm2d(channels), nn.ReLU(), Block(channels, channels, 1),
                Block(channels, 2 * channels, 2), Block(2 * channels, 4 * channels, 2),
            )  # fmt: skip
            self.head = nn.Linear(4 * channels, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.body(x).mean((2, 3)))

    return ResNet()


def gpt(library: Library, layers: int, channels: int, context: int, **_: int) -> Any:
    """The GPT of `examples/char_gpt.py` in any size."""
    nn = library.nn
    places = library.input(np.arange(context))

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(channels)
            self.qkv = nn.Linear(channels, 3 * channels, bias=False)
            self.project = nn.Linear(channels, channels, bias=False)
            self.norm2 = nn.LayerNorm(channels)
            self.mlp = nn.Sequential(
                nn.Linear(channels, 4 * channels, bias=False),
                nn.GELU(),
                nn.Linear(4 * channels, channels, bias=False),
            )

        def forward(self, x: Any) -> Any:
            n, t, c = x.shape
            q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.project(y.permute(0, 2, 1, 3).reshape(n, t, c))
            return x + self.mlp(self.norm2(x))

    class GPT(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.symbols = nn.Embedding(SYMBOLS, channels)
            self.places = nn.Embedding(context, channels)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm = nn.LayerNorm(channels)
            for parameter in self.parameters():
                if parameter.ndim == 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, codes: Any) -> Any:
            x = self.symbols(codes) + self.places(places)
            return self.norm(self.blocks(x)) @ self.symbols.weight.T

    return GPT()


def lstm(library: Library, layers: int, hidden: int, **_: int) -> Any:
    """A language model of characters."""
    nn = library.nn

    class Reader(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.symbols = nn.Embedding(SYMBOLS, hidden)
            self.lstm = nn.LSTM(hidden, hidden, layers)
            self.head = nn.Linear(hidden, SYMBOLS)

        def forward(self, codes: Any) -> Any:
            return self.head(self.lstm(self.symbols(codes))[0])

    return Reader()


KINDS = {
    "mlp": Dense(
        "MLP 784-{width}-{width}-10, batch {batch}",
        mlp,
        {"width": 1024, "batch": 128},
        {"width": 16, "batch": 4},
        1.15,
    ),
    "lenet": Dense("LeNet-5 on 28 × 28, batch {batch}", lenet, {"batch": 64}, {"batch": 2}, 1.0),
    "resnet": Dense(
        "ResNet-8 on 32 × 32, batch {batch}",
        resnet,
        {"channels": 16, "batch": 64},
        {"channels": 4, "batch": 2},
        0.9,
        1.1,
    ),
    "gpt": Dense(
        "char-GPT, {layers} layers × {channels}, {batch} × {context} characters",
        gpt,
        {"layers": 4, "channels": 256, "context": 128, "batch": 8},
        {"layers": 1, "channels": 16, "context": 8, "batch": 2},
        1.1,
    ),
    "lstm": Dense(
        "LSTM {layers} × {hidden}, {steps} steps × {batch}",
        lstm,
        {"layers": 2, "hidden": 256, "steps": 64, "batch": 32},
        {"layers": 2, "hidden": 8, "steps": 4, "batch": 2},
        1.3,
    ),
}


# ----- two of the same -----


def same_parameters(ours: Any, theirs: Any) -> None:
    """Give torch's model our parameters; the two list them in the same order."""
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert tuple(other.shape) == mine.shape, name
        other.data.copy_(other.new_tensor(mine.detach().numpy()))


def agree(ours: Training, theirs: Training, name: str) -> None:
    """Hold loss and gradients of two models with the same parameters against each other.

    Raises:
        AssertionError: the losses differ by more than 1e-5 of their size, a gradient by more than 1e-2 of the largest:
            what rounds to either side of 0 passes a ReLU on one side only.
    """
    losses = ours.loss(), theirs.loss()
    assert np.allclose(*(loss.item() for loss in losses), rtol=1e-5), f"{name}: the losses differ, {losses}"
    for loss in losses:
        loss.backward()
    largest = max(np.abs(p.grad.numpy()).max() for p in ours.model.parameters())
    for (key, mine), other in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
        difference = np.abs(mine.grad.numpy() - other.grad.numpy()).max()
        assert difference <= 1e-2 * largest, f"{name}: the gradients of {key} differ by {difference}"
    for side in (ours, theirs):
        side.optimizer.zero_grad()
