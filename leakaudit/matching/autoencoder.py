r"""An autoencoder of public images, whose error says how unlike them a guess is (GI-PIP, arXiv 2401.11748).

.. math:: AS(x) = \big|\, \mathrm{MSE}(\hat x, A(\hat x)) - c \,\big|,
   \qquad \hat x = \mathrm{clamp}(\sigma x + \mu, 0, 1)

A reproduces what it has seen the like of, and noise badly. c is A's own error on the public images.

Two-sided as published, the score also *raises* the error of guesses that are smoother than c; one-sided,
``max(0, MSE − c)``, it does not. Fails where the public images are unlike the private ones, and where a strong total
variation already says all that A knows.

Above 64 px the authors' A is a VGG-19 with BatchNorm and its mirror image, 80 GFLOP per image of 224 px: here it is
what a GPU trains, and a strided network with two more stages what a CPU does, unless one is asked for.

Deviations: the authors train A elsewhere, for 100 epochs; here both kinds are trained alike, for a fixed number of
steps with flips. The result depends on images and settings alone, not on a seed, so that one from the cache on disk is
the one that would be trained again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leakaudit.domains.base import Domain
from leakaudit.matching.priors import Variables
from leakaudit.reconstruction import Forgetting, Memory

Architecture = Literal["auto", "strided", "vgg"]
BATCH = 16
"""Images a training step, as in chenjie/PyTorch-CIFAR-10-autoencoder, which the authors' README links."""
LEARNING_RATE = 1e-3
"""Of Adam; its own default, as in chenjie/PyTorch-CIFAR-10-autoencoder, which the authors' README links."""
SMALL = (12, 24, 48)
"""Channels of the strided stages up to 64 px, as in the authors' code for CIFAR-10 and ImageNet of 64 px."""
LARGE = (24, 48, 96, 128, 128)
"""Channels of the strided stages for larger images, where the authors' code has a VGG-19; chosen, not measured."""
LARGE_FROM = 65
"""Side from which an image is large; the authors' code has its small network up to 64 px."""
VGG_STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
"""Convolutions and channels of each stage of VGG-19 (Simonyan and Zisserman 2015, arXiv 1409.1556)."""


class Network(nn.Module):
    """Layers that take and return pixels in 0..1 (B, C, H, W), of any height and width.

    Args:
        layers: For sides that are a multiple of `multiple`.
        multiple: By padding, every side becomes one.
    """

    def __init__(self, layers: nn.Sequential, multiple: int) -> None:
        super().__init__()
        self.layers, self.multiple = layers, multiple

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..1 (B, C, H, W) to the same."""
        height, width = pixels.shape[-2:]
        padding = (0, -width % self.multiple, 0, -height % self.multiple)
        padded = F.pad(pixels, padding, mode="replicate") if any(padding) else pixels
        result: Tensor = self.layers(padded)
        return result[..., :height, :width]


def strided(channels: int, widths: tuple[int, ...]) -> Network:
    """Strided 4×4 convolutions down, each of which halves the side, transposed ones up, sigmoid at the end."""
    down, up = [channels, *widths], [*widths[::-1], channels]
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for a, b in pairwise(down):
        encoder += [nn.Conv2d(a, b, 4, 2, 1), nn.ReLU()]
    for a, b in pairwise(up):
        decoder += [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.ReLU()]
    return Network(nn.Sequential(*encoder, *decoder[:-1], nn.Sigmoid()), 2 ** len(widths))


def vgg(channels: int, stages: tuple[tuple[int, int], ...] = VGG_STAGES) -> Network:
    """VGG with BatchNorm as the encoder, its mirror image with transposed 2×2 convolutions as the decoder."""
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    before = channels
    for number, (depth, width) in enumerate(stages):
        inner = [_block(width, width) for _ in range(depth - 1)]
        encoder += [*_block(before, width), *chain(*inner), nn.MaxPool2d(2)]
        mirrored = [_block(width, width) for _ in range(depth - 1)]
        last = _block(width, before) if number else [nn.Conv2d(width, channels, 3, 1, 1)]
        decoder = [nn.ConvTranspose2d(width, width, 2, 2), *chain(*mirrored), *last, *decoder]
        before = width
    return Network(nn.Sequential(*encoder, *decoder, nn.Sigmoid()), 2 ** len(stages))


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def build(images: Tensor, kind: Architecture) -> Network:
    """The untrained network for images (N, C, H, W); ``auto`` as the module's page says."""
    large = max(images.shape[-2:]) >= LARGE_FROM
    if kind == "vgg" or (kind == "auto" and large and images.is_cuda):
        return vgg(images.shape[1])
    return strided(images.shape[1], LARGE if large else SMALL)


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """A trained autoencoder.

    Args:
        network: Frozen, in eval mode.
        residual: Its mean squared error on the images that it was not trained on (on all of them if too few), c.
        missing: Steps of its training that were not done.
    """

    network: Network
    residual: float
    missing: int = 0


@dataclass(frozen=True, eq=False)
class AnomalyScore:
    """The prior: how unlike public images a guess is, weighted.

    Args:
        autoencoder: Trained on public images.
        domain: Of the model's inputs.
        weight: β.
        one_sided: Leave guesses alone that are reproduced better than the public images.
    """

    autoencoder: Autoencoder
    domain: Domain
    weight: float
    one_sided: bool = False

    def __call__(self, variables: Variables) -> Tensor:
        """The weighted score, a scalar."""
        pixels = self.domain.decode(variables["inputs"])
        excess: Tensor = (pixels - self.autoencoder.network(pixels)).square().mean() - self.autoencoder.residual
        return self.weight * (excess.clamp_min(0) if self.one_sided else excess.abs())


def train_autoencoder(
    images: Tensor,
    steps: int,
    goes_on: Callable[[float, float], bool] = lambda *_: True,
    *,
    kind: Architecture = "auto",
    memory: Memory | None = None,
    lasting: bool = True,
) -> tuple[Autoencoder, tuple[str, ...]]:
    """Train on public images, or take the one that was trained on them before.

    Args:
        images: Pixels in 0..1 (N, C, H, W).
        steps: Optimiser steps of 16 images each.
        goes_on: Told the fraction done and the loss; False ends the training, which the next call goes on with.
        kind: Of network.
        memory: Where trained ones, and one that was left, are kept; ``None`` keeps nothing.
        lasting: Whether the memory stores it for later audits too.

    Returns:
        The autoencoder, and facts for the report.
    """
    memory = Forgetting() if memory is None else memory
    key = _key(images, steps, kind)
    trained: Autoencoder | None = memory.held(*key)
    if trained is not None:
        return trained, ()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(images, kind)
    network.to(images.device, images.dtype)
    known = _restored(network, memory.stored(*key)) if lasting else None
    facts: tuple[str, ...] = ()
    if known is None:
        begun: _Training | None = memory.held("begun", *key)
        training = begun or _Training.of(network)
        training.advance(images, steps, goes_on)
        if training.done < steps:
            memory.hold(training, "begun", *key)
            return replace(_measured(copy.deepcopy(training.network), images), missing=steps - training.done), ()
        memory.hold(None, "begun", *key)
        known = _measured(training.network, images)
        facts = _store(memory, key, known) if lasting else ()
    memory.hold(known, *key)
    return known, facts


def _key(images: Tensor, steps: int, kind: Architecture) -> tuple[Any, ...]:
    """Everything that the result depends on: this file, torch, the settings, the images, the device."""
    code = Path(__file__).read_bytes()
    return ("autoencoder", code, torch.__version__, steps, kind, images, images.device.type)


def _restored(network: Network, stored: Any) -> Autoencoder | None:
    """What `_store` stored; ``None`` for anything else, such as a damaged file."""
    try:
        network.load_state_dict(stored["weights"])
        residual = float(stored["residual"])
    except (TypeError, KeyError, ValueError, RuntimeError, AttributeError):
        return None
    return Autoencoder(network.eval().requires_grad_(False), residual)


def _store(memory: Memory, key: tuple[Any, ...], trained: Autoencoder) -> tuple[str, ...]:
    """Store it; where that is not possible it costs a fact in the report, not the attack."""
    weights = {name: tensor.cpu() for name, tensor in trained.network.state_dict().items()}
    why = memory.store({"weights": weights, "residual": trained.residual}, *key)
    return (f"autoencoder not kept: {why}",) if why else ()


@dataclass(eq=False)
class _Training:
    """Binary cross-entropy, Adam 1e-3, as the code that the authors refer to; can be left and gone on with."""

    network: Network
    optimizer: torch.optim.Optimizer
    order: torch.Generator
    done: int = 0

    @classmethod
    def of(cls, network: Network) -> _Training:
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        return cls(network, optimizer, torch.Generator().manual_seed(0))

    def advance(self, images: Tensor, steps: int, goes_on: Callable[[float, float], bool]) -> None:
        """Train until so many steps are done in all, or told to stop."""
        public = images[_held_out(images) :]
        while self.done < steps:
            chosen = public[torch.randint(len(public), (BATCH,), generator=self.order)]
            if bool(torch.rand(1, generator=self.order) < 0.5):
                chosen = chosen.flip(-1)
            loss = F.binary_cross_entropy(self.network(chosen), chosen)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.done += 1
            if not goes_on(self.done / steps, float(loss.detach())):
                return


def _held_out(images: Tensor) -> int:
    """How many of the images, the first ones, are kept from the training."""
    return len(images) // 10 if len(images) >= 20 else 0


def _measured(network: Network, images: Tensor) -> Autoencoder:
    network.eval().requires_grad_(False)
    with torch.no_grad():
        parts = torch.split(images[: _held_out(images) or len(images)], BATCH)
        errors = [(part - network(part)).square().mean() * len(part) for part in parts]
    return Autoencoder(network, float(sum(errors)) / sum(map(len, parts)))
