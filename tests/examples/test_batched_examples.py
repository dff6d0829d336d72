"""The examples that read trees: in batches as one by one, on two workers as on one, and their data."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from train.cluster import Cluster

import dist_dp as dp
from dist_dp import optim


def example(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ast_depth, dependency_labels, listops = map(example, ("ast_depth", "dependency_labels", "listops"))


def functions():
    """The first functions of a file that every Python has."""
    found = ast_depth.functions(Path(importlib.util.__file__), largest=30)
    return (
        ast_depth,
        lambda: ast_depth.Reader(hidden=4),
        [one for one, _ in zip(found, range(8), strict=False)],
    )


# Trees as CoNLL-U has them: a chain, a fan, one word, and branches.
TREES = [[0, 1, 2, 3], [0, 1, 1, 1, 1], [0], [2, 0, 2, 5, 2, 5], [3, 3, 0], [2, 0]]


def rows(heads: list[int]) -> list[list[str]]:
    return [
        [
            str(i),
            "w",
            "w",
            "X",
            "XY"[i % 2],
            f"Case={i % 3}|Number=1",
            str(head),
            f"r{(i + head) % 5}",
            "_",
            "_",
        ]
        for i, head in enumerate(heads, 1)
    ]


def arcs():
    treebank = dependency_labels.Treebank([list(map(rows, TREES))])
    return dependency_labels, lambda: dependency_labels.Labeller(treebank, hidden=4), treebank.train


def lists(cell: str):
    trees = listops.expressions(8, list(listops.COMPUTE))
    return listops, lambda: getattr(listops, cell)(hidden=4), [(tree, listops.value(tree)) for tree in trees]


ALL = pytest.mark.parametrize(
    "of", [functions, arcs, partial(lists, "TreeLSTM"), partial(lists, "TensorNetwork")]
)


@ALL
def test_losses_and_gradients_in_batches_are_those_one_by_one(of, monkeypatch: pytest.MonkeyPatch) -> None:
    module, make, examples = of()
    assert len(examples) >= 6
    dp.seed(0)
    model = make()

    def computed() -> list[np.ndarray]:
        loss, weight, metrics = module.loss(model, examples)
        model.zero_grad()
        loss.backward()
        return [np.array([loss.item(), weight, float(metrics["accuracy"])])] + [
            p.grad.numpy() for p in model.parameters()
        ]

    batched = computed()
    assert max(map(max, dp.explain_batching().batches.values())) > len(examples)
    monkeypatch.setattr(dp, "batched", partial(dp.batched, enabled=False))
    for one, other in zip(batched, computed(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@ALL
def test_two_workers_end_with_the_digest_of_one(of) -> None:
    module, make, examples = of()

    def program() -> str:
        dp.seed(0)
        model = make()
        optimizer = optim.Adam(model.parameters(), lr=1e-2)
        return dp.fit(
            model, module.loss, optimizer, examples, batch_size=4, shards=2, collate=list, progress=False
        ).digest

    assert Cluster(2, program).run().results == dict.fromkeys(range(2), program())


# ----- data -----


def test_lists_have_the_values_of_their_operators() -> None:
    MIN, MAX, MED, SM = listops.COMPUTE
    assert listops.value((MAX, 2, 9, (MIN, 4, 7), 0)) == 9
    assert listops.value((MED, 1, (SM, 9, 9, 9), 8, 2)) == 4  # the whole part of (2 + 7) / 2
    assert listops.length((MAX, 2, 9, (MIN, 4, 7), 0)) == 9


def test_lists_are_drawn_as_published() -> None:
    trees = listops.expressions(2000, list(listops.COMPUTE))
    assert len(set(trees)) == 2000 and trees[:50] == listops.expressions(50, list(listops.COMPUTE))
    lengths = [listops.length(tree) for tree in trees]
    assert min(lengths) == 4 and 90 < max(lengths) <= listops.LONGEST
    elements = [len(tree) - 1 for tree in trees]
    assert set(elements) == {2, 3, 4, 5}
    assert {tree[0] for tree in trees} == set(listops.COMPUTE)


def test_the_tensor_network_is_the_published_formula() -> None:
    dp.seed(0)
    model, n = listops.TensorNetwork(hidden=3), 3
    left, right = np.random.default_rng(0).normal(size=(2, n)).astype(np.float32)
    x = np.concatenate([left, right])
    V, W, b = (p.detach().numpy() for p in (model.tensor.weight, model.linear.weight, model.linear.bias))
    expected = np.tanh(np.einsum("i,kij,j->k", x, V.reshape(n, 2 * n, 2 * n), x) + W @ x + b)
    found = model.join(dp.tensor(left), dp.tensor(right)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_trees_are_read_from_their_rows() -> None:
    treebank = dependency_labels.Treebank([list(map(rows, TREES))])
    sentence = treebank.train[3]
    (top,) = sentence.root.children
    assert (
        sentence.size == 6 and len(top.children) == 3 and [len(c.children) for c in top.children] == [0, 0, 2]
    )
    # Part of speech, place, case, number; of the root one feature of its own.
    assert set(treebank.features.sum(1).tolist()) == {4.0, 1.0}


def test_without_its_package_the_treebank_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise dependency_labels.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(dependency_labels.metadata, "distribution", absent)
    monkeypatch.setattr(sys, "argv", ["dependency_labels.py"])
    with pytest.raises(SystemExit, match=r"pip install --no-deps turkish-treebanks==1\.0\.0$"):
        dependency_labels.main()
