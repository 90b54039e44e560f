r"""Scoring of signals: reconstructions against the private samples they belong to, and the floors beside them.

Reconstructions are matched to the samples by mean squared error. All metrics are on values in their own unit, with the
deviation of the sample from the mean of each channel :math:`\bar x` as the yardstick:

* SNR, :math:`10 \log_{10} \|x - \bar x\|^2 / \|\hat x - x\|^2` in dB; undefined for an exact reconstruction.
* Correlation, the cosine of :math:`x - \bar x` and :math:`\hat x - \bar{\hat x}`.
* Error over deviation, the square root of the inverse of the SNR's argument.

A *floor* is what a guess scores that knows nothing of the sample: the middle of the range, the mean of other samples,
another sample with the same label, and what the attack's prior alone makes; and one that knows a little, the sample's
own mean in every channel, which has 0 dB by definition. A sample has *leaked* when its reconstruction beats every floor
by a margin in SNR, and re-identifies it among others: the rest of the file and, to make up the number, copies that are
shifted in time, reversed, or stretched (`leakaudit.scoring.reidentify`). A constant signal never counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.domains.signals import Signals
from leakaudit.domains.specs import SIGNALS, Spec
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import Judging, Measure, SampleScore, finite, squared_distances
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.scoring.parts import mean_colour, within
from leakaudit.scoring.pictures import lines
from leakaudit.scoring.reidentify import Gallery, Identification

RECOGNISABLE = 0.9
"""Correlation from which a reconstruction counts as recognisable; chosen, not measured."""
ROUNDING = 1e-12
"""Squared deviation of a guess over that of the sample that is rounding; 100 times float32's precision squared."""
SAME = 1e-6
"""Squared error over squared deviation below which a floor is the sample itself; chosen, 60 dB."""


@dataclass(frozen=True)
class Scores:
    """Metrics of one signal against one sample; ``None`` with a reason under the metric's name when undefined."""

    snr: float | None
    correlation: float | None
    error: float | None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float | None]:
        """By name."""
        return {"snr": self.snr, "correlation": self.correlation, "error": self.error}


@dataclass(frozen=True, eq=False, kw_only=True)
class SignalScore(SampleScore):
    """One private signal: its reconstruction's metrics and the floors.

    Args:
        scores: Metrics of the reconstruction.
        floors: Metrics of the guesses ``middle``, ``flat``, ``mean``, ``other`` and ``prior_only``.
        margin: SNR above the best floor in dB; infinite for an exact reconstruction, ``None`` where undefined.
    """

    scores: Scores
    floors: Mapping[str, Scores]
    margin: float | None

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """SNR, correlation, error, and the margin."""
        return {**self.scores.values, "margin": finite(self.margin)}

    @property
    def floor_metrics(self) -> Mapping[str, Mapping[str, float | None]]:
        """The same without a margin."""
        return {name: floor.values for name, floor in self.floors.items()}

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why a metric is undefined."""
        if self.margin is None:
            return {**self.scores.reasons, "margin": "a floor reproduces the sample exactly"}
        return {**self.scores.reasons, **({} if math.isfinite(self.margin) else {"margin": "exact reconstruction"})}

    @property
    def strength(self) -> float:
        """The margin in dB."""
        return -math.inf if self.margin is None else self.margin

    @property
    def closeness(self) -> float:
        """SNR in dB."""
        return math.inf if self.scores.error == 0 else -math.inf if self.scores.snr is None else self.scores.snr


class SignalMeasure(Measure[Tensor]):
    """Scores values (B, C, L).

    Args:
        population: The whole batch file, for floors and re-identification.
        middle: The middle of each channel's range (C, 1).
        criterion: When a sample counts as leaked.
        distractors: Further signals (M, C, L) to tell samples from, or ``None``.
        read: Entries (C, L) that the model reads, or ``None`` for all.
    """

    specs: ClassVar[tuple[Spec, ...]] = SIGNALS
    wanted: ClassVar[int] = 100

    def __init__(
        self,
        population: Batch,
        middle: Tensor,
        criterion: LeakCriterion | None = None,
        distractors: Tensor | None = None,
        read: Tensor | None = None,
    ) -> None:
        super().__init__(population)
        self.middle, self.criterion = middle, criterion or LeakCriterion()
        self.read = None if read is None or bool(read.all()) else read
        self.gallery = Gallery(population.images, distractors, self.criterion.distractors, self.read, shifted)

    @classmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> SignalMeasure:
        """With the range of the domain."""
        return cls(population, _middle(domain), judging.criterion, judging.distractors, judging.read)

    def like(self, domain: Domain, population: Batch) -> SignalMeasure:
        """With the same criterion, without further distractors."""
        return type(self)(population, _middle(domain), self.criterion)

    def recovered(self, domain: Domain, reconstruction: Reconstruction) -> Tensor:
        """Values (B, C, L)."""
        return domain.decode(reconstruction.inputs.cpu())

    def usable(self, found: Tensor) -> bool:
        """Whether all values are finite."""
        return bool(torch.isfinite(found).all())

    def distance(self, batch: Batch, found: Tensor) -> np.ndarray[Any, Any]:
        """Squared distances of what counts."""
        if self.read is None:
            return squared_distances(batch, found)
        return (
            torch.cdist(
                within(batch.images, self.read).flatten(1).double(), within(found, self.read).flatten(1).double()
            )
            .square()
            .numpy()
        )

    @property
    def decoys(self) -> int:
        """Altered copies of the signals at hand."""
        return len(self.gallery.augmented)

    def alike(self, one: Batch, other: Batch) -> bool:
        """Whether a sample of one batch is a near-duplicate of one of the other."""
        return any(bool(self.gallery.near_duplicates(truth, other.images).any()) for truth in one.images)

    def measure(self, guess: Tensor, truth: Tensor) -> Scores:
        """All metrics of one signal (C, L) against another."""
        error = float(within((guess - truth).double(), self.read).square().sum())
        deviation = within((truth - mean_colour(truth, self.read)).double(), self.read)
        own = within((guess - mean_colour(guess, self.read)).double(), self.read)
        power, spread = float(deviation.square().sum()), float(own.square().sum())
        if power == 0:
            why = "a constant signal has no deviation to measure by"
            reasons = dict.fromkeys(("snr", "correlation", "error"), why)
            return Scores(None, None, 0.0 if error == 0 else None, reasons)
        constant = spread <= ROUNDING * power
        reasons = {"correlation": "a constant guess has none"} if constant else {}
        correlation = None if constant else float((deviation * own).sum()) / math.sqrt(power * spread)
        if error == 0:
            return Scores(None, correlation, 0.0, {**reasons, "snr": "identical to the last bit"})
        return Scores(10 * math.log10(power / error), correlation, math.sqrt(error / power), reasons)

    def judge(self, batch: Batch, position: int, found: Tensor, row: int, prior_only: Sequence[Tensor]) -> SignalScore:
        """The margin over the floors, and re-identification."""
        truth, guess = batch.images[position], found[row]
        scores, floors = self.measure(guess, truth), dict(self.floors(batch, position))
        if prior_only:
            alone = torch.cat(list(prior_only))
            nearest = within(alone - truth, self.read).flatten(1).square().sum(1).argmin()
            floors["prior_only"] = self.measure(alone[int(nearest)], truth)
        margin = _margin(scores, floors)
        identification = self.identify(batch, position, found, row)
        reason = self._why_not(margin, identification)
        return SignalScore(
            position=position,
            reconstruction=row,
            scores=scores,
            floors=floors,
            margin=margin,
            identification=identification,
            leaked=not reason,
            reason=reason,
        )

    def identify(self, batch: Batch, position: int, found: Tensor, row: int) -> Identification:
        """By mean squared error, among the gallery."""
        return self.gallery.identify(found[row], batch.images[position])

    def _why_not(self, margin: float | None, found: Identification) -> str:
        """Why a sample does not count as leaked, or ""."""
        if margin is None:
            return "a floor reproduces the sample exactly, so no reconstruction of it shows anything"
        if margin < self.criterion.psnr_margin:
            return "does not beat every floor by the margin"
        if found.distractors < self.criterion.distractors:
            return f"only {found.distractors} other signals to tell it from, {self.criterion.distractors} are needed"
        return "" if found.identified else "another signal is nearer to the reconstruction"

    def floors(self, batch: Batch, position: int) -> dict[str, Scores]:
        """Metrics of the guesses that know nothing of this sample; those outside the batch only."""
        truth, label = batch.images[position], int(batch.classes[position])
        floors = {
            "middle": self.measure(self.middle.to(truth).expand_as(truth), truth),
            "flat": self.measure(mean_colour(truth, self.read), truth),
        }
        alike, inside = self.gallery.near_duplicates(truth, self.population.images).tolist(), set(batch.indices)
        outside = [i for i in range(len(self.population)) if i not in inside and not alike[i]]
        if outside:
            floors["mean"] = self.measure(self.population.images[outside].mean(0), truth)
        same = [i for i in outside if int(self.population.classes[i]) == label]
        if same:
            floors["other"] = self.measure(self.population.images[same[0]], truth)
        return floors

    def recognisable(self, score: SampleScore) -> bool:
        """Correlation above what shows the same signal."""
        return (score.metrics["correlation"] or 0.0) >= RECOGNISABLE

    def told(self, score: SampleScore) -> str:
        """SNR and margin."""
        snr, margin = score.metrics["snr"], score.metrics["margin"]
        if snr is None:
            return "exact" if score.metrics["error"] == 0 else "not measured: a constant signal"
        return f"{snr:.1f} dB SNR" + ("" if margin is None else f", {margin:.1f} dB above its best floor")

    def told_control(self, score: SampleScore) -> str:
        """SNR, above or below the floors."""
        snr, margin = score.metrics["snr"], score.metrics["margin"]
        if snr is None or margin is None:
            return self.told(score)
        return f"{snr:.1f} dB, {abs(margin):.1f} dB {'above' if margin >= 0 else 'below'} its best floor"

    def entry(self, batch: Batch, score: SampleScore, found: Tensor) -> dict[str, Any]:
        """The curves, the reconstruction over the original, and what re-identification means."""
        truth, guess, seen = batch.images[score.position], found[score.reconstruction], score.identification
        return {
            "reidentified_reason": _identified_reason(seen),
            "augmented": seen.augmented,
            "near_duplicates": seen.near_duplicates,
            "original_png": lines(truth),
            "reconstruction_png": lines(guess, truth),
        }

    def unscored_entry(self, found: Tensor, row: int) -> dict[str, Any]:
        """The curves."""
        return {"reconstruction_png": lines(found[row])}

    def picture(self, values: Tensor) -> str:
        """The curves."""
        return lines(values)


def _middle(domain: Domain) -> Tensor:
    """The middle of each channel's range (C, 1), in the unit of the values."""
    assert isinstance(domain, Signals)
    return (torch.tensor(domain.low) + torch.tensor(domain.high)).view(-1, 1) / 2


def _margin(scores: Scores, floors: Mapping[str, Scores]) -> float | None:
    if any(floor.error is not None and floor.error**2 <= SAME for floor in floors.values()):
        return None
    known = [floor.snr for floor in floors.values() if floor.snr is not None]
    if not known or (scores.snr is None and scores.error != 0):
        return None
    return math.inf if scores.snr is None else scores.snr - max(known)


def _identified_reason(found: Identification) -> str:
    """What re-identification means for this sample."""
    if found.identified is None:
        return "there is no other signal to confuse it with"
    parts = [f"up to {found.near_duplicates} near-duplicate(s) in the batch file"] if found.near_duplicates else []
    parts += [f"{found.augmented} of the others are altered copies of the signals at hand"] if found.augmented else []
    return "; ".join(parts)


def shifted(signals: Tensor, count: int) -> Tensor:
    """`count` altered copies of signals (N, C, L), taken in turn: a shift in time, some reversed, some stretched.

    The same signals give the same copies.
    """
    generator = torch.Generator().manual_seed(0)
    made = [_alter(signals[i % len(signals)], generator) for i in range(count)]
    return torch.stack(made)


def _alter(signal: Tensor, generator: torch.Generator) -> Tensor:
    """One altered copy of a signal (C, L)."""
    length = signal.shape[-1]
    shift, turn, stretch = torch.rand(3, generator=generator).tolist()
    copy = signal.roll(1 + int(shift * (length - 1)), -1)
    copy = copy.flip(-1) if turn < 0.5 else copy
    kept = max(1, round(length * (1 - 0.5 * stretch)))
    return F.interpolate(copy[None, :, :kept], length, mode="linear", align_corners=False)[0]
