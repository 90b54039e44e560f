"""Volumes: (C, D, H, W), voxels in 0..1, normalised per channel; images with one more axis in which they are smooth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from leakaudit.domains.images import Images, total_variation
from leakaudit.domains.references import VOLUME_REFERENCES, Reference


@dataclass(frozen=True)
class Volumes(Images):
    """The space of volumes; as `leakaudit.domains.images.Images`, with the shape ``(C, D, H, W)``."""

    kind: ClassVar[str] = "volumes"
    takes: ClassVar[str] = "volumes of voxels"
    measure: ClassVar[str] = "leakaudit.scoring.volumes:VolumeMeasure"
    reader: ClassVar[str] = "leakaudit.client.readers.images:ImageReader"
    card: ClassVar[str] = "leakaudit.report.domains.volumes:VolumeCard"

    def roughness(self, inputs: Tensor) -> Tensor:
        """Total variation along three axes, each by itself."""
        return total_variation(inputs, (-1, -2, -3))

    @property
    def references(self) -> Sequence[Reference]:
        """Networks over volumes, see `leakaudit.domains.references`."""
        return VOLUME_REFERENCES
