"""Kernels of dense models beside torch's: forward, and forward with backward, float32.

A kernel is written once, over `nn.functional` of either library: the names are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .dense import Library, dist_dp, same_parameters, torch
from .pairs import Pair, in_turn, numpy_alone
from .tables import Settings, milli, reached, table

GOAL = 0.7  # no kernel below this
Shape = tuple[int, ...]
DRAWN = ("dropout",)  # each library draws in its own way: there is nothing to compare


class Kernel(NamedTuple):
    """`call(functional, *operands, *indices)`; operands carry gradients, indices are (shape, how many there are)."""

    name: str
    call: Callable[..., Any]
    shapes: Sequence[Shape]
    indices: Sequence[tuple[Shape, int]] = ()


class Layer(NamedTuple):
    """A module that `make(nn)` makes, called with one operand; the first that it returns is the output."""

    name: str
    make: Callable[[Any], Any]
    shapes: Sequence[Shape]
    indices: tuple[()] = ()


def convolution(images: Shape, filters: int, kernel: int, stride: int, padding: int) -> Kernel:
    channels = images[1]
    return Kernel(
        f"conv2d {kernel} × {kernel}" + (f", stride {stride}" if stride > 1 else ""),
        lambda f, x, w, b: f.conv2d(x, w, b, stride=stride, padding=padding),
        [images, (filters, channels, kernel, kernel), (filters,)],
    )


def linear(rows: int, inputs: int, outputs: int) -> Kernel:
    return Kernel(
        "linear", lambda f, x, w, b: f.linear(x, w, b), [(rows, inputs), (outputs, inputs), (outputs,)]
    )


def attention(shape: Shape, causal: bool) -> Kernel:
    return Kernel(
        f"attention{', causal' * causal}",
        lambda f, q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=causal),
        [shape] * 3,
    )


def embedding(codes: Shape, symbols: int, channels: int) -> Kernel:
    return Kernel(
        "embedding", lambda f, w, codes: f.embedding(codes, w), [(symbols, channels)], [(codes, symbols)]
    )


def cross_entropy(rows: int, classes: int) -> Kernel:
    return Kernel(
        "cross_entropy", lambda f, x, y: f.cross_entropy(x, y), [(rows, classes)], [((rows,), classes)]
    )


def normalisation(name: str, rows: int, channels: int) -> Kernel:
    biases = 1 + (name == "layer_norm")
    return Kernel(
        name,
        lambda f, x, *w: getattr(f, name)(x, w[0].shape, *w),
        [(rows, channels), *[(channels,)] * biases],
    )


def of_one(name: str, *shapes: Shape, **options: Any) -> list[Kernel]:
    """A function of one operand, for operands of these shapes."""
    return [Kernel(name, lambda f, x: getattr(f, name)(x, **options), [shape]) for shape in shapes]


IMAGES = (64, 6, 28, 28), (64, 16, 10, 10), (64, 64, 32, 32)

KERNELS: list[Kernel | Layer] = [
    linear(128, 784, 1024),
    linear(1024, 256, 1024),
    linear(512, 1024, 4096),
    *of_one("relu", (128, 1024), (4096, 1024)),
    *of_one("gelu", (1024, 1024), (4096, 1024)),
    *of_one("silu", (1024, 1024), (4096, 1024)),
    *of_one("softmax", (4096, 128), (4096, 1024), dim=-1),
    *of_one("log_softmax", (1024, 83), (1024, 10000), dim=-1),
    cross_entropy(128, 10),
    cross_entropy(1024, 83),
    cross_entropy(1024, 10000),
    normalisation("layer_norm", 1024, 256),
    normalisation("layer_norm", 4096, 1024),
    normalisation("rms_norm", 1024, 256),
    normalisation("rms_norm", 4096, 1024),
    attention((8, 4, 128, 64), False),
    attention((4, 8, 512, 64), False),
    attention((8, 4, 128, 64), True),
    attention((4, 8, 512, 64), True),
    embedding((8, 128), 83, 256),
    embedding((64, 256), 10000, 256),
    convolution((64, 1, 28, 28), 6, 5, 1, 2),
    convolution((64, 6, 14, 14), 16, 5, 1, 0),
    convolution((64, 16, 32, 32), 32, 5, 2, 2),
    convolution((64, 3, 32, 32), 16, 3, 1, 1),
    convolution((64, 16, 32, 32), 16, 3, 1, 1),
    convolution((64, 16, 32, 32), 32, 3, 2, 1),
    convolution((64, 64, 8, 8), 64, 3, 1, 1),
    convolution((32, 64, 32, 32), 128, 3, 1, 1),
    *of_one("max_pool2d", *IMAGES, kernel_size=2),
    *of_one("avg_pool2d", *IMAGES, kernel_size=2),
    Layer("LSTM", lambda nn: nn.LSTM(256, 256), [(64, 32, 256)]),
    Layer("LSTM", lambda nn: nn.LSTM(512, 512), [(64, 64, 512)]),
    Layer("GRU", lambda nn: nn.GRU(256, 256), [(64, 32, 256)]),
    Layer("GRU", lambda nn: nn.GRU(512, 512), [(64, 64, 512)]),
    *of_one("dropout", (1024, 256), (4096, 1024), p=0.1),
]


def tiny(kernel: Kernel | Layer) -> Kernel | Layer:
    """The same kernel on operands of a few elements; a module keeps its weights."""

    def small(shape: Shape) -> Shape:
        return tuple(min(n, 8) for n in shape)

    if isinstance(kernel, Layer):
        return kernel._replace(shapes=[(2, 2, kernel.shapes[0][2])])
    return kernel._replace(
        shapes=[small(s) for s in kernel.shapes],
        indices=[(small(s), min(below, 8)) for s, below in kernel.indices],
    )


class Side(NamedTuple):
    """A kernel with one library."""

    forward: Callable[[], Any]
    both: Callable[[], None]
    leaves: list[Any]

    @classmethod
    def of(cls, forward: Callable[[], Any], leaves: list[Any], seed: Callable[[Any], Any]) -> Side:
        gradient = seed(np.ones(tuple(forward().shape), np.float32))

        def both() -> None:
            for leaf in leaves:
                leaf.grad = None
            forward().backward(gradient)

        return cls(forward, both, leaves)


def sides(kernel: Kernel | Layer, libraries: Sequence[Library]) -> list[Side]:
    rng = np.random.default_rng(0)
    if isinstance(kernel, Layer):
        x = rng.normal(size=kernel.shapes[0]).astype(np.float32)
        modules = [kernel.make(library.nn) for library in libraries]
        same_parameters(*modules)
        made = []
        for library, module in zip(libraries, modules, strict=True):
            operand = library.tensor(x, requires_grad=True)
            forward = lambda m=module, o=operand: m(o)[0]  # noqa: E731
            made.append(Side.of(forward, [operand, *module.parameters()], library.input))
        return made
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in kernel.shapes]
    indices = [rng.integers(0, below, shape) for shape, below in kernel.indices]
    made = []
    for library in libraries:
        operands = [library.tensor(a, requires_grad=True) for a in arrays]
        given = [library.nn.functional, *operands, *map(library.input, indices)]
        made.append(Side.of(lambda g=given: kernel.call(*g), operands, library.input))
    return made


def agree(name: str, ours: Side, theirs: Side) -> None:
    """Values and gradients of the two are the same but for rounding."""
    found = []
    for side in (ours, theirs):
        out = side.forward().detach().numpy()
        side.both()
        found.append([out, *(leaf.grad.numpy() for leaf in side.leaves)])
    for mine, other in zip(*found, strict=True):
        assert np.abs(mine - other).max() <= 1e-3 * max(1e-3, np.abs(other).max()), name


def lines(settings: Settings) -> Iterator[str]:
    yield "\n## Kernels\n"
    yield "float32, recorded; with backward, gradients of all operands are made anew. Shapes are those of the operands."
    yield f"*NumPy alone* is without the compiled kernels. Goal: no kernel below {GOAL}, not even by NumPy alone.\n"
    head = (
        *("kernel", "operands", "forward ms", "torch ms", "ratio", "NumPy alone"),
        *("with backward ms", "torch ms", "ratio", "NumPy alone", "goal"),
    )
    yield from table(head, rows(settings))


def rows(settings: Settings) -> Iterator[tuple[object, ...]]:
    libraries = dist_dp(), torch()
    for kernel in map(tiny, KERNELS) if settings.tiny else KERNELS:
        ours, theirs = sides(kernel, libraries)
        if kernel.name not in DRAWN:
            agree(kernel.name, ours, theirs)
        cells, ratios = [], []
        for mine, other in ((ours.forward, theirs.forward), (ours.both, theirs.both)):
            times = in_turn((mine, other, numpy_alone(mine)), settings.rounds, settings.seconds)
            pair, alone = Pair.of(*times[:2]), Pair.of(times[2], times[1])
            cells += [milli(pair.ours), milli(pair.theirs), pair, f"{alone.ratio:.2f}"]
            ratios += [pair.ratio, alone.ratio]
        yield kernel.name, operands(kernel), *cells, reached(min(ratios), GOAL)


def operands(kernel: Kernel | Layer) -> str:
    shapes = [
        " × ".join(map(str, shape)) for shape in (*kernel.shapes, *(shape for shape, _ in kernel.indices))
    ]
    return f"{len(shapes)} of {shapes[0]}" if len(shapes) > 1 and len(set(shapes)) == 1 else ", ".join(shapes)
