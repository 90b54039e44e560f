"""Images: (C, H, W), pixels in 0..1, normalised per channel; smooth where nothing says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.domains.base import Domain, Start
from leakaudit.domains.channels import Channels
from leakaudit.domains.references import REFERENCES, Reference
from leakaudit.domains.schema import Column
from leakaudit.domains.table import described

PIXEL_MEAN, PIXEL_STD = 0.47, 0.24
"""Of the look-alikes, in 0..1; chosen as of ordinary photographs: 400 CIFAR-10 test images have 0.47 and 0.25."""
SPECTRUM = 1.2
"""Amplitude of the look-alikes falls as frequency to this power, the mean of 135 photographs in Tolhurst, Tadmor and
Chao 1992."""

STEEPEST, LARGEST_OFFSET = 0.05, 10.0
"""A model that multiplies its input by less than the first, or adds more than the second, takes pixels in 0..255: with
pixels in 0..1 its first trained layer would see a picture with a contrast below 0.05, or far from zero; chosen: models
for 0..255 multiply by 1/255 to 1/57 (0.0175), those for 0..1 by 1 to 5, and means in 0..255 are above 100."""
FLATTEST = 1 / 2550
"""Below this slope not even 0..255 would give the first layer a contrast of 0.1; chosen."""
BYTES = 255.0
"""White of 8 bits, by definition."""


@dataclass(frozen=True)
class Images(Channels):
    """The space of images.

    Args:
        shape: ``(C, H, W)`` of one sample.
        mean: Per-channel mean in pixel units (pixels run from 0 to 1), length C.
        std: Per-channel standard deviation in pixel units, length C.
        guessed: Whether a vector of C·H·W numbers was only taken to be an image, by its length.
        white: What the model is fed for white where no mean and standard deviation are given: 255 for one that divides
            by 255 itself.

    A model input is ``x = (pixel - mean) / std``.
    """

    kind: ClassVar[str] = "images"
    takes: ClassVar[str] = "real-valued inputs such as pixels"
    measure: ClassVar[str] = "leakaudit.scoring.images:ImageMeasure"
    reader: ClassVar[str] = "leakaudit.client.readers.images:ImageReader"
    card: ClassVar[str] = "leakaudit.report.domains.images:ImageCard"

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    guessed: bool = field(default=False, compare=False)
    white: float = 1.0

    @classmethod
    def plain(cls, shape: Sequence[int], *, guessed: bool = False) -> Images:
        """Images whose pixels are fed as they are."""
        return cls(tuple(shape), (0.0,) * shape[0], (1.0,) * shape[0], guessed)

    def decode(self, inputs: Tensor) -> Tensor:
        """Model inputs (B, C, H, W) to pixels, clamped to 0..1."""
        return (inputs * self._column(self.std, inputs) + self._column(self.mean, inputs)).clamp(0.0, 1.0)

    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and largest model input per channel, each of shape (C, 1, 1)."""
        ones = (1,) * (len(self.shape) - 1)
        zero = torch.zeros((len(self.mean), *ones), dtype=like.dtype, device=like.device)
        return self.encode(zero), self.encode(zero + 1.0)

    def start(self, kind: Start, batch: int, generator: Generator) -> Tensor:
        """Noise, zeros, or a small patch of noise repeated over the image (``tiled``)."""
        return self.noise(kind, batch, generator)

    def look_alikes(self, count: int, generator: Generator) -> Tensor:
        """Images with the spectrum of photographs (1/f noise), their contrast and a common tint."""
        channels, *sides = self.shape
        axes = tuple(range(-len(sides), 0))
        squares = [
            torch.fft.fftfreq(side).square().view(-1, *(1,) * (len(sides) - 1 - place))
            for place, side in enumerate(sides)
        ]
        frequency = sum(squares[1:], start=squares[0]).sqrt()
        amplitude = frequency.clamp_min(1 / max(sides)) ** -SPECTRUM
        layers = []
        for planes in (channels, 1):  # colour detail, and what the channels share
            noise = torch.fft.fftn(torch.randn((count, planes, *sides), generator=generator), dim=axes)
            layer = torch.fft.ifftn(noise * amplitude, dim=axes).real
            layers.append(layer / layer.square().mean().sqrt().clamp_min(1e-12))
        ones = (1,) * len(sides)
        contrast = torch.exp(0.3 * torch.randn((count, 1, *ones), generator=generator))
        tint = 0.1 * torch.randn((count, channels, *ones), generator=generator)
        pixels = PIXEL_MEAN + PIXEL_STD * contrast * (0.35 * layers[0] + layers[1]) + tint
        return self.encode(pixels.clamp(0, 1))

    def random_inputs(self, batch: int, generator: Generator) -> Tensor:
        """Standard normal numbers."""
        return torch.randn((batch, *self.shape), generator=generator)

    def roughness(self, inputs: Tensor) -> Tensor:
        """Total variation, see :func:`total_variation`."""
        return total_variation(inputs)

    @property
    def references(self) -> Sequence[Reference]:
        """Networks over images, see `leakaudit.domains.references`."""
        return REFERENCES

    def normalised(self, mean: Sequence[float], std: Sequence[float]) -> Images:
        """With this mean and standard deviation; one value serves all channels.

        None means pixels as the model takes them: in 0..1, or in 0..white.

        Raises:
            UsageError: A wrong number of values, or a standard deviation that is not positive.
        """
        columns = self.columns(mean, std, 1.0 / self.white)
        # who says how pixels are normalised says that they are pixels
        return replace(self, mean=columns[0], std=columns[1], guessed=self.guessed and not mean and not std)

    def with_columns(self, columns: Sequence[Column]) -> Domain:
        """A table, where the model takes a vector that was only guessed to be a picture, or is given as one row.

        Raises:
            UsageError: It takes pictures.
        """
        if not self.guessed and self.shape[:2] != (1, 1):
            return super().with_columns(columns)
        return described(columns, prod(self.shape), "leave out --schema where each row is a picture")

    def rescaled(self, slope: Tensor, offset: Tensor) -> tuple[Images, str]:
        """In 0..255 where the model's own change of its input brings these to the size of 1."""
        steep, shift = float(slope.abs().median()), float(offset.abs().median())
        said = f"the model changes each input value by itself, to {steep:.3g} times it"
        said += f" {'+' if float(offset.median()) >= 0 else '-'} {shift:.3g}" if shift else ""
        if steep < FLATTEST:
            return self, f"{said}: what it takes for white is not known, and 1 was assumed"
        if steep >= STEEPEST and shift <= LARGEST_OFFSET:
            return self, ""
        taken = replace(self, white=BYTES).normalised((), ())
        return taken, f"{said}: it takes pixels in 0..255, and gets them so (as with --std {1 / BYTES:.6g})"

    def on(self, found: Domain) -> Images:
        """As the model of the other domain takes it: a unit that only this model has does not go along."""
        return self if self.white == 1.0 else replace(self, std=tuple(s * self.white for s in self.std), white=1.0)

    def describe(self) -> str:
        """Mean and standard deviation."""
        return f"mean {list(self.mean)}, std {list(self.std)}"


def total_variation(images: Tensor, axes: Sequence[int] = (-1, -2)) -> Tensor:
    """Anisotropic total variation of (B, C, H, W): mean |horizontal| + mean |vertical| difference.

    The means are taken separately, in the normalised space of the model (Geiping et al. 2020). A direction with
    a single pixel contributes 0.
    """
    total = images.new_zeros(())
    for axis in axes:
        if images.shape[axis] > 1:
            total = total + images.diff(dim=axis).abs().mean()
    return total
