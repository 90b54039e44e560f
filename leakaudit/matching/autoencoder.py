r"""An autoencoder of public images, whose error says how unlike them a guess is (GI-PIP, arXiv 2401.11748).

.. math:: AS(x) = \big|\, \mathrm{MSE}(\hat x, A(\hat x)) - c \,\big|,
   \qquad \hat x = \mathrm{clamp}(\sigma x + \mu, 0, 1)

A reproduces what it has seen the like of, and noise badly. c is A's own error on the public images.

Two-sided as published, the score also *raises* the error of guesses that are smoother than c; one-sided,
``max(0, MSE − c)``, it does not. Fails where the public images are unlike the private ones, and where a strong total
variation already says all that A knows.

Deviations: the authors train A elsewhere, for 100 epochs; here it is trained for a fixed number of steps with flips,
and above 64 px two more stages stand in for their VGG-19 autoencoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from leakaudit.matching.priors import Variables
from leakaudit.observation import InputSpace

BATCH = 16
LEARNING_RATE = 1e-3
SMALL = (12, 24, 48)
LARGE = (24, 48, 96, 128, 128)
LARGE_FROM = 65
_CACHE: dict[str, Autoencoder] = {}
CACHED = 4


class Network(nn.Module):
    """Strided 4×4 convolutions down, transposed ones up, sigmoid at the end; any height and width.

    Args:
        channels: Of the images.
        widths: Channels of the stages, each of which halves the side.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        down, up = [channels, *widths], [*widths[::-1], channels]
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for a, b in pairwise(down):
            encoder += [nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()]
        for a, b in pairwise(up):
            decoder += [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU()]
        self.layers = nn.Sequential(*encoder, *decoder[:-1], nn.Sigmoid())
        self.multiple = 2 ** len(widths)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..1 (B, C, H, W) to the same."""
        height, width = pixels.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        padded = F.pad(pixels, padding, mode="replicate") if any(padding) else pixels
        result: Tensor = self.layers(padded)
        return result[..., :height, :width]


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A trained autoencoder.

    Args:
        network: Frozen, in eval mode.
        residual: Its mean squared error on the images that it was not trained on (on all of them if too few), c.
    """

    network: Network
    residual: float


@dataclass(frozen=True, eq=False)
class AnomalyScore:
    """The prior: how unlike public images a guess is, weighted.

    Args:
        autoencoder: Trained on public images.
        space: Of the model's inputs.
        weight: β.
        one_sided: Leave guesses alone that are reproduced better than the public images.
    """

    autoencoder: Autoencoder
    space: InputSpace
    weight: float
    one_sided: bool = False

    def __call__(self, variables: Variables) -> Tensor:
        """The weighted score, a scalar."""
        pixels = self.space.denormalize(variables["inputs"])
        excess: Tensor = (pixels - self.autoencoder.network(pixels)).square().mean() - self.autoencoder.residual
        return self.weight * (excess.clamp_min(0) if self.one_sided else excess.abs())


def content_hash(images: Tensor) -> str:
    """SHA-256 of the pixels and their shape."""
    data = images.detach().cpu().contiguous()
    return hashlib.sha256(str(tuple(data.shape)).encode() + data.numpy().tobytes()).hexdigest()


def train_autoencoder(
    images: Tensor, steps: int, generator: Generator, goes_on: Callable[[float, float], bool] = lambda *_: True
) -> Autoencoder:
    """Train on public images, or take the one trained on the same images before.

    Args:
        images: Pixels in 0..1 (N, C, H, W).
        steps: Optimiser steps of 16 images each.
        generator: CPU generator of initialisation, order and flips.
        goes_on: Told the fraction done and the loss; False ends the training.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator))
    key = f"{content_hash(images)}:{steps}:{images.device}"
    if key in _CACHE:
        return _CACHE[key]
    held_out = len(images) // 10 if len(images) >= 20 else 0
    network, complete = _fit(images[held_out:], steps, seed, goes_on)
    with torch.no_grad():
        check = images[: held_out or len(images)]
        trained = Autoencoder(network, float((check - network(check)).square().mean()))
    if complete:
        while len(_CACHE) >= CACHED:
            _CACHE.pop(next(iter(_CACHE)))
        _CACHE[key] = trained
    return trained


def _fit(images: Tensor, steps: int, seed: int, goes_on: Callable[[float, float], bool]) -> tuple[Network, bool]:
    """Binary cross-entropy, Adam 1e-3, as the code that the authors refer to; and whether all steps were done."""
    widths = LARGE if max(images.shape[-2:]) >= LARGE_FROM else SMALL
    order = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(images.shape[1], widths).to(images.device, images.dtype)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    complete = True
    for step in range(steps):
        chosen = images[torch.randint(len(images), (BATCH,), generator=order)]
        if bool(torch.rand(1, generator=order) < 0.5):
            chosen = chosen.flip(-1)
        loss = F.binary_cross_entropy(network(chosen), chosen)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if not goes_on((step + 1) / steps, float(loss.detach())):
            complete = False
            break
    return network.eval().requires_grad_(False), complete
