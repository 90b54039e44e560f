"""Large images: what a search reads of them, beside `breaching` and beside plain ways to begin coarse or smooth.

    python benchmarks/large_images.py [--network strided/gelu] [--side 64] [--steps 400] [--victim 5] [WAY ...]

One photograph of $LEAKAUDIT_DATA a run, true label, from noise, an untrained network: one of `SMALL` with an
activation, or one of torchvision. Ways: IG's preset standard; `breaching` where it is installed (its shipped weight,
its schedule of as many steps); and Adam on the cosine distance with a fixed total variation. Of those, a way with
levels optimises an image of a part of the resolution, made larger by bilinear interpolation, and goes on from there;
the learning rate falls over all levels together, in the three steps of IG. Beside them stands what knows nothing: the
mean colour, and the image at a sixteenth of its resolution for comparison.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import click
import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from networks import DATA, psnr, target, victim
from peer import Peer, missing
from torch import Tensor, nn

from leakaudit.attacks.base import cpu_generator
from leakaudit.attacks.ig import IG
from leakaudit.domains.images import Images
from leakaudit.matching.engine import GradientMatching, MatchSettings
from leakaudit.matching.schedule import step_decay
from leakaudit.observation import Observation
from leakaudit.target.target import Target

RATE = 0.1
"""Learning rate, the authors' of IG."""


@dataclass(frozen=True)
class Way:
    """One way to search.

    Args:
        levels: Each a part of the resolution, as its denominator, and its share of the steps.
        tv_weight: Of the total variation, at full resolution.
        signed: Whether only the sign of the gradient counts.
    """

    levels: Sequence[tuple[int, int]]
    tv_weight: float
    signed: bool = False


ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid}


def strided(act: Callable[[], nn.Module], side: int) -> nn.Module:
    """Two 5×5 convolutions of stride 2 and a linear layer, as a small LeNet."""
    layers = [nn.Conv2d(3, 12, 5, 2, 2), act(), nn.Conv2d(12, 12, 5, 2, 2), act()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * (side // 4) ** 2, 10))


def pooled(act: Callable[[], nn.Module], side: int) -> nn.Module:
    """Three 3×3 convolutions, each with a max-pool, and two linear layers, as a small VGG."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), act(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * (side // 8) ** 2, 64), act(), nn.Linear(64, 10))


def averaged(act: Callable[[], nn.Module], side: int) -> nn.Module:
    """Four 3×3 convolutions, three of stride 2, averaged to 4×4 whatever the side."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 16, 1), (16, 32, 2), (32, 32, 2), (32, 32, 2)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))


SMALL = {"strided": strided, "pooled": pooled, "averaged": averaged}


def network(name: str, side: int) -> nn.Module:
    """``strided/gelu`` and the like, or a network of torchvision by its name."""
    small, _, activation = name.partition("/")
    if small in SMALL:
        return SMALL[small](ACTIVATIONS[activation or "relu"], side)
    return getattr(torchvision.models, name)(num_classes=10)


FULL, QUARTER, EIGHTH = ((1, 1),), ((4, 2), (2, 1), (1, 1)), ((8, 1), (4, 1), (2, 1), (1, 1))
WAYS = {
    "signed 1e-4": Way(FULL, 1e-4, True),
    "3e-2": Way(FULL, 3e-2),
    "2e-1": Way(FULL, 2e-1),
    "signed 2e-1": Way(FULL, 2e-1, True),
    "quarter, signed 1e-4": Way(QUARTER, 1e-4, True),
    "quarter, signed 2e-1": Way(QUARTER, 2e-1, True),
    "quarter, 3e-2": Way(QUARTER, 3e-2),
    "quarter, 2e-1": Way(QUARTER, 2e-1),
    "eighth, 3e-2": Way(EIGHTH, 3e-2),
}


def resized(image: Tensor, side: int) -> Tensor:
    """An image (1, C, H, W) of another size."""
    return F.interpolate(image, size=side, mode="bilinear", align_corners=False)


def search(net: Target, seen: Observation, way: Way, steps: int) -> Tensor:
    """The image that a way ends at."""
    assert seen.labels is not None
    problem = GradientMatching(net, seen, seen.labels, MatchSettings(tv_weight=way.tv_weight))
    side, shares = net.domain.shape[-1], sum(share for _, share in way.levels)
    image, done = torch.randn((1, *net.domain.shape), generator=cpu_generator(1)), 0
    for part, share in way.levels:
        small = torch.randn((1, 3, side // part, side // part), generator=cpu_generator(1))
        small = (small if not done else resized(image, side // part)).requires_grad_()
        optimizer = torch.optim.Adam([small], lr=RATE)
        for _ in range(round(steps * share / shares)):
            optimizer.param_groups[0]["lr"] = RATE * step_decay(done, steps)
            objective, _ = problem.evaluate(resized(small, side) if part > 1 else small)
            (small.grad,) = torch.autograd.grad(objective, small)
            small.grad = small.grad.sign() if way.signed else small.grad
            optimizer.step()
            problem.into_range(small.data)
            done += 1
        image = resized(small.detach(), side)
    return image


def contenders(net: Target, seen: Observation, steps: int) -> dict[str, Callable[[], Tensor]]:
    """What is searched with, by name."""
    standard = IG(replace(IG.presets["standard"], iterations=steps))
    found: dict[str, Callable[[], Tensor]] = {
        name: (lambda way=way: search(net, seen, way, steps))
        for name, way in WAYS.items()  # type: ignore[misc]
    }
    found["IG, preset standard"] = lambda: standard(net, seen, cpu_generator(1)).inputs
    if not missing():
        start = torch.randn((1, *net.domain.shape), generator=cpu_generator(1))
        found["breaching"] = lambda: Peer(net, seen, steps).loop(start)
    return found


@click.command()
@click.argument("ways", nargs=-1)
@click.option("--side", default=64, show_default=True)
@click.option("--steps", default=400, show_default=True)
@click.option("--victim", "number", default=0, show_default=True, help="Which photograph.")
@click.option("--network", "name", default="strided/gelu", show_default=True)
def main(ways: tuple[str, ...], side: int, steps: int, number: int, name: str) -> None:
    """Print a line for every way."""
    torch.set_num_threads(1)
    with np.load(DATA / "images" / "photos_open_224.npz") as file:
        truth = torch.from_numpy(file["x"][number : number + 1]).float()
    truth = F.interpolate(truth / 255 if float(truth.max()) > 1 else truth, size=side, mode="area")
    space = Images((3, side, side), (0.5,) * 3, (0.25,) * 3)
    net = target(lambda: network(name, side), space=space)
    seen = victim(net, truth, torch.tensor([number % 10]), space=space)
    flat = truth.mean((2, 3), keepdim=True).expand_as(truth)
    coarse = resized(F.interpolate(truth, size=side // 16, mode="area"), side)
    click.echo(f"| {name}, {side} px, photograph {number}, {steps} steps | dB | seconds |\n|---|---|---|")
    for way, guess in (("mean colour", flat), ("a sixteenth of the resolution", coarse)):
        click.echo(f"| {way} | {psnr(space.encode(guess), truth, space):.1f} | |")
    for way, run in contenders(net, seen, steps).items():
        if not ways or way in ways:
            started = time.process_time()
            found = psnr(run(), truth, space)
            click.echo(f"| {way} | {found:.1f} | {time.process_time() - started:.0f} |")


if __name__ == "__main__":
    main()
