"""Rows of a table: numbers and categories; a number is one entry, a category one entry per level, of which one is 1.

Nothing is smooth here and nothing like a typical row is known beyond the schema, so there is no prior. What an attack
finds is snapped to it: the largest entry of each category becomes 1 and the others 0, numbers are moved into their
range. The regenerated update then says whether the row is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Generator, Tensor

from leakaudit.domains.base import Domain, Start, drawn
from leakaudit.domains.references import TABLE_REFERENCES, Reference
from leakaudit.domains.schema import Column, Part, width
from leakaudit.errors import UsageError


@dataclass(frozen=True)
class Table(Domain):
    """The space of rows.

    Args:
        shape: ``(1, 1, D)`` with D the entries of a row as the model takes it.
        columns: What they are, in order.
        guessed: Whether nothing said what the columns are.
        parts: Inputs of the model's file that hold the columns, where they are several, or integers.

    Values are numbers in the unit of their column, and categories as the model takes them.
    """

    kind: ClassVar[str] = "table"
    takes: ClassVar[str] = "rows of a table"
    misread: ClassVar[str] = "--schema, the order of the columns, their mean and std"
    measure: ClassVar[str] = "leakaudit.scoring.table:TableMeasure"
    reader: ClassVar[str] = "leakaudit.client.readers.table:TableReader"
    card: ClassVar[str] = "leakaudit.report.domains.table:TableCard"

    shape: tuple[int, ...]
    columns: tuple[Column, ...]
    guessed: bool = field(default=False, compare=False)
    parts: tuple[Part, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, columns: Sequence[Column], *, guessed: bool = False, parts: Sequence[Part] = ()) -> Table:
        """The rows of these columns."""
        return cls((1, 1, width(columns)), tuple(columns), guessed, tuple(parts))

    @classmethod
    def plain(cls, size: int) -> Table:
        """Rows of numbers in 0..1 of which nothing is known."""
        return cls.of([Column(f"x{i + 1}") for i in range(size)], guessed=True)

    @property
    def sides(self) -> tuple[int, ...]:
        """None: a row has columns."""
        return ()

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """First entry of each column, and the one behind its last."""
        ends, end = [], 0
        for column in self.columns:
            ends.append((end, end := end + column.width))
        return tuple(ends)

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """The entries of each category."""
        return tuple(p for c, p in zip(self.columns, self.places, strict=True) if c.kind == "category")

    def _entries(self, name: str, like: Tensor) -> Tensor:
        """A fact of its column for every entry (1, 1, D)."""
        values = [getattr(column, name) for column in self.columns for _ in range(column.width)]
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 1, -1)

    def encode(self, values: Tensor) -> Tensor:
        """Values to model inputs, both (B, 1, 1, D): numbers are standardised where the client does so."""
        return (values - self._entries("centre", values)) / self._entries("scale", values)

    def decode(self, inputs: Tensor) -> Tensor:
        """Model inputs to values, both (B, 1, 1, D): numbers within their range, categories within 0..1."""
        values = inputs * self._entries("scale", inputs) + self._entries("centre", inputs)
        return values.clamp(self._entries("low", inputs), self._entries("high", inputs))

    def box(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest model input, each (1, 1, D)."""
        low, high = self._entries("low", like), self._entries("high", like)
        return self.encode(low), self.encode(high)

    def projection(self, like: Tensor) -> Callable[[Tensor], object]:
        """Numbers into their range, each category onto the nearest point of its simplex, in place."""
        low, high = self.box(like)
        index, real = self._padded(like.device)

        def project(inputs: Tensor) -> None:
            held = inputs[..., index].masked_fill(~real, float("-inf")) if len(index) else None
            inputs.clamp_(low, high)
            if held is not None:
                inputs[..., index[real]] = onto_simplex(held, real)[..., real]

        return project

    def _padded(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Entries of all categories (G, W), the shorter filled up, and which of these are real."""
        widest = max((stop - start for start, stop in self.blocks), default=0)
        index = torch.zeros((len(self.blocks), widest), dtype=torch.long, device=device)
        real = torch.zeros_like(index, dtype=torch.bool)
        for row, (start, stop) in enumerate(self.blocks):
            index[row, : stop - start] = torch.arange(start, stop, device=device)
            real[row, : stop - start] = True
        return index, real

    def finish(self, inputs: Tensor) -> Tensor:
        """Snapped to the schema: one level of each category, numbers within their range."""
        low, high = self.box(inputs)
        snapped = inputs.detach().clone().clamp_(low, high)
        for start, stop in self.blocks:
            level = inputs[..., start:stop].argmax(-1, keepdim=True)
            snapped[..., start:stop] = torch.zeros_like(snapped[..., start:stop]).scatter_(-1, level, 1.0)
        return snapped

    def start(self, kind: Start, batch: int, generator: Generator) -> Tensor:
        """Noise or zeros."""
        return drawn(kind, (batch, *self.shape), generator)

    def look_alikes(self, count: int, generator: Generator) -> Tensor:
        """Rows whose columns are independent: numbers about their mean or within their range, levels alike often."""
        parts = [_column_drawn(column, count, generator) for column in self.columns]
        return self.encode(torch.cat(parts, 1)[:, None, None, :])

    def random_inputs(self, batch: int, generator: Generator) -> Tensor:
        """Look-alikes: a model may divide by the sum of a category."""
        return self.look_alikes(batch, generator)

    @property
    def references(self) -> Sequence[Reference]:
        """Networks over vectors, see `leakaudit.domains.references`."""
        return TABLE_REFERENCES

    def with_columns(self, columns: Sequence[Column]) -> Table:
        """Of these columns; of a model with several inputs, as many and as wide as its own.

        Raises:
            UsageError: They are not.
        """
        known = described(columns, self.shape[-1], "")
        wrong = [(own, new) for own, new in zip(self.columns, columns, strict=False) if own.width != new.width]
        if self.parts and (wrong or len(columns) != len(self.columns)):
            own, new = wrong[0] if wrong else (self.columns[-1], columns[-1])
            raise UsageError(
                f"--schema: {new.told()}, where the model takes {own.told()}",
                f"describe the columns in the order of its inputs: {', '.join(part.name for part in self.parts)}",
            )
        return replace(known, parts=self.parts)

    def cells(self, values: Tensor) -> Tensor:
        """Values (…, D) as cells (…, C), float64: the number, or the position of the level that is largest."""
        flat = values.double()
        parts = [
            flat[..., start] if column.kind == "number" else flat[..., start:stop].argmax(-1).double()
            for column, (start, stop) in zip(self.columns, self.places, strict=True)
        ]
        return torch.stack(parts, -1)

    def rows(self, cells: Tensor) -> Tensor:
        """The inverse of :meth:`cells`: values (…, D) of cells (…, C)."""
        parts = [
            cells[..., i, None]
            if column.kind == "number"
            else torch.nn.functional.one_hot(cells[..., i].long(), column.width).to(cells.dtype)
            for i, column in enumerate(self.columns)
        ]
        return torch.cat(parts, -1)

    def told(self, layout: str, native: Sequence[int]) -> str:
        """Numbers and categories."""
        inputs = f" from the inputs {', '.join(part.name for part in self.parts)}" if self.parts else ""
        return f"rows of {self.counted}{inputs}, {layout} {list(native)}"

    @property
    def counted(self) -> str:
        """How many columns of each kind, in words."""
        categories = len(self.blocks)
        numbers = len(self.columns) - categories
        words = [f"{numbers} number{'s' * (numbers != 1)}"] if numbers else []
        if categories:
            words.append(f"{categories} categor{'ies' if categories != 1 else 'y'} in {self._levels} entries")
        return " and ".join(words) or "no column"

    @property
    def _levels(self) -> int:
        return sum(stop - start for start, stop in self.blocks)

    @property
    def assumption(self) -> str:
        """What was guessed of the columns."""
        if not self.guessed:
            return ""
        listed = ", ".join(column.told() for column in self.columns)
        return f"the columns were guessed as {self.counted} ({listed}): pass --schema FILE where that is wrong"

    def facts(self) -> dict[str, int]:
        """The number of columns."""
        return {"columns": len(self.columns)}

    def describe(self) -> str:
        """How numbers are standardised, and where the schema comes from."""
        scaled = sum(column.mean is not None for column in self.columns)
        source = "guessed from the batch file" if self.guessed else "given"
        return f"{self.counted}, {scaled} standardised; the schema is {source}"


def described(columns: Sequence[Column], size: int, hint: str) -> Table:
    """The table of a schema for a model that takes this many numbers.

    Raises:
        UsageError: They are not as many as the columns have entries.
    """
    if width(columns) != size:
        raise UsageError(
            f"--schema: its {len(columns)} columns make {width(columns)} numbers, the model takes {size}",
            hint or "a number is one of them, a category as many as it has levels",
        )
    return Table.of(columns)


def onto_simplex(values: Tensor, real: Tensor) -> Tensor:
    """The nearest points of the simplex: entries from 0 with the sum 1 (Duchi et al. 2008, figure 1).

    Args:
        values: (…, G, W), minus infinity where `real` is false.
        real: Entries (G, W) that count.
    """
    ordered = values.sort(-1, descending=True).values
    sums = ordered.masked_fill(~ordered.isfinite(), 0).cumsum(-1)
    count = torch.arange(1, values.shape[-1] + 1, device=values.device, dtype=values.dtype)
    kept = (ordered * count > sums - 1).sum(-1, keepdim=True).clamp_min(1)
    shift = (sums.gather(-1, kept - 1) - 1) / kept
    return (values - shift).clamp_min(0).masked_fill(~real, 0)


def _column_drawn(column: Column, count: int, generator: Generator) -> Tensor:
    """Values (count, width) of one column."""
    if column.kind == "category":
        levels = torch.randint(column.width, (count,), generator=generator)
        return torch.nn.functional.one_hot(levels, column.width).float()
    if column.mean is None:
        share = torch.rand((count, 1), generator=generator)
        return column.low + (column.high - column.low) * share
    noise = torch.randn((count, 1), generator=generator)
    return (column.centre + column.scale * noise).clamp(column.low, column.high)


def table_of(domain: Domain) -> Table:
    """The domain of a model over rows of a table.

    Raises:
        ValueError: It is another domain.
    """
    if not isinstance(domain, Table):
        raise ValueError(f"this needs a model over rows of a table, not one that takes {domain.takes}")
    return domain


def as_guess(table: Table, columns: Sequence[Column]) -> Table:
    """The table with columns that were guessed."""
    return replace(table, shape=(1, 1, width(columns)), columns=tuple(columns), guessed=True)
