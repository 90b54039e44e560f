"""What the report shows of rows of a table: cell beside cell, marked right or wrong, with the error of every number.

Marks are words too, so that they survive without colour.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal

from leakaudit.document.counting import count
from leakaudit.document.schema import AttackEntry, SampleResult, TableResult
from leakaudit.domains.specs import TABLE, TABLE_FLOORS, Spec
from leakaudit.report.domains.base import Card
from leakaudit.report.views.cells import Fact
from leakaudit.report.wording import MISSING, clip, number

Mark = Literal["right", "wrong", "unread"]
INTRO = (
    "Each column with the private cell above and what the attack made of it below. A category is right if it is the "
    "same, a number within 0.319 standard deviations of its column. The numbers compare the two; a “best "
    "floor” is what a guess without the update scores."
)
SCORES_INTRO = (
    "Cells right: share of a row's cells. Error of numbers: the mean, in standard deviations of their columns. Skill "
    "is the share of the way from the best floor to perfection; from 0.5 on, a row that no other is as near to counts "
    "as leaked. Floors are matched to the rows as reconstructions are."
)
MOST_COLUMNS = 6
"""Columns whose mean error is told in the introduction, at most."""


@dataclass(frozen=True)
class CellView:
    """One cell: its column, the original, what was read, whether that is right, and a remark."""

    column: str
    original: str
    read: str
    mark: Mark
    remark: str = ""


@dataclass(frozen=True)
class RowView:
    """One row beside what was read of it."""

    cells: list[CellView]
    note: str = ""


def row_view(row: TableResult) -> RowView:
    """A row prepared for the template."""
    if not row.original:
        return RowView([], "The cells are left out of this report.")
    wrong, unsure = set(row.wrong), len(row.names) * [None]
    sure: Sequence[float | None] = row.confidence or unsure
    cells = []
    for place, cell in enumerate(zip(row.names, row.original, row.recovered, row.errors, sure, strict=True)):
        name, original, recovered, error, confidence = cell
        mark: Mark = "unread" if recovered is None else "wrong" if place in wrong else "right"
        remarks = [f"off by {number(error)}"] if error and mark != "unread" else []
        remarks += [f"{confidence:.0%} sure"] if confidence is not None else []
        read = MISSING if recovered is None else clip(recovered, 30)
        cells.append(CellView(clip(name, 40), clip(original, 30), read, mark, ", ".join(remarks)))
    return RowView(cells)


class TableCard(Card):
    """Tables: rows beside rows."""

    own: ClassVar[Sequence[Spec]] = TABLE
    floor_titles: ClassVar[Mapping[str, str]] = TABLE_FLOORS
    intro: ClassVar[str] = INTRO
    scores_intro: ClassVar[str] = SCORES_INTRO
    thing: ClassVar[str] = "row"
    trial_heading: ClassVar[str] = "Best row"
    trial_axis: ClassVar[str] = "skill of the best row (lower is better)"

    @classmethod
    def headline(cls, leaked: Sequence[SampleResult], attacked: int) -> str:
        """Rows are read cell by cell."""
        return f"{len({sample.index for sample in leaked})} of {attacked} private rows can be read from one update"

    @classmethod
    def manner(cls, leaked: Sequence[SampleResult]) -> str:
        """The same in a word."""
        return "read"

    def showable(self, sample: SampleResult) -> bool:
        """Whether there is a row, if only that it was left out."""
        return sample.table is not None

    def text(self, sample: SampleResult) -> RowView | None:
        """The row and what was read of it."""
        return None if sample.table is None else row_view(sample.table)

    def told_of(self, attack: AttackEntry) -> str:
        """An attack's share of cells and of whole rows, beside its best floor, and the mean error of its numbers."""
        return _told(self, attack)

    def tile(self) -> Fact:
        """The most that was read of one row."""
        read = [sample.table for sample in self.evidence() if sample.table is not None]
        if not read:
            return Fact("Cells right", MISSING)
        best = max(read, key=lambda row: row.right / row.columns)
        return Fact("Cells right", f"{best.right} of {best.columns}", "of the best row")

    def input_facts(self) -> list[tuple[str, str]]:
        """Columns, and the numbers that they make."""
        target = self.report.target
        columns = count(target.columns, "column") if target.columns else "columns"
        return [("Input", f"rows of {columns}, {number(target.input_shape[-1])} numbers")]


def _told(card: TableCard, attack: AttackEntry) -> str:
    """One attack over all victims, in a sentence."""
    samples = [sample for result in attack.results for sample in result.samples]
    cells = fmean(card.metrics(s).get("cell_accuracy") or 0.0 for s in samples) if samples else 0.0
    whole = sum(card.metrics(s).get("row_exact") or 0.0 for s in samples)
    floors = _floors(card, samples)
    name, floor = max(floors.items(), key=lambda item: item[1], default=("", 0.0))
    against = f"{'below' if cells < floor else 'above'} the {floor:.0%} of {card.floor_titles.get(name, name)}"
    errors = _errors(samples)
    told = f"; mean error of {', '.join(errors)}" if errors else ""
    rows = f"{whole:.0f} of {count(len(samples), 'row')} whole"
    return f"{cells:.0%} of the cells right, {against}; {rows}{told}."


def _floors(card: TableCard, samples: Sequence[SampleResult]) -> dict[str, float]:
    """Mean share of cells that each floor has right."""
    shares: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for name, floor in card.floors(sample).items():
            shares[name].append(floor.get("cell_accuracy") or 0.0)
    return {name: fmean(values) for name, values in shares.items()}


def _errors(samples: Sequence[SampleResult]) -> list[str]:
    """Mean absolute error of the first columns of numbers, in their units."""
    off: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for name, error in zip(sample.table.names, sample.table.errors, strict=True) if sample.table else ():
            if error is not None:
                off[name].append(error)
    told = [f"{clip(name, 40)} {number(fmean(values))}" for name, values in off.items()]
    return [*told[:MOST_COLUMNS], *(["…"] if len(told) > MOST_COLUMNS else [])]
