"""The dynamic programs that are measured: those of the examples, with batches of their own data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from sysconfig import get_paths
from typing import Any, NamedTuple

import numpy as np
import torch

import dist_dp as dp

from . import batching_torch as twins
from .dense import same_parameters
from .examples import example

BATCH = 64


class Workload(NamedTuple):
    """A program, and what is asked of it.

    Attributes:
        key: its name on the command line.
        name: what is said of it in tables.
        unit: what is counted.
        goal: how many times as fast as torch's plain program it is to be.
        of: the example.
        make: from the example, the model and the examples of its data.
        twin: the model in torch, from ours and the example.
        units: how many units an example has.
    """

    key: str
    name: str
    unit: str
    goal: float
    of: str
    make: Callable[[Any], tuple[Any, list[Any]]]
    twin: Callable[[Any, Any], torch.nn.Module]
    units: Callable[[Any], int]


def functions(of: Any, largest: int = 300, most: int = 2048) -> list[Any]:
    """The first functions of the standard library, not all: to read those takes longer than to measure."""
    files = sorted(Path(get_paths()["stdlib"]).glob("*.py"))
    return list(islice(chain.from_iterable(of.functions(path, largest) for path in files), most))


def nodes(tree: Any) -> int:
    """How many nodes a tree of ast_depth has."""
    return sum(1 for _ in twins.nodes(tree))


def _words(word: Any) -> int:
    return 1 + sum(map(_words, word.children))


def _labels(of: Any) -> tuple[Any, list[Any]]:
    treebank = of.Treebank(map(of.sentences, of.FILES))
    return of.Labeller(treebank, hidden=96), treebank.train


def _tags(of: Any) -> tuple[Any, list[Any]]:
    train, _, _ = of.load()
    vocabulary = of.Vocabulary(train)
    return of.Tagger(vocabulary), list(map(vocabulary, train))


def _parses(of: Any) -> tuple[Any, list[Any]]:
    train, _, words, tags = of.numbered(*of.load())
    return of.Parser(words, tags), [x for x in train if x.actions]


def _sounds(of: Any) -> tuple[Any, list[Any]]:
    train, _, _, letters, sounds = of.load(4096)
    examples = [of.Example(word.letters, one) for word in train for one in sorted(word.accepted)]
    return of.Speaker(letters, sounds, 96), examples


WORKLOADS = (
    Workload(
        "trees",
        "Tree-LSTM, H = 128, syntax trees",
        "node",
        15,
        "ast_depth",
        lambda of: (of.Reader(hidden=128), functions(of)),
        lambda ours, of: twins.Trees(ours),
        lambda x: nodes(x.tree),
    ),
    Workload(
        "labels",
        "child-sum Tree-LSTM, H = 96, dependency trees",
        "node",
        15,
        "dependency_labels",
        _labels,
        lambda ours, of: twins.Labels(ours),
        lambda x: _words(x.root),
    ),
    Workload(
        "tags",
        "BiLSTM tagger with characters",
        "word",
        8,
        "tagger",
        _tags,
        lambda ours, of: twins.Tags(ours),
        len,
    ),
    Workload(
        "parses",
        "transition parser",
        "transition",
        3,
        "parser",
        _parses,
        twins.Parses,
        lambda x: len(x.actions),
    ),
    Workload(
        "sounds",
        "letters to sounds, attention",
        "step",
        4,
        "g2p",
        _sounds,
        lambda ours, of: twins.Sounds(ours),
        lambda x: len(x.letters) + len(x.sounds) + 1,
    ),
)


class Program:
    """A workload, ready to run: `of` the example, `model` ours, `twin` torch's, with the same weights.

    Raises:
        SystemExit: its data are not installed.
        AssertionError: the two do not compute the same.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload, self.of = workload, example(workload.of)
        dp.seed(0)
        self.model, self.examples = workload.make(self.of)
        self.twin = workload.twin(self.model, self.of)
        same_parameters(self.model, self.twin)
        self._check()

    def batches(self) -> Iterator[list[Any]]:
        """One batch after another, drawn from all examples: always the same ones."""
        rng = random.Random(0)
        while True:
            yield rng.sample(self.examples, BATCH)

    def units(self, batch: Sequence[Any]) -> int:
        return sum(map(self.workload.units, batch))

    def loss(self, batch: Sequence[Any]) -> Any:
        found = self.of.loss(self.model, batch)
        return found[0] if isinstance(found, tuple) else found

    def ours(self, batch: Sequence[Any]) -> None:
        """Forward and backward."""
        self.model.zero_grad()
        self.loss(batch).backward()

    def alone(self, batch: Sequence[Any]) -> None:
        """The same, one example after another."""
        with one_by_one():
            self.ours(batch)

    def theirs(self, batch: Sequence[Any], way: str = "loss") -> None:
        """The same in torch; `way` names one of several."""
        self.twin.zero_grad()
        getattr(self.twin, way)(batch).backward()

    def _check(self) -> None:
        """All ways of computing have the same loss and gradients, up to rounding."""
        batch = next(self.batches())
        self.ours(batch)
        loss, gradients = self.loss(batch).item(), [p.grad.numpy() for p in self.model.parameters()]
        with one_by_one():
            assert np.isclose(loss, self.loss(batch).item(), rtol=1e-5), self.workload.name
        for way in ("loss", "whole", "by_level"):
            if hasattr(self.twin, way):
                self.theirs(batch, way)
                assert np.isclose(loss, getattr(self.twin, way)(batch).item(), rtol=1e-5), (
                    self.workload.name,
                    way,
                )
                for (name, p), ours in zip(self.twin.named_parameters(), gradients, strict=True):
                    assert np.allclose(ours, p.grad, rtol=1e-3, atol=1e-3 * np.abs(ours).max() + 1e-9), (
                        name,
                        way,
                    )


@contextmanager
def one_by_one() -> Iterator[None]:
    """`dp.batched` runs one example after another, in programs that do not ask for it."""
    batched = dp.batched
    dp.batched = partial(batched, enabled=False)  # type: ignore[assignment]
    try:
        yield
    finally:
        dp.batched = batched
