"""Linear-programming reader: the rows of a batch as vertices of a polytope, whatever activation follows the layer.

The gradient of a fully connected first layer has the samples in its row space. With what is known of a sample, that its
categories are 0 or 1 and its numbers or pixels within a range, this space is a polytope of few dimensions, and a sample
with many entries at a bound is one of its vertices (`leakaudit.attacks.reading.polytope`). Linear programs with many
objectives, each entry in turn and then random ones, visit vertices; the objectives are the only chance in it.

A vertex need not be a sample. It counts as one if its own error δ under some label, which the model gives, lies in the
column space of the update, and if taking out ``m δ [x 1] / B`` for a whole number m makes the update lose exactly one
rank:

.. math:: \\|δ - U U^T δ\\| \\le t \\|δ\\|, \\qquad m \\, c^T S^{-1} U^T δ / B = 1

A row that is no sample has no reason to satisfy either: of 100 units a chance error keeps nine tenths of its length
outside a column space of rank 16. What was found takes a dimension away from the search for the rest, so that one row
leads to the next. The regenerated update has the last word over all rows together.

Needs a bias, more units and more entries than samples, and samples whose categories or bounded entries outnumber them.
Fails where several rows agree in all of these, for samples without an error of their own, and through noise. Own
method, no paper: from the notes on one-hot columns in DOMAINS; there the units that are off at a row certify it, which
needs ReLU, and rows are not taken out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Generator, Tensor

from leakaudit.attacks.base import Attack
from leakaudit.attacks.linear import first_layer_or_reason
from leakaudit.attacks.reading.confirm import Recovered, assemble, candidate_classes, own_errors
from leakaudit.attacks.reading.first_layer import Entry, masks_unknown, mid_grey
from leakaudit.attacks.reading.one_sample import covered
from leakaudit.attacks.reading.polytope import Face, Polytope, Vector, polytope
from leakaudit.document.counting import count
from leakaudit.document.status import Cut, Lost
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, cause_of
from leakaudit.target.target import Target

LEVEL = 1e-6
"""Change of a share along a direction below which it does not depend on it; by rounding."""
MOST_FREE = 3
"""Open directions of a vertex beyond which it is not searched along them; chosen for time."""
MOST_ENTRIES = 4096
"""Entries of a sample beyond which programs take seconds each; chosen for time."""


@dataclass(frozen=True, kw_only=True)
class ProgramSettings:
    """Settings of the linear-programming reader.

    Args:
        programs: Linear programs at most; `benchmarks/tables.py` shows what more of them find.
        outside: Largest share of a row's own error outside the update's column space; chosen, far below the nine tenths
            of a chance error and far above rounding.
        multiple: How far the loss of rank may be from a whole number of times; chosen.
        points: Points along a direction that entries at their bounds leave open; chosen.
        closer: Times that the best of them is looked at more closely; chosen.
        faces: Vertices that leave directions open and are searched along them, at most; chosen for time, 0.1 s each.
        hopeless: Share of what a chance error has outside the column space from which no closer look is worth it;
            chosen.
    """

    programs: int = 1000
    outside: float = 1e-2
    multiple: float = 1e-2
    points: int = 33
    closer: int = 4
    faces: int = 60
    hopeless: float = 0.8

    def __post_init__(self) -> None:
        for name in ("programs", "outside", "multiple", "points", "closer", "faces", "hopeless"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Row:
    """A sample of the batch, or a vertex that might be one.

    Args:
        face: Its entries at their bounds, and what they leave open.
        coefficients: (r,).
        sample: (*shape).
        label: The one under which its error fits best.
        outside: Share of that error outside the update's column space.
        dual: Whose product with the coefficients of the other samples is 0 (r,).
        count: How often the batch holds it; 0 where its numbers are not settled.
    """

    face: Face
    coefficients: Vector
    sample: Tensor
    label: int
    outside: float
    dual: Vector
    count: int


class LinearProgram(Attack):
    """Reads rows off a linear first layer by linear programming."""

    name: ClassVar[str] = "lp"
    title: ClassVar[str] = "Linear-programming reader"
    threat_model: ClassVar[ThreatModel] = "B"
    finding: ClassVar[str] = "LA203"
    reads: ClassVar[tuple[str, ...]] = ("images", "table")
    needs: ClassVar[str] = "a fully connected layer with bias on the input, and samples with many entries at a bound"
    reference: ClassVar[str] = "leakaudit, see the module's documentation"
    cost: ClassVar[int] = 20
    one_gradient: ClassVar[bool] = True
    adapts: ClassVar[tuple[str, ...]] = ("accumulate", "clients", "share")
    # programs: chosen for time, 2 to 5 ms each on rows of 100 entries; benchmarks/tables.py.
    presets: ClassVar[dict[str, ProgramSettings]] = {
        "quick": ProgramSettings(programs=200),
        "standard": ProgramSettings(programs=1000),
        "paper": ProgramSettings(programs=5000),
    }

    def applies(self, target: Target, observation: Observation) -> NotApplicable | None:
        """Needs an exact gradient of a biased linear layer that reads the whole input, wider than the batch."""
        entry = first_layer_or_reason(target, observation)
        if isinstance(entry, NotApplicable):
            return entry
        size, entries = observation.batch_size, len(entry.map.index)
        if entry.bias is None or entry.bias not in observation.update:
            return NotApplicable(f"{entry.weight} has no bias in the update, which the scale of the samples comes from")
        if observation.pruned or not observation.plain or observation.rescaled:
            return NotApplicable(f"{entry.weight} is not shared as it is: its rank says nothing of the samples")
        if masks_unknown(target, observation):
            return NotApplicable("the dropout masks are unknown, so no sample's own error can be computed")
        if covered(target, [entry]) is not None or entries != entry.map.known.numel():
            return NotApplicable(f"{entry.weight} reads a part of the input only")
        units = len(entry.rows(target.parameters))
        if size >= min(units, entries):
            return NotApplicable(f"{units} units and {entries} entries are too few for a batch of {size}")
        if entries > MOST_ENTRIES:
            return NotApplicable(
                f"a sample has {entries} entries, more than the {MOST_ENTRIES} that are affordable here"
            )
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Visit vertices until all samples are found."""
        entry = first_layer_or_reason(target, observation)
        if isinstance(entry, NotApplicable):
            raise ValueError("this reader needs a linear first layer: ask `applies` first")
        search = _Search(target, observation, entry, polytope(observation, entry), self.settings)
        cut = search.run(generator, monitor)
        search.settle()
        rows = [*search.found, *search.doubtful(observation.batch_size)]
        how = f"vertices of the row space of {entry.weight}, {count(search.programs, 'linear program')}"
        result = assemble(target, observation, _recovered(rows, observation, entry, self.settings.outside), how)
        return replace(result, iterations=search.programs, cuts=() if cut is None else (cut,))


@dataclass(eq=False)
class _Search:
    """The vertices of one update.

    Args:
        target: The model.
        observation: The update.
        entry: The layer.
        space: The polytope of the samples that are not found yet.
        settings: Of the attack.
    """

    target: Target
    observation: Observation
    entry: Entry
    space: Polytope
    settings: ProgramSettings
    programs: int = 0
    faces: int = 0
    found: list[Row] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    seen: dict[tuple[bytes, bytes], tuple[Row, int]] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """What a chance error has outside the column space, as a share of it."""
        return float(np.sqrt(max(0.0, 1 - self.space.rank / len(self.space.left))))

    def run(self, generator: Generator, monitor: Monitor) -> Cut | None:
        """Look for all samples; what was lost where it is told to stop."""
        self.classes, whole = candidate_classes(self.target, self.observation), self.space.rank
        for objective in self._objectives(generator):
            if self.space.left_over == 0 or self.programs >= self.settings.programs:
                return None
            self.programs += 1
            self._visit(objective)
            monitor.update(
                max(self.programs / self.settings.programs, len(self.found) / whole), self.space.left_over / whole
            )
            if monitor.should_stop():
                return Cut(Lost.ROUNDS, cause_of(monitor), self.programs, self.settings.programs)
        return None

    def _objectives(self, generator: Generator) -> Iterator[Vector]:
        """Every entry of a category at its upper bound, in a random order, then random directions."""
        entries = [i for start, stop in self.space.blocks for i in range(start, stop)]
        for place in torch.randperm(len(entries), generator=generator).tolist():
            yield self.space.basis[:, entries[place]]
        while True:
            yield torch.randn(self.space.rank, generator=generator, dtype=torch.float64).numpy()

    def _visit(self, objective: Vector) -> None:
        """The vertex of an objective, kept where it is a sample, or might be."""
        vertex = self.space.vertex(objective)
        face = None if vertex is None else self.space.refined(vertex)
        if face is None:
            return
        key = (face.fixed.tobytes(), np.round(face.target[face.fixed], 3).tobytes())
        if key in self.seen and self.seen[key][1] == len(self.found):
            return
        if len(face.free) == 0:
            (row,) = self._judged(face, face.centre[None])
        elif self.faces >= self.settings.faces or len(face.free) > MOST_FREE:
            return
        else:
            self.faces += 1
            row = self._settled(face)
        if self._fits(row):
            self.found.append(row)
            self.space = self.space.without(row.dual)
        else:
            self.seen[key] = (row, len(self.found))  # with one more sample known, it may turn out differently

    def _fits(self, row: Row) -> bool:
        """Whether its own error is one of the update's."""
        return row.outside <= self.settings.outside and (row.count > 0 or len(row.face.free) > 0)

    def _judged(self, face: Face, points: Vector) -> list[Row]:
        """The samples of coefficients (P, r) with their own errors, under the label that fits best."""
        values = np.clip(points @ self.space.basis + self.space.offset, self.space.low, self.space.high)
        reference = self.observation.update[self.entry.weight]
        samples = torch.from_numpy(values).to(reference).view(-1, *self.observation.domain.shape)
        samples = self.observation.domain.finish(samples)
        errors = own_errors(self.target, self.entry, samples, self.classes).double().cpu().numpy()
        found = zip(points, samples, errors, strict=True)
        return [self._row(face, point, sample, error) for point, sample, error in found]

    def _row(self, face: Face, coefficients: Vector, sample: Tensor, errors: Vector) -> Row:
        """One of them, with its errors (K, m)."""
        size = self.observation.batch_size
        inside = errors @ self.space.left
        length = np.linalg.norm(errors, axis=1).clip(1e-300)
        outside = np.linalg.norm(errors - inside @ self.space.left.T, axis=1) / length
        duals = inside / self.space.singular / size
        shares = duals @ coefficients  # 1 over how often the batch holds the sample, under its own label
        counts = np.round(1 / shares.clip(1 / (size + 1))).clip(1, size)
        off = np.abs(counts * shares - 1) + np.where(outside <= self.settings.outside, 0, 1 + outside)
        best = int(off.argmin())
        count = int(counts[best]) if off[best] <= self.settings.multiple else 0
        dual = max(1, count) * duals[best]
        return Row(face, coefficients, sample, self.classes[best], float(outside[best]), dual, count)

    def _settled(self, face: Face) -> Row:
        """The sample on a face whose own error fits best: along every open direction in turn, ever closer."""
        (best,) = self._judged(face, face.centre[None])
        for direction in np.concatenate([face.free, face.free[: len(face.free) - 1]]):
            best = self._along(face, direction, best)
            if best.outside > self.settings.hopeless * self.chance:
                return best
        return self._onto_one(face, best)

    def _along(self, face: Face, direction: Vector, best: Row) -> Row:
        """The best of points along a direction within the bounds, then of points between its neighbours."""
        origin = best.coefficients
        begin, end = self.space.reach(origin, direction)
        for _ in range(self.settings.closer):
            steps = np.linspace(begin, end, self.settings.points)
            rows = self._judged(face, origin + steps[:, None] * direction)
            place = min(range(len(rows)), key=lambda i: rows[i].outside)
            best = min(best, rows[place], key=lambda row: row.outside)
            if best.outside <= self.settings.outside or best.outside > self.settings.hopeless * self.chance:
                break
            width = steps[1] - steps[0]
            begin, end = steps[place] - width, steps[place] + width
        return best

    def _onto_one(self, face: Face, row: Row) -> Row:
        """Moved along the open directions to where its error has its whole share of the update, if that is there."""
        if row.count or row.outside > self.settings.outside:
            return row
        slope = face.free @ row.dual
        if np.abs(slope).max() * np.linalg.norm(row.coefficients) <= LEVEL:
            return row
        moved = row
        for _ in range(self.settings.closer):
            slope = face.free @ moved.dual
            change = (1 - float(moved.dual @ moved.coefficients)) * slope / (slope @ slope)
            (moved,) = self._judged(face, (moved.coefficients + change @ face.free)[None])
        return moved if moved.count and moved.outside <= self.settings.outside else row

    def settle(self) -> None:
        """Solve for every sample anew with what is known of all others, where its own entries left something open."""
        known = list(self.found)
        for place, row in enumerate(known):
            if len(row.face.free):
                others = np.stack(
                    [other.dual for i, other in enumerate(known) if i != place] or [np.zeros(self.space.rank)]
                )
                face = self.space.face(row.face.fixed, row.face.target, others)
                (again,) = self._judged(face, face.centre[None])
                self.found[place] = again if len(face.free) == 0 and self._fits(again) else replace(row, count=0)

    def doubtful(self, size: int) -> list[Row]:
        """Vertices that are not certified, as many as samples are missing."""
        missing = max(0, size - sum(max(1, row.count) for row in self.found))
        return sorted((row for row, _ in self.seen.values()), key=lambda row: row.outside)[:missing]


def _recovered(rows: list[Row], observation: Observation, entry: Entry, outside: float) -> Recovered:
    """The rows, each as often as it occurs; confirmed where no more than this share of its error does not fit."""
    empty = mid_grey(observation, observation.update[entry.weight])[:0]
    samples = torch.stack([row.sample for row in rows]) if rows else empty
    labels = torch.tensor([row.label for row in rows], dtype=torch.long)
    confirmed = torch.tensor([row.count > 0 and row.outside <= outside for row in rows], dtype=torch.bool)
    counts = torch.tensor([max(1, row.count if row.outside <= outside else 1) for row in rows], dtype=torch.long)
    return Recovered(samples, labels, confirmed).repeated(counts)
