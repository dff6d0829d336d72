"""Values that are read wherever Python can be: in try, with, generators, nested batches, while other examples wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from batching.cells import double
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import ops
from dist_dp.nn import functional as F
from dist_dp.random import Key, scope

W = dp.tensor(np.array([0.5, -1.0]), requires_grad=True)


class Stop(Exception):
    """What a program raises to itself."""


@dp.cell
def mixed(x: Any, y: Any) -> Any:
    return ops.tanh(x * W + y)


@dp.cell
def noisy(x: Any) -> Any:
    return F.dropout(x, 0.4)


Steps = Sequence[tuple[str, Any]]  # each with the steps inside it


class Run:
    """One example: what it computed so far, and what its reads saw."""

    def __init__(self, n: int) -> None:
        self.h = W * (n + 1.0)
        self.seen: list[float] = []

    def read(self) -> bool:
        self.seen.append(round(self.h.sum().item(), 6))
        return self.seen[-1] > 0.01234

    def go(self, steps: Steps) -> Any:
        for name, inside in steps:
            getattr(self, name)(inside)
        return self.h

    def reads(self, inside: Steps) -> None:
        self.read()
        self.go(inside)

    def call(self, inside: Steps) -> None:
        self.h = mixed(self.h, W) * 1.5
        self.go(inside)

    def noise(self, inside: Steps) -> None:
        self.h = noisy(self.h) + dp.random.normal((2,), np.float64)
        self.go(inside)

    def cleans_up(self, inside: Steps) -> None:
        with contextlib.suppress(Stop):
            try:
                self.go(inside)
                if self.read():
                    raise Stop
            finally:
                self.read()
                self.h = double(self.h)

    def caught(self, inside: Steps) -> None:
        try:
            if self.read():
                raise Stop(self.h)
        except Stop as stop:
            self.go(inside)
            self.read()
            self.h = self.h + stop.args[0]
        else:
            self.go(inside)

    def again(self, inside: Steps) -> None:
        """The exception that a bare `raise` means is the one of this example."""
        mine = Stop(len(self.seen))
        try:
            try:
                raise mine
            except Stop:
                self.read()
                self.go(inside)
                raise
        except Stop as stop:
            assert stop is mine

    def manages(self, inside: Steps) -> None:
        @contextlib.contextmanager
        def manager() -> Iterator[Any]:
            self.read()
            try:
                yield self.h
            finally:
                self.read()

        with manager() as before:
            self.go(inside)
        self.h = mixed(before, self.h)

    def generator(self, inside: Steps) -> None:
        def parts() -> Iterator[Any]:
            for _ in range(3):
                if self.read():
                    yield self.h * 0.5
                self.go(inside)
                yield self.h

        self.h = sum(parts(), W * 0.1)

    def abandoned(self, inside: Steps) -> None:
        """A generator that is closed where it waits, not at its end."""

        def parts() -> Iterator[Any]:
            try:
                while True:
                    yield double(self.h)
                    self.go(inside)
            finally:
                self.read()

        chosen = parts()
        self.h = next(chosen) + next(chosen)
        chosen.close()

    def no_grad(self, inside: Steps) -> None:
        h = self.h
        with dp.no_grad():
            self.read()
            self.go(inside)
            self.read()
            constant = self.h
        assert dp.is_grad_enabled()
        self.h = h + constant

    def drawn(self, inside: Steps) -> None:
        with scope(Key(len(self.seen))):
            self.read()
            self.noise(inside)

    def nested(self, inside: Steps) -> None:
        h = self.h

        def inner(k: float) -> Any:
            self.h = h * k
            self.read()
            return double(self.h)

        self.h = dp.batched(inner, [1.0, 2.0]).sum(0)
        self.go(inside)

    def part(self, inside: Steps) -> Any:
        """The steps inside as a function that may be computed twice."""

        def function(x: Any) -> Any:
            run = Run(0)
            run.h = mixed(x, self_h)
            return run.go(inside)

        self_h = self.h * 0.3
        return function

    def checkpointed(self, inside: Steps) -> None:
        self.h = dp.checkpoint(self.part(inside))(self.h)

    def derived(self, inside: Steps) -> None:
        function = self.part(inside)
        self.h = self.h - 0.5 * dp.grad(lambda x: (function(x) * x).sum())(self.h)

    def pushed(self, inside: Steps) -> None:
        self.h = self.h - dp.jvp(self.part(inside), (self.h,), (np.ones(2),))[1]


names = [name for name in vars(Run) if not name.startswith("_") and name not in ("read", "go", "part")]
blocks = st.recursive(
    st.just(()),
    lambda inside: st.lists(st.tuples(st.sampled_from(names), inside), max_size=3).map(tuple),
    max_leaves=8,
)


@given(
    programs=st.lists(blocks, min_size=1, max_size=4),
    options=st.sampled_from([{}, {"max_batch": 1}, {"wave": 2}]),
)
@settings(max_examples=120)
def test_reads_anywhere(programs: list[Steps], options: dict[str, int]) -> None:
    found = []
    for its in ({"enabled": False}, options):
        seen: dict[int, list[float]] = {}

        def program(n: int, seen: dict[int, list[float]] = seen) -> Any:
            run = Run(n)
            seen[n] = run.seen
            return run.go(programs[n])

        W.grad = None
        with scope(Key(2)):
            out = dp.batched(program, range(len(programs)), **its)
        first = {n: list(its) for n, its in seen.items()}
        out.sum().backward()
        found.append((out.data, W.grad.data, first))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-9, atol=1e-11)
    assert found[1][2] == found[0][2]
