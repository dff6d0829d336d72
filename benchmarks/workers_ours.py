"""The workloads trained by dist_dp, in turns: `dist-dp run -n N benchmarks/workers_ours.py`."""

from __future__ import annotations

import dist_dp as dp
from benchmarks.examples import example
from benchmarks.turns import Turn
from benchmarks.workloads import SEED, SHARDS, all_in_turn
from dist_dp import optim
from runtime.events import Event
from runtime.member import current


class Clock:
    """A sink that notices when a step is done."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def emit(self, event: Event) -> None:
        if event.kind == "step":
            self._turn.did(event.step)

    def close(self) -> None:
        """Nothing is open."""


def main() -> None:
    turn = Turn(current().worker)
    for workload, batch in all_in_turn():
        of = example(workload.of)
        dp.seed(SEED)
        model, data = workload.model(of), workload.data(of)
        optimizer = optim.Adam(model.parameters(), lr=1e-4)
        turn.begin()
        loop = dp.steps(
            model,
            optimizer,
            data,
            batch_size=batch,
            epochs=1 << 20,
            drop_last=True,
            shards=SHARDS,
            collate=list if isinstance(data, list) else None,
            seed=SEED,
            progress=False,
            sinks=[Clock(turn)],
        )
        for shard in loop:
            if not turn.may(shard.step):
                break
            shard.backward(workload.loss(model, shard.batch))


if __name__ == "__main__":
    main()
