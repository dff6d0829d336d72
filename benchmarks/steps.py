"""Training steps beside torch's, and JAX's where it is installed: the five dense models, and those of the examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as tf

from dist_dp import nn, optim

from . import dense, twins
from .dense import Training
from .examples import example
from .pairs import Pair, compare, in_turn, numpy_alone
from .tables import Point, Settings, milli, reached, table
from .workloads import plain_reader

# ----- the five models -----


def pair(key: str, **sizes: int) -> tuple[Training, Training]:
    """One of the five models twice, with the same weights; they agree."""
    kind = dense.KINDS[key]
    libraries = dense.dist_dp(), dense.torch()
    models = [kind.model(library, **sizes) for library in libraries]
    dense.same_parameters(*models)
    ours, theirs = (
        kind.training(library, model, **sizes) for library, model in zip(libraries, models, strict=True)
    )
    dense.agree(ours, theirs, kind.title(**sizes))
    return ours, theirs


def models(settings: Settings) -> Iterator[str | Point]:
    found: list[Point] = []
    yield "\n## Training steps\n"
    yield "Forward, backward and AdamW, float32, from the same weights; before the first step losses agree within 1e-5,"
    yield "gradients within 1e-2 of the largest. *NumPy alone* is dist_dp without its compiled kernels. JAX, for"
    yield f"information, compiles a step as one function, with one thread: {_jax_version()}.\n"
    head = (
        *("model", "dist_dp ms", "torch ms", "ratio", "goal"),
        *("NumPy alone ms", "ratio", "goal", "JAX ms", "JAX / dist_dp"),
    )
    yield from table(head, _model_rows(settings, found))
    yield from found


def _model_rows(settings: Settings, found: list[Point]) -> Iterator[tuple[object, ...]]:
    for key, kind in dense.KINDS.items():
        sizes = kind.tiny if settings.tiny else {}
        ours, theirs = pair(key, **sizes)
        works: list[Callable[[], Any]] = [ours.step, theirs.step, numpy_alone(ours.step)]
        if (jax := _jax()) is not None:
            works.append(jax.step(key, ours, **sizes))
        mine, other, without, *more = in_turn(works, settings.rounds, settings.seconds)
        beside, alone = Pair.of(mine, other), Pair.of(without, other)
        cells = [(milli(p.theirs), p) for p in (Pair.of(mine, times) for times in more)] or [("", "")]
        found.append(Point("training steps", key, beside, kind.compiled_goal))
        found.append(Point("training steps, NumPy alone", key, alone, kind.goal))
        yield (
            *(kind.title(**sizes), milli(beside.ours), milli(beside.theirs), beside),
            reached(beside.ratio, kind.compiled_goal),
            *(milli(alone.ours), alone, reached(alone.ratio, kind.goal), *cells[0]),
        )


def _jax() -> Any:
    """The steps in JAX; None where it is not installed."""
    try:
        from . import dense_jax
    except ModuleNotFoundError as error:
        if error.name != "jax":
            raise
        return None
    return dense_jax


def _jax_version() -> str:
    return "not installed here" if (jax := _jax()) is None else f"JAX {jax.VERSION}"


# ----- the models of the examples -----


class Example(NamedTuple):
    """A model of an example and its twin in torch: `ours` and `theirs` compute the loss of one batch."""

    name: str
    model: Any
    ours: Callable[[], Any]
    twin: Any
    theirs: Callable[[], Any]


def classifier(name: str, model: Any, twin: Any, batch: int, shape: tuple[int, ...]) -> Example:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(batch, *shape)).astype(np.float32), rng.integers(0, 10, batch)
    xt, yt = torch.from_numpy(x), torch.from_numpy(y)
    return Example(
        name,
        model,
        lambda: nn.functional.cross_entropy(model(x), y),
        twin,
        lambda: tf.cross_entropy(twin(xt), yt),
    )


def digits_cnn() -> Example:
    return classifier("digits CNN, batch 64", example("digits").cnn(), twins.digits_cnn(), 64, (1, 8, 8))


def fashion_mlp() -> Example:
    return classifier(
        "MLP 784-256-128-100-10, batch 128",
        example("fashion_mnist").mlp(),
        twins.fashion_mlp(),
        128,
        (1, 28, 28),
    )


def lenet() -> Example:
    return classifier("LeNet-5, batch 128", example("fashion_mnist").lenet(), twins.lenet(), 128, (1, 28, 28))


def char_gpt() -> Example:
    gpt = example("char_gpt")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 83, (12, gpt.CONTEXT)), rng.integers(0, 83, (12, gpt.CONTEXT))
    xt, yt = torch.from_numpy(x), torch.from_numpy(y)
    model, twin = gpt.GPT(83), twins.TorchGPT(83, gpt)
    return Example(
        "char-GPT, 12 x 64 characters",
        model,
        lambda: gpt.loss(model, (x, y)),
        twin,
        lambda: tf.cross_entropy(twin(xt).reshape(-1, 83), yt.reshape(-1)),
    )


def tree_lstm() -> Example:
    reader = example("ast_depth")
    batch = reader.load(largest=40)[1][:32]
    labels = torch.tensor([e.label for e in batch])
    model, twin = plain_reader(reader), twins.TorchReader(len(reader.KINDS), reader.DEEPEST + 1)
    return Example(
        "recursive Tree-LSTM, 32 trees",
        model,
        lambda: reader.loss(model, batch)[0],
        twin,
        lambda: tf.cross_entropy(twin([e.tree for e in batch]), labels),
    )


def examples(settings: Settings) -> Iterator[str]:
    yield "\n## Training steps of the examples\n"
    yield "Forward, backward and Adam of the models in `examples/`, float32.\n"
    yield from table(("model", "dist_dp ms", "torch ms", "ratio"), _example_rows(settings))


def _example_rows(settings: Settings) -> Iterator[tuple[object, ...]]:
    dense.dist_dp(), dense.torch()  # the seeds
    makers = (fashion_mlp, digits_cnn, lenet, char_gpt, tree_lstm)
    for make in makers[:2] if settings.tiny else makers:
        case = make()
        ours = Training(case.model, case.ours, optim.Adam(case.model.parameters(), lr=1e-4))
        theirs = Training(case.twin, case.theirs, torch.optim.Adam(case.twin.parameters(), lr=1e-4))
        if make is not tree_lstm:  # there the two lay their parameters out differently
            dense.same_parameters(ours.model, theirs.model)
            dense.agree(ours, theirs, case.name)
        found = compare(ours.step, theirs.step, settings.rounds, settings.seconds)
        yield case.name, milli(found.ours), milli(found.theirs), found
