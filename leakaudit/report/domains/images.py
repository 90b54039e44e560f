"""What the report shows of images: pictures, and PSNR against its floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from leakaudit.document.schema import DefenceTrial, SampleResult
from leakaudit.domains.specs import IMAGES, Spec
from leakaudit.report.domains.base import Card
from leakaudit.report.views.cells import Fact
from leakaudit.report.views.figures import Figure, psnr_chart
from leakaudit.report.views.scale import grade, scale_chart
from leakaudit.report.wording import MISSING, clip, fixed, signed

FLOORS = {
    "grey": "mid-grey image",
    "mean": "mean of other samples",
    "other": "another sample of the class",
    "flat": "flat image of its own mean colour",
    **Card.floor_titles,
}
EXACT_DB = 100.0
"""Where an exact reconstruction is drawn; chosen."""


class ImageCard(Card):
    """Images: pictures beside pictures."""

    input_term: ClassVar[str] = "Input (C × H × W)"
    own: ClassVar[Sequence[Spec]] = IMAGES
    floor_titles: ClassVar[Mapping[str, str]] = FLOORS
    intro: ClassVar[str] = (
        "Left the private original, right what the attack rebuilt. The numbers compare the two; a “best floor” is what "
        "an image made without the update scores."
    )
    scores_intro: ClassVar[str] = (
        "PSNR, SSIM: higher is closer. LPIPS, MSE: lower is closer. The margin is PSNR above the best floor."
    )
    mosaics: ClassVar[bool] = True
    trial_heading: ClassVar[str] = "Best reconstruction, dB"
    trial_axis: ClassVar[str] = "best reconstruction, dB PSNR (lower is better)"

    def metrics(self, sample: SampleResult) -> Mapping[str, float | None]:
        """Those that version 1 of the schema has."""
        return {spec.name: getattr(sample, spec.name) for spec in IMAGES}

    def floors(self, sample: SampleResult) -> Mapping[str, Mapping[str, float | None]]:
        """The same."""
        names = [spec.name for spec in IMAGES if spec.floored]
        return {name: {key: getattr(floor, key) for key in names} for name, floor in sample.floors.items()}

    def reason(self, sample: SampleResult, name: str) -> str:
        """The reason beside the name."""
        return str(getattr(sample, f"{name}_reason", ""))

    def closeness(self, sample: SampleResult) -> float:
        """The margin, else PSNR."""
        if sample.psnr is None:
            return float("inf") if sample.leaked else float("-inf")
        return sample.psnr if sample.margin is None else sample.margin

    def described(self, sample: SampleResult) -> str:
        """PSNR, or why there is none."""
        return "PSNR " + (
            f"{fixed(sample.psnr, 1)} dB" if sample.psnr is not None else sample.psnr_reason or "undefined"
        )

    def nearness(self, sample: SampleResult) -> str:
        """Decibels and what they look like."""
        if sample.psnr is None:
            return "identical" if sample.leaked and sample.scored else clip(sample.told, 60)
        return f"{fixed(sample.psnr, 1)} dB: {grade(sample.psnr)}"

    def tile(self) -> Fact:
        """The best margin."""
        best = max((s.margin for s in self.evidence() if s.margin is not None), default=None)
        return Fact("Best margin", MISSING if best is None else f"{signed(best, 1)} dB", "PSNR above the best floor")

    def chart(self) -> Figure | None:
        """PSNR beside its floors."""
        return psnr_chart(self.report.attacks, self.floor_titles)

    def scale(self) -> Figure | None:
        """Decibels in words, of what an attacker could run; an exact reconstruction stands at :data:`EXACT_DB`."""
        return scale_chart(
            [s.model_copy(update={"psnr": EXACT_DB}) if s.psnr is None and s.mse == 0 else s for s in self.evidence()]
        )

    def trial(self, trial: DefenceTrial) -> str:
        """PSNR; nothing to say where nothing was attacked."""
        if trial.psnr is not None:
            return fixed(trial.psnr, 1)
        return "exact" if trial.attacked else MISSING

    def trial_level(self, trial: DefenceTrial) -> float | None:
        """PSNR, with a place for exact ones."""
        return (EXACT_DB if trial.attacked else None) if trial.psnr is None else trial.psnr
