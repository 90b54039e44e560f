"""Generators of smooth samples for ``--generator``: ``tests.generators:images_3_12_12``, ``…:signals_2_24``.

``…:few_3_12_12`` makes images of six numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
COARSE, FEW = 4, 6


class Smooth(nn.Module):
    """Latents (B, k) to a coarse grid, stretched to the sample's size, between `low` and `high`."""

    def __init__(self, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, latent: int = 0) -> None:
        super().__init__()
        self.shape, self.low, self.high = shape, low, high
        coarse = shape[0] * prod(COARSE for _ in shape[1:])
        self.latent = latent or coarse
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.grid = nn.Linear(self.latent, coarse)

    def forward(self, latents: Tensor) -> Tensor:
        sides = self.shape[1:]
        grid = torch.sigmoid(3 * self.grid(latents)).unflatten(1, (self.shape[0], *(COARSE for _ in sides)))
        stretched = F.interpolate(grid, sides, mode=MODES[len(sides)], align_corners=True)
        return self.low + (self.high - self.low) * stretched


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """A function for samples of a shape that is part of its name."""
    kind, *sizes = name.split("_")
    if kind not in ("images", "volumes", "signals", "few") or not all(size.isdigit() for size in sizes):
        raise AttributeError(name)
    low, high = (-4.0, 4.0) if kind == "signals" else (0.0, 1.0)
    return lambda: Smooth(tuple(map(int, sizes)), low, high, FEW if kind == "few" else 0)


def path_for(kind: str, shape: tuple[int, ...]) -> str:
    """The name of the function for samples of a domain."""
    return f"tests.generators:{kind}_{'_'.join(map(str, shape))}"
