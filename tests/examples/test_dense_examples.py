"""The examples of fixed graphs: one digest on one, two and three workers, with the compiled kernels and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from examples.test_batched_examples import example
from train.cluster import Cluster

import dist_dp as dp
from dist_dp import kernels, nn, optim

digits, fashion_mnist, char_gpt = map(example, ("digits", "fashion_mnist", "char_gpt"))
rng = np.random.default_rng(0)
CODES = rng.integers(0, 20, 200)


def images(size: int) -> tuple[Any, Any]:
    return rng.normal(size=(36, 1, size, size)).astype(np.float32), rng.integers(0, 10, 36)


def language_model() -> nn.Module:
    """Characters through a recurrent layer, which no example of a fixed graph has."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.symbols, self.lstm = nn.Embedding(20, 32), nn.LSTM(32, 32, batch_first=True)
            self.head = nn.Linear(32, 20)

        def forward(self, codes: Any) -> Any:
            return self.head(self.lstm(self.symbols(codes))[0])

    return Reader()


@pytest.mark.parametrize("with_kernels", [True, False], ids=["compiled", "numpy"])
@pytest.mark.parametrize(
    ("make", "loss", "data"),
    [
        (digits.mlp, digits.loss, images(8)),
        (digits.cnn, digits.loss, images(8)),
        (fashion_mnist.mlp, fashion_mnist.loss, images(28)),
        (fashion_mnist.lenet, fashion_mnist.loss, images(28)),
        (lambda: char_gpt.GPT(20), char_gpt.loss, char_gpt.Windows(CODES)),
        (language_model, char_gpt.loss, char_gpt.Windows(CODES)),
    ],
    ids=["digits mlp", "digits cnn", "fashion mlp", "lenet", "char-gpt", "lstm"],
)
def test_the_digest_is_that_of_one_worker(
    make: Callable[[], Any], loss: Any, data: Any, with_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_kernels:
        monkeypatch.setattr(kernels, "compiled", None)
    elif kernels.compiled is None:
        pytest.skip("there was no C compiler when dist_dp was installed")

    def program() -> str:
        dp.seed(0)
        model = make()
        optimizer = optim.AdamW(model.parameters(), lr=1e-3)
        return dp.fit(
            model, loss, optimizer, data, batch_size=12, shards=3, max_steps=3, progress=False
        ).digest

    alone = program()
    for workers in (2, 3):
        assert Cluster(workers, program).run().results == dict.fromkeys(range(workers), alone)
