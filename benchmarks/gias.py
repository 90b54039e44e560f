"""What a generator adds to gradient matching: GIAS against IG with as many steps, on CNNs whose updates tell little.

    python benchmarks/gias.py [ONLY ...] [--batches 4] [--steps 600]

The generator is a linear decoder of the first `PARTS` principal components of 600 public MNIST digits, clamped to 0..1;
victims are other digits, by seed. *narrow*: two convolutions of 4 channels and a mean over places, 250 parameters.
*batch*: a wider one with a linear head, in batches of eight. *defended*: that one, one digit, the update pruned to a
hundredth. Networks are untrained, with weights by seed. Each line: mean PSNR in 0..1 of IG (preset quick's settings,
and with a total variation of 1e-2), of GIAS over latents alone and over latents and weights, of the closest of 64
samples that the generator makes anyway, and of the best that it could make. Results in `benchmarks/results/gias.md`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import click
import torch
from networks import MNIST, distinct, psnr, samples
from torch import Tensor, nn

from leakaudit.attacks.base import Attack, cpu_generator
from leakaudit.attacks.gias import GIAS, GIASSettings
from leakaudit.attacks.ig import IG, IGSettings
from leakaudit.audit.victim import ALONE
from leakaudit.client.batch import Batch
from leakaudit.client.observe import observe
from leakaudit.defences.pruning import Pruning
from leakaudit.matching.generator import OwnGenerator
from leakaudit.observation import Observation
from leakaudit.protocols.fedsgd import FedSGD
from leakaudit.target.load import load
from leakaudit.target.target import Target

PARTS, PUBLIC = 64, 600


class Decoder(nn.Module):
    """Principal components of images (N, 1, 28, 28), each by its standard deviation."""

    def __init__(self, images: Tensor, parts: int) -> None:
        super().__init__()
        self.latent, self.shape = parts, images.shape[1:]
        flat = images.flatten(1)
        mean = flat.mean(0)
        _, sizes, axes = torch.linalg.svd(flat - mean, full_matrices=False)
        self.decode = nn.Linear(parts, flat.shape[1])
        with torch.no_grad():
            self.decode.weight.copy_((axes[:parts] * (sizes[:parts] / len(flat) ** 0.5)[:, None]).T)
            self.decode.bias.copy_(mean)

    def forward(self, latents: Tensor) -> Tensor:
        """Images of latents (B, parts)."""
        return self.decode(latents).unflatten(1, self.shape).clamp(0, 1)

    def nearest(self, images: Tensor) -> Tensor:
        """What comes closest to images among all latents, but for the clamp."""
        offset = (images.flatten(1) - self.decode.bias).T
        return self(torch.linalg.lstsq(self.decode.weight, offset).solution.T)


def digits() -> nn.Module:
    """For ``--generator``."""
    return Decoder(samples(MNIST)[0][:PUBLIC], PARTS)


def narrow() -> nn.Module:
    """Fewer gradient entries than pixels."""
    layers = [nn.Conv2d(1, 4, 5, 2, 2), nn.GELU(), nn.Conv2d(4, 4, 3, 2, 1), nn.GELU(), nn.AvgPool2d(7)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 10))


def wide() -> nn.Module:
    """Two convolutions of ReLU units and a linear head."""
    layers = [nn.Conv2d(1, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 12, 5, 2, 2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(588, 10))


@dataclass(frozen=True)
class Case:
    """A network, the samples of a client, and the share of its update that it leaves out."""

    build: Callable[[], nn.Module]
    size: int
    prune: float = 0.0


CASES = {"narrow": Case(narrow, 1), "batch": Case(wide, 8), "defended": Case(wide, 1, 0.99)}


def victim(case: Case, seed: int) -> tuple[Target, Tensor, Observation]:
    """A network, private digits in the order of their labels, and what is seen of them."""
    images, labels = samples(MNIST)
    chosen = PUBLIC + distinct(labels[PUBLIC:], case.size, seed)
    chosen = chosen[labels[chosen].argsort()]
    torch.manual_seed(seed)
    target = replace(load(case.build(), image_shape=MNIST.shape), domain=MNIST)
    private = Batch(images[chosen], labels[chosen], tuple(range(case.size)))
    defences = [Pruning(prune=case.prune)] if case.prune else []
    seen = observe(target, private, FedSGD(case.size), MNIST, seed, defences)
    target, seen = defences[0].adapt(target, seen) if defences else (target, seen)
    seen = replace(seen, labels=private.labels, label_source="given")
    return target, private.images, replace(seen, generator=OwnGenerator.of("gias:digits", MNIST))


def attacks(steps: int) -> dict[str, Attack]:
    """With as many steps each."""
    own: dict[str, Any] = {"iterations": steps, "weight_learning_rate": 1e-3}
    return {
        "IG": IG(IGSettings(iterations=steps)),
        "IG, TV 1e-2": IG(IGSettings(iterations=steps, tv_weight=1e-2)),
        "GIAS, latents": GIAS(GIASSettings(weight_share=0.0, **own)),
        "GIAS": GIAS(GIASSettings(**own)),
    }


def best_of(made: Tensor, images: Tensor) -> float:
    """Mean PSNR of the closest of some samples."""
    errors = (images[:, None] - made[None]).square().flatten(2).mean(2).amin(1)
    return float((-10 * errors.log10()).mean())


@click.command()
@click.argument("only", nargs=-1, type=click.Choice(tuple(CASES)))
@click.option("--batches", default=4)
@click.option("--steps", default=600)
def main(only: tuple[str, ...], batches: int, steps: int) -> None:
    """Print a line for every case."""
    torch.set_num_threads(1)
    sys.modules["gias"] = sys.modules["__main__"]
    names = [*attacks(1), "made anyway", "at best"]
    click.echo(f"| case | batches | {' | '.join(names)} |\n{'|---' * (len(names) + 2)}|")
    for name in only or CASES:
        found: dict[str, list[float]] = {key: [] for key in names}
        for seed in range(batches):
            target, images, seen = victim(CASES[name], seed)
            for key, attack in attacks(steps).items():
                started = time.perf_counter()
                found[key].append(psnr(attack(target, seen, cpu_generator(seed)).inputs, images, MNIST))
                took = time.perf_counter() - started
                click.echo(f"{name} {seed} {key}: {found[key][-1]:.1f} dB, {took:.0f} s", err=True)
            assert seen.generator is not None
            made = MNIST.decode(seen.generator.drawn(ALONE, MNIST, cpu_generator(seed)))
            found["made anyway"].append(best_of(made, images))
            decoder = digits()
            assert isinstance(decoder, Decoder)
            with torch.no_grad():
                found["at best"].append(psnr(MNIST.encode(decoder.nearest(images)), images, MNIST))
        cells = [f"{sum(values) / len(values):.1f}" for values in found.values()]
        click.echo(f"| {name} | {batches} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
