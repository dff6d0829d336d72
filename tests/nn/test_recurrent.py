"""Recurrent layers: against their equations, and the same for a sequence alone, in a list, and padded."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dist_dp as dp
from dist_dp import nn
from dist_dp.random import Key, Stream

Layer = Any
KINDS = [nn.RNN, nn.LSTM, nn.GRU]


def _states(last: Any) -> list[Any]:
    return [s.data for s in (last if isinstance(last, tuple) else (last,))]


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _step(layer: Layer, suffix: str, x: Any, state: list[Any]) -> list[Any]:
    """One step by the equations of the docstrings; state is [h] or [h, c]."""
    w_ih, w_hh, b_ih, b_hh = (
        getattr(layer, name + suffix).data for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    a, b = w_ih @ x + b_ih, w_hh @ state[0] + b_hh
    if isinstance(layer, (nn.LSTM, nn.LSTMCell)):
        i, f, g, o = np.split(a + b, 4)
        c = _sigmoid(f) * state[1] + _sigmoid(i) * np.tanh(g)
        return [_sigmoid(o) * np.tanh(c), c]
    if isinstance(layer, (nn.GRU, nn.GRUCell)):
        (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
        z = _sigmoid(az + bz)
        return [(1 - z) * np.tanh(an + _sigmoid(ar + br) * bn) + z * state[0]]
    return [np.tanh(a + b)]


def _reference(layer: Layer, x: Any) -> tuple[Any, list[Any]]:
    """The whole network on one sequence, step by step."""
    n = 2 if isinstance(layer, nn.LSTM) else 1
    last: list[list[Any]] = []
    for k in range(layer.num_layers):
        outs = []
        for suffix in ("", "_reverse")[: 1 + layer.bidirectional]:
            state, rows = [np.zeros(layer.hidden_size)] * n, []
            for row in x[::-1] if suffix else x:
                state = _step(layer, f"_l{k}{suffix}", row, state)
                rows.append(state[0])
            outs.append(np.array(rows[::-1] if suffix else rows))
            last.append(state)
        x = np.concatenate(outs, axis=-1)
    return x, [np.array(parts) for parts in zip(*last, strict=True)]


def _sequences(lengths: list[int], size: int = 3) -> list[Any]:
    rng = np.random.default_rng(len(lengths))
    return [rng.normal(size=(n, size)) for n in lengths]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_list_of_sequences_is_each_of_them_alone(kind: Layer, bidirectional: bool) -> None:
    layer = kind(3, 4, num_layers=2, bidirectional=bidirectional, dtype=np.float64)

    @settings(max_examples=15)
    @given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    def law(lengths: list[int]) -> None:
        sequences = _sequences(lengths)
        outs, last = layer(sequences)
        for k, x in enumerate(sequences):
            expected, state = _reference(layer, x)
            np.testing.assert_allclose(outs[k].data, expected, atol=1e-12)
            for got, want in zip(_states(last), state, strict=True):
                np.testing.assert_allclose(got[:, k], want, atol=1e-12)
            alone, alone_last = layer(x)
            np.testing.assert_allclose(alone.data, expected, atol=1e-12)
            for got, want in zip(_states(alone_last), state, strict=True):
                np.testing.assert_allclose(got, want, atol=1e-12)

    law()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_padding_is_not_read_and_comes_back_as_zeros(kind: Layer, batch_first: bool) -> None:
    layer = kind(3, 4, bidirectional=True, batch_first=batch_first, dtype=np.float64)
    lengths = [2, 5, 0, 3]
    padded = np.full((6, 4, 3), np.nan)
    sequences = _sequences(lengths)
    for k, x in enumerate(sequences):
        padded[: len(x), k] = x
    padded = np.where(np.isnan(padded), 1e3, padded)
    given_ = np.swapaxes(padded, 0, 1) if batch_first else padded
    out, last = layer(given_, lengths=lengths)
    values = np.swapaxes(out.data, 0, 1) if batch_first else out.data
    listed, listed_last = layer(sequences)
    for k, n in enumerate(lengths):
        np.testing.assert_allclose(values[:n, k], listed[k].data, atol=1e-12)
        assert (values[n:, k] == 0).all()
    for got, want in zip(_states(last), _states(listed_last), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
        assert (got[:, 2] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_backward_direction_is_the_forward_one_on_the_reversed_sequence(kind: Layer) -> None:
    both = kind(3, 4, bidirectional=True, dtype=np.float64)
    forward = kind(3, 4, dtype=np.float64)
    state = both.state_dict()
    forward.load_state_dict({name: state[name + "_reverse"] for name in forward.state_dict()})
    x = _sequences([6])[0]
    np.testing.assert_allclose(both(x)[0].data[:, 4:], forward(x[::-1].copy())[0].data[::-1], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_in_two_parts_is_the_sequence(kind: Layer) -> None:
    layer = kind(3, 4, num_layers=2, dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(7, 2, 3))
    whole, last = layer(x)
    first, between = layer(x[:3])
    second, end = layer(x[3:], between)
    np.testing.assert_allclose(np.concatenate([first.data, second.data]), whole.data, atol=1e-12)
    for got, want in zip(_states(end), _states(last), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_list_are_the_sums_over_its_sequences(kind: Layer) -> None:
    layer, sequences = kind(3, 4, dtype=np.float64), _sequences([2, 4, 1])
    leaves = [dp.Tensor(x, requires_grad=True) for x in sequences]
    outs, _ = layer(leaves)
    sum(((out * out).sum() for out in outs), dp.Tensor(0.0)).backward()
    together = [p.grad.data.copy() for p in layer.parameters()]
    inputs = [x.grad.data.copy() for x in leaves]
    layer.zero_grad()
    for x, expected in zip(sequences, inputs, strict=True):
        leaf = dp.Tensor(x, requires_grad=True)
        out = layer(leaf)[0]
        (out * out).sum().backward()
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.data, expected, atol=1e-12)
    for p, expected in zip(layer.parameters(), together, strict=True):
        np.testing.assert_allclose(p.grad.data, expected, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_cells_are_one_step_of_their_equations(kind: Layer) -> None:
    cell = kind(3, 4, dtype=np.float64)
    rng = np.random.default_rng(0)
    x, state = (
        rng.normal(size=(5, 3)),
        [rng.normal(size=(5, 4)) for _ in range(2 if kind is nn.LSTMCell else 1)],
    )
    got = cell(x, tuple(state) if len(state) > 1 else state[0])
    for k in range(5):
        expected = _step(cell, "", x[k], [s[k] for s in state])
        for value, want in zip(_states(got), expected, strict=True):
            np.testing.assert_allclose(value[k], want, atol=1e-12)
    started = _states(cell(x[0]))
    for value, want in zip(started, _step(cell, "", x[0], [np.zeros(4)] * len(state)), strict=True):
        np.testing.assert_allclose(value, want, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, []])
def test_a_batch_of_no_sequences_has_gradients_of_zeros(
    kind: Layer, bidirectional: bool, lengths: Any
) -> None:
    table, layer = nn.Embedding(5, 3), kind(3, 4, num_layers=2, bidirectional=bidirectional)
    lengths = None if lengths is None else np.array(lengths, np.int64)
    out, last = layer(table(np.zeros((6, 0), np.int64)), lengths=lengths)
    (out.sum() + sum(s.sum() for s in (last if isinstance(last, tuple) else (last,)))).backward()
    assert out.shape == (6, 0, 4 * (1 + bidirectional))
    for p in (*table.parameters(), *layer.parameters()):
        assert (p.grad.data == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_state_may_be_lists(kind: Layer) -> None:
    layer, x = kind(3, 4), np.ones((5, 2, 3), np.float32)
    h = np.full((1, 2, 4), 0.5, np.float32)
    states, lists = ((h, h), [h.tolist(), h.tolist()]) if kind is nn.LSTM else (h, h.tolist())
    np.testing.assert_array_equal(layer(x, states)[0].data, layer(x, lists)[0].data)


def test_relu_in_place_of_tanh() -> None:
    layer, cell = nn.RNN(3, 4, nonlinearity="relu"), nn.RNNCell(3, 4, nonlinearity="relu")
    assert (layer(np.ones((6, 3), np.float32))[0].data >= 0).all()
    assert (cell(np.ones((6, 3), np.float32)).data >= 0).all()


def test_dropout_stands_between_layers_and_only_in_training() -> None:
    x = np.ones((3, 2, 3), np.float32)
    layer = nn.GRU(3, 16, num_layers=2, dropout=0.5)
    one, two, again = (layer(x, rng=Stream(Key(k)))[0].data for k in (0, 1, 0))
    assert (one != two).any()
    np.testing.assert_array_equal(one, again)
    layer.eval()
    np.testing.assert_array_equal(layer(x, rng=Stream(Key(0)))[0].data, layer(x, rng=Stream(Key(1)))[0].data)
    single = nn.GRU(3, 16, dropout=0.5)
    np.testing.assert_array_equal(
        single(x, rng=Stream(Key(0)))[0].data, single(x, rng=Stream(Key(1)))[0].data
    )


def test_what_calls_refuse() -> None:
    layer, x = nn.LSTM(3, 4), np.zeros((5, 2, 3), np.float32)
    cases: list[tuple[Any, type[Exception], str]] = [
        (
            lambda: layer(x[..., :2]),
            ValueError,
            r"LSTM: expected input \(T, N, input_size=3\) or .*\(5, 2, 2\)",
        ),
        (
            lambda: nn.GRU(3, 4, batch_first=True)(x[0, 0]),
            ValueError,
            r"GRU: expected input \(N, T, input_size=3\)",
        ),
        (lambda: layer([]), ValueError, "x must hold at least one sequence"),
        (
            lambda: layer([x[:, 0], x[0, 0]]),
            ValueError,
            r"LSTM: x\[1\] must be \(T, input_size=3\), got \(3,\)",
        ),
        (
            lambda: layer([x[:, 0]], lengths=[5]),
            ValueError,
            "lengths are those of the sequences when x is a list",
        ),
        (
            lambda: layer(x, lengths=[5, 6]),
            ValueError,
            r"lengths must be 2 integers from 0 to 5, got \[5, 6\]",
        ),
        (lambda: layer(x, lengths=[5]), ValueError, "lengths must be 2 integers from 0 to 5"),
        (lambda: layer(x, lengths=[5.0, 2.0]), TypeError, "lengths must be integers, got dtype float64"),
        (lambda: layer(x, x), ValueError, r"hx must be a pair of tensors \(1, 2, 4\)"),
        (lambda: nn.GRU(3, 4)(x, x), ValueError, r"hx must be a tensor \(1, 2, 4\), got \[\(5, 2, 3\)\]"),
        (lambda: nn.LSTMCell(3, 4)(x), ValueError, r"LSTMCell: expected input \(N, input_size=3\) or"),
        (lambda: nn.LSTMCell(3, 4)(x[0], x[0]), ValueError, r"hx must be a pair \(h, c\), got ndarray"),
        (
            lambda: nn.GRUCell(3, 4)(x[0], x[0]),
            ValueError,
            r"the state must have shape \(2, 4\), got \(2, 3\)",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
