"""Each defence against IG that ignores it and IG that knows it, on CIFAR-10 victims, batch size 1.

    python benchmarks/defences.py [--network mlp] [--defence prune=0.99] [--victims 4] [--out FILE]

Labels are given, so that the figures show the pixels alone. PSNR in 0..1, median over the victims, preset standard with
``--iterations`` steps. Needs the CIFAR-10 sample in $LEAKAUDIT_DATA.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import click
import torch
from networks import CIFAR, cifar, lenet, mlp, psnr, target
from store import machine
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.dia import DIA
from leakaudit.attacks.ig import IG
from leakaudit.attacks.reading.masks import masked_layers
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.base import Defence, adapted, defended_model, defended_protocol
from leakaudit.defences.spec import parse_defence
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.target import Target

DEFENCES = (
    *("prune=0.9", "prune=0.99", "sign", "bits=8", "soteria=0.5", "precode=256", "dropout=0.5"),
    *("noise=0.001", "clip=1,noise=0.0001", "clip=1,noise=0.01", "clip=1,noise=1"),
)


def convnet() -> nn.Module:
    """Three convolutions and a linear layer, 80,000 parameters."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 1), (32, 64, 2), (64, 64, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4096, 10))


NETWORKS = {"mlp": mlp, "lenet": lenet, "convnet": convnet}


def attack(net: Target, defence: Defence | None, number: int, iterations: int, knowing: bool) -> float:
    """PSNR of one victim."""
    images, labels = cifar()
    position = 40 * number
    batch = Batch(images[position : position + 1], labels[position : position + 1], (position,))
    defences = () if defence is None else (defence,)
    model = defended_model(net, defences, seed=number)
    protocol = defended_protocol(FedSGD(1), defences)
    observation = observe(model, batch, protocol, CIFAR, number, defences)
    observation = replace(observation, labels=batch.labels, label_source="given")
    if knowing:
        model, observation = adapted(model, observation, defences)
    kind = DIA if knowing and masked_layers(model, observation) else IG
    settings = replace(kind.presets["standard"], iterations=iterations)
    return psnr(kind(settings)(model, observation, cpu_generator(number)).inputs, batch.images)


@click.command()
@click.option("--network", "networks", multiple=True, type=click.Choice(tuple(NETWORKS)), help="Default all.")
@click.option("--defence", "texts", multiple=True, help="Default a list of all.")
@click.option("--victims", default=4, show_default=True)
@click.option("--iterations", default=1500, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
def main(networks: tuple[str, ...], texts: tuple[str, ...], victims: int, iterations: int, out: Path | None) -> None:
    """Print a row for each network and defence."""
    torch.set_num_threads(1)
    rows = ["| network | defence | IG that ignores it, dB | attack that knows it, dB | gain |", "|---|---|---|---|---|"]
    click.echo("\n".join(rows))
    for name in networks or tuple(NETWORKS):
        net = target(NETWORKS[name])
        for text in (None, *(texts or DEFENCES)):
            defence = None if text is None else parse_defence(text)
            plain = statistics.median(attack(net, defence, n, iterations, False) for n in range(victims))
            knowing = statistics.median(attack(net, defence, n, iterations, True) for n in range(victims))
            row = f"| {name} | {text or 'none'} | {plain:.1f} | {knowing:.1f} | {knowing - plain:+.1f} |"
            rows.append(row)
            click.echo(row)
    if out:
        text = f"{iterations} steps, median of {victims} victims. {machine()}"
        out.write_text("\n".join([*rows, "", text]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
