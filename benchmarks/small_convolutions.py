"""A step of gradient matching with oneDNN's convolutions beside one with torch's own, on small networks.

    python benchmarks/small_convolutions.py [--rounds 5]

Processor milliseconds of an eager step, the shorter of the rounds, which take turns; batches of 1 to 8 CIFAR-10 test
images, one thread. *Operations* are those of the forward pass of the batch, in millions. What
`leakaudit.target.size.TINY_FLOPS` is chosen from. Needs cifar10_test.npz in $LEAKAUDIT_DATA/images.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import click
import torch
from networks import cifar, convnet64, lenet, lenet_zhu, resnet18, target, toy_batchnorm, victim
from torch import nn

from leakaudit.matching import step
from leakaudit.matching.problem import GradientMatching
from leakaudit.matching.settings import MatchSettings
from leakaudit.matching.step import Step
from leakaudit.target.size import forward_operations


def plain(width: int, stride: int, kernel: int = 3) -> nn.Module:
    """Three convolutions of one width, the last two with a stride, and a linear layer."""
    padding, side = kernel // 2, 32 // stride**2
    return nn.Sequential(
        *(nn.Conv2d(3, width, kernel, 1, padding), nn.GELU()),
        *(nn.Conv2d(width, width, 3, stride, 1), nn.GELU()),
        *(nn.Conv2d(width, width, 3, stride, 1), nn.GELU()),
        nn.Flatten(),
        nn.Linear(width * side**2, 10),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lenet": lenet,
    "lenet of DLG": lenet_zhu,
    **{f"strided, {width} wide": partial(plain, width, 2) for width in (16, 32, 64)},
    "strided, first 5×5": partial(plain, 16, 2, 5),
    **{f"whole, {width} wide": partial(plain, width, 1) for width in (8, 16, 32)},
    "batchnorm": toy_batchnorm,
    "convnet64": convnet64,
    "resnet18": resnet18,
}


def milliseconds(run: Callable[[], object]) -> float:
    """Processor time of one call, over .15 s or two calls."""
    run()
    calls, started = 0, time.process_time()
    while calls < 2 or time.process_time() - started < 0.15:
        run()
        calls += 1
    return 1e3 * (time.process_time() - started) / calls


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Print a line for every network and batch."""
    torch.set_num_threads(1)
    images, labels = cifar()
    click.echo("| network | batch | operations | oneDNN, ms | own, ms | own ÷ oneDNN |\n|---|---|---|---|---|---|")
    for name, build in NETWORKS.items():
        net = target(lambda build=build: build())  # type: ignore[misc]
        for batch in (1, 2, 4, 8):
            chosen = labels[:batch]
            problem = GradientMatching(net, victim(net, images[:batch], chosen), chosen, MatchSettings())
            guess = [torch.randn(1, batch, *images.shape[1:])]
            ways = []
            for tiny in (False, True):
                with patch.object(step, "is_tiny", lambda *_, tiny=tiny: tiny):
                    ways.append(Step(problem, ["inputs"], guess))
            times = [[milliseconds(partial(way, guess)) for way in ways] for _ in range(rounds)]
            onednn, own = (min(column) for column in zip(*times, strict=True))
            operations = batch * forward_operations(net) / 1e6
            click.echo(f"| {name} | {batch} | {operations:.1f} | {onednn:.2f} | {own:.2f} | {own / onednn:.2f} |")


if __name__ == "__main__":
    main()
