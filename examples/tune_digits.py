"""Which rate and which width for the digits: a sweep with Ray Tune. Needs scikit-learn and `ray[tune]`.

    python examples/tune_digits.py [--epochs N] [--storage DIR]

Each trial is a plain run in one process, on any node of the cluster at RAY_ADDRESS (or of one that is started here).
It gives the same digest whichever trials run beside it, so the best one can be had again by itself.
"""

from __future__ import annotations

import argparse
from typing import Any

import digits
from ray import tune

import dist_dp as dp
from dist_dp import nn, optim

SPACE = {"lr": tune.grid_search([1e-3, 3e-3]), "width": tune.grid_search([16, 128])}


class Reports:
    """A sink: what the run says of each epoch is told to Tune."""

    def emit(self, event: Any) -> None:
        if event.kind == "validation":
            tune.report({"step": event.step, **event.values})

    def close(self) -> None:
        pass


def trial(config: dict[str, Any]) -> None:
    train, test = digits.load()
    dp.seed(0)
    width = config["width"]
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    options: dict[str, Any] = {"batch_size": 64, "epochs": config["epochs"], "progress": False}
    optimizer = optim.Adam(model.parameters(), lr=config["lr"])
    result = dp.fit(model, digits.loss, optimizer, train, validation=test, sinks=[Reports()], **options)
    tune.report({"digest": result.digest, **dp.evaluate(model, digits.loss, test, batch_size=64)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--storage", help="where Tune keeps its results; by default ~/ray_results")
    args = parser.parse_args()

    run_config = tune.RunConfig(storage_path=args.storage)
    tuner = tune.Tuner(trial, param_space={**SPACE, "epochs": args.epochs}, run_config=run_config)
    best = tuner.fit().get_best_result("accuracy", "max")
    lr, width = best.config["lr"], best.config["width"]
    print(f"best: lr {lr:g}, width {width}: test accuracy {best.metrics['accuracy']:.4f}", end="   ")
    print(f"digest {best.metrics['digest'][:16]}")


if __name__ == "__main__":
    main()
