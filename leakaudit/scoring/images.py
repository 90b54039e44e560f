"""Scoring: reconstructions against the private samples they belong to, and the floors beside them.

Reconstructions are matched to the samples by mean squared error. All metrics are computed on pixels in 0..1, per image:

* PSNR, peak 1, in dB; undefined at MSE 0.
* SSIM, Gaussian window 11×11 with σ 1.5, valid positions only (Wang et al. 2004); undefined below 11 pixels.
* LPIPS with the SqueezeNet trunk (Zhang et al. 2018), when its weights are there; see `leakaudit.scoring.perceptual`.
* MSE.

A *floor* is what a guess scores that knows nothing of the sample: mid-grey, the mean of other samples, another sample
of the same class, and what the attack's prior alone makes (`leakaudit.audit.controls`); and one that knows a little,
the flat image of the sample's own mean colour, which no constant image beats. A sample has *leaked* when its
reconstruction beats every floor by a margin in PSNR or LPIPS, and re-identifies it (`leakaudit.scoring.reidentify`).
A sample that a floor reproduces exactly (a constant image) never counts. Pixels that the model never reads are left
out of everything; where an attack claims a part of the others, a sample leaks in that part (`leakaudit.scoring.parts`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.domains.specs import IMAGES, Spec
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import Judging, Measure, SampleScore, finite, squared_distances
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.scoring.parts import (
    LEAST_SHARE,
    Part,
    PartlyRead,
    claimed,
    claimed_of,
    mean_colour,
    values_of,
    within,
)  # fmt: skip
from leakaudit.scoring.perceptual import HUB_FILE, PerceptualDistance, find_weights
from leakaudit.scoring.pictures import png
from leakaudit.scoring.reidentify import HALF_LEVEL, Gallery, Identification
from leakaudit.scoring.ssim import SSIM_WINDOW, ssim

RECOGNISABLE_SSIM = 0.8
"""SSIM from which a reconstruction counts as recognisable; chosen, not measured."""
RECOGNISABLE_PSNR = 25.0
"""PSNR in dB from which a reconstruction counts as recognisable; chosen, not measured."""
Lpips = Callable[[Tensor, Tensor], Tensor]
Found = Tensor | PartlyRead
"""Reconstructions, (B, C, H, W) in 0..1, and what of them is claimed."""


@dataclass(frozen=True)
class Scores:
    """Metrics of one image against one sample; ``None`` with a reason under the metric's name when undefined."""

    psnr: float | None
    ssim: float | None
    lpips: float | None
    mse: float | None
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, float | None]:
        """By name."""
        return {"psnr": self.psnr, "ssim": self.ssim, "lpips": self.lpips, "mse": self.mse}

    def entry(self) -> dict[str, Any]:
        """Values and reasons, as the document names them."""
        return {**self.values, **{f"{name}_reason": self.reasons.get(name, "") for name in self.values}}


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageScore(SampleScore):
    """One private image: its reconstruction's metrics and the floors.

    Args:
        scores: Metrics of the reconstruction.
        floors: Metrics of the guesses ``grey``, ``flat``, ``mean``, ``other`` and ``prior_only``, as far as there are.
        margin: PSNR above the best floor in dB; infinite for an exact reconstruction, ``None`` where undefined.
        lpips_margin: LPIPS below the best floor, ``None`` where undefined.
    """

    scores: Scores
    floors: Mapping[str, Scores]
    margin: float | None
    lpips_margin: float | None

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """PSNR, SSIM, LPIPS, MSE, and the margin."""
        return {**self.scores.values, "margin": finite(self.margin)}

    @property
    def floor_metrics(self) -> Mapping[str, Mapping[str, float | None]]:
        """The same without a margin."""
        return {name: floor.values for name, floor in self.floors.items()}

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why a metric is undefined."""
        return {**self.scores.reasons, **({"margin": self.margin_reason} if self.margin_reason else {})}

    @property
    def margin_reason(self) -> str:
        """Why there is no finite margin, or ""."""
        if self.margin is None:
            return "a floor reproduces the sample exactly"
        return "" if math.isfinite(self.margin) else "exact reconstruction"

    @property
    def strength(self) -> float:
        """The margin in dB."""
        return -math.inf if self.margin is None else self.margin

    @property
    def closeness(self) -> float:
        """PSNR in dB."""
        return math.inf if self.scores.psnr is None else self.scores.psnr


class ImageMeasure(Measure[Found]):
    """Scores pixels (B, C, H, W) in 0..1.

    Args:
        population: The whole batch file, for floors and re-identification.
        lpips: Function of two pixel images (1, C, H, W) to a distance, or ``None``.
        lpips_reason: Why there is none.
        criterion: When a sample counts as leaked.
        distractors: Further images (M, C, H, W) in 0..1 to tell samples from.
        read: Entries (C, H, W) that the model reads, the only ones that count; ``None`` for all.
    """

    specs: ClassVar[tuple[Spec, ...]] = IMAGES
    windows: ClassVar[bool] = True
    """Whether samples have the windows of a picture, as SSIM and LPIPS need."""
    wanted: ClassVar[int] = 100

    def __init__(
        self,
        population: Batch,
        lpips: Lpips | None = None,
        lpips_reason: str = "",
        criterion: LeakCriterion | None = None,
        distractors: Tensor | None = None,
        read: Tensor | None = None,
    ) -> None:
        super().__init__(population)
        self.read = None if read is None or bool(read.all()) else read
        self.distractors = distractors
        self._parts: dict[bytes, ImageMeasure] = {}
        self.lpips, self.lpips_reason = lpips, lpips_reason
        self.criterion = criterion or LeakCriterion()
        self.gallery = Gallery(population.images, distractors, self.criterion.distractors, self.read)
        self._floors: dict[tuple[int, ...], dict[str, Scores]] = {}

    @classmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> ImageMeasure:
        """With LPIPS where its weights are."""
        path = judging.lpips_weights or find_weights()
        lpips = None if path is None else PerceptualDistance(path)
        reason = "" if path is not None else f"no {HUB_FILE} in torch's hub cache, and no --lpips-weights"
        return cls(population, lpips, reason, judging.criterion, judging.distractors, judging.read)

    def like(self, domain: Domain, population: Batch) -> ImageMeasure:
        """With the same criterion, without LPIPS and further distractors."""
        return type(self)(population, None, self.lpips_reason, self.criterion)

    def part(self, read: Tensor) -> ImageMeasure:
        """The measure of a part of the samples: entries (C, H, W), of which those that the model reads count."""
        counted = read if self.read is None else read & self.read
        key = counted.numpy().tobytes()
        if key not in self._parts:
            reason = "a part of an image has none"
            self._parts[key] = type(self)(self.population, None, reason, self.criterion, self.distractors, counted)
        return self._parts[key]

    def recovered(self, domain: Domain, reconstruction: Reconstruction) -> Found:
        """Pixels (B, C, H, W), and which are claimed where these are not all."""
        values = domain.decode(reconstruction.inputs.cpu())
        return values if reconstruction.read is None else PartlyRead(values, reconstruction.read.cpu())

    def usable(self, found: Found) -> bool:
        """Whether all pixels are finite."""
        return bool(torch.isfinite(values_of(found)).all())

    def distance(self, batch: Batch, found: Found) -> np.ndarray[Any, Any]:
        """Squared distances of what counts and is claimed, in proportion to the mean squared error."""
        read, part = self.read, claimed(found)
        if part is not None:
            read = part if read is None else part & read
        samples = replace(batch, images=within(batch.images, read))
        return squared_distances(samples, within(values_of(found), read))

    @property
    def decoys(self) -> int:
        """Augmentations of the images at hand."""
        return len(self.gallery.augmented)

    def alike(self, one: Batch, other: Batch) -> bool:
        """Whether a sample of one batch is a near-duplicate of one of the other."""
        return any(bool(self.gallery.near_duplicates(truth, other.images).any()) for truth in one.images)

    def measure(self, guess: Tensor, truth: Tensor) -> Scores:
        """All metrics of one image (C, H, W) against another, both in 0..1."""
        reasons: dict[str, str] = {}
        difference = guess.double() - truth.double()
        mse = float((difference if self.read is None else difference[self.read]).square().mean())
        psnr = -10 * math.log10(mse) if mse > 0 else None
        if psnr is None:
            reasons["psnr"] = "identical to the last bit (MSE 0)"
        similarity = ssim(guess, truth, self.read) if self.windows else None
        if not self.windows:
            reasons |= {"ssim": self.lpips_reason, "lpips": self.lpips_reason}
            return Scores(psnr, None, None, mse, reasons)
        if similarity is None:
            reasons["ssim"] = f"image smaller than the {SSIM_WINDOW}×{SSIM_WINDOW} window"
        lpips = None
        if self.lpips is None:
            reasons["lpips"] = self.lpips_reason
        elif guess.shape[0] not in (1, 3):
            reasons["lpips"] = f"{guess.shape[0]} channels, LPIPS takes 1 or 3"
        else:
            shown = guess if self.read is None else torch.where(self.read, guess, truth)
            lpips = float(self.lpips(shown[None], truth[None]))
        return Scores(psnr, similarity, lpips, mse, reasons)

    def judge(self, batch: Batch, position: int, found: Found, row: int, prior_only: Sequence[Found]) -> ImageScore:
        """Margins over the floors, and re-identification; of a sample that is claimed in part, first of the part."""
        whole = self._judge(batch, position, found, row, prior_only)
        read = claimed_of(found, row)
        if read is None:
            return whole
        measure = self.part(read)
        assert measure.read is not None
        entries, of = int(measure.read.sum()), read.numel() if self.read is None else int(self.read.sum())
        if entries < LEAST_SHARE * of:
            return whole
        part = measure._judge(batch, position, values_of(found), row, prior_only)
        if not part.leaked:
            return whole
        return replace(
            whole,
            identification=part.identification,
            leaked=True,
            reason="",
            part=Part(entries, of, part.scores.psnr),
        )

    def _judge(self, batch: Batch, position: int, found: Found, row: int, prior_only: Sequence[Found]) -> ImageScore:
        truth, guess = batch.images[position], values_of(found)[row]
        scores = self.measure(guess, truth)
        floors = dict(self.floors(batch, position))
        if prior_only:
            alone = torch.cat([values_of(made) for made in prior_only])
            errors = within(alone - truth, self.read).flatten(1).square().mean(1)
            floors["prior_only"] = self.measure(alone[int(errors.argmin())], truth)
        margin, lpips_margin = _margin(scores, floors), _lpips_margin(scores, floors)
        identification = self.identify(batch, position, found, row)
        reason = self._why_not(margin, lpips_margin, identification)
        return ImageScore(
            position=position,
            reconstruction=row,
            scores=scores,
            floors=floors,
            margin=margin,
            lpips_margin=lpips_margin,
            identification=identification,
            leaked=not reason,
            reason=reason,
        )

    def identify(self, batch: Batch, position: int, found: Found, row: int) -> Identification:
        """By mean squared error, among the gallery."""
        return self.gallery.identify(values_of(found)[row], batch.images[position])

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

    def claim(self, score: SampleScore) -> str:
        """Of a part that leaked."""
        return "" if score.part is None or not score.leaked else "a part of {hit} of {total} samples was read"

    def recognisable(self, score: SampleScore) -> bool:
        """SSIM or PSNR above what people recognise."""
        return (score.metrics["ssim"] or 0.0) >= RECOGNISABLE_SSIM or score.closeness >= RECOGNISABLE_PSNR

    def told(self, score: SampleScore) -> str:
        """PSNR and margin."""
        if score.part is not None and score.leaked:
            return score.part.told
        psnr, margin = score.metrics["psnr"], score.metrics["margin"]
        if psnr is None:
            return "exact"
        return f"{psnr:.1f} dB PSNR" + ("" if margin is None else f", {margin:.1f} dB above its best floor")

    def told_control(self, score: SampleScore) -> str:
        """PSNR, above or below the floors."""
        psnr, margin = score.metrics["psnr"], score.metrics["margin"]
        if psnr is None:
            return "exact to the last bit"
        if margin is None:
            return f"{psnr:.1f} dB"
        return f"{psnr:.1f} dB, {abs(margin):.1f} dB {'above' if margin >= 0 else 'below'} its best floor"

    def summary(self, scores: Sequence[SampleScore]) -> str:
        """The best PSNR."""
        best = [psnr for score in scores if (psnr := score.metrics["psnr"]) is not None]
        return f"best {max(best):.1f} dB" if best else "exact"

    def entry(self, batch: Batch, score: SampleScore, found: Found) -> dict[str, Any]:
        """Metrics and floors under their names of schema version 1, and the pictures."""
        assert isinstance(score, ImageScore)
        seen = score.identification
        return {
            **score.scores.entry(),
            "floors": {name: floor.entry() for name, floor in score.floors.items()},
            "margin": finite(score.margin),
            "margin_reason": score.margin_reason,
            "lpips_margin": score.lpips_margin,
            "reidentified_reason": _identified_reason(seen),
            "augmented": seen.augmented,
            "near_duplicates": seen.near_duplicates,
            "part": asdict(score.part) if score.part is not None and score.leaked else None,
            "original_png": self.picture(batch.images[score.position]),
            "reconstruction_png": self.picture(values_of(found)[score.reconstruction]),
        }

    def unscored_entry(self, found: Found, row: int) -> dict[str, Any]:
        """The picture."""
        return {"reconstruction_png": self.picture(values_of(found)[row])}

    def picture(self, values: Tensor) -> str:
        """The image."""
        return png(values)

    def floors(self, batch: Batch, position: int) -> dict[str, Scores]:
        """Metrics of the guesses that know nothing of this sample; those outside the batch only."""
        key = (batch.indices[position], *sorted(batch.indices))
        if key not in self._floors:
            self._floors[key] = self._compute_floors(batch, position)
        return self._floors[key]

    def _compute_floors(self, batch: Batch, position: int) -> dict[str, Scores]:
        truth, label = batch.images[position], int(batch.classes[position])
        colour = mean_colour(truth, self.read)
        floors = {
            "grey": self.measure(torch.full_like(truth, 0.5), truth),
            "flat": self.measure(colour, truth),
        }
        alike = self.gallery.near_duplicates(truth, self.population.images).tolist()
        within = set(batch.indices)
        outside = [i for i in range(len(self.population)) if i not in within and not alike[i]]
        if outside:
            floors["mean"] = self.measure(self.population.images[outside].mean(0), truth)
        same = [i for i in outside if int(self.population.classes[i]) == label]
        if same:
            floors["other"] = self.measure(self.population.images[same[0]], truth)
        return floors


def _margin(scores: Scores, floors: dict[str, Scores]) -> float | None:
    known = [floor.psnr for floor in floors.values() if floor.psnr is not None]
    if any(floor.mse is not None and floor.mse <= HALF_LEVEL**2 for floor in floors.values()):
        return None
    return math.inf if scores.psnr is None else scores.psnr - max(known)


def _lpips_margin(scores: Scores, floors: dict[str, Scores]) -> float | None:
    known = [floor.lpips for floor in floors.values() if floor.lpips is not None]
    return None if scores.lpips is None or not known else min(known) - scores.lpips


def _identified_reason(found: Identification) -> str:
    """What re-identification means for this sample."""
    if found.identified is None:
        return "there is no other image to confuse it with"
    parts = [f"up to {found.near_duplicates} near-duplicate(s) in the batch file"] if found.near_duplicates else []
    parts += [f"{found.augmented} of the others are augmentations of the images at hand"] if found.augmented else []
    return "; ".join(parts)
