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

import torch
import torch.nn.functional as F
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.domains.signals import Signals
from leakaudit.domains.specs import SIGNALS, Spec
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import Judging, SampleScore
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.scoring.parts import mean_colour, values_of, within
from leakaudit.scoring.pictures import lines
from leakaudit.scoring.values import Found, ValueMeasure, ValueScore

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
class SignalScore(ValueScore[Scores]):
    """One private signal: its reconstruction's metrics and the floors; the margin is one of SNR."""

    @property
    def closeness(self) -> float:
        """SNR in dB."""
        return math.inf if self.scores.error == 0 else -math.inf if self.scores.snr is None else self.scores.snr


class SignalMeasure(ValueMeasure[Scores]):
    """Scores values (B, C, L).

    Args:
        population: The whole batch file, for floors and re-identification.
        middle: The middle of each channel's range (C, 1).
        criterion: When a sample counts as leaked.
        distractors: Further signals (M, C, L) to tell samples from, or ``None``.
        read: Entries (C, L) that the model reads, or ``None`` for all.
    """

    specs: ClassVar[tuple[Spec, ...]] = SIGNALS
    thing: ClassVar[str] = "signal"
    copies: ClassVar[str] = "altered copies of the signals"

    def __init__(
        self,
        population: Batch,
        middle: Tensor,
        criterion: LeakCriterion | None = None,
        distractors: Tensor | None = None,
        read: Tensor | None = None,
    ) -> None:
        super().__init__(population, criterion, distractors, read, shifted)
        self.middle = middle

    @classmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> SignalMeasure:
        """With the range of the domain."""
        return cls(population, _middle(domain), judging.criterion, judging.distractors, judging.read)

    def like(self, domain: Domain, population: Batch) -> SignalMeasure:
        """With the same criterion, without further distractors."""
        return type(self)(population, _middle(domain), self.criterion)

    def recovered(self, domain: Domain, reconstruction: Reconstruction) -> Tensor:
        """Values (B, C, L); what is read in part is scored as a whole, filler included."""
        return domain.decode(reconstruction.inputs.cpu())

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

    def judge(self, batch: Batch, position: int, found: Found, row: int, prior_only: Sequence[Found]) -> SignalScore:
        """The margin over the floors, and re-identification."""
        scores = self.measure(values_of(found)[row], batch.images[position])
        floors = self.all_floors(batch, position, prior_only)
        margin = _margin(scores, floors)
        identification = self.identify(batch, position, found, row)
        beaten = None if margin is None else margin >= self.criterion.psnr_margin
        reason = self.why_not(beaten, identification)
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

    def blind(self, truth: Tensor) -> dict[str, Tensor]:
        """The middle of the range, and the sample's own mean in every channel."""
        return {"middle": self.middle.to(truth).expand_as(truth), "flat": mean_colour(truth, self.read)}

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

    def entry(self, batch: Batch, score: SampleScore, found: Found) -> dict[str, Any]:
        """The curves, the reconstruction over the original, and what re-identification means."""
        truth, guess = batch.images[score.position], values_of(found)[score.reconstruction]
        return {
            **self.told_apart(score.identification),
            "original_png": lines(truth),
            "reconstruction_png": lines(guess, truth),
        }

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
