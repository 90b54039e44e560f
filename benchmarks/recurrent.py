"""Sequences from the update of a recurrent network whose last state alone feeds the head, by whole scans of one sample.

    python benchmarks/recurrent.py [gru|lstm ...] [--seeds 3]

A layer of 32 units over 8 steps of 4 features, torch's default weights by seed, a linear head of three classes. IG by
L-BFGS for 900 evaluations, and preset standard, which begins with Levenberg-Marquardt. Each line: signal-to-noise ratio
and margin above the best floor in dB, and the notes of the run. Results in `benchmarks/results/recurrent.md`.
"""

from __future__ import annotations

from typing import Any

import click
import torch
from kind_alarms import FILE
from torch import Tensor, nn

import leakaudit

KINDS: dict[str, type[nn.RNNBase]] = {"gru": nn.GRU, "lstm": nn.LSTM}
CRAWL = {"iterations": "900", "optimizer": "lbfgs", "distance": "euclidean", "tv_weight": "0"}


class Last(nn.Module):
    """A recurrent layer over (B, T, F) and a linear head on its last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer, self.head = kind(4, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.head(self.layer(x)[0][:, -1])
        return logits


def beats(seed: int) -> Tensor:
    """Signals (N, 4, 8) in millivolts: a slow wave, and a narrow peak at a place of its own."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.linspace(0, 1, 8)
    phase, place, height = (torch.rand((FILE, 4, 1), generator=generator) for _ in range(3))
    wave = 0.3 * torch.sin(6.28 * (time * (1 + 2 * phase) + phase))
    return wave + (0.5 + height) * torch.exp(-(((time - 0.1 - 0.8 * place) / 0.03) ** 2))


def scanned(kind: str, seed: int, settings: dict[str, str]) -> Any:
    """The row of IG of one scan."""
    torch.manual_seed(seed)
    target = leakaudit.load(Last(KINDS[kind]), image_shape=(4, 8))
    report = leakaudit.scan(
        target, (beats(seed).numpy(), torch.arange(FILE).numpy() % 3), attacks=["ig"], victims=1, seed=seed,
        settings={"ig": settings} if settings else {}, controls="none", device="cpu", preset="standard",
    )  # fmt: skip
    return next(attack for attack in report.attacks if attack.name == "ig").results[0]


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(tuple(KINDS)))
@click.option("--seeds", default=3)
def main(names: tuple[str, ...], seeds: int) -> None:
    """Print a line for every run."""
    torch.set_num_threads(1)
    for name in names or KINDS:
        for seed in range(seeds):
            for label, settings in (("L-BFGS", CRAWL), ("standard", {})):
                result = scanned(name, seed, settings)
                (sample,) = result.samples
                numbers = ", ".join(f"{k} {v:.1f}" for k, v in sample.metrics.items() if isinstance(v, float))
                click.echo(
                    f"{name} {seed} {label}: {numbers}, leaked {sample.leaked}, {result.iterations} iterations, "
                    f"{result.seconds:.0f} s, {result.notes[-1:]}"
                )


if __name__ == "__main__":
    main()
