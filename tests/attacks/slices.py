"""Networks that read parts of their input: slices, a crop, and one of which a part is read by a layer of its own."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

SHAPE = (3, 12, 12)


class Slices(nn.Module):
    """A biased linear layer on each of `count` equal slices, then ReLU and a head."""

    def __init__(self, count: int, hidden: int = 32, *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.count = count
        self.parts = nn.ModuleList(nn.Linear(432 // count, hidden, bias=bias) for _ in range(count))
        self.head = nn.Linear(hidden * count, 5)

    def forward(self, x: Tensor) -> Tensor:
        chunks = x.flatten(1).chunk(self.count, 1)
        hidden = torch.cat([part(chunk) for part, chunk in zip(self.parts, chunks, strict=True)], 1)
        logits: Tensor = self.head(torch.relu(hidden))
        return logits


class Crop(nn.Module):
    """The middle of the image alone: a square of `side` pixels at `corner`."""

    def __init__(self, channels: int = 3, corner: int = 3, side: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.where = slice(corner, corner + side)
        self.first, self.head = nn.Linear(channels * side * side, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.first(x[:, :, self.where, self.where].flatten(1))))
        return logits


class Partly(nn.Module):
    """A linear layer on the first entries; of the others only the mean and the mean square."""

    def __init__(self, entries: int, shape: tuple[int, int, int] = SHAPE) -> None:
        super().__init__()
        torch.manual_seed(0)
        assert entries < prod(shape)
        self.entries = entries
        self.first, self.head = nn.Linear(entries, 64), nn.Linear(66, 5)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        rest = flat[:, self.entries :]
        moments = torch.stack([rest.mean(1), rest.square().mean(1)], 1)
        logits: Tensor = self.head(torch.cat([torch.relu(self.first(flat[:, : self.entries])), moments], 1))
        return logits
