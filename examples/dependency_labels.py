"""What is each word to its head? A child-sum Tree-LSTM names the arcs of Turkish dependency trees.

    python examples/dependency_labels.py [--limit N] [--epochs N] [--run DIR]

The trees are the Turkish Web Treebank, annotated by hand (Kayadelen, Öztürel and Bohnet, LREC 2020): 4,851 sentences,
81,370 words, 44 relations; `pip install --no-deps turkish-treebanks==1.0.0`, of which only the files are read. Its
split: of ten sentences of a file eight are to learn from, the ninth is for choosing settings, the tenth for the test.

An example is the tree of one sentence. Of a word the model sees its part of speech, its inflection (`Case=Loc`), on
which side of its head it stands and whether beside it, but not the word itself. The commonest relation gets 18.8 % of
the arcs right, a table of the parts of speech at both ends 75.7 %, a network that sees both words and no tree 92.3 %,
and torch's child-sum Tree-LSTM 94.8 % after 10 epochs (all measured elsewhere). Measured here: 94.6 % after 10
epochs of 3 s of processor time each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib import metadata
from itertools import chain
from typing import NamedTuple

import numpy as np

import dist_dp as dp
from dist_dp import nn, optim
from dist_dp import numpy as dnp

FILES = "data/web.conllu", "data/wiki.conllu"
ID, XPOS, FEATS, HEAD, RELATION = 0, 4, 5, 6, 7  # columns

State = tuple[dp.Tensor, dp.Tensor]


class Word(NamedTuple):
    """A word and all below it."""

    kind: int
    children: list[Word]
    relations: list[int]  # what each child is to this word


class Sentence(NamedTuple):
    root: Word  # no word of the sentence: one arc leads from it to the top of the tree
    size: int


class Index(dict):
    """Numbers things in the order in which they come."""

    def __missing__(self, key: object) -> int:
        self[key] = len(self)
        return self[key]


def sentences(file: str) -> list[list[list[str]]]:
    """The rows of every sentence."""
    try:
        path = metadata.distribution("turkish-treebanks").locate_file(file)
    except metadata.PackageNotFoundError:
        raise SystemExit(
            "this example needs a treebank: pip install --no-deps turkish-treebanks==1.0.0"
        ) from None
    blocks = path.read_text(encoding="utf-8").strip().split("\n\n")
    return [[line.split("\t") for line in block.split("\n") if line[0] != "#"] for block in blocks]


def read_tree(rows: list[list[str]], kinds: Index, relations: Index) -> Sentence:
    words = [Word(kinds["ROOT",], [], [])]
    for row in rows:
        way = int(row[HEAD]) - int(row[ID])
        place = ("before" if way > 0 else "after") + (" beside" if abs(way) == 1 else "")
        words.append(Word(kinds[row[XPOS], place, *row[FEATS].split("|")], [], []))
    for row, word in zip(rows, words[1:], strict=True):
        head = words[int(row[HEAD])]
        head.children.append(word)
        head.relations.append(relations[row[RELATION]])
    return Sentence(words[0], len(rows))


class Treebank:
    """The sentences: `train`, `kept` for choosing settings, `test`.

    Attributes:
        features: (kinds of word, features) of zeros and ones: what a word of each kind is.
        relations: how many names there are for an arc.
    """

    def __init__(self, files: Iterable[list[list[list[str]]]]) -> None:
        kinds, relations, features = Index(), Index(), Index()
        parts: list[list[Sentence]] = [[] for _ in range(10)]
        for file in files:
            for i, rows in enumerate(file):
                parts[i % 10].append(read_tree(rows, kinds, relations))
        *train, self.kept, self.test = parts
        self.train = list(chain(*train))
        cells = [(row, features[feature]) for kind, row in kinds.items() for feature in kind]
        self.features = np.zeros((len(kinds), len(features)), np.float32)
        self.features[tuple(np.transpose(cells))] = 1
        self.relations = len(relations)


class Labeller(nn.Module):
    """Reads a tree from its leaves up, and names each arc by the states of its two ends."""

    def __init__(self, treebank: Treebank, hidden: int = 96) -> None:
        super().__init__()
        self.table = treebank.features
        self.features = nn.Linear(self.table.shape[1], hidden)
        self.cell = nn.ChildSumTreeLSTMCell(hidden, hidden)
        self.head = nn.Sequential(
            nn.Linear(2 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, treebank.relations)
        )

    @dp.cell
    def node(self, kind: dp.Tensor, children: dp.Ragged) -> State:
        """The state (h, c) of a word from those of its children."""
        return self.cell(self.features(dp.ops.embedding(self.table, kind)), children)

    @dp.cell
    def names(self, heads: dp.Ragged, words: dp.Ragged, names: dp.Ragged) -> State:
        """The loss of naming all arcs of a sentence, and how many names are right."""
        logits = self.head(dnp.concatenate([heads.values, words.values], 1))
        losses = nn.functional.cross_entropy(logits, names.values, reduction="none")
        return names.sum(losses), names.sum((logits.argmax(1) == names.values).astype(np.int64))

    def read(self, word: Word, arcs: list[tuple]) -> State:
        """The state of a word; the arcs below it are added to a list, as (state, state, name)."""
        states = [self.read(child, arcs) for child in word.children]
        h, c = self.node(word.kind, dp.Ragged(states))
        arcs += [(h, below, name) for (below, _), name in zip(states, word.relations, strict=True)]
        return h, c

    def name(self, sentence: Sentence) -> State:
        """The loss of naming all arcs of a sentence, and how many names are right."""
        arcs: list[tuple] = []
        self.read(sentence.root, arcs)
        return self.names(*map(dp.Ragged, zip(*arcs, strict=True)))


def loss(model: Labeller, batch: list[Sentence]) -> tuple:
    losses, right = dp.batched(model.name, batch)
    words = sum(sentence.size for sentence in batch)
    return losses.sum() / words, words, {"accuracy": right.sum() / words}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="learn from this many sentences only")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--run", help="run directory: checkpoints, metrics, resume")
    args = parser.parse_args()

    treebank = Treebank(map(sentences, FILES))
    dp.seed(0)
    model = Labeller(treebank)
    result = dp.fit(
        model,
        loss,
        optim.Adam(model.parameters(), lr=optim.Cosine(3e-3)),
        treebank.train[: args.limit],
        batch_size=32,
        epochs=args.epochs,
        collate=list,
        validation=treebank.kept,
        run=args.run,
    )
    accuracy = dp.evaluate(model, loss, treebank.test, batch_size=32, collate=list)["accuracy"]
    print(f"test accuracy {accuracy:.4f}   digest {result.digest[:16]}")


if __name__ == "__main__":
    main()
