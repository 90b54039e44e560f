"""What BatchNorm statistics add to gradient matching: GradInversion against IG at equal iterations.

    python benchmarks/batchnorm.py [NETWORK ...] [--victims 4] [--out benchmarks/results/batchnorm.md]

*resnet20* is trained on CIFAR-10 and comes as ONNX with its BatchNorm kept; *toy* is the untrained network of the
GI-PIP comparison. CIFAR-10 test images of distinct classes, given labels, one restart, unsigned Adam with a cosine
schedule and the same total variation everywhere: only the prior differs. IG as its authors run it stands beside it.
PSNR in 0..1.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import click
import torch
from networks import CIFAR, DATA, cifar, distinct, psnr, toy_batchnorm
from store import machine

from leakaudit import load
from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.gradinversion import BASE, GradInversion
from leakaudit.attacks.ig import IG
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.batchnorm import is_trained, running_statistics
from leakaudit.target.target import Target


def network(name: str, mode: Literal["eval", "train"]) -> Target:
    """One of the networks, in the mode of the client."""
    if name == "resnet20":
        return load(DATA / "onnx_nolicence" / "resnet20_cifar_pt16_op9_bn.onnx", mode=mode)
    torch.manual_seed(0)
    return load(toy_batchnorm(), mode=mode, image_shape=CIFAR.shape)


def attacks(net: Target, iterations: int, restarts: int) -> dict[str, tuple[Attack, bool]]:
    """Attack, and whether it is given the statistics of the batch; without those that have nothing to go by."""
    settings = replace(BASE, iterations=iterations, restarts=restarts)
    found: dict[str, tuple[Attack, bool]] = {
        "IG": (IG(replace(IG.presets["paper"], iterations=iterations, restarts=restarts)), False),
        "none": (GradInversion(replace(settings, statistics_weight=0.0)), False),
    }
    if is_trained(running_statistics(net)):
        found["running statistics (B)"] = (GradInversion(settings), False)
    if net.mode == "train":
        found["batch statistics (E)"] = (GradInversion(settings), True)
    return found


def quality(net: Target, attack: Attack, shared: bool, size: int, victims: int) -> list[float]:
    """PSNR of each victim."""
    images, labels = cifar()
    found = []
    for number in range(victims):
        chosen = distinct(labels, size, number)
        chosen = chosen[labels[chosen].argsort()]
        batch = Batch(images[chosen], labels[chosen], tuple(chosen.tolist()))
        protocol = FedSGD(size, net.mode, shared_statistics="batch" if shared else "none")
        seen = replace(observe(net, batch, protocol, CIFAR), labels=batch.labels, label_source="given")
        found.append(psnr(attack(net, seen, cpu_generator(number)).inputs, batch.images))
    return found


@click.command()
@click.argument("names", nargs=-1)
@click.option("--victims", default=4, show_default=True, help="Batches per cell.")
@click.option("--iterations", default=300, show_default=True, help="Steps per restart.")
@click.option("--restarts", default=1, show_default=True, help="Starts; pulled towards their mean by GradInversion.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the table there too.")
def main(names: tuple[str, ...], victims: int, iterations: int, restarts: int, out: Path | None) -> None:
    """Measure the networks (both by default) and print the table."""
    torch.set_num_threads(1)
    rows = [
        "| network, mode, batch size | prior | PSNR per victim, dB | median | over no prior |",
        "|---" * 5 + "|",
    ]
    click.echo("\n".join(rows))
    for name, mode, size in product(names or ("toy", "resnet20"), ("train", "eval"), (1, 4)):
        net = network(name, mode)
        if len(chosen := attacks(net, iterations, restarts)) < 3:
            continue
        baseline: list[float] = []
        for prior, (attack, shared) in chosen.items():
            values = quality(net, attack, shared, size, victims)
            baseline = values if prior == "none" else baseline
            gains = ", ".join(f"{v - b:+.1f}" for v, b in zip(values, baseline, strict=False))
            shown = ", ".join(f"{v:.1f}" for v in values)
            rows.append(f"| {name}, {mode}, {size} | {prior} | {shown} | {statistics.median(values):.1f} | {gains} |")
            click.echo(rows[-1])
    about = f"{iterations} iterations, {restarts} restart(s), {machine()}"
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("\n".join([*rows, "", about]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
