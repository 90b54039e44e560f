r"""An autoencoder of public samples, whose error says how unlike them a guess is (GI-PIP, arXiv 2401.11748).

.. math:: AS(x) = \big|\, \mathrm{MSE}(\hat x, A(\hat x)) - c \,\big|,
   \qquad \hat x = \mathrm{clamp}\Big(\frac{x - l}{h - l}, 0, 1\Big)

with the smallest and largest input l and h of each channel, so that images give pixels in 0..1. A reproduces what it
has seen the like of, and noise badly. c is A's own error on the public samples. Signals and volumes have convolutions
along their one or three axes, and the same channels.

Two-sided as published, the score also *raises* the error of guesses that are smoother than c; one-sided,
``max(0, MSE − c)``, it does not. Fails where the public samples are unlike the private ones, and where a strong total
variation already says all that A knows.

Above 64 px the authors' A is a VGG-19 with BatchNorm and its mirror image, 80 GFLOP per image of 224 px: here it is
what a GPU trains, and a strided network with two more stages what a CPU does, unless one is asked for.

Deviations: the authors train A elsewhere, for 100 epochs; here both kinds are trained alike, for a fixed number of
steps, with flips but for signals, which have a direction. The result depends on samples and settings alone, not on a
seed, so that one from the cache on disk is the one that would be trained again.
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
from leakaudit.matching.adam import Adam
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
"""Side from which a sample is large; the authors' code has its small network up to 64 px."""
VGG_STAGES = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
"""Convolutions and channels of each stage of VGG-19 (Simonyan and Zisserman 2015, arXiv 1409.1556)."""


CONVOLUTIONS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}
"""Layers down and up by the number of a sample's axes beside its channels, by definition."""


def shares(domain: Domain, inputs: Tensor) -> Tensor:
    """Model inputs (B, C, …) as shares of the range of each channel, clamped to 0..1; of images the pixels."""
    low, high = domain.box(inputs)
    return ((inputs - low) / (high - low)).clamp(0, 1)


class Network(nn.Module):
    """Layers that take and return shares in 0..1 (B, C, …), of any length along every axis.

    Args:
        layers: For sides that are a multiple of `multiple`; what they give becomes shares by the sigmoid.
        multiple: By padding, every side becomes one.
    """

    def __init__(self, layers: nn.Sequential, multiple: int) -> None:
        super().__init__()
        self.layers, self.multiple = layers, multiple

    def forward(self, values: Tensor) -> Tensor:
        """Shares in 0..1 (B, C, …) to the same."""
        return self.logits(values).sigmoid()

    def logits(self, values: Tensor) -> Tensor:
        """What :meth:`forward` applies the sigmoid to."""
        sides = values.shape[2:]
        padding = [end for side in reversed(sides) for end in (0, -side % self.multiple)]
        padded = F.pad(values, padding, mode="replicate") if any(padding) else values
        result: Tensor = self.layers(padded)
        for axis, side in enumerate(sides):
            result = result.narrow(axis + 2, 0, side)
        return result


def strided(channels: int, widths: tuple[int, ...], axes: int = 2) -> Network:
    """Strided convolutions of width 4 down, each of which halves every side, transposed ones up, sigmoid at the end."""
    shrink, grow = CONVOLUTIONS[axes]
    down, up = [channels, *widths], [*widths[::-1], channels]
    encoder: list[nn.Module] = []
    decoder: list[nn.Module] = []
    for a, b in pairwise(down):
        encoder += [shrink(a, b, 4, 2, 1), nn.ReLU()]
    for a, b in pairwise(up):
        decoder += [grow(a, b, 4, 2, 1), nn.ReLU()]
    return Network(nn.Sequential(*encoder, *decoder[:-1]), 2 ** len(widths))


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
    return Network(nn.Sequential(*encoder, *decoder), 2 ** len(stages))


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def build(images: Tensor, kind: Architecture) -> Network:
    """The untrained network for samples (N, C, …); ``auto`` as the module's page says, ``vgg`` for images alone.

    On a processor the weights for images lie in memory with their channels last: a step takes a sixth less time.
    """
    network = _untrained(images, kind)
    last = images.dim() == 4 and images.device.type == "cpu"
    return network.to(memory_format=torch.channels_last) if last else network


def _untrained(images: Tensor, kind: Architecture) -> Network:
    axes, large = images.dim() - 2, max(images.shape[2:]) >= LARGE_FROM
    if kind == "vgg" or (kind == "auto" and large and images.is_cuda and axes == 2):
        return vgg(images.shape[1])
    return strided(images.shape[1], LARGE if large else SMALL, axes)


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
    """The prior: how unlike public samples a guess is, weighted.

    Args:
        autoencoder: Trained on public samples.
        domain: Of the model's inputs.
        weight: β.
        one_sided: Leave guesses alone that are reproduced better than the public samples.
    """

    autoencoder: Autoencoder
    domain: Domain
    weight: float
    one_sided: bool = False

    def __call__(self, variables: Variables) -> Tensor:
        """The weighted score, a scalar."""
        values = shares(self.domain, variables["inputs"])
        excess: Tensor = (values - self.autoencoder.network(values)).square().mean() - self.autoencoder.residual
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
    """Train on public samples, or take the one that was trained on them before.

    Args:
        images: Shares in 0..1 (N, C, …), see :func:`shares`.
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
    optimizer: Adam
    order: torch.Generator
    done: int = 0

    @classmethod
    def of(cls, network: Network) -> _Training:
        return cls(network, Adam(list(network.parameters())), torch.Generator().manual_seed(0))

    def advance(self, images: Tensor, steps: int, goes_on: Callable[[float, float], bool]) -> None:
        """Train until so many steps are done in all, or told to stop."""
        public = images[_held_out(images) :]
        while self.done < steps:
            chosen = public[torch.randint(len(public), (BATCH,), generator=self.order)]
            if bool(torch.rand(1, generator=self.order) < 0.5) and chosen.dim() > 3:
                chosen = chosen.flip(-1)
            loss = F.binary_cross_entropy_with_logits(self.network.logits(chosen), chosen)
            gradients = torch.autograd.grad(loss, list(self.network.parameters()))
            self.optimizer.step(gradients, LEARNING_RATE)
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
