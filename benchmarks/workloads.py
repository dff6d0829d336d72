"""What is trained on several workers: the examples' models, data for them, and the batches of two sizes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from sysconfig import get_paths
from typing import Any, NamedTuple

import numpy as np

import dist_dp as dp

from .examples import example

SHARDS = 2
SEED = 0


class Workload(NamedTuple):
    """A model and its batch: `large`, of which a step takes 20 ms and more on one worker, and `small`."""

    key: str
    name: str
    of: str  # the example
    large: int
    small: int
    model: Callable[[Any], Any]
    data: Callable[[Any], Any]  # arrays, or a list of examples

    def loss(self, model: Any, batch: Any) -> Any:
        """The example's loss of one batch."""
        result = example(self.of).loss(model, batch)
        return result[0] if isinstance(result, tuple) else result


def _images(*shape: int) -> Any:
    rng = np.random.default_rng(SEED)
    return rng.normal(size=(4096, *shape)).astype(np.float32), rng.integers(0, 10, 4096)


def _windows(gpt: Any) -> Any:
    codes = np.random.default_rng(SEED).integers(0, 83, (1024, gpt.CONTEXT + 1))
    return codes[:, :-1], codes[:, 1:]


def _trees(reader: Any) -> Any:
    # As many as it takes, not the whole library: to read that takes longer than the measurement.
    files = sorted(Path(get_paths()["stdlib"]).glob("*.py"))
    return list(islice(chain.from_iterable(reader.functions(path, 40) for path in files), 1024))


def plain_reader(of: Any) -> Any:
    """The model of ast_depth, reading one tree after another: the recursion as its twin in torch does it."""

    class Reader(of.Reader):
        def read(self, tree: Any) -> Any:
            if tree is None:
                return None
            return self.cell(self.kinds(tree.kind), self.read(tree.child), self.read(tree.sibling))

        def forward(self, trees: list[Any]) -> dp.Tensor:
            return self.head(dp.numpy.stack([self.read(tree)[0] for tree in trees]))

    return Reader()


WORKLOADS = (
    Workload(
        "mlp",
        "MLP 784-256-128-100-10",
        "fashion_mnist",
        2048,
        128,
        lambda e: e.mlp(),
        lambda e: _images(1, 28, 28),
    ),
    Workload("cnn", "digits CNN", "digits", 1024, 64, lambda e: e.cnn(), lambda e: _images(1, 8, 8)),
    Workload("lenet", "LeNet-5", "fashion_mnist", 256, 32, lambda e: e.lenet(), lambda e: _images(1, 28, 28)),
    Workload("gpt", "char-GPT, windows of 64", "char_gpt", 12, 2, lambda e: e.GPT(83), _windows),
    Workload("trees", "recursive Tree-LSTM, trees", "ast_depth", 64, 4, plain_reader, _trees),
)


def all_in_turn() -> list[tuple[Workload, int]]:
    """Each workload with its large batch, then each with its small one."""
    return [(w, w.large) for w in WORKLOADS] + [(w, w.small) for w in WORKLOADS]
