"""Random programs: a few cells with random bodies, and for every example a list of steps of its own.

A program works on registers, vectors of WIDTH numbers. A step reads registers, counted from the newest one, and pushes
what it makes: so values are shared (DAGs), loops fold, trees reduce, and examples have steps in common and others not.
Steps that look at a value do so against a number that no sum of these inputs comes near, so that rounding decides
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import ops
from dist_dp.nn import functional as F

WIDTH = 3
THRESHOLD = 0.012345678
CONSTANTS = [1.1, 1.3, 1, 1.0, True, 2, 0.0, -0.0, -0.5]

Cell = Callable[..., Any]


class Body(NamedTuple):
    """What a cell computes: `arity` vectors (or one list of them) to one vector or several."""

    kind: str
    arity: int
    matrix: int = 0


class Program(NamedTuple):
    """Cells, and the steps of every example."""

    bodies: tuple[Body, ...]
    examples: tuple[tuple[Any, ...], ...]


ARITIES = {
    "affine": (1, 2, 3),
    "several": (1, 2),
    "nested": (1, 2),
    "children": (1,),
    "dropout": (1, 2),
    "calling": (1, 2),
    "number": (1,),
    "static": (1, 2),
    "weights": (1,),
    "tied": (2,),
}


@st.composite
def bodies(draw: Any, random: bool) -> Body:
    kind = draw(st.sampled_from([k for k in ARITIES if random or k != "dropout"]))
    return Body(kind, draw(st.sampled_from(ARITIES[kind])), draw(st.integers(0, 1)))


def steps(count: int, random: bool, deep: int = 1) -> st.SearchStrategy[Any]:
    """One step: its name, and what it needs."""
    cell, back = st.integers(0, count - 1), st.integers(0, 5)
    backs = st.tuples(back, back, back)
    constant = st.integers(0, len(CONSTANTS) - 1)
    kinds = [
        st.tuples(st.just("cell"), cell, backs, constant),
        st.tuples(st.just("cell"), cell, backs, constant),
        st.tuples(st.just("loop"), cell, st.integers(0, 5), constant),
        st.tuples(st.just("tree"), cell, st.integers(0, 2**12), constant),
        st.tuples(st.just("plain"), st.sampled_from(sorted(PLAIN)), backs, constant),
        st.tuples(st.just("choose"), back, back),
        st.tuples(st.just("write"), back, back, constant),
    ]
    if random:
        kinds.append(st.tuples(st.just("dropout"), back))
    if deep:
        inner = st.lists(steps(count, random, deep - 1), max_size=2)
        kinds.append(st.tuples(st.just("branch"), back, inner, inner))
        kinds.append(st.tuples(st.just("while"), back, inner))
    return st.one_of(kinds)


@st.composite
def programs(draw: Any, random: bool = True, most: int = 5) -> Program:
    cells = draw(st.lists(bodies(random), min_size=1, max_size=3))
    lists = st.lists(steps(len(cells), random), min_size=1, max_size=6)
    different = draw(st.lists(lists, min_size=1, max_size=most))
    # Examples with the same steps are where batches come from; so are those that differ in the last one only.
    which = draw(st.lists(st.integers(0, len(different) - 1), min_size=1, max_size=most))
    return Program(tuple(cells), tuple(tuple(different[i]) for i in which))


# --- what they mean ---------------------------------------------------------------------------------------------------


class Parameters(NamedTuple):
    """What the cells of a program close over, and the inputs of its examples."""

    matrices: Any
    bias: Any
    inputs: Any


def parameters(dtype: Any, examples: int, seed: int = 0) -> Parameters:
    rng = np.random.default_rng([seed, examples])
    arrays = rng.normal(size=(2, WIDTH, WIDTH)), rng.normal(size=WIDTH), rng.normal(size=(examples, WIDTH))
    return Parameters(*[x.astype(dtype) for x in arrays])


def make(body: Body, p: Parameters) -> Cell:
    """The cell of `body`. All are called alike: a list of vectors, a number, and a word."""

    def mixed(xs: Sequence[Any]) -> Any:
        total = p.bias
        for i, x in enumerate(xs):
            total = total + x @ p.matrices[(body.matrix + i) % 2]
        return ops.tanh(total)

    @dp.cell
    def inner(x: Any) -> Any:
        return x * ops.sigmoid(x @ p.matrices[1 - body.matrix])

    @dp.cell
    def affine(xs: Any, number: Any, word: str) -> Any:
        return mixed(xs)

    @dp.cell
    def several(xs: Any, number: Any, word: str) -> Any:
        h = mixed(xs)
        return h, xs[0] * h, xs[-1]

    @dp.cell
    def nested(xs: Any, number: Any, word: str) -> Any:
        h = mixed(xs)
        return {"state": (h, [h * xs[0]]), "rest": xs[0] * 0.5}

    @dp.cell
    def children(xs: Any, number: Any, word: str) -> Any:
        return ops.tanh(sum(xs) @ p.matrices[body.matrix]) if xs else ops.zeros_like(number)[:, None] + p.bias

    @dp.cell
    def dropout(xs: Any, number: Any, word: str) -> Any:
        kept = dp.random.bernoulli(0.5, xs[0].shape)
        return F.dropout(mixed(xs), 0.4) + xs[0] * kept

    @dp.cell
    def calling(xs: Any, number: Any, word: str) -> Any:
        return inner(xs[0]) - inner(xs[-1] * 0.5)

    @dp.cell
    def number_(xs: Any, number: Any, word: str) -> Any:
        return xs[0] * ops.astype(number, xs[0].dtype)[:, None] + p.bias

    @dp.cell
    def static(xs: Any, number: Any, word: str) -> Any:
        return mixed(xs) if word == "tanh" else xs[0] * 0.9 - xs[-1]

    @dp.cell
    def weights(xs: Any, number: Any, word: str) -> Any:
        return xs[1] + ops.squeeze(ops.matmul(xs[0][:, None], xs[2]), 1)

    @dp.cell
    def tied(xs: Any, number: Any, word: str) -> Any:
        return ops.tanh(xs[0] * xs[1])  # bounded, however often it squares

    cell = {c.fun.__name__.rstrip("_"): c for c in list(locals().values()) if isinstance(c, dp.cell)}[
        body.kind
    ]

    def call(vectors: Sequence[Any], constant: Any) -> list[Any]:
        xs = list(vectors)
        if body.kind == "weights":  # a parameter and an array as arguments
            xs = [xs[0], p.bias, p.matrices[body.matrix]]
        if isinstance(constant, bool):
            constant = 3
        out = cell(xs, constant, "tanh" if constant in (1, 1.1) else "affine")
        if isinstance(out, dict):
            return [out["rest"], out["state"][1][0], out["state"][0]]
        return list(out) if isinstance(out, tuple) else [out]

    return call


PLAIN: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "add": lambda a, b, c, k: a + b,
    "constant": lambda a, b, c, k: a * 0.5 + k,
    "scaled": lambda a, b, c, k: k * a,
    "power": lambda a, b, c, k: ops.power(a * a + 1, k),
    "product": lambda a, b, c, k: a * b - c,
    "where": lambda a, b, c, k: ops.where(np.array([True, False, True]), a, b),
    "slice": lambda a, b, c, k: ops.concatenate([a[1:], b[:1]]),
    "reverse": lambda a, b, c, k: a[::-1] * b[0],
    "stack": lambda a, b, c, k: ops.stack([a, b, c]).mean(0),
    "softmax": lambda a, b, c, k: F.softmax(a + b, -1),
    "outer": lambda a, b, c, k: (a[:, None] * b[None]) @ c,
    "norm": lambda a, b, c, k: a / ops.sqrt((b * b).sum() + 1),
    "array": lambda a, b, c, k: a * np.array([0.5, -1.0, k], a.dtype),
    "index": lambda a, b, c, k: a[np.array([2, 0, 0])] + b.max(),
    "clip": lambda a, b, c, k: ops.clip(a, -1 if k < 1 else -1.0, 1.0),
    "detached": lambda a, b, c, k: a + dp.stop_gradient(b),
}


def function(program: Program, p: Parameters) -> Callable[[int], Any]:
    """The program as a function of the index of its example."""
    calls = [make(body, p) for body in program.bodies]
    return lambda index: _run(program, calls, p, index)


def _run(program: Program, calls: Sequence[Cell], p: Parameters, index: int) -> Any:
    """The sum of the last registers."""
    stack = [p.bias * 0.5, p.inputs[index]]

    def go(todo: Sequence[Any]) -> None:
        for step in todo:
            what, *rest = step
            if what == "cell":
                which, backs, k = rest
                arity = program.bodies[which].arity
                if program.bodies[which].kind == "children":
                    arity = backs[0] % 4
                stack.extend(calls[which]([get(b) for b in (*backs, 1)[:arity]], CONSTANTS[k]))
            elif what == "loop":
                which, times, k = rest
                for _ in range(times):
                    stack.append(calls[which]([get(0)] * program.bodies[which].arity, CONSTANTS[k])[-1])
            elif what == "tree":
                which, shape, k = rest
                stack.append(tree(which, shape, 3, CONSTANTS[k]))
            elif what == "plain":
                name, backs, k = rest
                stack.append(PLAIN[name](*[get(b) for b in backs], CONSTANTS[k]))
            elif what == "choose":
                where, back = rest
                at = int((get(where) + np.array([0.0, 0.01, 0.02])).argmax())
                stack.append(get(back) * (at + 1))
            elif what == "write":
                back, other, k = rest
                y = get(back) * 1.0
                y[k % WIDTH] = get(other)[0]
                y += get(other)
                stack.append(y)
            elif what == "dropout":
                stack.append(F.dropout(get(rest[0]), 0.3))
            elif what == "branch":
                back, yes, no = rest
                go(yes if get(back).sum() > THRESHOLD else no)
            else:
                back, inner = rest
                for _ in range(3):
                    if ops.abs(get(back)).sum().item() < 1 + THRESHOLD:
                        break
                    go(inner)
                    stack.append(get(back) * 0.6)

    def get(back: int) -> Any:
        return stack[max(0, len(stack) - 1 - back)]

    def tree(which: int, shape: int, depth: int, k: Any) -> Any:
        """A tree of calls: the bits of `shape` say where it ends."""
        if not depth or shape & 1:
            return get(shape >> 1 & 3)
        arity = program.bodies[which].arity
        below = [tree(which, shape >> (i + 1), depth - 1, k) for i in range(arity)]
        return calls[which](below, k)[-1]

    go(program.examples[index])
    return ops.tanh(sum(stack[-3:]))
