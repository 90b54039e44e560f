"""What the metrics of each domain are called, and how their numbers are to be read: data for reports, tables and goals.

Imports nothing heavy: a report is rendered from its document alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Style = Literal["fixed", "signed", "significant", "percent"]


@dataclass(frozen=True)
class Spec:
    """One metric.

    Args:
        name: In the document, in CSV and in goals.
        title: For people.
        unit: As ``dB``, or "".
        digits: Decimals, or significant digits where the style is ``significant``; chosen for reading.
        higher_is_better: Whether larger values mean a closer reconstruction.
        style: How a number is written; ``percent`` takes a fraction.
        remark: What stands beside it, as "above the best floor".
        floored: Whether floors have it too.
        beside: Whether the best floor stands beside it in the table of scores.
        lead: Whether it is among the few that controls and comparisons show.
        undefined: What a sample without a value counts as, where a goal asks for it.
    """

    name: str
    title: str
    unit: str = ""
    digits: int = 3
    higher_is_better: bool = True
    style: Style = "fixed"
    remark: str = ""
    floored: bool = True
    beside: bool = False
    lead: bool = False
    undefined: float = math.inf

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".strip()


IMAGES = (
    Spec("psnr", "PSNR", "dB", 1, beside=True, lead=True),
    Spec("margin", "Margin", "dB", 1, style="signed", remark="above the best floor", floored=False, lead=True),
    Spec("ssim", "SSIM", "", 3, beside=True, undefined=1.0),
    Spec("lpips", "LPIPS", "", 3, higher_is_better=False, undefined=0.0),
    Spec("mse", "MSE", "", 3, higher_is_better=False, style="significant", undefined=0.0),
)
"""Metrics of images; the digits are chosen for reading, and what is undefined counts as exact."""
VOLUMES = tuple(spec for spec in IMAGES if spec.name in ("psnr", "margin", "mse"))
"""Metrics of volumes, those of images that have no windows of their own; by definition."""
SIGNALS = (
    Spec("snr", "SNR", "dB", 1, beside=True, lead=True),
    Spec("margin", "Margin", "dB", 1, style="signed", remark="above the best floor", floored=False, lead=True),
    Spec("correlation", "Correlation", "", 3, beside=True, lead=True, undefined=1.0),
    Spec("error", "Error / deviation", "", 3, higher_is_better=False, style="significant", undefined=0.0),
)
"""Metrics of signals; the digits are chosen for reading, and what is undefined counts as exact."""
TOKENS = (
    Spec("accuracy", "Places right", "", 0, style="percent", beside=True, lead=True, undefined=0.0),
    Spec("recall", "Tokens named", "", 0, style="percent", beside=True, lead=True, undefined=0.0),
    Spec("precision", "Named and right", "", 0, style="percent", lead=True, undefined=0.0),
    Spec("skill", "Skill", "", 2, remark="of the way from the best floor", floored=False, lead=True, undefined=0.0),
)
"""Metrics of texts; the digits are chosen for reading, and what is undefined counts as not read."""
TABLE = (
    Spec("cell_accuracy", "Cells right", "", 0, style="percent", beside=True, lead=True, undefined=0.0),
    Spec("row_exact", "Whole row right", "", 0, style="percent", beside=True, lead=True, undefined=0.0),
    Spec("number_error", "Error of numbers", "σ", 2, higher_is_better=False, beside=True),
    Spec("skill", "Skill", "", 2, remark="of the way from the best floor", floored=False, lead=True, undefined=0.0),
)
"""Metrics of rows; the digits are chosen for reading, and what is undefined counts as not read."""
TABLE_FLOORS: Mapping[str, str] = {
    "uniform": "rows drawn from the schema",
    "modes": "the commonest cells of the other rows",
    "marginals": "cells drawn from the other rows' columns",
    "rows": "other real rows, matched one to one",
    "prior_only": "the attack without the update",
}
"""What the floors of rows are, in words."""

ALL: Mapping[str, Spec] = {spec.name: spec for spec in (*IMAGES, *SIGNALS, *TOKENS, *TABLE)}
"""The metrics of all domains of this package by name; what several have in common is the same."""
