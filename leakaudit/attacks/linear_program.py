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
from leakaudit.attacks.reading.confirm import Recovered, assemble, candidate_classes, class_errors
from leakaudit.attacks.reading.first_layer import Entry, masks_unknown, mid_grey
from leakaudit.attacks.reading.one_sample import covered
from leakaudit.attacks.reading.polytope import Polytope, Vector, polytope
from leakaudit.document.status import Cut, Lost
from leakaudit.observation import Observation, ThreatModel
from leakaudit.reconstruction import Monitor, NotApplicable, Reconstruction, cause_of
from leakaudit.target.target import Target

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
    """

    programs: int = 600
    outside: float = 1e-2
    multiple: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("programs", "outside", "multiple"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Row:
    """A vertex: its coefficients, the sample (*shape), label, how often it occurs, its dual, and whether it is certified.
    """

    coefficients: Vector
    sample: Tensor
    label: int = 0
    count: int = 1
    dual: Vector | None = None

    @property
    def certified(self) -> bool:
        """Whether its own error says that it is a sample of the batch."""
        return self.dual is not None


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
            return NotApplicable(f"a sample has {entries} entries, more than the {MOST_ENTRIES} that are affordable here")
        return None

    def run(self, target: Target, observation: Observation, generator: Generator, monitor: Monitor) -> Reconstruction:
        """Visit vertices until all samples are found."""
        entry = first_layer_or_reason(target, observation)
        if isinstance(entry, NotApplicable):
            raise ValueError("this reader needs a linear first layer: ask `applies` first")
        search = _Search(target, observation, entry, polytope(observation, entry), self.settings)
        cut = search.run(generator, monitor)
        rows = [*search.found, *search.doubtful(observation.batch_size)]
        how = f"vertices of the row space of {entry.weight}, {search.programs} linear programs"
        result = assemble(target, observation, _recovered(rows, observation, entry), how)
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
    found: list[Row] = field(default_factory=list)
    seen: dict[bytes, Row] = field(default_factory=dict)

    def run(self, generator: Generator, monitor: Monitor) -> Cut | None:
        """Look for all samples; what was lost where it is told to stop."""
        whole = self.space.rank
        for objective in self._objectives(generator):
            if self.space.left_over == 0 or self.programs >= self.settings.programs:
                return None
            self.programs += 1
            self._visit(objective)
            monitor.update(max(self.programs / self.settings.programs, len(self.found) / whole), self.space.left_over / whole)
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
        refined = None if vertex is None else self.space.refined(vertex)
        if refined is None:
            return
        values = np.clip(self.space.entries(refined), self.space.low, self.space.high)
        key = np.round(values / (self.space.high - self.space.low), 3).tobytes()
        if key in self.seen:
            return
        row = self._judged(refined, values)
        self.seen[key] = row
        if row.dual is not None:
            self.found.append(row)
            self.space = self.space.without(row.dual)

    def _judged(self, coefficients: Vector, values: Vector) -> Row:
        """The vertex, certified where its own error under some label says so."""
        reference = self.observation.update[self.entry.weight]
        sample = torch.from_numpy(values).to(reference).view(self.observation.domain.shape)
        sample = self.observation.domain.finish(sample[None])[0]
        classes = candidate_classes(self.target, self.observation)
        errors = class_errors(self.target, self.entry, sample, classes, self.observation).double().cpu().numpy()
        inside = errors @ self.space.left
        length = np.linalg.norm(errors, axis=1).clip(1e-300)
        outside = np.linalg.norm(errors - inside @ self.space.left.T, axis=1) / length
        best = int(outside.argmin())
        dual = inside[best] / self.space.singular / self.observation.batch_size
        share = float(dual @ coefficients)
        count = round(1 / share) if share > 1 / (self.observation.batch_size + 0.5) else 0
        fits = outside[best] <= self.settings.outside and count > 0 and abs(count * share - 1) <= self.settings.multiple
        if not fits:
            return Row(coefficients, sample, classes[best])
        return Row(coefficients, sample, classes[best], count, count * dual)

    def doubtful(self, size: int) -> list[Row]:
        """Vertices that are not certified, as many as samples are missing."""
        missing = max(0, size - sum(row.count for row in self.found))
        return [row for row in self.seen.values() if not row.certified][:missing]


def _recovered(rows: list[Row], observation: Observation, entry: Entry) -> Recovered:
    """The rows, each as often as it occurs."""
    empty = mid_grey(observation, observation.update[entry.weight])[:0]
    samples = torch.stack([row.sample for row in rows]) if rows else empty
    labels = torch.tensor([row.label for row in rows], dtype=torch.long)
    confirmed = torch.tensor([row.certified for row in rows], dtype=torch.bool)
    counts = torch.tensor([row.count for row in rows], dtype=torch.long)
    return Recovered(samples, labels, confirmed).repeated(counts)
