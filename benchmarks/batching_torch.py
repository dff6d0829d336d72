"""The dynamic programs of the examples in torch: one example at a time, and what can be batched by hand there.

Each model has the parameters of ours, in the same order. `loss` is the program of the example, step by step: what it
calls for one node, one character or one transition is a call here too. Only rows of tables are looked up for all of an
example at once, since every single look-up would make a gradient as large as the table. `whole`, where there is one,
computes what torch can for a whole sentence at once: an LSTM is one call, and so is the network at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import nn as tnn
from torch.nn import functional as tf

State = tuple[Tensor, Tensor]


def _like(parameter: Any) -> tnn.Parameter:
    return tnn.Parameter(torch.empty(parameter.shape))


def _cell(ours: Any) -> tnn.Module:
    """What holds the parameters of a cell under their names."""
    cell = tnn.Module()
    for name, parameter in ours.named_parameters():
        cell.register_parameter(name, _like(parameter))
    return cell


def _embedding(ours: Any) -> tnn.Embedding:
    return tnn.Embedding(*ours.weight.shape)


def _linear(ours: Any) -> tnn.Linear:
    return tnn.Linear(*reversed(ours.weight.shape), bias=ours.bias is not None)


def _lstm(ours: Any) -> tnn.LSTMCell:
    return tnn.LSTMCell(ours.weight_ih.shape[1], ours.weight_hh.shape[1])


def _run(cell: tnn.LSTMCell, xs: Sequence[Tensor]) -> list[State]:
    """The states after each of `xs`, which are rows (1, n)."""
    states: list[State] = []
    for x in xs:
        states.append(cell(x, states[-1] if states else None))
    return states


def _both_ways(ahead: tnn.LSTMCell, back: tnn.LSTMCell, xs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """torch's own bidirectional LSTM over `xs` (length, n): its outputs (length, 2 H), and the last h and c (2, H)."""
    weights = [*ahead.parameters(), *back.parameters()]
    zeros = xs.new_zeros(2, 1, ahead.hidden_size)
    out, h, c = torch.lstm(xs[:, None], (zeros, zeros), weights, True, 1, 0.0, True, True, False)
    return out[:, 0], h[:, 0], c[:, 0]


class Trees(tnn.Module):
    """ast_depth."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.kinds = _embedding(ours.kinds)
        self.cell = _cell(ours.cell)
        self.head = _linear(ours.head)

    def read(self, tree: Any, xs: Iterator[Tensor]) -> State:
        gates = tf.linear(next(xs), self.cell.weight_ih, self.cell.bias)
        if tree.child is not None:
            left, c_left = self.read(tree.child, xs)
            gates = gates + tf.linear(left, self.cell.weight_left)
        if tree.sibling is not None:
            right, c_right = self.read(tree.sibling, xs)
            gates = gates + tf.linear(right, self.cell.weight_right)
        i, f_left, f_right, o, u = gates.chunk(5, 1)
        c = torch.sigmoid(i) * torch.tanh(u)
        if tree.child is not None:
            c = c + torch.sigmoid(f_left) * c_left
        if tree.sibling is not None:
            c = c + torch.sigmoid(f_right) * c_right
        return torch.sigmoid(o) * torch.tanh(c), c

    def loss(self, batch: Sequence[Any]) -> Tensor:
        losses = []
        for example in batch:
            kinds = torch.tensor([tree.kind for tree in nodes(example.tree)])
            h, _ = self.read(example.tree, iter(self.kinds(kinds).split(1)))
            losses.append(tf.cross_entropy(self.head(h), torch.tensor([example.label])))
        return torch.stack(losses).mean()

    def by_level(self, batch: Sequence[Any], levels: list[Level] | None = None) -> Tensor:
        """By hand: all nodes at one depth below the root in one product, the deepest first."""
        levels = levels or levels_of([example.tree for example in batch])
        sizes = [len(level.kinds) for level in levels]
        kinds = torch.tensor([kind for level in levels for kind in level.kinds])
        inputs = tf.linear(self.kinds(kinds), self.cell.weight_ih, self.cell.bias).split(sizes)
        n = self.cell.bias.shape[0] // 5
        h = c = None
        for level, gates in zip(reversed(levels), reversed(inputs), strict=True):
            cut = len(level.left)  # of the states of the level below: left children, then right ones
            rows = [torch.tensor(places, dtype=torch.long) for places in (level.left, level.right)]
            if h is not None:
                gates = gates.index_add(0, rows[0], tf.linear(h[:cut], self.cell.weight_left))
                gates = gates.index_add(0, rows[1], tf.linear(h[cut:], self.cell.weight_right))
            i, f_left, f_right, o, u = gates.split(n, 1)
            below, c = c, torch.sigmoid(i) * torch.tanh(u)
            if below is not None:
                c = c.index_add(0, rows[0], torch.sigmoid(f_left[rows[0]]) * below[:cut])
                c = c.index_add(0, rows[1], torch.sigmoid(f_right[rows[1]]) * below[cut:])
            h = torch.sigmoid(o) * torch.tanh(c)
        return tf.cross_entropy(self.head(h), torch.tensor([example.label for example in batch]))


def nodes(tree: Any) -> Iterator[Any]:
    """The nodes in the order in which they are read."""
    stack = [tree]
    while stack:
        tree = stack.pop()
        yield tree
        stack += [below for below in (tree.sibling, tree.child) if below is not None]


class Level:
    """All nodes at one depth.

    Attributes:
        kinds: of the nodes.
        left, right: the places here of those that have a left child, a right child; the level below has the left
            children in this order, then the right ones.
    """

    def __init__(self, trees: Sequence[Any]) -> None:
        self.kinds = [tree.kind for tree in trees]
        self.left = [i for i, tree in enumerate(trees) if tree.child is not None]
        self.right = [i for i, tree in enumerate(trees) if tree.sibling is not None]


def levels_of(trees: Sequence[Any]) -> list[Level]:
    levels = []
    while trees:
        level = Level(trees)
        levels.append(level)
        trees = [*[trees[i].child for i in level.left], *[trees[i].sibling for i in level.right]]
    return levels


class Labels(tnn.Module):
    """dependency_labels."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.table = torch.from_numpy(ours.table)
        self.features = _linear(ours.features)
        self.cell = _cell(ours.cell)
        first, _, last = ours.head
        self.head = tnn.Sequential(_linear(first), tnn.ReLU(), _linear(last))

    def node(self, kind: int, children: list[State]) -> State:
        n = self.cell.weight_fh.shape[0]
        gates = tf.linear(self.features(self.table[kind : kind + 1]), self.cell.weight_ih, self.cell.bias)
        squashed = gates[:, : 3 * n]
        if children:
            h, c = torch.cat([h for h, _ in children]), torch.cat([c for _, c in children])
            squashed = squashed + tf.linear(h.sum(0, keepdim=True), self.cell.weight_hh)
            forget = torch.sigmoid(tf.linear(h, self.cell.weight_fh) + gates[:, 3 * n :])
        i, o, u = squashed.chunk(3, 1)
        cell = torch.sigmoid(i) * torch.tanh(u)
        if children:
            cell = cell + (forget * c).sum(0, keepdim=True)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def read(self, word: Any, losses: list[Tensor]) -> State:
        states = [self.read(child, losses) for child in word.children]
        h, c = self.node(word.kind, states)
        if states:
            below = torch.cat([h for h, _ in states])
            logits = self.head(torch.cat([h.expand_as(below), below], 1))
            losses.append(tf.cross_entropy(logits, torch.tensor(word.relations), reduction="sum"))
        return h, c

    def loss(self, batch: Sequence[Any]) -> Tensor:
        losses: list[Tensor] = []
        for sentence in batch:
            self.read(sentence.root, losses)
        return torch.stack(losses).sum() / sum(sentence.size for sentence in batch)


class Tags(tnn.Module):
    """tagger."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.words, self.characters = _embedding(ours.words), _embedding(ours.characters)
        self.spell_ahead, self.spell_back = _lstm(ours.spelling.ahead), _lstm(ours.spelling.back)
        self.ahead, self.back = _lstm(ours.sentence.ahead), _lstm(ours.sentence.back)
        self.hidden, self.tag = _linear(ours.hidden), _linear(ours.tag)

    def embed(self, sentence: Sequence[Any], whole: bool) -> list[Tensor]:
        known = [word.known for word in sentence if word.known is not None]
        rows = iter(self.words(torch.tensor(known, dtype=torch.long)).split(1) if known else ())
        return [next(rows) if word.known is not None else self.spell(word, whole) for word in sentence]

    def spell(self, word: Any, whole: bool) -> Tensor:
        xs = self.characters(torch.tensor(word.characters))
        if whole:
            return _both_ways(self.spell_ahead, self.spell_back, xs)[1].reshape(1, -1)
        rows = xs.split(1)
        ahead, back = _run(self.spell_ahead, rows), _run(self.spell_back, rows[::-1])
        return torch.cat([ahead[-1][0], back[-1][0]], 1)

    def judge(self, states: Tensor, tags: list[int]) -> Tensor:
        logits = self.tag(torch.tanh(self.hidden(states)))
        return tf.cross_entropy(logits, torch.tensor(tags), reduction="sum")

    def loss(self, batch: Sequence[Any]) -> Tensor:
        losses = []
        for sentence in batch:
            xs = self.embed(sentence, whole=False)
            ahead, back = _run(self.ahead, xs), _run(self.back, xs[::-1])
            for (a, _), (b, _), word in zip(ahead, reversed(back), sentence, strict=True):
                losses.append(self.judge(torch.cat([a, b], 1), [word.tag]))
        return torch.stack(losses).sum() / len(losses)

    def whole(self, batch: Sequence[Any]) -> Tensor:
        losses = []
        for sentence in batch:
            states = _both_ways(self.ahead, self.back, torch.cat(self.embed(sentence, whole=True)))[0]
            losses.append(self.judge(states, [word.tag for word in sentence]))
        return torch.stack(losses).sum() / sum(map(len, batch))


class Parses(tnn.Module):
    """parser; `of` is the example."""

    def __init__(self, ours: Any, of: Any) -> None:
        super().__init__()
        self.of = of
        self.words, self.tags = _embedding(ours.words), _embedding(ours.tags)
        self.ahead, self.back = _lstm(ours.ahead), _lstm(ours.back)
        self.nothing, self.root = _like(ours.nothing), _like(ours.root)
        self.hidden, self.action = _linear(ours.hidden), _linear(ours.action)

    def embed(self, example: Any) -> Tensor:
        return torch.cat([self.words(torch.tensor(example.words)), self.tags(torch.tensor(example.tags))], 1)

    def encode(self, example: Any) -> dict[int | None, Tensor]:
        xs = self.embed(example).split(1)
        ahead, back = _run(self.ahead, xs), _run(self.back, xs[::-1])
        vectors = {
            i: torch.cat([a, b], 1)
            for i, ((a, _), (b, _)) in enumerate(zip(ahead, back[::-1], strict=True), 1)
        }
        return {None: self.nothing[None], self.of.ROOT: self.root[None], **vectors}

    def scores(self, seen: Tensor) -> Tensor:
        return self.action(torch.tanh(self.hidden(seen)))

    def loss(self, batch: Sequence[Any]) -> Tensor:
        losses = []
        for example in batch:
            vectors, state = self.encode(example), self.of.State(len(example.words))
            for action in example.actions:
                seen = torch.cat([vectors[i] for i in state.seen()], 1)
                losses.append(tf.cross_entropy(self.scores(seen), torch.tensor([action])))
                state.do(action)
        return torch.stack(losses).sum() / len(losses)

    def whole(self, batch: Sequence[Any]) -> Tensor:
        losses = []
        for example in batch:
            read = _both_ways(self.ahead, self.back, self.embed(example))[0]
            vectors = torch.cat([self.nothing[None], self.root[None], read])
            state, seen = self.of.State(len(example.words)), []
            for action in example.actions:
                seen.append([0 if i is None else i + 1 for i in state.seen()])
                state.do(action)
            scores = self.scores(vectors[torch.tensor(seen)].flatten(1))
            losses.append(tf.cross_entropy(scores, torch.tensor(example.actions), reduction="sum"))
        return torch.stack(losses).sum() / sum(len(example.actions) for example in batch)

    @torch.no_grad()
    def attached(self, batch: Sequence[Any]) -> float:
        """The share of words whose head is right, by the parser's own choices."""
        right = 0
        for example in batch:
            vectors, state = self.encode(example), self.of.State(len(example.words))
            while not state.done():
                seen = torch.cat([vectors[i] for i in state.seen()], 1)
                legal = torch.from_numpy(state.legal())
                state.do(int(self.scores(seen).masked_fill(~legal, -torch.inf).argmax()))
            right += sum(a == b for a, b in zip(state.heads, example.heads, strict=True))
        return right / sum(len(example.words) for example in batch)


class Sounds(tnn.Module):
    """g2p."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.letters, self.sounds = _embedding(ours.letters), _embedding(ours.sounds)
        self.ahead, self.back, self.decoder = _lstm(ours.ahead), _lstm(ours.back), _lstm(ours.decoder)
        self.query, self.mix, self.out = _linear(ours.query), _linear(ours.mix), _linear(ours.out)

    def encode(self, example: Any, whole: bool) -> tuple[Tensor, State]:
        xs = self.letters(torch.tensor(example.letters))
        if whole:
            memory, h, c = _both_ways(self.ahead, self.back, xs)
            return memory, (h.reshape(1, -1), c.reshape(1, -1))
        rows = xs.split(1)
        ahead, back = _run(self.ahead, rows), _run(self.back, rows[::-1])
        memory = torch.cat([torch.cat([h for h, _ in ahead]), torch.cat([h for h, _ in back[::-1]])], 1)
        h, c = (torch.cat([a, b], 1) for a, b in zip(ahead[-1], back[-1], strict=True))
        return memory, (h, c)

    def say(self, sound: Tensor, state: State, seen: Tensor, memory: Tensor) -> tuple[State, Tensor]:
        h, c = self.decoder(torch.cat([sound, seen], 1), state)
        weights = torch.softmax(self.query(h) @ memory.T, 1)
        return (h, c), torch.tanh(self.mix(torch.cat([h, weights @ memory], 1)))

    def losses(self, example: Any, whole: bool) -> list[Tensor]:
        memory, state = self.encode(example, whole)
        seen, mixed = torch.zeros_like(state[0]), []
        for sound in self.sounds(torch.tensor([0, *example.sounds])).split(1):
            state, seen = self.say(sound, state, seen, memory)
            mixed.append(seen)
        targets = torch.tensor([*example.sounds, 0])
        if whole:
            return [tf.cross_entropy(self.out(torch.cat(mixed)), targets, reduction="sum")]
        return [tf.cross_entropy(self.out(x), y) for x, y in zip(mixed, targets.split(1), strict=True)]

    def loss(self, batch: Sequence[Any], whole: bool = False) -> Tensor:
        losses = [nats for example in batch for nats in self.losses(example, whole)]
        return torch.stack(losses).sum() / sum(len(example.sounds) + 1 for example in batch)

    def whole(self, batch: Sequence[Any]) -> Tensor:
        return self.loss(batch, whole=True)
