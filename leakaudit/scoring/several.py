"""Scoring samples of several inputs: each part by the measure of its own domain, matched together.

Reconstructions are matched to the samples by the sum over the parts of their distances, each in proportion to its mean
over all pairs, so that no unit outweighs another. A sample has *leaked* as a whole where each of its parts has, by the
floors and the identification of its domain: the worst part decides. Where some parts have and others have not, those
are the part that leaked, however few their entries are: an input of its own is no fragment of another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.domains.several import Several, several_of
from leakaudit.domains.specs import Spec
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import Judging, Measure, SampleScore, measure_for, specs_of
from leakaudit.scoring.parts import LEAST_SHARE, Part
from leakaudit.scoring.reidentify import Identification

Found = tuple[Any, ...]
"""What was recovered of each part, as its measure has it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SeveralScore(SampleScore):
    """One private sample beside its reconstruction.

    Args:
        scores: Of its parts, in their order.
    """

    scores: tuple[SampleScore, ...]

    @property
    def telling(self) -> tuple[SampleScore, ...]:
        """Those of the parts that leaked, or of all where none has."""
        return tuple(score for score in self.scores if score.leaked) or self.scores

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """Those of all parts."""
        return {name: value for score in self.scores for name, value in score.metrics.items()}

    @property
    def floor_metrics(self) -> Mapping[str, Mapping[str, float | None]]:
        """The same; a floor that several parts have is one."""
        merged: dict[str, dict[str, float | None]] = {}
        for score in self.scores:
            for name, floor in score.floor_metrics.items():
                merged.setdefault(name, {}).update(floor)
        return merged

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why metrics are undefined."""
        return {name: why for score in self.scores for name, why in score.reasons.items()}

    @property
    def strength(self) -> float:
        """That of the first part that leaked, or of the best of them: parts have no common unit."""
        return self.telling[0].strength if self.leaked else max(score.strength for score in self.scores)

    @property
    def closeness(self) -> float:
        """That of the first part that leaked, or of the first."""
        return self.telling[0].closeness


class SeveralMeasure(Measure[Found]):
    """Scores samples (B, 1, 1, D) of several parts.

    Args:
        population: The whole batch file.
        domain: Takes samples apart.
        measures: Of the parts.
    """

    wanted: ClassVar[int] = 100

    def __init__(self, population: Batch, domain: Several, measures: Sequence[Measure[Any]]) -> None:
        super().__init__(population)
        self.domain, self.measures = domain, tuple(measures)
        self.names = tuple(member.name for member in domain.members)

    @classmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> SeveralMeasure:
        """With the measures of the parts; further samples to tell from are asked for by no part alone."""
        own = several_of(domain)
        read = [None] * len(own.members) if judging.read is None else own.split(judging.read.cpu())
        measures = [
            measure_for(member.domain, part, replace(judging, distractors=None, read=some))
            for member, part, some in zip(own.members, parts_of(own, population), read, strict=True)
        ]
        return cls(population, own, measures)

    @classmethod
    def specs_for(cls, domain: Domain) -> tuple[Spec, ...]:
        """The metrics of all parts."""
        return tuple(spec for member in several_of(domain).members for spec in specs_of(member.domain))

    @property
    def shown(self) -> tuple[Spec, ...]:
        """The same."""
        return self.specs_for(self.domain)

    def like(self, domain: Domain, population: Batch) -> SeveralMeasure:
        """As strict in every part."""
        own = several_of(domain)
        parts = zip(self.measures, own.members, parts_of(own, population), strict=True)
        return type(self)(population, own, [measure.like(member.domain, part) for measure, member, part in parts])

    def recovered(self, domain: Domain, reconstruction: Reconstruction) -> Found:
        """The parts, each as its measure has it."""
        own = several_of(domain)
        inputs = own.split(reconstruction.inputs)
        read, sure = (
            [None] * len(inputs) if given is None else own.split(given)
            for given in (reconstruction.read, reconstruction.confidence)
        )
        return tuple(
            measure.recovered(member.domain, replace(reconstruction, inputs=part, read=some, confidence=confidence))
            for measure, member, part, some, confidence in zip(
                self.measures, own.members, inputs, read, sure, strict=True
            )
        )

    def usable(self, found: Found) -> bool:
        """Whether every part is."""
        return all(measure.usable(part) for measure, part in zip(self.measures, found, strict=True))

    def distance(self, batch: Batch, found: Found) -> np.ndarray[Any, Any]:
        """The sum over the parts (B, K), each over its mean."""
        each = [m.distance(b, f) for m, b, f in zip(self.measures, parts_of(self.domain, batch), found, strict=True)]
        total: np.ndarray[Any, Any] = np.sum([part / max(float(part.mean()), 1e-300) for part in each], axis=0)
        return total

    def measure(self, guess: Any, truth: Any) -> tuple[Any, ...]:
        """All metrics of the parts of one guess against those of one sample."""
        return tuple(m.measure(g, t) for m, g, t in zip(self.measures, guess, truth, strict=True))

    def floors(self, batch: Batch, position: int) -> dict[str, Any]:
        """The floors of every part, by its name and theirs."""
        parts = zip(self.names, self.measures, parts_of(self.domain, batch), strict=True)
        return {f"{name}: {floor}": own for name, m, b in parts for floor, own in m.floors(b, position).items()}

    def identify(self, batch: Batch, position: int, found: Found, row: int) -> Identification:
        """Whether every part points at its own sample."""
        parts = zip(self.measures, parts_of(self.domain, batch), found, strict=True)
        return _together([m.identify(b, position, f, row) for m, b, f in parts])

    def judge(self, batch: Batch, position: int, found: Found, row: int, prior_only: Sequence[Found]) -> SeveralScore:
        """Every part by itself, and what that makes of the sample."""
        parts = parts_of(self.domain, batch)
        scores = tuple(
            measure.judge(parts[i], position, found[i], row, [made[i] for made in prior_only])
            for i, measure in enumerate(self.measures)
        )
        leaked = [i for i, score in enumerate(scores) if score.leaked]
        whole = len(leaked) == len(scores) and not any(score.part for score in scores)
        why = [f"{name}: {score.reason}" for name, score in zip(self.names, scores, strict=True) if score.reason]
        return SeveralScore(
            position=position,
            reconstruction=row,
            identification=_together([scores[i].identification for i in leaked or range(len(scores))]),
            leaked=bool(leaked),
            reason="" if leaked else "; ".join(why),
            part=self._part(scores, leaked) if leaked and not whole else None,
            scores=scores,
        )

    def _part(self, scores: Sequence[SampleScore], leaked: Sequence[int]) -> Part:
        """What leaked of a sample, where that is not all."""
        sizes = [member.size for member in self.domain.members]
        own = [scores[i].part for i in leaked]
        entries = sum(sizes[i] if part is None else part.entries for i, part in zip(leaked, own, strict=True))
        telling = (scores[i] for i in leaked if "psnr" in scores[i].metrics)
        psnr = next((one.metrics["psnr"] if one.part is None else one.part.psnr for one in telling), None)
        return Part(entries, sum(sizes), psnr, " and ".join(self.names[i] for i in leaked))

    def enough(self, read: Tensor) -> bool:
        """Whether one of the parts was read whole, or as much of it as counts."""
        return any(float(part.float().mean()) >= LEAST_SHARE for part in self.domain.split(read.cpu()))

    def inexact(self, score: SampleScore) -> bool:
        """Whether a part is."""
        return any(m.inexact(s) for m, s in zip(self.measures, _scores(score), strict=True))

    def alike(self, one: Batch, other: Batch) -> bool:
        """Whether a part of a sample of one batch cannot be told from that of one of the other."""
        parts = zip(self.measures, parts_of(self.domain, one), parts_of(self.domain, other), strict=True)
        return any(measure.alike(mine, others) for measure, mine, others in parts)

    def recognisable(self, score: SampleScore) -> bool:
        """Whether every part that leaked shows the sample, or every part where none has."""
        pairs = list(zip(self.measures, _scores(score), strict=True))
        telling = [(m, s) for m, s in pairs if s.leaked] or pairs
        return all(measure.recognisable(own) for measure, own in telling)

    def claim(self, score: SampleScore) -> str:
        """Of a part that leaked."""
        return "a part of {hit} of {total} samples was read" if score.part is not None and score.leaked else ""

    def _told(self, score: SampleScore, how: str) -> str:
        """The parts in words, those that leaked alone where only these have."""
        parts = [
            (s, f"{name}: {getattr(m, how)(s)}")
            for name, m, s in zip(self.names, self.measures, _scores(score), strict=True)
        ]
        return "; ".join(text for s, text in parts if s.leaked or score.part is None)

    def told(self, score: SampleScore) -> str:
        """Every part."""
        return self._told(score, "told")

    def told_control(self, score: SampleScore) -> str:
        """Every part, beside its floors."""
        return self._told(score, "told_control")

    def summary(self, scores: Sequence[SampleScore]) -> str:
        """Every part over all samples."""
        each = zip(*(_scores(score) for score in scores), strict=True)
        named = zip(self.names, self.measures, each, strict=True)
        return "; ".join(f"{name}: {measure.summary(own)}" for name, measure, own in named)

    def entry(self, batch: Batch, score: SampleScore, found: Found) -> dict[str, Any]:
        """What every part says; names that several have are those of the first, but for the identification."""
        named = zip(self.measures, parts_of(self.domain, batch), _scores(score), found, strict=True)
        each = [measure.entry(part, own, read) for measure, part, own, read in named]
        merged: dict[str, Any] = {}
        for position, entry in enumerate(each):
            merged |= {k: v for k, v in entry.items() if k not in merged and (not position or _is_content(v))}
        others = score.identification
        why = "; ".join(f"{n}: {e['reidentified_reason']}" for n, e in zip(self.names, each, strict=True)
                        if e.get("reidentified_reason"))  # fmt: skip
        return {
            **merged,
            "reidentified_reason": why,
            "augmented": others.augmented,
            "near_duplicates": others.near_duplicates,
            "part": asdict(score.part) if score.part is not None and score.leaked else None,
        }

    def unscored_entry(self, found: Found, row: int) -> dict[str, Any]:
        """What the parts say of a reconstruction."""
        merged: dict[str, Any] = {}
        for measure, part in zip(self.measures, found, strict=True):
            merged = {**measure.unscored_entry(part, row), **merged}
        return merged

    def picture(self, values: Tensor) -> str | None:
        """The first part that has one."""
        parts = zip(self.measures, self.domain.split(values), strict=True)
        return next((shown for m, part in parts if (shown := m.picture(part)) is not None), None)


def parts_of(domain: Several, batch: Batch) -> list[Batch]:
    """The batch (N, 1, 1, D) of each part of a sample, with the labels of the whole."""
    return [replace(batch, images=part) for part in domain.split(batch.images)]


def _scores(score: SampleScore) -> tuple[SampleScore, ...]:
    assert isinstance(score, SeveralScore)
    return score.scores


def _is_content(value: Any) -> bool:
    """Whether an entry holds something that is no number or sentence: a row of a table."""
    return isinstance(value, dict) and bool(value)


def _together(found: Sequence[Identification]) -> Identification:
    """Identified where every part is, among the fewest others."""
    known = [one.identified for one in found]
    fewest = min(found, key=lambda one: one.distractors)
    identified = False if False in known else None if None in known else True
    return Identification(identified, fewest.distractors, fewest.augmented, max(one.near_duplicates for one in found))
