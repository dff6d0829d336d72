"""Recurrent layers (RNN, LSTM, GRU) and their single steps, with torch's parameter names and layouts.

Sequences of different lengths come as a list, or padded with `lengths=`; both cost what the sequences hold, not what
the padding does. They are sorted by length, longest first, and run in stretches of time: in each, those that have not
ended are the first rows. The backward direction reads every sequence from its own end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import ops
from ..ops.affine import linear
from ..ops.core import TensorLike, as_array
from ..ops.views import lifted
from ..random import Stream
from ..tensor import Tensor
from . import functional as F
from . import init
from .arguments import check_flags, count, probability
from .module import Module, Parameter

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

State = tuple[Tensor | None, ...]  # None is zeros
Lengths = NDArray[Any] | None
Weights = tuple[Parameter, Parameter, Parameter | None, Parameter | None]


class _Recurrent(Module):
    """What the three layers share: everything but the step."""

    _gates: ClassVar[int]
    _states: ClassVar[int] = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = np.float32,
    ) -> None:
        layer = type(self).__name__
        self.input_size = count(layer, "input_size", input_size)
        self.hidden_size = count(layer, "hidden_size", hidden_size)
        self.num_layers = count(layer, "num_layers", num_layers)
        check_flags(layer, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = probability(layer, dropout)
        bound = 1 / math.sqrt(hidden_size)
        rows = self._gates * hidden_size
        for k, suffix in self._names():
            inputs = input_size if k == 0 else hidden_size * (1 + bidirectional)
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (rows, inputs),
                "weight_hh": (rows, hidden_size),
            }
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            for name, shape in shapes.items():
                setattr(self, name + suffix, init.uniform_(Parameter(np.empty(shape, dtype)), -bound, bound))

    def _names(self) -> list[tuple[int, str]]:
        """(layer, suffix of its parameters' names) for every layer and direction, in torch's order."""
        directions = ("", "_reverse") if self.bidirectional else ("",)
        return [(k, f"_l{k}{direction}") for k in range(self.num_layers) for direction in directions]

    def _weights(self, suffix: str) -> Weights:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return tuple(getattr(self, name + suffix, None) for name in names)  # type: ignore[return-value]

    def _run(
        self, x: Tensor, state: State, weights: Weights, lengths: Lengths, reverse: bool
    ) -> tuple[Tensor, ...]:
        """One layer in one direction over (T, N, inputs): (output, *last state)."""
        raise NotImplementedError

    def forward(
        self,
        x: Any,
        hx: Any = None,
        lengths: ArrayLike | None = None,
        rng: Stream | None = None,
    ) -> tuple[Any, Any]:
        """(output, last state): see the class.

        Args:
            x: (T, N, input_size), with `batch_first` (N, T, input_size), or (T, input_size) for one sequence; or a list
                of N sequences (Tᵢ, input_size).
            hx: first state, (layers · directions, N, hidden_size), of an LSTM a pair of them; zeros by default.
            lengths: (N,) integers, for padded `x`: steps from there on are not read, and their outputs are 0.
            rng: stream of the dropout between layers.
        """
        if isinstance(x, (list, tuple)):
            if lengths is not None:
                raise ValueError(
                    f"{type(self).__name__}: lengths are those of the sequences when x is a list"
                )
            return self._listed(x, hx, rng)
        x = lifted(x)
        single = x.ndim == 2
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            layout = "(N, T, {0})" if self.batch_first else "(T, N, {0})"
            raise ValueError(
                f"{type(self).__name__}: expected input {layout.format(f'input_size={self.input_size}')} or "
                f"(T, input_size), got shape {x.shape}"
            )
        if single:
            x = ops.expand_dims(x, 1)
        elif self.batch_first:
            x = ops.swapaxes(x, 0, 1)
        states = self._first_state(hx, x, single)
        out, last = self._layers(x, states, self._lengths(lengths, x.shape[:2]), rng)
        if single:
            out, last = ops.squeeze(out, 1), tuple(ops.squeeze(s, 1) for s in last)
        elif self.batch_first:
            out = ops.swapaxes(out, 0, 1)
        return out, last if self._states > 1 else last[0]

    def _listed(
        self, sequences: Sequence[TensorLike], hx: Any, rng: Stream | None
    ) -> tuple[list[Tensor], Any]:
        items = [lifted(s) for s in sequences]
        if not items:
            raise ValueError(f"{type(self).__name__}: x must hold at least one sequence")
        for k, item in enumerate(items):
            if item.ndim != 2 or item.shape[1] != self.input_size:
                raise ValueError(
                    f"{type(self).__name__}: x[{k}] must be (T, input_size={self.input_size}), got {item.shape}"
                )
        lengths = np.array([len(item) for item in items])
        # One row of zeros stands for all padding: padded[t, i] = rows[start of i + t], or the zeros.
        rows = ops.concatenate([*items, np.zeros((1, self.input_size), items[0].dtype)])
        t = np.arange(max(1, lengths.max()))[:, None]
        at = np.where(t < lengths, np.cumsum(lengths) - lengths + t, lengths.sum())
        padded = ops.take(rows, at, axis=0)
        out, last = self._layers(padded, self._first_state(hx, padded, False), lengths, rng)
        outs = [out[:n, k] for k, n in enumerate(lengths.tolist())]
        return outs, last if self._states > 1 else last[0]

    def _lengths(self, lengths: ArrayLike | None, shape: tuple[int, ...]) -> Lengths:
        if lengths is None:
            return None
        array = np.asarray(lengths)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{type(self).__name__}: lengths must be integers, got dtype {array.dtype}")
        steps, n = shape
        if array.shape != (n,) or (n and not (array.min() >= 0 and array.max() <= steps)):
            raise ValueError(
                f"{type(self).__name__}: lengths must be {n} integers from 0 to {steps}, got {array.tolist()}"
            )
        return array

    def _first_state(self, hx: Any, x: Tensor, single: bool) -> State:
        shape = (self.num_layers * (1 + self.bidirectional), x.shape[1], self.hidden_size)
        if hx is None:
            return (None,) * self._states
        several = self._states > 1 and (isinstance(hx, (tuple, list)) or getattr(hx, "ndim", 0) > 0)
        states = tuple(
            s if isinstance(s, Tensor) else Tensor(as_array(s, f"{type(self).__name__}: hx"))
            for s in (hx if several else (hx,))
        )
        expected = (shape[0], shape[2]) if single else shape
        if len(states) != self._states or any(s.shape != expected for s in states):
            what = f"a pair of tensors {expected}" if self._states > 1 else f"a tensor {expected}"
            raise ValueError(f"{type(self).__name__}: hx must be {what}, got {[s.shape for s in states]}")
        return tuple(ops.expand_dims(s, 1) if single else s for s in states)

    def _layers(
        self, x: Tensor, states: State, lengths: Lengths, rng: Stream | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        directions = 1 + self.bidirectional
        last: list[tuple[Tensor, ...]] = []
        for k in range(self.num_layers):
            outs = []
            for d in range(directions):
                at = k * directions + d
                weights = self._weights(self._names()[at][1])
                out, *state = self._run(
                    x, tuple(None if s is None else s[at] for s in states), weights, lengths, bool(d)
                )
                outs.append(out)
                last.append(tuple(state))
            x = ops.concatenate(outs, axis=-1) if self.bidirectional else outs[0]
            if self.dropout and k + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training, rng)
        return x, tuple(ops.stack(parts) for parts in zip(*last, strict=True))

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        for name, default in defaults.items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text


class RNN(_Recurrent):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh): Elman 1990; relu in place of tanh by `nonlinearity`.

    Parameters, for every layer k (and "_reverse" for the backward direction): `weight_ih_l{k}` (hidden_size, inputs),
    `weight_hh_l{k}` (hidden_size, hidden_size), `bias_ih_l{k}` and `bias_hh_l{k}` (hidden_size,), from U(-b, b),
    b = 1/√hidden_size.

    Args:
        input_size: length of an input vector.
        hidden_size: length of the state.
        num_layers: layers, each of which reads the outputs of the one before.
        nonlinearity: "tanh" or "relu".
        bias: whether there are biases.
        batch_first: padded inputs and outputs are (N, T, ·).
        dropout: probability of dropout on the output of every layer but the last.
        bidirectional: whether a second set of layers reads backwards; outputs are then forward and backward, joined.
        dtype: of the parameters.

    Returns:
        (output, h_n): the states of the last layer at every step (T, N, directions · hidden_size), and the last state
        of every layer and direction (layers · directions, N, hidden_size). For a list of sequences, a list of outputs.

    Raises:
        ValueError: a size below 1, dropout outside [0, 1]; at the call, shapes or lengths that do not fit.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> out, h = nn.RNN(3, 5)([np.ones((7, 3), np.float32), np.ones((2, 3), np.float32)])
    >>> out[0].shape, out[1].shape, h.shape
    ((7, 5), (2, 5), (1, 2, 5))
    """

    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.nonlinearity = _nonlinearity("RNN", nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype
        )

    def _run(
        self, x: Tensor, state: State, weights: Weights, lengths: Lengths, reverse: bool
    ) -> tuple[Tensor, ...]:
        return ops.rnn(x, *weights, state[0], lengths, self.nonlinearity, reverse)


class LSTM(_Recurrent):
    """Long short-term memory: Hochreiter and Schmidhuber 1997, with forget gates (Gers et al. 2000).

        i, f, g, o = σ, σ, tanh, σ of (W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), each with rows of its own, in this order
        c_t = f c_{t-1} + i g
        h_t = o tanh(c_t)

    Parameters, arguments and errors as for RNN, with 4 hidden_size rows and without `nonlinearity`. Returns
    (output, (h_n, c_n)).

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> lstm = nn.LSTM(3, 5, num_layers=2, bidirectional=True, batch_first=True)
    >>> out, (h, c) = lstm(np.ones((4, 7, 3), np.float32), lengths=[7, 1, 3, 2])
    >>> out.shape, h.shape, c.shape
    ((4, 7, 10), (4, 4, 5), (4, 4, 5))
    """

    _gates, _states = 4, 2

    def _run(
        self, x: Tensor, state: State, weights: Weights, lengths: Lengths, reverse: bool
    ) -> tuple[Tensor, ...]:
        return ops.lstm(x, *weights, state[0], state[1], lengths, reverse)


class GRU(_Recurrent):
    """Gated recurrent unit: Cho et al. 2014, in the form of torch and cuDNN.

        r, z = σ of (W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
        n = tanh(W_in x_t + b_in + r (W_hn h_{t-1} + b_hn))
        h_t = (1 - z) n + z h_{t-1}

    Parameters, arguments and errors as for RNN, with 3 hidden_size rows in the order r, z, n and without
    `nonlinearity`. Returns (output, h_n).

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> out, h = nn.GRU(3, 5)(np.ones((7, 4, 3), np.float32))
    >>> out.shape, h.shape
    ((7, 4, 5), (1, 4, 5))
    """

    _gates = 3

    def _run(
        self, x: Tensor, state: State, weights: Weights, lengths: Lengths, reverse: bool
    ) -> tuple[Tensor, ...]:
        return ops.gru(x, *weights, state[0], lengths, reverse)


def _nonlinearity(layer: str, name: str) -> str:
    if name not in ("tanh", "relu"):
        raise ValueError(f"{layer}: nonlinearity must be 'tanh' or 'relu', got {name!r}")
    return name


class _Cell(Module):
    """One step of one layer, on (N, input_size) or (input_size,)."""

    _gates: ClassVar[int]

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, dtype: DTypeLike = np.float32
    ) -> None:
        layer = type(self).__name__
        self.input_size = count(layer, "input_size", input_size)
        self.hidden_size = count(layer, "hidden_size", hidden_size)
        check_flags(layer, bias=bias)
        bound, rows = 1 / math.sqrt(hidden_size), self._gates * hidden_size

        def drawn(*shape: int) -> Parameter:
            return init.uniform_(Parameter(np.empty(shape, dtype)), -bound, bound)

        self.weight_ih = drawn(rows, input_size)
        self.weight_hh = drawn(rows, hidden_size)
        self.bias_ih = drawn(rows) if bias else None
        self.bias_hh = drawn(rows) if bias else None

    def _two(self, x: TensorLike, h: TensorLike | None) -> tuple[Tensor, Tensor, Tensor]:
        """(what the input gives to the gates, what the state does, the state)."""
        x = lifted(x)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: expected input (N, input_size={self.input_size}) or (input_size,), "
                f"got shape {x.shape}"
            )
        state = self._state(h, x)
        return linear(x, self.weight_ih, self.bias_ih), linear(state, self.weight_hh, self.bias_hh), state

    def _state(self, h: TensorLike | None, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.hidden_size)
        if h is None:
            return Tensor(np.zeros(shape, x.dtype))
        h = lifted(h)
        if h.shape != shape:
            raise ValueError(f"{type(self).__name__}: the state must have shape {shape}, got {h.shape}")
        return h if isinstance(h, Tensor) else Tensor(h)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + (", bias=False" if self.bias_ih is None else "")


class RNNCell(_Cell):
    """One step of `RNN`: h' = tanh(W_ih x + b_ih + W_hh h + b_hh).

    Parameters: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`, of the shapes of RNN's. Errors as for RNN.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.RNNCell(3, 5)(np.ones((2, 3), np.float32)).shape
    (2, 5)
    """

    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.nonlinearity = _nonlinearity("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, dtype)

    def forward(self, x: TensorLike, hx: TensorLike | None = None) -> Tensor:
        a, b, _ = self._two(x, hx)
        return ops.tanh(a + b) if self.nonlinearity == "tanh" else ops.relu(a + b)


class LSTMCell(_Cell):
    """One step of `LSTM`: (h', c') from x and (h, c); zeros if no state is given.

    Parameters: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`, of the shapes of LSTM's. Errors as for LSTM.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> h, c = nn.LSTMCell(3, 5)(np.ones((2, 3), np.float32))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    _gates = 4

    def forward(
        self, x: TensorLike, hx: tuple[TensorLike, TensorLike] | None = None
    ) -> tuple[Tensor, Tensor]:
        if hx is not None and (not isinstance(hx, (tuple, list)) or len(hx) != 2):
            raise ValueError(f"LSTMCell: hx must be a pair (h, c), got {type(hx).__name__}")
        h, c = hx or (None, None)
        a, b, _ = self._two(x, h)
        return ops.lstm_cell(a + b, self._state(c, lifted(x)))


class GRUCell(_Cell):
    """One step of `GRU`: h' from x and h; zeros if no state is given.

    Parameters: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`, of the shapes of GRU's. Errors as for GRU.

    >>> import numpy as np
    >>> from dist_dp import nn
    >>> nn.GRUCell(3, 5)(np.ones((2, 3), np.float32)).shape
    (2, 5)
    """

    _gates = 3

    def forward(self, x: TensorLike, hx: TensorLike | None = None) -> Tensor:
        a, b, h = self._two(x, hx)
        n = self.hidden_size
        r_z = ops.sigmoid(a[..., : 2 * n] + b[..., : 2 * n])
        new = ops.tanh(a[..., 2 * n :] + r_z[..., :n] * b[..., 2 * n :])
        return new + r_z[..., n:] * (h - new)
