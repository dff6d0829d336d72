"""What every public call refuses: a table of wrong calls, and what the message must say.

The rows lie in `bad_input/`, each (what, the call, the exception, what the message must hold): the message names the
argument or the operation, what was expected, and what came. After a refusal the process must be as it was: recording
on, the same random stream, the inputs untouched, no file written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input.rows_arrays import ARRAYS, P, V, X, Y, tensor, zeros
from bad_input.rows_training import TRAINING, fit, mean, pieces
from click.testing import CliRunner

import dist_dp as dp
from dist_dp import optim, random
from dist_dp.cli import main

TABLE = {**ARRAYS, **TRAINING}
ROWS = [pytest.param(*row[1:], id=f"{family}: {row[0]}") for family, rows in TABLE.items() for row in rows]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # a call that writes where it should not is seen


@pytest.mark.parametrize(("call", "error", "says"), ROWS)
def test_refused_by_name(call: Callable[[], Any], error: type[Exception], says: str, tmp_path: Path) -> None:
    before = repr((X, Y, V, P, P.grad))
    stream = random.current()
    with pytest.raises(error) as raised:
        call()
    assert re.search(says, str(raised.value)), f"the message: {raised.value}"
    assert repr((X, Y, V, P, P.grad)) == before
    assert dp.is_grad_enabled()
    assert random.current() is stream
    assert not any(tmp_path.iterdir())
    assert dp.grad(lambda x: x * x)(3.0).item() == 6


def test_the_table_is_long_enough_and_no_row_stands_twice() -> None:
    ids = [row.id for row in ROWS]
    assert len(ROWS) >= 90
    assert len(set(ids)) == len(ids)


COMMANDS: list[tuple[list[str], str]] = [
    (["trian", "x.py"], "No such command 'trian'"),
    (["run"], "Missing argument 'SCRIPT'"),
    (["run", "missing.py"], "'SCRIPT': File 'missing.py' does not exist"),
    (["run", "--treads", "1", "x.py"], "No such option.*--treads.*--threads"),
    (["run", "--threads", "0", "x.py"], "'--threads': 0 is not in the range x>=1"),
    (["run", "-n", "many", "x.py"], "'--workers': 'many' is not a valid integer"),
    (["run", "-n", "0", "x.py"], "'--workers': 0 is not in the range 1<=x<=4096"),
    (["run", "-n", "-3", "x.py"], "'--workers': -3 is not in the range 1<=x<=4096"),
    (["run", "--progress", "loud", "x.py"], "'--progress': 'loud' is not one of 'auto'"),
    (["inspect", "missing"], "missing is not there; expected the directory of a run"),
    (["doctor", "me"], "Got unexpected extra argument"),
]


@pytest.mark.parametrize(("arguments", "says"), COMMANDS, ids=lambda value: " ".join(value)[:40])
def test_the_command_refuses_in_a_line(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, arguments)
    told = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2
    assert re.search(says, told), told
    assert "Traceback" not in told


# --- nothing is changed by what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"shards": 0}, {"epochs": 0}, {"validation": 3}, {"shard": 4}, {"sinks": 3}],
    ids=str,
)
def test_a_refused_run_writes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError)):
        fit(run=tmp_path / "run", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda loss: loss * math.nan,
        lambda loss: (loss, 0),
        lambda loss: (loss, 1, {"a": "b"}),
        lambda loss: loss.item(),
    ],
    ids=["NaN", "weight", "metric", "float"],
)
def test_a_refused_step_changes_no_parameter_and_no_state(wrong: Callable[[Any], Any]) -> None:
    model, optimizer = pieces()
    calls = 0

    def loss(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        return wrong(mean(model, batch)) if calls == 4 else mean(model, batch)

    fit(model=model, optimizer=optimizer, max_steps=1, shards=2)
    kept = {name: array.copy() for name, array in model.state_dict().items()}
    calls = 2  # the fourth call is the second shard of the next step
    with pytest.raises((TypeError, ValueError, dp.NonFiniteLoss)):
        fit(loss, model=model, optimizer=optimizer, shards=2)
    assert calls == 4
    assert optimizer.steps == 1
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, kept[name])


def test_a_refused_state_leaves_model_and_optimizer_as_they_were() -> None:
    model, optimizer = pieces()
    before = repr((model.state_dict(), optimizer.state_dict()))
    with pytest.raises(ValueError, match="shape of bias"):
        model.load_state_dict({"weight": zeros(1, 2), "bias": zeros(7)})
    with pytest.raises(ValueError, match="groups"):
        optimizer.load_state_dict(optim.SGD([P]).state_dict())
    assert repr((model.state_dict(), optimizer.state_dict())) == before


def test_a_refused_gradient_leaves_the_one_before() -> None:
    x = tensor([1.0, 2.0], requires_grad=True)
    x.grad = tensor([3.0, 4.0])
    with pytest.raises(ValueError, match="grad must have the tensor's shape"):
        x.grad = zeros(3)
    assert x.grad.tolist() == [3.0, 4.0]
