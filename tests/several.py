"""Small models over several inputs for every test: a picture or a signal beside the row of a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leakaudit.domains.images import Images
from leakaudit.domains.several import Member, Several
from leakaudit.domains.signals import Signals
from leakaudit.domains.table import Table
from tests.tables import COLUMNS

SHAPE = (1, 12, 12)
BEAT = (2, 48)
NUMBERS, LEVELS = 4, 2
WIDTH = NUMBERS + LEVELS
SEVERAL = Several.of(
    [Member("image", Images((3, 6, 6), (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))), Member("meta", Table.of(COLUMNS))]
)
"""With a normalisation and a schema of its own."""
BESIDE_SIGNAL = Several.of([Member("ecg", Signals.plain((2, 24)), last=True), Member("meta", Table.of(COLUMNS))])


class Beside(nn.Module):
    """A convolutional branch for a picture, a linear one for a row, and a head over both."""

    def __init__(self, inside: nn.Module, features: int, classes: int = 4) -> None:
        super().__init__()
        self.inside = inside
        self.row = nn.Sequential(nn.Linear(WIDTH, 24), nn.Sigmoid())
        self.head = nn.Linear(features + 24, classes)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        result: Tensor = self.head(torch.cat([self.inside(image), self.row(meta)], 1))
        return result


def picture_and_row() -> Beside:
    """Of images 1×12×12 and six numbers."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 5, 2, 2), nn.Sigmoid(), nn.Conv2d(8, 8, 5, 1, 2), nn.Sigmoid(), nn.Flatten()]
    return Beside(nn.Sequential(*layers), 8 * 36)


def beat_and_row() -> Beside:
    """Of signals 2×48 and six numbers."""
    torch.manual_seed(0)
    layers = [nn.Conv1d(2, 12, 7, 2, 3), nn.Tanh(), nn.Conv1d(12, 12, 5, 2, 2), nn.Tanh(), nn.Flatten()]
    return Beside(nn.Sequential(*layers), 144)


def rows(count: int, seed: int = 0) -> Tensor:
    """Four numbers in 0..1 and a category of two levels (count, 6)."""
    generator = torch.Generator().manual_seed(seed)
    level = torch.randint(LEVELS, (count,), generator=generator)
    return torch.cat([torch.rand((count, NUMBERS), generator=generator), nn.functional.one_hot(level, LEVELS)], 1)


def pictures(count: int, seed: int = 0) -> Tensor:
    """Smooth pictures (count, 1, 12, 12) in 0..1."""
    coarse = torch.rand((count, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=SHAPE[1:], mode="bilinear")


def arrays(image: Tensor, classes: int = 4) -> dict[str, np.ndarray[Any, Any]]:
    """A batch file of these pictures, rows and labels."""
    count = len(image)
    return {"image": image.numpy(), "meta": rows(count).numpy(), "y": np.arange(count) % classes}
