"""Recurrent networks where the table of laws does not go: the composition, lengths, what a step may see, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ops.fused import agree, leaf

from dist_dp import ops

random = np.random.default_rng(0)

KINDS: dict[str, tuple[Callable[..., Any], int, int, dict[str, Any]]] = {
    "lstm": (ops.lstm, 4, 2, {}),
    "gru": (ops.gru, 3, 1, {}),
    "rnn": (ops.rnn, 1, 1, {}),
    "relu rnn": (ops.rnn, 1, 1, {"nonlinearity": "relu"}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def arrays(kind: str, steps: int = 6, rows: int = 5, features: int = 3, hidden: int = 4) -> list[Any]:
    """x, the two weights, the two biases and the states."""
    _, gates, states, _ = KINDS[kind]
    n = gates * hidden
    shapes = [(n, features), (n, hidden), (n,), (n,), *[(rows, hidden)] * states]
    return [random.normal(size=(steps, rows, features)), *(random.normal(size=s) * 0.5 for s in shapes)]


@every_kind
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 6, 0, 1, 6], [0, 0, 0, 0, 0]])
def test_fused_is_composed(kind: str, lengths: Any, reverse: bool) -> None:
    fn, _, _, options = KINDS[kind]
    agree(lambda *a: fn(*a, lengths=lengths, reverse=reverse, **options), *arrays(kind))


@every_kind
@pytest.mark.parametrize("sizes", [{"rows": 0}, {"features": 0}, {"rows": 0, "features": 0}], ids=str)
def test_gradients_of_no_sequences_and_no_features(kind: str, sizes: dict[str, int]) -> None:
    fn, _, _, options = KINDS[kind]
    agree(lambda *a: fn(*a, **options), *arrays(kind, **sizes))


@every_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lengths", [None, np.zeros(0, np.int64)])
def test_no_sequences_have_gradients_of_zeros(kind: str, lengths: Any, dtype: Any) -> None:
    fn, _, _, options = KINDS[kind]
    inputs = [a.astype(dtype) for a in arrays(kind, rows=0)]
    agree(lambda *a: fn(*a, lengths=lengths, **options), *inputs)
    leaves = [leaf(a) for a in inputs]
    fn(*leaves, lengths=lengths, **options)[0].sum().backward()
    assert all((x.grad.data == 0).all() and x.grad.shape == x.shape for x in leaves)


@every_kind
def test_float32_without_biases_and_states(kind: str) -> None:
    fn, _, _, options = KINDS[kind]
    x, w_ih, w_hh, *rest = (a.astype(np.float32) for a in arrays(kind))
    out, *last = fn(x, w_ih, w_hh, **options)
    zeros = fn(x, w_ih, w_hh, *map(np.zeros_like, rest), **options)
    assert all(a.dtype == np.float32 for a in (out, *last))
    for a, b in zip((out, *last), zeros, strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-6)
    agree(lambda *a: fn(*a, **options), x, w_ih, w_hh, rtol=1e-4)


@every_kind
@pytest.mark.parametrize("reverse", [False, True])
def test_a_sequence_is_computed_as_if_it_were_alone(kind: str, reverse: bool) -> None:
    fn, _, _, options = KINDS[kind]
    lengths = [3, 6, 0, 1, 6]
    x, *weights_and_states = arrays(kind)
    weights, states = weights_and_states[:4], weights_and_states[4:]
    out, *last = fn(x, *weights, *states, lengths=lengths, reverse=reverse, **options)
    for row, n in enumerate(lengths):
        assert (out.data[n:, row] == 0).all()
        own = [h[row : row + 1] for h in states]
        if n == 0:
            np.testing.assert_array_equal(last[0].data[row], own[0][0])
            continue
        alone, *ends = fn(x[:n, row : row + 1], *weights, *own, reverse=reverse, **options)
        np.testing.assert_allclose(out.data[:n, row], alone.data[:, 0], rtol=1e-12)
        for h, end in zip(last, ends, strict=True):
            np.testing.assert_allclose(h.data[row], end.data[0], rtol=1e-12)


@every_kind
def test_steps_beyond_the_length_have_no_gradient(kind: str) -> None:
    fn, _, _, options = KINDS[kind]
    inputs = [leaf(a) for a in arrays(kind)]
    out, *last = fn(*inputs, lengths=[3, 6, 0, 1, 6], **options)
    (out.sum() + last[0].sum()).backward()
    g = inputs[0].grad.data
    assert (g[3:, 0] == 0).all() and (g[:, 2] == 0).all() and (g[:2, 0] != 0).any()
    assert np.isfinite(g).all()


@every_kind
def test_reverse_is_the_network_on_the_reversed_sequence(kind: str) -> None:
    fn, _, _, options = KINDS[kind]
    x, *others = arrays(kind)
    out, *last = fn(x, *others, reverse=True, **options)
    mirrored, *ends = fn(x[::-1], *others, **options)
    np.testing.assert_allclose(out.data, mirrored.data[::-1], rtol=1e-12)
    np.testing.assert_allclose(last[0].data, ends[0].data, rtol=1e-12)


@every_kind
def test_errors(kind: str) -> None:
    fn, _, _, _ = KINDS[kind]
    x, w_ih, w_hh, b_ih, b_hh, *states = arrays(kind)
    name = fn.__name__
    with pytest.raises(ValueError, match=rf"{name}: `x` must be \(steps >= 1, sequences, features\)"):
        fn(x[0], w_ih, w_hh)
    with pytest.raises(ValueError, match=rf"{name}: `x` must be \(steps >= 1"):
        fn(x[:0], w_ih, w_hh)
    with pytest.raises(ValueError, match=f"{name}: `weight_ih` must have shape"):
        fn(x, w_ih[:, :2], w_hh)
    with pytest.raises(ValueError, match=f"{name}: `weight_hh` must have shape"):
        fn(x, w_ih, w_hh[:-1])
    with pytest.raises(ValueError, match=f"{name}: `bias_ih` must have shape"):
        fn(x, w_ih, w_hh, b_ih[1:])
    with pytest.raises(ValueError, match=f"{name}: `bias_hh` must have shape"):
        fn(x, w_ih, w_hh, b_ih, b_hh[1:])
    with pytest.raises(ValueError, match=f"{name}: `h0` must have shape"):
        fn(x, w_ih, w_hh, h0=states[0][1:])
    with pytest.raises(
        ValueError, match=f"{name}: `lengths` must hold an integer for each of the 5 sequences"
    ):
        fn(x, w_ih, w_hh, lengths=[1, 2])
    with pytest.raises(ValueError, match=f"{name}: `lengths` must hold an integer"):
        fn(x, w_ih, w_hh, lengths=[1.0] * 5)
    with pytest.raises(ValueError, match=r"`lengths` must be in \[0, 6\], got 1 to 7"):
        fn(x, w_ih, w_hh, lengths=[1, 7, 2, 2, 2])


def test_errors_of_one_kind() -> None:
    x, w_ih, w_hh, *_ = arrays("rnn")
    with pytest.raises(ValueError, match="rnn: `nonlinearity` must be 'tanh' or 'relu', got 'sin'"):
        ops.rnn(x, w_ih, w_hh, nonlinearity="sin")
    x, w_ih, w_hh, *_ = arrays("lstm")
    with pytest.raises(ValueError, match="lstm: `c0` must have shape"):
        ops.lstm(x, w_ih, w_hh, c0=np.zeros(3))


def test_a_cell_is_one_step_of_the_network() -> None:
    x, w_ih, w_hh, b_ih, b_hh, h, c = arrays("lstm", steps=1)
    _, *after = ops.lstm(x, w_ih, w_hh, b_ih, b_hh, h, c)
    cell = ops.lstm_cell(x[0] @ w_ih.T + b_ih + h @ w_hh.T + b_hh, c)
    for a, b in zip(after, cell, strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-12)
    with pytest.raises(ValueError, match=r"lstm_cell: `gates` must be \(..., 4 hidden\)"):
        ops.lstm_cell(np.zeros((2, 8)), np.zeros((3, 2)))
