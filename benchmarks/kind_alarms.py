"""How often a scan claims a leak that is none, for every kind of sample and label beside classes of images.

    python benchmarks/kind_alarms.py [KIND ...] [--scans 40] [--first 0] [--steps 60]

The update comes from other samples of the same kind than those that reconstructions are scored against; no scan may say
LEAKS. Every scan is the whole pipeline with its controls, one victim of one sample, preset quick with fewer steps, all
default attacks, a network of its own with torch's default weights, and a file of 200 samples of its own. Samples have
the spectrum of natural ones (`Domain.look_alikes`), so that two files have nothing in common. Rows of tables are
`benchmarks/tables.py alarms`. Results in `benchmarks/results/false_alarms.md`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch
from false_alarms import mismatched
from torch import Tensor, nn

import leakaudit
from leakaudit.domains.base import Domain
from leakaudit.domains.images import Images
from leakaudit.domains.signals import Signals
from leakaudit.domains.volumes import Volumes

FILE = 200
"""Samples in the batch file of one scan."""
SIGNAL, SEQUENCE = Signals.plain((2, 48)), Signals.plain((4, 8))
VOLUME, SMALL, PICTURE = Volumes.plain((1, 6, 8, 8)), Volumes.plain((1, 8, 8, 8)), Images.plain((1, 12, 12))
Labels = Callable[[Tensor, torch.Generator], Tensor]


class Recurrent(nn.Module):
    """A GRU over (B, T, F) whose last state feeds the head."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(4, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.head(self.layer(x)[0][:, -1])
        return logits


class UNet(nn.Module):
    """One level down, one up, with a skip connection, over three axes."""

    def __init__(self, classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.shallow, self.deep = nn.Conv3d(1, width, 3, padding=1), nn.Conv3d(width, width, 3, 2, 1)
        self.up, self.mixed = nn.ConvTranspose3d(width, width, 2, 2), nn.Conv3d(2 * width, width, 3, padding=1)
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at each place."""
        shallow = torch.sigmoid(self.shallow(x))
        up = torch.sigmoid(self.up(torch.sigmoid(self.deep(shallow))))
        logits: Tensor = self.head(torch.sigmoid(self.mixed(torch.cat([shallow, up], 1))))
        return logits


def ecg() -> nn.Module:
    """Two convolutions in time."""
    layers = [nn.Conv1d(2, 12, 7, 2, 3), nn.Tanh(), nn.Conv1d(12, 12, 5, 2, 2), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(144, 4))


def scanner() -> nn.Module:
    """Two convolutions over three axes."""
    layers = [nn.Conv3d(1, 12, 3, 2, 1), nn.Sigmoid(), nn.Conv3d(12, 12, 3, 1, 1), nn.Sigmoid(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(576, 4))


def cnn(outputs: int) -> nn.Module:
    """Two convolutions of a picture."""
    layers = [nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 5, 1, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(576, outputs))


def classes(count: int) -> Labels:
    """One class a sample."""
    return lambda samples, generator: torch.randint(count, (len(samples),), generator=generator)


def findings(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Several of 14."""
    return (torch.rand((len(samples), 14), generator=generator) < 0.3).float()


def numbers(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Three each."""
    return torch.randn((len(samples), 3), generator=generator)


def masks(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Dark, grey and bright places."""
    return torch.bucketize(samples[:, 0], torch.tensor([0.4, 0.6]))


@dataclass(frozen=True)
class Kind:
    """A network, its samples and labels, and what a scan is told."""

    build: Callable[[], nn.Module]
    domain: Domain
    labels: Labels
    options: dict[str, Any]


KINDS = {
    "signals": Kind(ecg, SIGNAL, classes(4), {}),
    "sequences": Kind(Recurrent, SEQUENCE, classes(3), {}),
    "volumes": Kind(scanner, VOLUME, classes(4), {}),
    "unet-3d": Kind(UNet, SMALL, masks, {"loss": "dice-ce"}),
    "multi-label": Kind(lambda: cnn(14), PICTURE, findings, {"task": "multi-label"}),
    "regression": Kind(lambda: cnn(3), PICTURE, numbers, {"task": "regression"}),
}


def drawn(kind: Kind, seed: int) -> tuple[Tensor, Tensor]:
    """A file of samples and their labels."""
    generator = torch.Generator().manual_seed(seed)
    samples = kind.domain.decode(kind.domain.look_alikes(FILE, generator))
    return samples, kind.labels(samples, generator)


def scan(kind: Kind, seed: int, steps: int) -> Any:
    """One scan of an update of other samples."""
    torch.manual_seed(seed)
    loading = {name: kind.options[name] for name in ("loss", "task") if name in kind.options}
    target = leakaudit.load(kind.build(), image_shape=kind.domain.shape, **loading)
    samples, labels = drawn(kind, seed)
    others = drawn(kind, 10_000 + seed)
    settings: dict[str, dict[str, str]] = {"ig": {"iterations": str(steps)}}
    with mismatched(*others):
        return leakaudit.scan(
            target, (samples.numpy(), labels.numpy()), victims=1, seed=seed, preset="quick", settings=settings,
            device="cpu",
        )  # fmt: skip


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(tuple(KINDS)))
@click.option("--scans", default=40)
@click.option("--first", default=0, help="Seed of the first scan.")
@click.option("--steps", default=60, help="Of IG; preset quick has 600.")
def main(names: tuple[str, ...], scans: int, first: int, steps: int) -> None:
    """Print a line for every kind; exit with 1 where a scan says LEAKS."""
    torch.set_num_threads(1)
    alarms = 0
    for name in names or KINDS:
        started = time.monotonic()
        found: Counter[str] = Counter()
        for seed in range(first, first + scans):
            verdict = scan(KINDS[name], seed, steps).verdict
            found[str(verdict.status)] += 1
            alarms += verdict.code.leaks
            click.echo(f"{name} {seed}: {verdict.status}", err=True)
        said = ", ".join(f"{status} {count}" for status, count in found.most_common())
        click.echo(f"| {name} | {first} to {first + scans - 1} | {said} | {time.monotonic() - started:.0f} s |")
    if alarms:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
