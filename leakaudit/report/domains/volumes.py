"""What the report shows of volumes: the middle slices of the three axes, and PSNR against its floors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from leakaudit.domains.specs import VOLUMES, Spec
from leakaudit.report.domains.images import ImageCard


class VolumeCard(ImageCard):
    """Volumes: slices beside slices."""

    wide: ClassVar[bool] = True
    mosaics: ClassVar[bool] = False
    input_term: ClassVar[str] = "Input (C × D × H × W)"
    own: ClassVar[Sequence[Spec]] = VOLUMES
    intro: ClassVar[str] = (
        "Left the private original, right what the attack rebuilt, each as the middle slices of its three axes. The "
        "numbers compare all voxels; a “best floor” is what a volume made without the update scores."
    )
    scores_intro: ClassVar[str] = (
        "PSNR: higher is closer. MSE: lower is closer. The margin is PSNR above the best floor."
    )
