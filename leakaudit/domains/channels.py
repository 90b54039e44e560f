"""What domains of real numbers have in common that a client normalises channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.document.counting import count
from leakaudit.domains.base import Domain, Start, drawn
from leakaudit.errors import UsageError

TILE = 4
"""Side of the sample over side of the patch in the tiled start (Wei et al. 2020, arXiv 2004.10397); chosen."""


class Channels(Domain):
    """Samples (C, …) of which a model input is ``x = (value - mean) / std``, by channel."""

    misread: ClassVar[str] = "--mean, --std, the order of the channels"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def _column(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, *(1,) * (len(self.shape) - 1))

    def encode(self, values: Tensor) -> Tensor:
        """Values (B, C, …) to model inputs of the same shape."""
        return (values - self._column(self.mean, values)) / self._column(self.std, values)

    def noise(self, kind: Start, batch: int, generator: Generator) -> Tensor:
        """Noise, zeros, or a small patch of noise repeated over the sample (``tiled``), of the size of one."""
        if kind != "tiled":
            return drawn(kind, (batch, *self.shape), generator)
        channels, *sides = self.shape
        patch = torch.randn((batch, channels, *(-(-side // TILE) for side in sides)), generator=generator)
        repeated = patch.repeat(1, 1, *(TILE,) * len(sides))
        for axis, side in enumerate(sides):
            repeated = repeated.narrow(axis + 2, 0, side)
        return repeated.contiguous()

    def columns(self, mean: Sequence[float], std: Sequence[float], usual: float = 1.0) -> list[tuple[float, ...]]:
        """Mean and standard deviation of every channel; one value serves all, none means 0 and `usual`.

        Raises:
            UsageError: A wrong number of values, or a standard deviation that is not positive.
        """
        channels, found = self.shape[0], []
        for name, values, default in (("--mean", mean, 0.0), ("--std", std, usual)):
            column = tuple(float(value) for value in values) or (default,)
            column = column * channels if len(column) == 1 else column
            if len(column) != channels:
                raise UsageError(f"{name} has {len(column)} values, the model takes {count(channels, 'channel')}")
            found.append(column)
        if any(value <= 0 for value in found[1]):
            raise UsageError(f"--std is {found[1]}, expected positive values")
        return found

    def squared_unit(self) -> float:
        """Mean variance of the channels in the unit of the values."""
        return sum(s * s for s in self.std) / len(self.std)

    @property
    def normalisation(self) -> tuple[Sequence[float], Sequence[float]]:
        """Per channel."""
        return self.mean, self.std
