"""Rows of a table held against each other, cell by cell, and rows that know nothing of a batch.

A cell is right if its category is the same, or its number within :data:`NEAR` standard deviations of its column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from leakaudit.domains.schema import Column
from leakaudit.domains.table import Table

NEAR = 0.319
"""Standard deviations that a number may be off and still be right (Vero et al. 2023, arXiv 2210.01785)."""
TIE = 1e-3
"""Weight of the error of numbers, capped at one, beside a wrong cell: it only decides between equals; chosen."""
EXACT = 1e-6
"""What a number of a column that does not vary may be off, relative to it, by rounding of float32."""


@dataclass(frozen=True)
class RowMatch:
    """How well a guess fits a row: shares, and the error of numbers in standard deviations (``None`` without any)."""

    cell_accuracy: float
    row_exact: float
    number_error: float | None


@dataclass(frozen=True, eq=False)
class Cells:
    """How cells of rows are compared.

    Args:
        category: Which columns are categories (C,).
        scale: Standard deviation of every column (C,), 0 for categories.
    """

    category: Tensor
    scale: Tensor

    @classmethod
    def of(cls, table: Table, cells: Tensor) -> Cells:
        """Of the columns of a table, with the rows (N, C) of a file."""
        category = torch.tensor([column.kind == "category" for column in table.columns])
        return cls(category, spread(cells, table.columns))

    def right(self, truth: Tensor, guess: Tensor) -> Tensor:
        """Which cells of guesses (…, C) are right."""
        off = (truth - guess).abs()
        return torch.where(self.category, off == 0, off <= self._allowed(truth))

    def _allowed(self, truth: Tensor) -> Tensor:
        return torch.maximum(NEAR * self.scale, EXACT * truth.abs().clamp_min(1.0))

    def errors(self, truth: Tensor, guess: Tensor) -> Tensor:
        """Errors of numbers in standard deviations (…, C); 0 for categories, capped where a column does not vary."""
        off = (truth - guess).abs() / torch.where(self.scale > 0, self.scale, 1.0)
        return off.masked_fill(self.category, 0.0)

    def apart(self, truth: Tensor, guess: Tensor, read: Tensor | None = None) -> Tensor:
        """Wrong cells (B, K) of every guess against every truth, and the error of numbers as a tie."""
        one, other = truth[:, None], guess[None]
        right = self.right(one, other)
        if read is not None:
            right = right & read[None]
        numbers = max(1, int((~self.category).sum()))
        tie: Tensor = self.errors(one, other).clamp_max(1.0).sum(2) / numbers
        return (~right).double().sum(2) + TIE * tie

    def measured(self, guess: Tensor, truth: Tensor) -> RowMatch:
        """A guess (C,) against a row (C,)."""
        return self.match(self.right(truth, guess), self.errors(truth, guess))

    def match(self, right: Tensor, errors: Tensor) -> RowMatch:
        """Of which cells are right (C,), and the errors of numbers (C,)."""
        numbers = int((~self.category).sum())
        share = float(right.double().mean())
        return RowMatch(share, float(bool(right.all())), float(errors.sum()) / numbers if numbers else None)

    def near(self, truth: Tensor, guess: Tensor, read: Tensor | None = None) -> Tensor:
        """How near guesses (K, C), matched one to one, are to every row (B,); 0 for rows without one."""
        apart = self.apart(truth, guess, read)
        rows, columns = scipy.optimize.linear_sum_assignment(apart.numpy())
        near = torch.zeros(len(truth), dtype=torch.float64)
        near[rows] = 1 - apart[rows, columns] / truth.shape[1]
        return near

    def matched(self, truth: Tensor, guess: Tensor) -> list[RowMatch]:
        """Guesses (K, C) matched one to one to rows (B, C), fewer guesses being used again."""
        guess = guess if len(guess) >= len(truth) else guess.repeat(-(-len(truth) // len(guess)), 1)
        rows, columns = scipy.optimize.linear_sum_assignment(self.apart(truth, guess).numpy())
        return [self.measured(guess[j], truth[i]) for i, j in zip(rows, columns, strict=True)]


def spread(cells: Tensor, columns: Sequence[Column]) -> Tensor:
    """Standard deviation of every column (C,): what the schema says, else that of the file; 0 for categories."""
    own = cells.std(0, correction=0)
    said = [
        0.0 if c.kind == "category" else (c.std if c.std is not None else float(s))
        for c, s in zip(columns, own, strict=True)
    ]
    return torch.tensor(said, dtype=torch.float64)


def uniform(table: Table, count: int, generator: torch.Generator) -> Tensor:
    """Rows (count, C) over the ranges and levels of the schema."""
    parts = [
        torch.randint(c.width, (count,), generator=generator).double()
        if c.kind == "category"
        else c.low + (c.high - c.low) * torch.rand(count, generator=generator, dtype=torch.float64)
        for c in table.columns
    ]
    return torch.stack(parts, 1)


def independent(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows (count, C) each of whose cells comes from a row (N, C) of its own."""
    chosen = torch.randint(len(rows), (count, rows.shape[1]), generator=generator)
    return rows.gather(0, chosen)


def shuffled(rows: Tensor, count: int) -> Tensor:
    """Made-up rows (count, C), always the same for the same rows."""
    return independent(rows, count, torch.Generator().manual_seed(0))


def commonest(rows: Tensor, category: Tensor) -> Tensor:
    """The commonest level and the median of the columns of rows (N, C)."""
    return torch.where(category, rows.mode(0).values, rows.median(0).values)


def mean(matches: Sequence[RowMatch]) -> RowMatch:
    """Of several matches of one row."""
    errors = [m.number_error for m in matches if m.number_error is not None]
    return RowMatch(
        sum(m.cell_accuracy for m in matches) / len(matches),
        sum(m.row_exact for m in matches) / len(matches),
        sum(errors) / len(errors) if errors else None,
    )
