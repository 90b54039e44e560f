"""The certificate of local uniqueness, with the columns of its Jacobian balanced and as they are.

    python benchmarks/certificates.py [NETWORK ...] [--victims 0,40,80]

Whether each image is certified as unique, products with the Jacobian and its transpose, and processor seconds, at the
image itself: CIFAR-10 test images with these numbers, the networks of `few_steps.py`. One thread, weights of seed 0.
Needs cifar10_test.npz in $LEAKAUDIT_DATA/images.
"""

from __future__ import annotations

import time
from collections import Counter
from unittest.mock import patch

import click
import torch
from few_steps import NETWORKS
from networks import CIFAR, cifar, target, victim

from leakaudit.attacks.certificate import Certificate, certify
from leakaudit.observation import Observation
from leakaudit.protocols.base import Play
from leakaudit.risk import update_jacobian
from leakaudit.risk.update_jacobian import UpdateJacobian
from leakaudit.target.target import Target

VECTORS = {"as they are": 0, "balanced": update_jacobian.BALANCING}
"""Random vectors that the lengths of the columns are estimated from."""
ANSWERS = {True: "unique", False: "not unique", None: "undecided"}


def certified(net: Target, seen: Observation, play: Play, vectors: int) -> tuple[Certificate, int]:
    """The certificate and how many products it took."""
    counted: Counter[str] = Counter()

    def counting(name: str) -> object:
        product = getattr(UpdateJacobian, name)

        def counted_product(*arguments: object) -> object:
            counted[name] += 1
            return product(*arguments)

        return counted_product

    names = ("times", "transposed_times")
    with (
        patch.multiple(UpdateJacobian, **{name: counting(name) for name in names}),
        patch.object(update_jacobian, "BALANCING", vectors),
    ):
        return certify(net, seen, play), sum(counted.values())


@click.command()
@click.argument("names", nargs=-1)
@click.option("--victims", default="0,40,80", show_default=True, help="Numbers, separated by commas.")
def main(names: tuple[str, ...], victims: str) -> None:
    """Print a line for every network and image."""
    torch.set_num_threads(1)
    images, labels = cifar()
    ways = " | ".join(f"{way} | products | s" for way in VECTORS)
    click.echo(f"| network | image | {ways} |\n|---|---|{'---|' * 3 * len(VECTORS)}")
    for name in names or NETWORKS:
        net = target(lambda build=NETWORKS[name]: build())  # type: ignore[misc]
        for number in map(int, victims.split(",")):
            seen = victim(net, images[[number]], labels[[number]], number)
            play, cells = Play(CIFAR.encode(images[[number]]), labels[[number]]), []
            for vectors in VECTORS.values():
                started = time.process_time()
                found, count = certified(net, seen, play, vectors)
                cells += [ANSWERS[found.unique], str(count), f"{time.process_time() - started:.1f}"]
            click.echo(" | ".join([f"| {name}", str(number), *cells]) + " |")


if __name__ == "__main__":
    main()
