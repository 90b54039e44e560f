"""Scoring of volumes: that of images in three dimensions, shown as the middle slices of the three axes.

PSNR and MSE are over all voxels. Structural similarity and LPIPS are measures of pictures and are left out.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from leakaudit.client.batch import Batch
from leakaudit.domains.base import Domain
from leakaudit.domains.specs import VOLUMES, Spec
from leakaudit.scoring.base import Judging
from leakaudit.scoring.images import ImageMeasure
from leakaudit.scoring.pictures import png, slices


class VolumeMeasure(ImageMeasure):
    """Scores voxels (B, C, D, H, W) in 0..1."""

    specs: ClassVar[tuple[Spec, ...]] = VOLUMES
    windows: ClassVar[bool] = False
    thing: ClassVar[str] = "volume"
    copies: ClassVar[str] = "augmentations of the volumes"

    @classmethod
    def of(cls, domain: Domain, population: Batch, judging: Judging) -> VolumeMeasure:
        """Without LPIPS, which is of pictures."""
        reason = "volumes have none"
        return cls(population, None, reason, judging.criterion, judging.distractors, judging.read)

    def picture(self, values: Tensor) -> str:
        """The middle slices."""
        return png(slices(values))
