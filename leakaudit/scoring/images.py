"""Scoring: reconstructions against the private samples they belong to, and the floors beside them.

Reconstructions come in any order, so they are matched one-to-one to the samples by mean squared error (Hungarian
method) once, and every metric uses that assignment. All metrics are computed on pixels in 0..1, per image:

* PSNR, peak 1, in dB; undefined at MSE 0.
* SSIM, Gaussian window 11×11 with σ 1.5, valid positions only (Wang et al. 2004); undefined below 11 pixels.
* LPIPS with the SqueezeNet trunk (Zhang et al. 2018), when its weights are there; see `leakaudit.scoring.perceptual`.
* MSE.

A *floor* is what a guess scores that knows nothing of the sample: mid-grey, the mean of other samples, another sample
of the same class, and what the attack's prior alone makes (`leakaudit.audit.controls`); and one that knows a little,
the flat image of the sample's own mean colour, which no constant image beats. A sample has *leaked* when its
reconstruction beats every floor by a margin in PSNR or LPIPS, and re-identifies it (`leakaudit.scoring.reidentify`).
A sample that a floor reproduces exactly (a constant image) never counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from leakaudit.client.batch import Batch
from leakaudit.errors import UsageError
from leakaudit.scoring.reidentify import HALF_LEVEL, Gallery, Identification

if TYPE_CHECKING:
    from leakaudit.scoring.tokens import TokenScore

SSIM_WINDOW = 11
"""Side of the Gaussian window, in pixels (Wang et al. 2004, doi 10.1109/TIP.2003.819861)."""
CONFIDENCE_LEVEL = 0.95
"""Of the interval of the share of samples that leak, by convention."""
FEWEST_FOR_INTERVAL = 5
"""Samples below which no interval is given; chosen: five of five still leave 48 to 100 %."""
Lpips = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class LeakCriterion:
    """When a sample counts as leaked.

    Args:
        psnr_margin: dB above the best floor that are enough; chosen, half the squared error: none of 40 scans of
            mismatched updates passed (`benchmarks/results/false_alarms.md`).
        lpips_margin: LPIPS below the best floor that is enough instead; chosen, not measured.
        distractors: Images that the sample must be told from, at least; chosen: a guess succeeds once in a hundred.
    """

    psnr_margin: float = 3.0
    lpips_margin: float = 0.1
    distractors: int = 100

    def __post_init__(self) -> None:
        for name in ("psnr_margin", "lpips_margin"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}, expected more than 0")
        if self.distractors < 1:
            raise UsageError(f"distractors is {self.distractors}, expected at least 1")


@dataclass(frozen=True)
class Scores:
    """Metrics of one image against one sample; ``None`` with a reason under the metric's name when undefined."""

    psnr: float | None
    ssim: float | None
    lpips: float | None
    mse: float | None
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SampleScore:
    """One private sample: its reconstruction's metrics, the floors, and whether it leaked.

    Args:
        position: Position in the victim batch.
        reconstruction: Position of the matched reconstruction.
        scores: Metrics of that reconstruction.
        floors: Metrics of the guesses ``grey``, ``mean`` and ``other``, as far as the batch file allows.
        margin: PSNR above the best floor in dB; infinite for an exact reconstruction, ``None`` where undefined.
        lpips_margin: LPIPS below the best floor, ``None`` where undefined.
        identification: Whether the sample is the nearest, and among how many.
        leaked: Beats every floor by a margin, and is identified among enough others.
        reason: Why it does not count, or "".
        tokens: Of a text, what was read beside the original; image metrics are undefined then.
    """

    position: int
    reconstruction: int
    scores: Scores
    floors: dict[str, Scores]
    margin: float | None
    lpips_margin: float | None
    identification: Identification
    leaked: bool
    reason: str = ""
    tokens: TokenScore | None = None

    @property
    def strength(self) -> float:
        """How far above its floors: the margin in dB, of a text the skill; minus infinity where undefined."""
        if self.tokens is not None:
            return self.tokens.skill
        return -math.inf if self.margin is None else self.margin


class Scorer:
    """Scores reconstructions of batches drawn from one file.

    Args:
        population: The whole batch file, for floors and re-identification.
        lpips: Function of two pixel images (1, C, H, W) to a distance, or ``None``.
        lpips_reason: Why there is none.
        criterion: When a sample counts as leaked.
        distractors: Further images (M, C, H, W) in 0..1 to tell samples from.
    """

    def __init__(
        self,
        population: Batch,
        lpips: Lpips | None = None,
        lpips_reason: str = "",
        criterion: LeakCriterion | None = None,
        distractors: Tensor | None = None,
    ) -> None:
        self.population, self.lpips, self.lpips_reason = population, lpips, lpips_reason
        self.criterion = criterion or LeakCriterion()
        self.gallery = Gallery(population.images, distractors, self.criterion.distractors)
        self._floors: dict[tuple[int, ...], dict[str, Scores]] = {}

    def score(self, batch: Batch, pixels: Tensor, prior_only: Tensor | None = None) -> list[SampleScore]:
        """Score reconstructions against a drawn batch of B samples.

        Args:
            batch: The victim.
            pixels: (B, C, H, W) in 0..1, on the CPU, in any order.
            prior_only: What the attack made without the update (K, C, H, W): one more floor, the best of the K.
        """
        distance = torch.cdist(batch.images.flatten(1).double(), pixels.flatten(1).double())
        rows, columns = linear_sum_assignment(distance.square().numpy())
        return [
            self._sample(batch, int(i), int(j), pixels[int(j)], prior_only) for i, j in zip(rows, columns, strict=True)
        ]

    def alike(self, one: Batch, other: Batch) -> bool:
        """Whether a sample of one batch is a near-duplicate of one of the other."""
        return any(bool(self.gallery.near_duplicates(truth, other.images).any()) for truth in one.images)

    def measure(self, guess: Tensor, truth: Tensor) -> Scores:
        """All metrics of one image (C, H, W) against another, both in 0..1."""
        reasons: dict[str, str] = {}
        mse = float((guess.double() - truth.double()).square().mean())
        psnr = -10 * math.log10(mse) if mse > 0 else None
        if psnr is None:
            reasons["psnr"] = "identical to the last bit (MSE 0)"
        ssim = _ssim(guess, truth)
        if ssim is None:
            reasons["ssim"] = f"image smaller than the {SSIM_WINDOW}×{SSIM_WINDOW} window"
        lpips = None
        if self.lpips is None:
            reasons["lpips"] = self.lpips_reason
        elif guess.shape[0] not in (1, 3):
            reasons["lpips"] = f"{guess.shape[0]} channels, LPIPS takes 1 or 3"
        else:
            lpips = float(self.lpips(guess[None], truth[None]))
        return Scores(psnr, ssim, lpips, mse, reasons)

    def _sample(
        self, batch: Batch, position: int, reconstruction: int, guess: Tensor, prior_only: Tensor | None
    ) -> SampleScore:
        truth = batch.images[position]
        scores = self.measure(guess, truth)
        floors = dict(self.floors(batch, position))
        if prior_only is not None:
            errors = (prior_only - truth).flatten(1).square().mean(1)
            floors["prior_only"] = self.measure(prior_only[int(errors.argmin())], truth)
        margin, lpips_margin = _margin(scores, floors), _lpips_margin(scores, floors)
        identification = self.gallery.identify(guess, truth)
        reason = self._why_not(margin, lpips_margin, identification)
        return SampleScore(
            position, reconstruction, scores, floors, margin, lpips_margin, identification, not reason, reason
        )

    def _why_not(self, margin: float | None, lpips_margin: float | None, found: Identification) -> str:
        """Why a sample does not count as leaked, or ""."""
        limits = self.criterion
        if margin is None:
            return "a floor reproduces the sample exactly, so no reconstruction of it shows anything"
        if margin < limits.psnr_margin and (lpips_margin is None or lpips_margin < limits.lpips_margin):
            return "does not beat every floor by the margin"
        if found.distractors < limits.distractors:
            return f"only {found.distractors} other images to tell it from, {limits.distractors} are needed"
        return "" if found.identified else "another image is nearer to the reconstruction"

    def floors(self, batch: Batch, position: int) -> dict[str, Scores]:
        """Metrics of the guesses that know nothing of this sample; those outside the batch only."""
        key = (batch.indices[position], *sorted(batch.indices))
        if key not in self._floors:
            self._floors[key] = self._compute_floors(batch, position)
        return self._floors[key]

    def _compute_floors(self, batch: Batch, position: int) -> dict[str, Scores]:
        truth, label = batch.images[position], int(batch.labels[position])
        colour = truth.mean((-2, -1), keepdim=True).expand_as(truth)
        floors = {
            "grey": self.measure(torch.full_like(truth, 0.5), truth),
            "flat": self.measure(colour, truth),
        }
        alike = self.gallery.near_duplicates(truth, self.population.images).tolist()
        within = set(batch.indices)
        outside = [i for i in range(len(self.population)) if i not in within and not alike[i]]
        if outside:
            floors["mean"] = self.measure(self.population.images[outside].mean(0), truth)
        same = [i for i in outside if int(self.population.labels[i]) == label]
        if same:
            floors["other"] = self.measure(self.population.images[same[0]], truth)
        return floors


def _ssim(guess: Tensor, truth: Tensor) -> float | None:
    if min(guess.shape[-2:]) < SSIM_WINDOW:
        return None
    _, full = structural_similarity_index_measure(
        guess[None].double(), truth[None].double(), sigma=1.5, data_range=1.0, return_full_image=True
    )
    edge = SSIM_WINDOW // 2  # torchmetrics pads by reflection; only windows inside the image count here
    return float(full[..., edge:-edge, edge:-edge].mean())


def _margin(scores: Scores, floors: dict[str, Scores]) -> float | None:
    known = [floor.psnr for floor in floors.values() if floor.psnr is not None]
    if any(floor.mse is not None and floor.mse <= HALF_LEVEL**2 for floor in floors.values()):
        return None
    return math.inf if scores.psnr is None else scores.psnr - max(known)


def _lpips_margin(scores: Scores, floors: dict[str, Scores]) -> float | None:
    known = [floor.lpips for floor in floors.values() if floor.lpips is not None]
    return None if scores.lpips is None or not known else min(known) - scores.lpips


def leak_interval(leaked: int, attacked: int, fewest: int = FEWEST_FOR_INTERVAL) -> tuple[float, float] | None:
    """The Clopper–Pearson interval of the share of samples that leak; ``None`` below `fewest` samples.

    Exact and two-sided at 95 per cent: the shares p under which k or more, and k or fewer, of n samples leak with a
    probability of at least 2.5 per cent each.
    """
    if attacked < fewest:
        return None
    found = binomtest(leaked, attacked).proportion_ci(CONFIDENCE_LEVEL, method="exact")
    return float(found.low), float(found.high)
