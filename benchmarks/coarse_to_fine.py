"""Large images: does a search gain by starting at a quarter of the resolution, or by a heavier total variation?

    python benchmarks/coarse_to_fine.py --side 224 --steps 100 [--victim 0] [--network resnet18] [WAY ...]

Adam on the cosine distance, of an untrained network of torchvision and one photograph of $LEAKAUDIT_DATA, with true
labels, from noise. A way with levels optimises an image of a part of the resolution, made larger by bilinear
interpolation, and goes on from there; the learning rate falls over all levels together, in the three steps of IG.
Beside them stand IG's preset standard, `breaching` where it is installed (its shipped weight, its schedule of as many
steps), and what knows nothing: the mean colour, and the image at a sixteenth of its resolution for comparison.
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
from torch import Tensor

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


FULL, QUARTER, EIGHTH = ((1, 1),), ((4, 2), (2, 1), (1, 1)), ((8, 1), (4, 1), (2, 1), (1, 1))
WAYS = {
    "signed 1e-4": Way(FULL, 1e-4, True),
    "3e-2": Way(FULL, 3e-2),
    "2e-1": Way(FULL, 2e-1),
    "quarter, signed 1e-4": Way(QUARTER, 1e-4, True),
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
@click.option("--side", default=224, show_default=True)
@click.option("--steps", default=100, show_default=True)
@click.option("--victim", "number", default=0, show_default=True, help="Which photograph.")
@click.option("--network", default="resnet18", show_default=True)
def main(ways: tuple[str, ...], side: int, steps: int, number: int, network: str) -> None:
    """Print a line for every way."""
    torch.set_num_threads(1)
    with np.load(DATA / "images" / "photos_open_224.npz") as file:
        truth = torch.from_numpy(file["x"][number : number + 1]).float()
    truth = F.interpolate(truth / 255 if float(truth.max()) > 1 else truth, size=side, mode="area")
    space = Images((3, side, side), (0.5,) * 3, (0.25,) * 3)
    net = target(lambda: getattr(torchvision.models, network)(num_classes=10).eval(), space=space)
    seen = victim(net, truth, torch.tensor([number % 10]), space=space)
    flat = truth.mean((2, 3), keepdim=True).expand_as(truth)
    coarse = resized(F.interpolate(truth, size=side // 16, mode="area"), side)
    click.echo(f"| {network}, {side} px, photograph {number}, {steps} steps | dB | seconds |\n|---|---|---|")
    for name, guess in (("mean colour", flat), ("a sixteenth of the resolution", coarse)):
        click.echo(f"| {name} | {psnr(space.encode(guess), truth, space):.1f} | |")
    for name, run in contenders(net, seen, steps).items():
        if not ways or name in ways:
            started = time.process_time()
            found = psnr(run(), truth, space)
            click.echo(f"| {name} | {found:.1f} | {time.process_time() - started:.0f} |")


if __name__ == "__main__":
    main()
