"""What the tests of `dist-dp submit` train."""

import argparse
import time

import numpy as np

import dist_dp as dp
from dist_dp import nn, optim


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--fail", action="store_true")
    args = parser.parse_args()

    def loss(model, batch):
        x, y = batch
        time.sleep(args.pause)
        if args.fail:
            raise ArithmeticError("meant to fail")
        return ((model(x) - y) ** 2).sum(), len(x)

    x = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    dp.seed(0)
    model = nn.Linear(8, 1)
    optimizer = optim.SGD(model.parameters(), lr=1e-3)
    result = dp.fit(
        model, loss, optimizer, (x, x[:, :1]), batch_size=16, epochs=args.epochs, shards=4, run=args.run
    )
    print("digest", result.digest)


if __name__ == "__main__":  # tests are collected from all files here
    main()
