"""Scoring: reconstructions against the private samples they belong to, and the floors beside them.

Reconstructions come in any order, so they are matched one-to-one to the samples by mean squared error (Hungarian
method) once, and every metric uses that assignment. All metrics are computed on pixels in 0..1, per image:

* PSNR, peak 1, in dB; undefined at MSE 0.
* SSIM, Gaussian window 11×11 with σ 1.5, valid positions only (Wang et al. 2004); undefined below 11 pixels.
* LPIPS with the SqueezeNet trunk (Zhang et al. 2018), when its weights are there; see `leakaudit.perceptual`.
* MSE.

A *floor* is what a guess scores that knows nothing of the sample: mid-grey, the mean of other samples, another sample
of the same class. A reconstruction that does not beat its floors shows nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from leakaudit.batch import Batch

SSIM_WINDOW = 11
LEAK_MARGIN_DB = 3.0
Lpips = Callable[[Tensor, Tensor], Tensor]


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
        margin: PSNR above the best floor in dB; infinite for an exact reconstruction, ``None`` without a floor.
        reidentified: Whether the true sample is the nearest of all samples in the file; ``None`` with one sample.
        rank_among: Number of samples in that comparison.
        leaked: Beats every floor by the margin and is not mistaken for another sample.
    """

    position: int
    reconstruction: int
    scores: Scores
    floors: dict[str, Scores]
    margin: float | None
    reidentified: bool | None
    rank_among: int
    leaked: bool


class Scorer:
    """Scores reconstructions of batches drawn from one file.

    Args:
        population: The whole batch file, for floors and re-identification.
        lpips: Function of two pixel images (1, C, H, W) to a distance, or ``None``.
        lpips_reason: Why there is none.
    """

    def __init__(self, population: Batch, lpips: Lpips | None = None, lpips_reason: str = "") -> None:
        self.population, self.lpips, self.lpips_reason = population, lpips, lpips_reason
        self._floors: dict[int, dict[str, Scores]] = {}

    def score(self, batch: Batch, pixels: Tensor) -> list[SampleScore]:
        """Score reconstructions (B, C, H, W), in 0..1 and on the CPU, against a drawn batch of B samples."""
        distance = torch.cdist(batch.images.flatten(1).double(), pixels.flatten(1).double())
        rows, columns = linear_sum_assignment(distance.square().numpy())
        return [self._sample(batch, int(i), int(j), pixels[int(j)]) for i, j in zip(rows, columns, strict=True)]

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

    def _sample(self, batch: Batch, position: int, reconstruction: int, guess: Tensor) -> SampleScore:
        truth = batch.images[position]
        scores = self.measure(guess, truth)
        floors = self.floors(batch, position)
        margin = _margin(scores, floors)
        reidentified = self._reidentify(guess, batch.indices[position])
        leaked = margin is not None and margin >= LEAK_MARGIN_DB and reidentified is not False
        return SampleScore(position, reconstruction, scores, floors, margin, reidentified, len(self.population), leaked)

    def _reidentify(self, guess: Tensor, index: int) -> bool | None:
        if len(self.population) < 2:
            return None
        distances = (self.population.images - guess).flatten(1).double().square().sum(1)
        true = self.population.images[index]
        same = (self.population.images - true).flatten(1).abs().amax(1) == 0
        return bool(distances[same].min() <= distances.min())

    def floors(self, batch: Batch, position: int) -> dict[str, Scores]:
        """Metrics of the guesses that know nothing of this sample; those outside the batch only."""
        index = batch.indices[position]
        if index not in self._floors:
            self._floors[index] = self._compute_floors(batch, position)
        return self._floors[index]

    def _compute_floors(self, batch: Batch, position: int) -> dict[str, Scores]:
        truth, label = batch.images[position], int(batch.labels[position])
        floors = {"grey": self.measure(torch.full_like(truth, 0.5), truth)}
        outside = [i for i in range(len(self.population)) if i not in set(batch.indices)]
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
    best = [floor.psnr for floor in floors.values() if floor.psnr is not None]
    if not best:
        return None
    return math.inf if scores.psnr is None else scores.psnr - max(best)
