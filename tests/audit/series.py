"""Signals and volumes that look like measured ones."""

from __future__ import annotations

import torch
from torch import Tensor


def beats(count: int, seed: int, channels: int = 2, length: int = 48) -> Tensor:
    """Signals (count, C, L) in millivolts: a slow wave, and a narrow peak at a place of its own."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.linspace(0, 1, length)
    phase, place, height = (torch.rand((count, channels, 1), generator=generator) for _ in range(3))
    wave = 0.3 * torch.sin(6.28 * (time * (1 + 2 * phase) + phase))
    return wave + (0.5 + height) * torch.exp(-(((time - 0.1 - 0.8 * place) / 0.03) ** 2))


def blobs(count: int, seed: int) -> Tensor:
    """Volumes (count, 1, 6, 8, 8) in 0..1: four balls, dark and bright, each at a place of its own."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.linspace(0, 1, side) for side in (6, 8, 8)), indexing="ij")
    made = torch.full((count, 6, 8, 8), 0.5)
    for _ in range(4):
        centre = torch.rand((count, 3, 1, 1, 1), generator=generator)
        size, height = torch.rand((2, count, 1, 1, 1), generator=generator)
        distance = sum((axis - centre[:, i]) ** 2 for i, axis in enumerate(axes))
        made = made + (height - 0.5) * torch.exp(-distance / (0.01 + 0.05 * size))
    return made.clamp(0, 1)[:, None]
