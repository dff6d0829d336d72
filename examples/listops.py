"""What does [MAX 2 9 [MIN 4 7 ] 0 ] come to? A recursive network computes nested lists of digits.

    python examples/listops.py [--with-sum] [--cell lstm|rntn] [--epochs N] [--run DIR]

The data are ListOps, drawn by the algorithm of Nangia and Bowman ("ListOps: A diagnostic dataset for latent tree
learning", NAACL 2018) from a fixed seed: 30,000 expressions of at most 100 symbols to learn from, 2,000 to test on. The
operators are MIN, MAX and MED, the whole part of the median; `--with-sum` adds SM, the sum modulo 10, which is much
harder to learn. The commonest answer is right in 12 % of the cases.

A list is folded from left to right, as in the paper: the state of its operator takes in one element after the other,
and the bracket at the end. The step is a binary Tree-LSTM of 128 units. Published for it, with SM: 98.7 %. Measured
here: 99.3 % without SM after 8 epochs, 97.5 % with it after 20, half a minute of processor time each.

With `--cell rntn` the step is that of the recursive neural tensor network (Socher et al., "Recursive deep models for
semantic compositionality over a sentiment treebank", EMNLP 2013) with 32 units: 94.8 %
without SM after 8 epochs.
"""

from __future__ import annotations

import argparse
import functools
import random
from collections.abc import Callable
from typing import Any

import numpy as np

import dist_dp as dp
from dist_dp import nn, optim

MIN, MAX, MED, SM, END = range(10, 15)  # the symbols after the ten digits
COMPUTE = {MIN: min, MAX: max, MED: lambda xs: int(np.median(xs)), SM: lambda xs: sum(xs) % 10}
SYMBOLS, LONGEST, DEEPEST = 15, 100, 20

Tree = int | tuple  # a digit, or an operator and the elements of its list


def draw(rng: random.Random, operators: list[int], depth: int = 0) -> Tree:
    """A list of 2 to 5 elements, each a digit with probability 3/4 and else a list."""
    elements = []
    for _ in range(rng.randint(2, 5)):
        nested = rng.random() < 0.25 and depth < DEEPEST - 1
        elements.append(draw(rng, operators, depth + 1) if nested else rng.randrange(10))
    return rng.choice(operators), *elements


def length(tree: Tree) -> int:
    """How many symbols an expression has, with the bracket at the end."""
    return 1 if isinstance(tree, int) else 2 + sum(map(length, tree[1:]))


def value(tree: Tree) -> int:
    return tree if isinstance(tree, int) else COMPUTE[tree[0]](list(map(value, tree[1:])))


def expressions(count: int, operators: list[int]) -> list[Tree]:
    """The first `count` different ones that are not too long."""
    rng = random.Random(0)
    found: dict[Tree, None] = {}
    while len(found) < count:
        tree = draw(rng, operators)
        if length(tree) <= LONGEST:
            found[tree] = None
    return list(found)


class TreeLSTM(nn.Module):
    """The state is (h, c); the two children of a step have weights of their own."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.symbols = nn.Embedding(SYMBOLS, hidden)
        self.cell = nn.BinaryTreeLSTMCell(hidden, hidden)
        self.head = nn.Linear(hidden, 10)

    @dp.cell
    def leaf(self, symbol: dp.Tensor) -> tuple[dp.Tensor, dp.Tensor]:
        return self.cell(self.symbols(symbol))

    @dp.cell
    def join(self, left: tuple, right: tuple) -> tuple[dp.Tensor, dp.Tensor]:
        return self.cell(None, left, right)

    @dp.cell
    def answer(self, state: tuple) -> dp.Tensor:
        return self.head(state[0])


class TensorNetwork(nn.Module):
    """The state is p = tanh(xᵀ V x + W x + b), where x are the states of both children, and V is a matrix per unit."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.symbols = nn.Embedding(SYMBOLS, hidden)
        self.tensor = nn.Linear(2 * hidden, hidden * 2 * hidden, bias=False)
        nn.init.normal_(self.tensor.weight, 0.0, 0.5 / (2 * hidden))  # larger ones begin where tanh is flat
        self.linear = nn.Linear(2 * hidden, hidden)
        self.head = nn.Linear(hidden, 10)

    @dp.cell
    def leaf(self, symbol: dp.Tensor) -> dp.Tensor:
        return self.symbols(symbol)

    @dp.cell
    def join(self, left: dp.Tensor, right: dp.Tensor) -> dp.Tensor:
        x = dp.numpy.concatenate([left, right], 1)
        quadratic = self.tensor(x).reshape(len(x), -1, x.shape[1]) @ x[:, :, None]
        return dp.numpy.tanh(quadratic[:, :, 0] + self.linear(x))

    @dp.cell
    def answer(self, state: dp.Tensor) -> dp.Tensor:
        return self.head(state)


def read(model: nn.Module, tree: Tree, leaf: Callable[[int], Any]) -> Any:
    """The state of an expression; `leaf` gives that of a symbol."""
    if isinstance(tree, int):
        return leaf(tree)
    state = leaf(tree[0])
    for element in tree[1:]:
        state = model.join(state, read(model, element, leaf))
    return model.join(state, leaf(END))


def loss(model: nn.Module, batch: list[tuple[Tree, int]]) -> tuple:
    labels = np.array([answer for _, answer in batch])
    leaf = functools.cache(model.leaf)  # a symbol has one state, in whatever expression it stands
    logits = dp.batched(lambda example: model.answer(read(model, example[0], leaf)), batch)
    accuracy = (logits.argmax(1) == labels).mean()
    return nn.functional.cross_entropy(logits, labels), len(batch), {"accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--with-sum", action="store_true", help="with SM, the sum modulo 10")
    parser.add_argument("--cell", choices=("lstm", "rntn"), default="lstm")
    parser.add_argument("--epochs", type=int, help="8 by default, 20 with --with-sum")
    parser.add_argument("--run", help="run directory: checkpoints, metrics, resume")
    args = parser.parse_args()

    trees = expressions(32_000, [MIN, MAX, MED, SM] if args.with_sum else [MIN, MAX, MED])
    data = [(tree, value(tree)) for tree in trees]
    dp.seed(0)
    model, rate = (TreeLSTM(), 2e-3) if args.cell == "lstm" else (TensorNetwork(), 5e-4)
    result = dp.fit(
        model,
        loss,
        optim.Adam(model.parameters(), lr=optim.Cosine(rate), clip_norm=1.0),
        data[:30_000],
        batch_size=64,
        epochs=args.epochs or (20 if args.with_sum else 8),
        collate=list,
        validation=data[30_000:],
        run=args.run,
    )
    print(f"test accuracy {result.metrics['validation_accuracy']:.4f}   digest {result.digest[:16]}")


if __name__ == "__main__":
    main()
