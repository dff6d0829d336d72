"""The examples whose graphs differ: in batches as one by one, and their algorithms against plain definitions."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp


def example(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tagger, parser, g2p, digit_strings = map(example, ("tagger", "parser", "g2p", "digit_strings"))


def a_tagger():
    sentences = [
        [("ev", "NN"), ("ler", "NN"), (".", ".")],
        [("ev", "NN")] * 4,
        [("gel", "VB"), ("ev", "NN"), ("ince", "VB"), ("git", "VB"), (".", ".")],
    ]
    vocabulary = tagger.Vocabulary(sentences)
    assert vocabulary.words == {"ev": 0}  # the others are spelt
    return tagger.Tagger(vocabulary, hidden=4), list(map(vocabulary, sentences))


def a_parser():
    sentences = [
        [("a", "X", 2), ("b", "Y", 0), ("c", "X", 4), ("a", "X", 2)],
        [("b", "Y", 0)],
        [("c", "X", 3), ("b", "Y", 1), ("a", "X", 0)],
    ]
    examples, _, words, tags = parser.numbered(sentences, [])
    return parser.Parser(words, tags, hidden=4), examples


def a_speaker():
    rng = np.random.default_rng(0)
    examples = [
        g2p.Example(tuple(rng.integers(5, size=n).tolist()), tuple(rng.integers(1, 4, size=m).tolist()))
        for n, m in [(1, 1), (3, 5), (9, 2), (3, 3)]
    ]
    return g2p.Speaker(letters=5, sounds=4, hidden=4), examples


def a_recogniser():
    rng = np.random.default_rng(0)
    images = [rng.uniform(size=(8, width)).astype(np.float32) for width in (4, 5, 6, 3)]
    made = digit_strings.strings(images, [3, 1, 4, 1], 12, seed=0)
    return digit_strings.Recogniser(), [s for s in made if digit_strings.readable(s)][:5]


ALL = pytest.mark.parametrize("made", [a_tagger, a_parser, a_speaker, a_recogniser])


@ALL
def test_batched_losses_and_gradients_are_those_one_by_one(made) -> None:
    dp.seed(0)
    model, examples = made()
    assert len(examples) >= 3

    def computed(enabled: bool):
        loss = dp.batched(model.loss, examples, enabled=enabled)
        nats = loss[0] if isinstance(loss, tuple) else loss
        model.zero_grad()
        (nats * np.arange(1, len(examples) + 1, dtype=np.float32)).sum().backward()
        return [nats.detach().numpy(), *(p.grad.numpy() for p in model.parameters())]

    batched = computed(True)
    assert len(dp.explain_batching().batches) > 1
    for one, other in zip(batched, computed(False), strict=True):
        assert one.dtype == other.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("made", "decide"),
    [
        (a_parser, lambda model, example: model.parse(example)),
        (a_speaker, lambda model, example: model.pronounce(example.letters)),
        (a_recogniser, lambda model, example: model.read(example)),
    ],
)
def test_choices_are_the_same_in_batches(made, decide) -> None:
    dp.seed(1)
    model, examples = made()
    found: dict[int, object] = {}

    def one(i: int) -> None:
        found[i] = decide(model, examples[i])

    with dp.no_grad():
        dp.batched(one, range(len(examples)))
        assert [found[i] for i in range(len(examples))] == [decide(model, example) for example in examples]


# ----- arc-standard -----


def crosses(heads: list[int]) -> bool:
    """Whether two arcs, of the root at 0 too, cross."""
    arcs = [(min(i, h), max(i, h)) for i, h in enumerate(heads, 1)]
    return any(a < c < b < d for (a, b), (c, d) in itertools.permutations(arcs, 2))


def is_tree(heads: list[int]) -> bool:
    """Whether there is one root, and it is above every word."""

    def reaches(i: int) -> bool:
        for _ in heads:
            i = heads[i - 1] if i else 0
        return i == 0

    return heads.count(0) == 1 and all(map(reaches, range(1, len(heads) + 1)))


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_the_oracle_makes_every_tree_that_the_parser_can_make(data: st.DataObject) -> None:
    state = parser.State(data.draw(st.integers(1, 12)))
    while not state.done():
        state.do(data.draw(st.sampled_from(np.flatnonzero(state.legal()).tolist())))
    assert is_tree(state.heads) and not crosses(state.heads)
    actions = parser.oracle(state.heads)
    assert actions is not None and len(actions) == 2 * state.n
    again = parser.State(state.n)
    for action in actions:
        assert again.legal()[action]
        again.do(action)
    assert again.done() and again.heads == state.heads


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_the_oracle_finds_all_trees_that_do_not_cross_and_no_others(n: int) -> None:
    for heads in itertools.product(range(n + 1), repeat=n):
        if is_tree(list(heads)):
            assert (parser.oracle(list(heads)) is None) == crosses(list(heads)), heads


# ----- the forward algorithm -----


@st.composite
def lattices(draw: st.DrawFn):
    cuts = draw(st.integers(2, 5))
    edges = [
        (i, j) for j in range(cuts) for i in range(j) if j == i + 1 or draw(st.booleans())
    ]  # one path at least
    scores = np.random.default_rng(draw(st.integers(0, 99))).normal(0, 3, (len(edges), 10)).astype(np.float32)
    return cuts, edges, scores, draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))


def paths(edges: list[tuple[int, int]], start: int, end: int) -> list[list[int]]:
    """All paths, as the places of their edges."""
    if start == end:
        return [[]]
    return [[k, *rest] for k, (i, j) in enumerate(edges) if i == start for rest in paths(edges, j, end)]


@given(lattices())
@settings(max_examples=60, deadline=None)
def test_forward_sums_over_all_paths(lattice) -> None:
    cuts, edges, scores, digits = lattice
    total, right = digit_strings.forward(cuts, edges, list(scores), digits)
    every = paths(edges, 0, cuts - 1)
    exact = scores.astype(float)
    expected = math.log(sum(math.prod(np.exp(exact[k]).sum() for k in path) for path in every))
    assert total.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    fitting = [path for path in every if len(path) == len(digits)]
    if fitting:
        sums = [sum(exact[k, d] for k, d in zip(path, digits, strict=True)) for path in fitting]
        assert right.tolist()[len(digits)] == pytest.approx(np.logaddexp.reduce(sums), rel=1e-4, abs=1e-4)
    else:
        assert right.tolist()[len(digits)] < digit_strings.NEVER / 2
