"""Rows of the Tree-LSTM cell."""

from typing import Any

import numpy as np
from laws.rows import Call, Row

from dist_dp.ops.tree import tree_lstm


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _reference(gates: Any, left: Any, right: Any, weight_left: Any, weight_right: Any) -> Any:
    for state, weight in ((left, weight_left), (right, weight_right)):
        if state is not None:
            gates = gates + state[0] @ weight.T
    i, f_left, f_right, o, u = np.split(gates, 5, axis=-1)
    c = _sigmoid(i) * np.tanh(u)
    for state, forget in ((left, f_left), (right, f_right)):
        if state is not None:
            c = c + _sigmoid(forget) * state[1]
    return _sigmoid(o) * np.tanh(c), c


def _cell(d: Any) -> Call:
    hidden, rows = d.integer(1, 3), d.pick((), (2,))
    sides = d.pick((True, True), (True, False), (False, True), (False, False))
    states = [(d.array((*rows, hidden)), d.array((*rows, hidden))) if there else None for there in sides]
    weights = [d.array((5 * hidden, hidden)) for _ in range(2)]
    return Call(d.array((*rows, 5 * hidden)), *states, *weights)


ROWS = [Row("tree_lstm", tree_lstm, _reference, _cell)]
