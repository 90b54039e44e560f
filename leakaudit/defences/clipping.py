"""What defences that clip and add noise have in common, whatever their settings are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from leakaudit.observation import Channel
from leakaudit.protocols.private import clipped


@dataclass(frozen=True)
class Clipping(Channel):
    """Scales down what is longer than a bound.

    Args:
        bound: Largest norm of all tensors together.
        scale: What comes out is multiplied by it: samples drawn over what their sum is divided by.
    """

    bound: float
    scale: float = 1.0

    def __call__(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by name, differentiable."""
        return scaled(clipped(gradients, self.bound), self.scale)


def scaled(gradient: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    """A gradient times a number."""
    return dict(gradient) if factor == 1 else {name: g * factor for name, g in gradient.items()}


def noised(clean: Mapping[str, Tensor], level: float, generator: Generator) -> dict[str, Tensor]:
    """With Gaussian noise of this standard deviation on every entry; 0 adds none."""
    if level == 0:
        return dict(clean)
    return {name: g + level * torch.randn(g.shape, generator=generator).to(g) for name, g in clean.items()}
