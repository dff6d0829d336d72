"""The workloads trained by torch, in turns, on the same examples in the same order: one process, or two under
DistributedDataParallel with gloo. The environment says which: RANK, WORLD_SIZE and STORE, a file to meet by."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from benchmarks import twins
from benchmarks.examples import example
from benchmarks.turns import Turn
from benchmarks.workloads import SEED, SHARDS, all_in_turn
from dist_dp.data import Batches

MODELS: dict[str, Callable[[Any], torch.nn.Module]] = {
    "mlp": lambda e: twins.fashion_mlp(),
    "cnn": lambda e: twins.digits_cnn(),
    "lenet": lambda e: twins.lenet(),
    "gpt": lambda e: twins.TorchGPT(83, e),
    "trees": lambda e: twins.TorchReader(len(e.KINDS), e.DEEPEST + 1),
}


def main() -> None:
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    if size > 1:
        meet = f"file://{os.environ['STORE']}"
        distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=size)
    turn = Turn(rank)
    shards = range(rank, SHARDS, size)
    for workload, batch in all_in_turn():
        of = example(workload.of)
        torch.manual_seed(SEED)
        model, data = MODELS[workload.key](of), workload.data(of)
        if size > 1:
            model = DistributedDataParallel(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
        if not isinstance(data, list):
            data = tuple(map(torch.from_numpy, data))
        batches = Batches(
            len(data if isinstance(data, list) else data[0]), batch, SHARDS, SEED, True, 1 << 20, True
        )
        turn.begin()
        for step in range(batches.total_steps):
            if not turn.may(step):
                break
            indices = np.concatenate([batches.indices(step, shard) for shard in shards])
            if isinstance(data, list):
                examples = [data[i] for i in indices]
                x, y = [e.tree for e in examples], torch.tensor([e.label for e in examples])
            else:
                x, y = (array[torch.from_numpy(indices)] for array in data)
            logits = model(x)
            loss = cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()
            turn.did(step + 1)
    if size > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
