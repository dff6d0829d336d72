"""dp.batched in the loss of dp.fit: one answer, whatever the number of workers and whoever dies.

Workers are threads (`tests/train/cluster.py`); examples are trees, so every shard has batches of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from train.cluster import Cluster, Death

import dist_dp as dp
from dist_dp import nn, ops, optim


class Tree(NamedTuple):
    token: int
    children: tuple[Tree, ...]


class Example(NamedTuple):
    tree: Tree
    label: int


def tree(rng: np.random.Generator, depth: int = 3) -> Tree:
    below = rng.integers(0, 4) if depth else 0
    return Tree(int(rng.integers(0, 9)), tuple(tree(rng, depth - 1) for _ in range(below)))


def examples(n: int = 26) -> list[Example]:
    rng = np.random.default_rng(3)
    return [Example(tree(rng), int(rng.integers(0, 3))) for _ in range(n)]


class Reader(nn.Module):
    """Dropout in a cell and outside, cells of any number of children, and a step that is chosen by a value."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 6)
        self.inner = nn.Linear(6, 6)
        self.rare = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        self.dropout = nn.Dropout(0.3)

    @dp.cell
    def node(self, token: Any, children: Any) -> Any:
        h = self.tokens(token)
        return self.dropout(ops.tanh(self.inner(sum(children, h))))

    @dp.cell
    def again(self, h: Any) -> Any:
        return ops.tanh(self.rare(h))

    def read(self, at: Tree) -> Any:
        return self.node(at.token, [self.read(child) for child in at.children])

    def forward(self, example: Example) -> Any:
        h = self.read(example.tree)
        while h.sum() > 0.5:
            h = self.again(h) * 0.7
        logits = self.head(self.dropout(h))
        return nn.functional.cross_entropy(logits[None], np.array([example.label]))


def loss(model: Reader, batch: list[Example], **options: Any) -> Any:
    return dp.batched(model, batch, **options).mean(), len(batch)


def program(run: Path | None = None, **options: Any) -> Any:
    dp.seed(0)
    model = Reader()
    return dp.fit(
        model,
        lambda model, batch: loss(model, batch, **options),
        optim.Adam(model.parameters(), lr=1e-2),
        examples(),
        batch_size=8,
        epochs=2,
        shards=3,
        seed=5,
        collate=list,
        progress=False,
        run=run,
    )


@pytest.mark.parametrize("options", [{}, {"max_batch": 2}, {"wave": 2}, {"enabled": False}], ids=str)
def test_the_number_of_workers_does_not_matter(options: dict[str, Any]) -> None:
    expected = program(**options)
    assert program(**options) == expected
    for workers in (2, 3):
        cluster = Cluster(workers, lambda: program(**options)).run()
        assert cluster.results == dict.fromkeys(range(workers), expected), cluster.errors


def test_batched_is_near_to_one_by_one() -> None:
    """Other shapes of matrix products, so other roundings, but the same dropout and the same choices."""
    alone, together = program(enabled=False), program()
    assert together.step == alone.step
    np.testing.assert_allclose(together.metrics["loss"], alone.metrics["loss"], rtol=1e-4)


@pytest.mark.parametrize("phase", ["shard", "exchange", "apply"])
@pytest.mark.parametrize("worker", [0, 2])
def test_a_worker_that_dies_changes_nothing(tmp_path: Path, phase: str, worker: int) -> None:
    cluster = Cluster(3, lambda: program(tmp_path / "run"), [Death(worker, phase, 3)]).run()
    assert len(cluster.landed) == 1
    expected = program()
    assert cluster.results and all(result == expected for result in cluster.results.values()), cluster.errors


def test_an_error_in_an_example_ends_the_run_with_its_name() -> None:
    def failing() -> Any:
        model = Reader()

        def read(example: Example) -> Any:
            if example.label == 2:
                raise LookupError("no such label")
            return model(example)

        return dp.fit(
            model,
            lambda model, batch: dp.batched(read, batch).mean(),
            optim.SGD(model.parameters(), lr=0.1),
            examples(),
            batch_size=8,
            shards=3,
            collate=list,
            progress=False,
        )

    with pytest.raises(LookupError) as caught:
        failing()
    assert any("of dp.batched" in note for note in caught.value.__notes__)
    cluster = Cluster(2, failing).run()
    assert cluster.over is not None and cluster.over.code == 1
    assert any("no such label" in str(error) for error in cluster.errors)


def test_evaluation_is_exact_over_workers() -> None:
    def evaluated() -> Any:
        dp.seed(0)
        return dp.evaluate(Reader(), loss, examples(), batch_size=5, collate=list)

    expected = evaluated()
    assert Cluster(3, evaluated).run().results == dict.fromkeys(range(3), expected)
