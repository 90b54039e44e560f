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

import torch
from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.domains.specs import IMAGES, Spec
from leakaudit.reconstruction import Reconstruction
from leakaudit.scoring.base import Judging, SampleScore, finite
from leakaudit.scoring.criterion import LeakCriterion
from leakaudit.scoring.parts import (
    LEAST_SHARE,
    Part,
    PartlyRead,
    claimed_of,
    mean_colour,
    values_of,
)  # fmt: skip
from leakaudit.scoring.perceptual import HUB_FILE, INSTALL, PerceptualDistance, find_weights, installed
from leakaudit.scoring.pictures import png
from leakaudit.scoring.reidentify import HALF_LEVEL
from leakaudit.scoring.ssim import SSIM_WINDOW, ssim
from leakaudit.scoring.values import Found, ValueMeasure, ValueScore

RECOGNISABLE_SSIM = 0.8
"""SSIM from which a reconstruction counts as recognisable; chosen, not measured."""
RECOGNISABLE_PSNR = 25.0
"""PSNR in dB from which a reconstruction counts as recognisable; chosen, not measured."""
Lpips = Callable[[Tensor, Tensor], Tensor]


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
class ImageScore(ValueScore[Scores]):
    """One private image: its reconstruction's metrics and the floors.

    Args:
        scores: As of `leakaudit.scoring.values.ValueScore`, as are the following; the margin is one of PSNR.
        floors: Metrics of the guesses ``grey``, ``flat``, ``mean``, ``other`` and ``prior_only``, as far as there are.
        margin: PSNR above the best floor in dB.
        lpips_margin: LPIPS below the best floor, ``None`` where undefined.
    """

    lpips_margin: float | None

    @property
    def closeness(self) -> float:
        """PSNR in dB."""
        return math.inf if self.scores.psnr is None else self.scores.psnr


class ImageMeasure(ValueMeasure[Scores]):
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
    thing: ClassVar[str] = "image"
    copies: ClassVar[str] = "augmentations of the images"

    def __init__(
        self,
        population: Batch,
        lpips: Lpips | None = None,
        lpips_reason: str = "",
        criterion: LeakCriterion | None = None,
        distractors: Tensor | None = None,
        read: Tensor | None = None,
    ) -> None:
        super().__init__(population, criterion, distractors, read)
        self.distractors = distractors
        self._parts: dict[bytes, ImageMeasure] = {}
        self.lpips, self.lpips_reason = lpips, lpips_reason

    @classmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> ImageMeasure:
        """With LPIPS where its weights are."""
        path = judging.lpips_weights or (find_weights() if installed() else None)
        lpips = None if path is None else PerceptualDistance(path)
        reason = "" if path is not None else f"no {HUB_FILE} in torch's hub cache, and no --lpips-weights"
        reason = reason if installed() else f"the package lpips is not installed ({INSTALL})"
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
        scores = self.measure(values_of(found)[row], batch.images[position])
        floors = self.all_floors(batch, position, prior_only)
        margin, lpips_margin = _margin(scores, floors), _lpips_margin(scores, floors)
        identification = self.identify(batch, position, found, row)
        reason = self.why_not(self._beaten(margin, lpips_margin), identification)
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

    def _beaten(self, margin: float | None, lpips_margin: float | None) -> bool | None:
        """Whether every floor is beaten in PSNR or in LPIPS; ``None`` where one is the sample itself."""
        limits = self.criterion
        if margin is None:
            return None
        return margin >= limits.psnr_margin or (lpips_margin is not None and lpips_margin >= limits.lpips_margin)

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
        return {
            **score.scores.entry(),
            "floors": {name: floor.entry() for name, floor in score.floors.items()},
            "margin": finite(score.margin),
            "margin_reason": score.margin_reason,
            "lpips_margin": score.lpips_margin,
            **self.told_apart(score.identification),
            "part": asdict(score.part) if score.part is not None and score.leaked else None,
            "original_png": self.picture(batch.images[score.position]),
            "reconstruction_png": self.picture(values_of(found)[score.reconstruction]),
        }

    def picture(self, values: Tensor) -> str:
        """The image."""
        return png(values)

    def blind(self, truth: Tensor) -> dict[str, Tensor]:
        """Mid-grey, and the sample's own mean colour."""
        return {"grey": torch.full_like(truth, 0.5), "flat": mean_colour(truth, self.read)}


def _margin(scores: Scores, floors: Mapping[str, Scores]) -> float | None:
    known = [floor.psnr for floor in floors.values() if floor.psnr is not None]
    if any(floor.mse is not None and floor.mse <= HALF_LEVEL**2 for floor in floors.values()):
        return None
    return math.inf if scores.psnr is None else scores.psnr - max(known)


def _lpips_margin(scores: Scores, floors: dict[str, Scores]) -> float | None:
    known = [floor.lpips for floor in floors.values() if floor.lpips is not None]
    return None if scores.lpips is None or not known else min(known) - scores.lpips
