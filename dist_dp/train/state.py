"""What a step changes and a checkpoint holds: the model's arrays, the optimizer's, and what its schedules have seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.digest import digest as digest_of

from ..nn import Module
from ..optim import Optimizer


class TrainState:
    """The state of a model and its optimizer under the names of the model's parameters and buffers.

    Attributes:
        parameters, buffers: by name.
        outer: arrays of a rule outside of the optimizer, by the parameters' names (`local_sgd.py`).
        trained: the names of the optimizer's parameters, in its order.

    Raises:
        ValueError: the optimizer updates a tensor that is no parameter of the model.
    """

    def __init__(self, model: Module, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.parameters = dict(model.named_parameters())
        self.buffers = dict(model.named_buffers())
        self.outer: dict[str, Any] = {}
        names = {p: name for name, p in self.parameters.items()}
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        strange = [p for p in owned if p not in names]
        if strange:
            raise ValueError(
                f"optimizer updates {len(strange)} tensor(s) that are no parameters of the model (first: shape "
                f"{strange[0].shape}); make it from model.parameters() of the model that is trained"
            )
        self.trained = [names[p] for p in owned]

    def model_arrays(self) -> dict[str, Any]:
        """The arrays of all parameters and buffers by name."""
        return {name: t.data for name, t in {**self.parameters, **self.buffers}.items()}

    def digest(self) -> str:
        """SHA-256 over the model's arrays: name, dtype, shape and bytes, in the order of names."""
        return digest_of(self.model_arrays())

    def saved(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(arrays, plain JSON): all that the next step depends on. The arrays are those that it changes."""
        arrays = {f"model/{name}": array for name, array in self.model_arrays().items()}
        arrays.update({f"outer/{name}": array for name, array in self.outer.items()})
        state = self.optimizer.state_views()
        counts = {}
        for index, entry in state["state"].items():
            name = self.trained[index]
            counts[name] = entry.pop("step")
            arrays.update({f"optimizer/{name}/{key}": array for key, array in entry.items()})
        schedules = [s.state() for s in self.optimizer.schedules]
        return arrays, {
            "steps": state["steps"],
            "counts": counts,
            "groups": self._groups(),
            "schedules": schedules,
        }

    def _groups(self) -> list[dict[str, Any]]:
        """The hyperparameters of the optimizer's groups as plain JSON; schedules as text."""
        return [
            {k: list(v) if isinstance(v, tuple) else v for k, v in group.items()}
            for group in self.optimizer.describe()["groups"]
        ]

    def restore(self, arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Take over what `saved` returned, here or in another worker.

        Raises:
            RuntimeError: a schedule was put into the optimizer during the run, which cannot be handed over.
        """
        for name, tensor in {**self.parameters, **self.buffers}.items():
            tensor.data[...] = arrays[f"model/{name}"]
        for name, array in self.outer.items():
            array[...] = arrays[f"outer/{name}"]
        state = self.optimizer.state_dict()
        # What was saved, and not what is there: the body may have switched on something that has a state.
        kept: dict[str, dict[str, Any]] = {name: {"step": meta["counts"][name]} for name in self.trained}
        for path, array in arrays.items():
            kind, _, rest = path.partition("/")
            if kind == "optimizer":
                name, _, key = rest.rpartition("/")
                kept[name][key] = array
        state["state"] = dict(enumerate(kept.values()))
        state["steps"] = meta["steps"]
        for group, saved in zip(state["param_groups"], meta["groups"], strict=True):
            # A rate that the body assigned during the run holds from then on. Schedules are the launch's own.
            numbers = {k: v for k, v in saved.items() if k != "params" and not isinstance(v, str)}
            group.update({k: tuple(v) if isinstance(v, list) else v for k, v in numbers.items()})
        self.optimizer.load_state_dict(state)
        for mine, saved in zip(self._groups(), meta["groups"], strict=True):
            if mine != saved:
                raise RuntimeError(
                    f"the optimizer's hyperparameters were {saved} at step {meta['steps']} and are {mine} here: a "
                    "number assigned in the body of a loop is handed over, a schedule is not; give it when the "
                    "optimizer is made"
                )
        for schedule, seen in zip(self.optimizer.schedules, meta["schedules"], strict=True):
            schedule.load_state(seen)
