"""Scoring rows of a table, cell by cell, against floors that know nothing of the batch.

A cell is right if its category is the same, or its number within a third of a standard deviation of its column
(`leakaudit.scoring.rows`); so does TabLeak (Vero et al. 2023, arXiv 2210.01785). ``cell_accuracy`` is the share of a
row's cells that are right, ``row_exact`` is 1 where all are, ``number_error`` the mean error of its numbers in standard
deviations.

Reconstructions are matched one to one to the rows by their right cells (Hungarian method), and so are the floors, each
a batch of its own: rows drawn uniformly from the schema (``uniform``), the commonest level and the median of every
column of the other rows (``modes``), columns drawn independently from them (``marginals``), and other rows of the file
(``rows``), each the mean of `DRAWS` draws. On skewed columns floors are high: of Adult, 64 per cent of the cells by
other rows at batch 32.

``skill`` is the share of the way from the best floor to perfection. A row has leaked from `LEAK_SKILL` on, where it is
nearer than luck, and where no other row is as near. Of a batch of many rows one is near to some row of another by luck
alone, so luck is that of whole batches: a row is nearer, by a cell, than the luckiest draw came to any row, or the
batch is nearer on average than the luckiest draw, and the row than the luckiest draw came to it. `LUCKY` draws of real
rows are looked at, so that a batch of other people's rows seldom passes. Where the file holds fewer than `KNOWN` rows
beside the batch, luck is not known, and only a whole row counts. What is not unlike the row in any cell competes
nowhere. Rows to be told from are made up, column by column, where the file holds too few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.document.counting import count
from leakaudit.domains.base import Domain
from leakaudit.domains.schema import Column
from leakaudit.domains.specs import TABLE, TABLE_FLOORS, Spec
from leakaudit.domains.table import Table, table_of
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import Judging, Measure, SampleScore
from leakaudit.scoring.reidentify import Identification
from leakaudit.scoring.rows import TIE, Cells, RowMatch, commonest, independent, mean, shuffled, uniform

LEAK_SKILL = 0.5
"""Share of the way from the best floor to perfection from which a row leaked; chosen, as for texts."""
READABLE = 0.8
"""Share of a row's cells that are right from which it counts as readable; chosen, not measured."""
ALIKE = 0.9
"""Share of cells from which a row of one batch cannot serve as unlike one of another; chosen, not measured."""
DRAWS = 20
"""Draws of each floor; chosen."""
KNOWN = 30
"""Other real rows from which draws of them tell what luck brings; chosen, not measured."""
LUCKY = 200
"""Draws of real rows that a batch is compared with; chosen: the luckiest is beaten by luck once in 201 batches."""


@dataclass(frozen=True, eq=False)
class ReadRows:
    """What an attack made of a batch, on the CPU.

    Args:
        cells: (B, C), see `leakaudit.domains.table.Table.cells`.
        read: Cells (B, C) that are claimed; the others hold filler.
        sure: How sure the attack is of each cell, from 0 to 1 (B, C), where it says so.
    """

    cells: Tensor
    read: Tensor
    sure: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class RowScore(SampleScore):
    """One private row beside its reconstruction.

    Args:
        match: How well it fits.
        floors: The same for guesses that know nothing of the batch.
        skill: Share of the way from the best floor to perfection; negative below it.
        right: Which cells are right (C,).
    """

    match: RowMatch
    floors: Mapping[str, RowMatch]
    skill: float
    right: tuple[bool, ...] = field(default=())

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Cells, the whole row, numbers and skill."""
        return {**vars(self.match), "skill": self.skill}

    @property
    def floor_metrics(self) -> Mapping[str, Mapping[str, float | None]]:
        """The same without the skill."""
        return {name: dict(vars(floor)) for name, floor in self.floors.items()}

    @property
    def reasons(self) -> Mapping[str, str]:
        """Only numbers may be missing."""
        return {} if self.match.number_error is not None else {"number_error": "the table has no numbers"}

    @property
    def strength(self) -> float:
        """The skill."""
        return self.skill

    @property
    def closeness(self) -> float:
        """Cells right, and numbers where these are as many."""
        return self.match.cell_accuracy - TIE * min(1.0, self.match.number_error or 0.0)


@dataclass(frozen=True, eq=False)
class Floors:
    """Floors of one batch, and how near draws came by luck: 1 less the share of wrong cells, with `TIE` for numbers.

    Args:
        means: Of every row, by floor.
        near: How near the luckiest draw came to each row (B,).
        nearest: How near the luckiest came to any.
        together: How near the luckiest came to all, on average.
        columns: Cells of a row.
        few: Whether there were too few real rows to draw, see :meth:`unknown`.
    """

    means: list[dict[str, RowMatch]]
    near: Tensor
    nearest: float
    together: float
    columns: int
    few: bool = False

    def beaten_by(self, position: int, near: float, together: float) -> bool:
        """Whether luck does not explain that a reconstruction is so near to a row, and to the batch on average.

        A single row must have a cell more right than the luckiest, since the rows that can be drawn are few.
        """
        better = near > float(self.near[position]) and together > self.together
        return better or near > self.nearest + 0.5 / self.columns

    def unknown(self) -> Floors:
        """Where the file holds too few other rows to say what luck brings: only a whole row is none."""
        return replace(self, nearest=max(self.nearest, 1 - 1 / self.columns), together=math.inf, few=True)

    @property
    def luck(self) -> str:
        """Why a row that does not beat them does not count."""
        if self.few:
            return "there are too few other rows to tell it from luck; a scan of a file of 100 rows has them"
        return f"the luckiest of {LUCKY} draws of other real rows comes as near to a row of the batch"


class TableMeasure(Measure[ReadRows]):
    """Scores reconstructions of rows.

    Args:
        population: The whole batch file, for floors and for telling rows apart.
        table: The columns.
        least: Rows that a row must be told from, at least.
    """

    specs: ClassVar[tuple[Spec, ...]] = TABLE

    def __init__(self, population: Batch, table: Table, least: int = 100) -> None:
        super().__init__(population)
        self.table, self.least = table, least
        self.cells = table.cells(population.images.flatten(1))
        self.compared = Cells.of(table, self.cells)
        self.made_up = shuffled(self.cells, max(0, least - (len(self.cells) - 1)))
        self._floors: dict[tuple[int, ...], Floors] = {}

    @classmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> TableMeasure:
        """With the columns of the domain."""
        return cls(population, table_of(domain), judging.criterion.distractors)

    def like(self, domain: Domain, population: Batch) -> TableMeasure:
        """As strict, of other rows."""
        return type(self)(population, table_of(domain), self.least)

    def recovered(self, domain: Domain, reconstruction: Reconstruction) -> ReadRows:
        """The rows, cell by cell; a cell is claimed if all its entries are."""
        table = table_of(domain)
        values = domain.decode(reconstruction.inputs.cpu()).flatten(1)
        cells = table.cells(values)
        every = torch.ones(values.shape, dtype=torch.bool)
        entries = every if reconstruction.read is None else reconstruction.read.cpu().flatten(1)
        read = torch.stack([entries[:, start:stop].all(1) for start, stop in table.places], 1)
        sure = reconstruction.confidence
        if sure is not None:
            flat = sure.cpu().flatten(1)
            sure = torch.stack([flat[:, start:stop].amax(1) for start, stop in table.places], 1)
        return ReadRows(cells, read, sure)

    def usable(self, found: ReadRows) -> bool:
        """Whether all cells are finite."""
        return bool(torch.isfinite(found.cells).all())

    def distance(self, batch: Batch, found: ReadRows) -> np.ndarray[Any, Any]:
        """Wrong cells (B, K), and the error of numbers where these are as many."""
        return self.compared.apart(self._of(batch), found.cells, found.read).numpy()

    def _of(self, batch: Batch) -> Tensor:
        return self.table.cells(batch.images.flatten(1))

    def measure(self, guess: Tensor, truth: Tensor) -> RowMatch:
        """A guess (C,) against a row (C,)."""
        return self.compared.measured(guess, truth)

    def floors(self, batch: Batch, position: int) -> dict[str, RowMatch]:
        """What guesses that know nothing of the batch have right of a row."""
        return dict(self._floors_of(batch).means[position])

    def _floors_of(self, batch: Batch) -> Floors:
        if batch.indices not in self._floors:
            self._floors[batch.indices] = self._drawn(batch)
        return self._floors[batch.indices]

    def _drawn(self, batch: Batch) -> Floors:
        """Every floor, matched one to one to the rows."""
        truth = self._of(batch)
        generator = torch.Generator().manual_seed(sum((i + 1) * index for i, index in enumerate(batch.indices)))
        outside = [i for i in range(len(self.population)) if i not in set(batch.indices)]
        others = self.cells[outside]
        others = others[~self.compared.right(truth[:, None], others[None]).all(2).any(0)]  # a copy of a row is no guess
        makers: dict[str, Callable[[], Tensor]] = {}
        makers["uniform"] = lambda: uniform(self.table, len(truth), generator)
        if len(others):
            makers["marginals"] = lambda: independent(others, len(truth), generator)
            makers["rows"] = lambda: others[torch.randint(len(others), (len(truth),), generator=generator)]
        drawn = {name: [self.compared.matched(truth, make()) for _ in range(DRAWS)] for name, make in makers.items()}
        means = [{name: mean([draw[i] for draw in draws]) for name, draws in drawn.items()} for i in range(len(truth))]
        if len(others):
            usual = commonest(others, self.compared.category)
            for own, row in zip(means, truth, strict=True):
                own["modes"] = self.measure(usual, row)
        made = [make for name, make in makers.items() for _ in range(LUCKY if name == "rows" else DRAWS)]
        near = torch.stack([self.compared.near(truth, make()) for make in made])
        lucky = Floors(means, near.max(0).values, float(near.max()), float(near.mean(1).max()), truth.shape[1])
        return lucky if len(others) >= KNOWN else lucky.unknown()

    def identify(self, batch: Batch, position: int, found: ReadRows, row: int) -> Identification:
        """Whether no other row of the file, or made up, is as near to the reconstruction as its own."""
        truth, guess = self._of(batch)[position], found.cells[row][None]
        candidates = torch.cat([self.cells, self.made_up])
        same = self.compared.right(truth[None], candidates).all(1)
        duplicates = int(same[: len(self.cells)].sum()) - 1
        others = candidates[~same]
        if not len(others):
            return Identification(None, 0, 0, duplicates)
        own = float(self.compared.apart(truth[None], guess)[0, 0])
        nearest = float(self.compared.apart(others, guess).min())
        made_up = int((~same[len(self.cells) :]).sum())
        return Identification(own < nearest, len(others), made_up, max(0, duplicates))

    def judge(self, batch: Batch, position: int, found: ReadRows, row: int, prior_only: Sequence[ReadRows]) -> RowScore:
        """The skill above the best floor, and whether another row is as near."""
        truth, guess = self._of(batch)[position], found.cells[row]
        right = self.compared.right(truth, guess) & found.read[row]
        match = self.compared.match(right, self.compared.errors(truth, guess))
        known, floors = self._floors_of(batch), self.floors(batch, position)
        for alone in prior_only:
            best = max((self.measure(one, truth) for one in alone.cells), key=lambda m: m.cell_accuracy)
            floors["prior_only"] = max(floors.get("prior_only", best), best, key=lambda m: m.cell_accuracy)
        name, floor = max(floors.items(), key=lambda item: item[1].cell_accuracy)
        skill = (
            (match.cell_accuracy - floor.cell_accuracy) / (1 - floor.cell_accuracy) if floor.cell_accuracy < 1 else 0.0
        )
        nearest = self.identify(batch, position, found, row)
        near = 1 - float(self.compared.apart(truth[None], guess[None], found.read[row][None])[0, 0]) / len(truth)
        together = float(self.compared.near(self._of(batch), found.cells, found.read).mean())
        luck = "" if known.beaten_by(position, near, together) else known.luck
        reason = _why_not(skill, luck, TABLE_FLOORS.get(name, name), nearest)
        return RowScore(
            position=position,
            reconstruction=row,
            identification=nearest,
            leaked=not reason,
            reason=reason,
            match=match,
            floors=floors,
            skill=skill,
            right=tuple(right.tolist()),
        )

    def inexact(self, score: SampleScore) -> bool:
        """Whether a cell is wrong."""
        return not score.metrics["row_exact"]

    def alike(self, one: Batch, other: Batch) -> bool:
        """Whether a row of one batch agrees with one of the other in nearly all cells."""
        same = self.compared.right(self._of(one)[:, None], self._of(other)[None]).double().mean(2)
        return bool((same >= ALIKE).any())

    def recognisable(self, score: SampleScore) -> bool:
        """Most of its cells are right."""
        return (score.metrics["cell_accuracy"] or 0.0) >= READABLE

    def told(self, score: SampleScore) -> str:
        """Cells right."""
        share, count = score.metrics["cell_accuracy"] or 0.0, len(self.table.columns)
        right = round(share * count)
        return f"all {count} cells right" if right == count else f"{right} of its {count} cells right"

    def told_control(self, score: SampleScore) -> str:
        """Cells right, and the best floor."""
        best = max((f["cell_accuracy"] or 0.0 for f in score.floor_metrics.values()), default=0.0)
        return f"{score.metrics['cell_accuracy'] or 0.0:.0%} of the row's cells right, its best floor {best:.0%}"

    def summary(self, scores: Sequence[SampleScore]) -> str:
        """Cells of all rows, and whole rows."""
        cells = sum(score.metrics["cell_accuracy"] or 0.0 for score in scores) / len(scores)
        whole = sum(score.metrics["row_exact"] or 0.0 for score in scores)
        floor = sum(max(f["cell_accuracy"] or 0.0 for f in s.floor_metrics.values()) for s in scores) / len(scores)
        below = "below" if cells < floor else "above"
        return (
            f"{cells:.0%} of the cells, {below} the {floor:.0%} of its best floor, {count(round(whole), 'whole row')}"
        )

    def entry(self, batch: Batch, score: SampleScore, found: ReadRows) -> dict[str, Any]:
        """The row cell by cell; the names of images are undefined, with a reason."""
        assert isinstance(score, RowScore)
        truth, guess = self._of(batch)[score.position].tolist(), found.cells[score.reconstruction].tolist()
        read, columns = found.read[score.reconstruction].tolist(), self.table.columns
        shown = [_written(column, cell) for column, cell in zip(columns, guess, strict=True)]
        others = score.identification
        return {
            **{f"{name}_reason": "a row of a table, not an image" for name in ("psnr", "ssim", "lpips", "mse")},
            "margin_reason": "rows of a table have no PSNR",
            "reidentified_reason": "" if others.identified is not None else "there is no other row",
            "augmented": others.augmented,
            "near_duplicates": others.near_duplicates,
            "table": {
                "columns": len(columns),
                "right": sum(score.right),
                "names": [column.name for column in columns],
                "original": [_written(column, cell) for column, cell in zip(columns, truth, strict=True)],
                "recovered": [text if seen else None for text, seen in zip(shown, read, strict=True)],
                "wrong": [place for place, right in enumerate(score.right) if not right],
                "errors": [
                    None if column.kind == "category" else abs(a - b)
                    for column, a, b in zip(columns, truth, guess, strict=True)
                ],
                "confidence": [] if found.sure is None else found.sure[score.reconstruction].tolist(),
            },
        }


def _why_not(skill: float, luck: str, floor: str, nearest: Identification) -> str:
    """Why a row does not count as leaked, or ""."""
    if skill < 0:
        return f"below its best floor: {floor} have more of its cells right"
    if skill < LEAK_SKILL:
        return f"less than {LEAK_SKILL:.0%} of the way from its best floor ({floor}) to perfection"
    if luck:
        return luck
    if nearest.identified is None:
        return "there is no other row to tell it from"
    return "" if nearest.identified else "another row is as near to the reconstruction"


def _written(column: Column, cell: float) -> str:
    """A cell as people read it."""
    if column.kind == "category":
        return column.levels[int(cell)]
    return f"{cell:.6g}"
