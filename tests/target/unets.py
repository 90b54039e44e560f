"""Small U-Nets over two and three axes, and samples with masks: bright discs and balls on a dark ground."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """One level down, one up, with a skip connection."""

    def __init__(self, axes: int, classes: int, width: int = 8) -> None:
        super().__init__()
        conv: Any = nn.Conv2d if axes == 2 else nn.Conv3d
        up: Any = nn.ConvTranspose2d if axes == 2 else nn.ConvTranspose3d
        self.shallow, self.deep = conv(1, width, 3, padding=1), conv(width, width, 3, 2, 1)
        self.up, self.mixed = up(width, width, 2, 2), conv(2 * width, width, 3, padding=1)
        self.head = conv(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits at each place."""
        shallow = torch.sigmoid(self.shallow(x))
        up = torch.sigmoid(self.up(torch.sigmoid(self.deep(shallow))))
        logits: Tensor = self.head(torch.sigmoid(self.mixed(torch.cat([shallow, up], 1))))
        return logits


def _spread(net: nn.Module) -> nn.Module:
    """Weights uniform in ±0.7, as wide as the untrained networks that DLG is shown on: torch's own hide the input."""
    with torch.no_grad():
        for tensor in net.parameters():
            tensor.uniform_(-0.7, 0.7)
    return net


def unet_2d() -> nn.Module:
    """For ``--factory``."""
    torch.manual_seed(0)
    return _spread(UNet(2, 3, 16))


def unet_3d() -> nn.Module:
    """For ``--factory``."""
    torch.manual_seed(0)
    return _spread(UNet(3, 3, 16))


SHAPES = {2: (1, 8, 8), 3: (1, 4, 4, 4)}


def masked(count: int, axes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Samples (count, 1, …) in 0..1 and their masks (count, …) of two kinds of disc on a ground."""
    generator = torch.Generator().manual_seed(seed)
    sides = SHAPES[axes][1:]
    grid = torch.stack(torch.meshgrid(*(torch.linspace(0, 1, side) for side in sides), indexing="ij"))
    tone = torch.rand((count, 1, *(1 for _ in sides)), generator=generator)
    samples, masks = 0.2 + 0.2 * tone.expand(count, 1, *sides).clone(), torch.zeros((count, *sides), dtype=torch.long)
    for label, brightness in ((1, 0.9), (2, 0.6)):
        centre = torch.rand((count, axes, *(1 for _ in sides)), generator=generator)
        inside = (grid[None] - centre).square().sum(1) < 0.05 + 0.05 * tone[:, 0]
        samples[inside[:, None]], masks[inside] = brightness, label
    samples += 0.1 * torch.rand(samples.shape, generator=generator)
    return samples.clamp(0, 1), masks
