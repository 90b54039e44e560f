"""IG in few steps: as its authors run it, and by a search whose candidates run side by side or follow each other.

    python benchmarks/few_steps.py [NETWORK ...] [--victims 0,40,80] [--batch 1] [--steps 600]

PSNR in 0..1 and processor seconds, means over the victims: CIFAR-10 test images from that number on, of distinct
classes. One thread, weights of seed 0, labels given. Needs cifar10_test.npz in $LEAKAUDIT_DATA/images.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import click
import torch
from large_images import network
from local_steps import matched
from networks import CIFAR, ViT, cifar, distinct, lenet, lenet_zhu, mlp, target, toy_batchnorm, victim
from torch import nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IG
from leakaudit.matching import search
from leakaudit.observation import Observation
from leakaudit.target.target import Target

SMALL = (*(f"strided/{act}" for act in ("gelu", "relu", "silu", "sigmoid")), "pooled/gelu", "pooled/relu")
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(network, name, 32) for name in (*SMALL, "averaged/gelu", "averaged/relu")},
    "lenet/gelu": lenet,
    "lenet/relu": partial(lenet, activation=nn.ReLU),
    "lenet of DLG": lenet_zhu,
    "mlp": mlp,
    "vit": ViT,
    "batchnorm": toy_batchnorm,
}
SIDE_BY_SIDE, IN_TURN = 0, 10**9
"""Steps below which candidates follow each other."""
WAYS = {"authors": None, "side by side": SIDE_BY_SIDE, "in turn": IN_TURN}


def attacked(net: Target, seen: Observation, way: str, steps: int, seed: int) -> torch.Tensor:
    """Inputs that IG finds."""
    fewest = WAYS[way]
    if fewest is not None:
        search.FEWEST = fewest
    preset = IG.presets["paper" if fewest is None else "quick"]
    return IG(replace(preset, iterations=steps))(net, seen, cpu_generator(seed)).inputs


@click.command()
@click.argument("names", nargs=-1)
@click.option("--victims", default="0,40,80", show_default=True, help="Numbers, separated by commas.")
@click.option("--batch", default=1, show_default=True, help="Samples behind an update.")
@click.option("--steps", default=600, show_default=True)
def main(names: tuple[str, ...], victims: str, batch: int, steps: int) -> None:
    """Print a line for every network, and the means."""
    torch.set_num_threads(1)
    images, labels = cifar()
    ways = " | ".join(f"{way}, dB | s" for way in WAYS)
    click.echo(f"| batch {batch}, {steps} steps, victims {victims} | {ways} |\n|---|{'---|' * 2 * len(WAYS)}")
    lines: list[list[float]] = []
    for name in names or NETWORKS:
        net = replace(target(lambda build=NETWORKS[name]: build()), name=name)  # type: ignore[misc]
        line: list[float] = []
        for way in WAYS:
            found: list[tuple[float, float]] = []
            for number in map(int, victims.split(",")):
                chosen = number + distinct(labels[number:], batch, number) if batch > 1 else [number]
                seen = victim(net, images[chosen], labels[chosen], number)
                started = time.process_time()
                inputs = attacked(net, seen, way, steps, number)
                found.append(
                    (float(matched(CIFAR.decode(inputs), images[chosen]).mean()), time.process_time() - started)
                )
            line += [statistics.mean(column) for column in zip(*found, strict=True)]
        lines.append(line)
        click.echo(_row(name, line))
    click.echo(_row("mean", [statistics.mean(column) for column in zip(*lines, strict=True)]))


def _row(name: str, line: list[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.1f}" for value in line) + " |"


if __name__ == "__main__":
    main()
