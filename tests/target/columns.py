"""Models over columns for every test: categories as integers beside numbers, and the rows that they become."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

LEVELS = (3, 5, 4)
NUMBERS = 2
CODES = tuple(f"codes[{place}]" for place in range(3))


class Embedded(nn.Module):
    """Categories as integers, each with an embedding of its own, beside numbers."""

    def __init__(self, levels: tuple[int, ...] = LEVELS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleList(nn.Embedding(count, 4) for count in levels)
        self.body = nn.Sequential(nn.Linear(4 * len(levels) + NUMBERS, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        first, *others = self.tables
        found = [first(codes[:, :1]).flatten(1), *(table(codes[:, i]) for i, table in enumerate(others, start=1))]
        result: Tensor = self.body(torch.cat([*found, numbers], 1))
        return result


class Shared(nn.Module):
    """One table for all categories, each behind the levels of those before; as feature tokenizers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(sum(LEVELS), 4)
        self.register_buffer("begin", torch.tensor([[0, 3, 8]]))
        self.body = nn.Sequential(nn.Linear(12 + NUMBERS, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        found = self.table(codes + self.begin).flatten(1)
        result: Tensor = self.body(torch.cat([found, numbers], 1))
        return result


class Summed(nn.Module):
    """Takes its integers for numbers as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(3, 4), nn.Linear(4 + 1 + NUMBERS, 2)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        result: Tensor = self.body(torch.cat([self.table(codes[:, 0]), codes[:, 1:2].float().sin(), numbers], 1))
        return result


def drawn(count: int, levels: tuple[int, ...] = LEVELS, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(n, (count,), generator=generator) for n in levels], 1)
    return codes, torch.randn(count, NUMBERS, generator=generator)


def rows_of(codes: Tensor, numbers: Tensor, levels: tuple[int, ...] = LEVELS) -> Tensor:
    parts = [one_hot(codes[:, place], count).float() for place, count in enumerate(levels)]
    return torch.cat([*parts, numbers], 1)[:, None, None, :]
