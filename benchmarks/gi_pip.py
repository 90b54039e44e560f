"""What an autoencoder's anomaly score adds to total variation: GI-PIP against IG at several weights.

    python benchmarks/gi_pip.py [--seeds 4] [--out benchmarks/results/gi_pip.md]

A small convolutional network with BatchNorm (eval mode, untrained, 66,730 parameters), batches of four CIFAR-10 images
of distinct classes, 600 steps of unsigned Adam. The autoencoder is trained on 128 other CIFAR-10 images. Mean PSNR in
0..1 over the batches. The last row is IG of the preset standard, which chooses its own weight.
"""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from networks import cifar, distinct, psnr, target, toy_batchnorm, victim
from torch import Tensor

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.gi_pip import GIPIP, GIPIPSettings
from leakaudit.attacks.ig import IG
from leakaudit.observation import Observation

WEIGHTS = (1e-3, 1e-2, 3e-2)
BASE = GIPIPSettings(iterations=600, signed=False)
ROWS = {
    "IG": {"anomaly_weight": 0.0},
    "GI-PIP, two-sided, β = 0.3": {"anomaly_weight": 0.3},
    "GI-PIP, one-sided, β = 0.3": {"anomaly_weight": 0.3, "one_sided": True},
}


def batch(seed: int) -> tuple[Tensor, Tensor, Observation]:
    """Images, labels in ascending order, and the observation with public images."""
    images, labels = cifar()
    chosen = distinct(labels, 4, seed)
    chosen = chosen[labels[chosen].argsort()]
    public, _ = cifar("cifar10_train.npz")
    observation = victim(target(toy_batchnorm), images[chosen], labels[chosen])
    return images[chosen], labels[chosen], replace(observation, auxiliary=public[:128])


def quality(attack: Attack, seeds: int) -> list[float]:
    """Mean PSNR of each batch."""
    found = []
    for seed in range(seeds):
        images, _, observation = batch(seed)
        result = attack(target(toy_batchnorm), observation, cpu_generator(seed))
        found.append(psnr(result.inputs, images))
    return found


def cell(values: list[float], baseline: list[float]) -> str:
    """Mean, and the gain over the baseline batch by batch."""
    gains = [v - b for v, b in zip(values, baseline, strict=True)]
    return f"{sum(values) / len(values):.2f} ({min(gains):+.1f} … {max(gains):+.1f})"


@click.command()
@click.option("--seeds", default=4, show_default=True, help="Batches.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
def main(seeds: int, out: Path | None) -> None:
    """Measure and print the table."""
    torch.set_num_threads(1)
    rows = [
        "| mean PSNR, dB (gain over IG by batch) | " + " | ".join(f"TV {w:g}" for w in WEIGHTS) + " |",
        "|---" * 4 + "|",
    ]
    click.echo("\n".join(rows))
    baseline: dict[float, list[float]] = {}
    for name, changes in ROWS.items():
        cells = []
        for weight in WEIGHTS:
            values = quality(GIPIP(replace(BASE, tv_weight=weight, **changes)), seeds)
            cells.append(cell(values, baseline.setdefault(weight, values)))
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
        click.echo(rows[-1])
    for name, attack in (
        ("IG standard", IG(IG.presets["standard"])),
        ("GI-PIP standard", GIPIP(GIPIP.presets["standard"])),
    ):
        values = quality(attack, seeds)
        rows.append(f"| {name} | {sum(values) / len(values):.2f} | | |")
        click.echo(rows[-1])
    machine = (
        f"torch {torch.__version__}, {platform.machine()}, one thread, {seeds} batches, {time.strftime('%Y-%m-%d')}"
    )
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join([*rows, "", machine]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
