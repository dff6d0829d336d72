"""Three of the programs in DyNet, which batches what it can by itself: a tree, a tagger and a parser.

They are written as DyNet's own examples are: its LSTM, one `affine_transform` for all gates of a node, and for every
example a graph of its own that is joined to the others at the end. A graph is made with or without batching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dynet_config  # type: ignore[import-not-found]
import numpy as np

dynet_config.set(autobatch=0, mem="512", random_seed=1)  # batching is chosen for each graph

import dynet as dy  # type: ignore[import-not-found]  # noqa: E402

State = tuple[Any, Any]


def _array(parameter: Any) -> np.ndarray:
    return np.array(parameter.detach().numpy())


class _Model:
    """A program in DyNet, with parameters like those of our model; `of` is the example."""

    def __init__(self, of: Any) -> None:
        self.of = of
        self.collection = dy.ParameterCollection()

    def copy(self, parameter: Any) -> Any:
        return self.collection.parameters_from_numpy(_array(parameter))

    def table(self, embedding: Any) -> Any:
        return self.collection.lookup_parameters_from_numpy(_array(embedding.weight))

    def linear(self, ours: Any) -> tuple[Any, Any]:
        return self.copy(ours.bias), self.copy(ours.weight)

    def lstm(self, ours: Any) -> Any:
        hidden, size = ours.weight_hh.shape[1], ours.weight_ih.shape[1]
        builder = dy.VanillaLSTMBuilder(1, size, hidden, self.collection, forget_bias=0.0)
        bias = _array(ours.bias_ih) + _array(ours.bias_hh)
        for theirs, array in zip(
            builder.get_parameters()[0], (_array(ours.weight_ih), _array(ours.weight_hh), bias), strict=True
        ):
            i, f, g, o = np.split(array, 4)
            theirs.set_value(np.concatenate([i, f, o, g]))
        return builder

    def step(self, batch: Sequence[Any], batched: bool) -> float:
        """Forward and backward over a batch: the mean loss."""
        dy.renew_cg(False, False, batched)
        losses = [nats for example in batch for nats in self.losses(example)]
        loss = dy.esum(losses) * (1 / len(losses))
        value = loss.value()
        loss.backward()
        return float(value)

    def losses(self, example: Any) -> list[Any]:
        raise NotImplementedError


def _both_ways(ahead: Any, back: Any, xs: Sequence[Any]) -> list[Any]:
    pairs = zip(
        ahead.initial_state().transduce(xs), reversed(back.initial_state().transduce(xs[::-1])), strict=True
    )
    return [dy.concatenate([a, b]) for a, b in pairs]


class Trees(_Model):
    """ast_depth."""

    def __init__(self, ours: Any, of: Any) -> None:
        super().__init__(of)
        self.kinds = self.table(ours.kinds)
        cell = ours.cell
        self.n = cell.hidden_size
        self.bias, self.weight = self.copy(cell.bias), self.copy(cell.weight_ih)
        self.left, self.right = self.copy(cell.weight_left), self.copy(cell.weight_right)
        self.head = self.linear(ours.head)

    def read(self, tree: Any) -> State:
        n = self.n
        terms = [self.bias, self.weight, dy.lookup(self.kinds, tree.kind)]
        left = right = None
        if tree.child is not None:
            left = self.read(tree.child)
            terms += [self.left, left[0]]
        if tree.sibling is not None:
            right = self.read(tree.sibling)
            terms += [self.right, right[0]]
        gates = dy.affine_transform(terms)
        c = dy.cmult(dy.logistic(dy.pick_range(gates, 0, n)), dy.tanh(dy.pick_range(gates, 4 * n, 5 * n)))
        if left is not None:
            c = c + dy.cmult(dy.logistic(dy.pick_range(gates, n, 2 * n)), left[1])
        if right is not None:
            c = c + dy.cmult(dy.logistic(dy.pick_range(gates, 2 * n, 3 * n)), right[1])
        return dy.cmult(dy.logistic(dy.pick_range(gates, 3 * n, 4 * n)), dy.tanh(c)), c

    def losses(self, example: Any) -> list[Any]:
        h, _ = self.read(example.tree)
        return [dy.pickneglogsoftmax(dy.affine_transform([*self.head, h]), example.label)]


class Tags(_Model):
    """tagger."""

    def __init__(self, ours: Any, of: Any) -> None:
        super().__init__(of)
        self.words, self.characters = self.table(ours.words), self.table(ours.characters)
        self.spell_ahead, self.spell_back = self.lstm(ours.spelling.ahead), self.lstm(ours.spelling.back)
        self.ahead, self.back = self.lstm(ours.sentence.ahead), self.lstm(ours.sentence.back)
        self.hidden, self.tag = self.linear(ours.hidden), self.linear(ours.tag)

    def embed(self, word: Any) -> Any:
        if word.known is not None:
            return dy.lookup(self.words, word.known)
        xs = [dy.lookup(self.characters, x) for x in word.characters]
        ahead = self.spell_ahead.initial_state().transduce(xs)
        back = self.spell_back.initial_state().transduce(xs[::-1])
        return dy.concatenate([ahead[-1], back[-1]])

    def losses(self, sentence: Sequence[Any]) -> list[Any]:
        states = _both_ways(self.ahead, self.back, [self.embed(word) for word in sentence])
        hidden = [dy.tanh(dy.affine_transform([*self.hidden, state])) for state in states]
        return [
            dy.pickneglogsoftmax(dy.affine_transform([*self.tag, x]), word.tag)
            for x, word in zip(hidden, sentence, strict=True)
        ]


class Parses(_Model):
    """parser."""

    def __init__(self, ours: Any, of: Any) -> None:
        super().__init__(of)
        self.words, self.tags = self.table(ours.words), self.table(ours.tags)
        self.ahead, self.back = self.lstm(ours.ahead), self.lstm(ours.back)
        self.nothing, self.root = self.copy(ours.nothing), self.copy(ours.root)
        self.hidden, self.action = self.linear(ours.hidden), self.linear(ours.action)

    def encode(self, example: Any) -> dict[int | None, Any]:
        xs = [
            dy.concatenate([dy.lookup(self.words, word), dy.lookup(self.tags, tag)])
            for word, tag in zip(example.words, example.tags, strict=True)
        ]
        vectors = dict(enumerate(_both_ways(self.ahead, self.back, xs), 1))
        return {None: self.nothing, self.of.ROOT: self.root, **vectors}

    def scores(self, seen: Sequence[Any]) -> Any:
        hidden = dy.tanh(dy.affine_transform([*self.hidden, dy.concatenate(list(seen))]))
        return dy.affine_transform([*self.action, hidden])

    def losses(self, example: Any) -> list[Any]:
        vectors, state, losses = self.encode(example), self.of.State(len(example.words)), []
        for action in example.actions:
            scores = self.scores([vectors[i] for i in state.seen()])
            losses.append(dy.pickneglogsoftmax(scores, action))
            state.do(action)
        return losses

    def attached(self, batch: Sequence[Any], batched: bool) -> float:
        """The share of words whose head is right, by the parser's own choices: every one reads a value."""
        right = 0
        dy.renew_cg(False, False, batched)
        encoded = [self.encode(example) for example in batch]
        for example, vectors in zip(batch, encoded, strict=True):
            state = self.of.State(len(example.words))
            while not state.done():
                scores = self.scores([vectors[i] for i in state.seen()]).npvalue()
                state.do(int(np.where(state.legal(), scores, -np.inf).argmax()))
            right += sum(a == b for a, b in zip(state.heads, example.heads, strict=True))
        return right / sum(len(example.words) for example in batch)
