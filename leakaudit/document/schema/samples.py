"""Of the report: one private sample beside its reconstruction, by the metrics of its domain."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from leakaudit.document.disclosure import Picture, Private, Public
from leakaudit.document.schema.section import Section


class MetricEntry(Section):
    """One metric of the audited domain: how its numbers are to be read."""

    name: Public[str]
    title: Public[str]
    unit: Public[str] = ""
    digits: Public[int] = 3
    higher_is_better: Public[bool] = True
    style: Public[Literal["fixed", "signed", "significant", "percent"]] = "fixed"
    remark: Public[str] = ""
    floored: Public[bool] = Field(default=True, description="whether floors have it too")
    beside: Public[bool] = Field(default=False, description="whether its best floor stands beside it in tables")
    lead: Public[bool] = Field(default=False, description="whether short tables show it")

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".strip()


class Metrics(Section):
    """Image metrics against the true sample; ``None`` with a reason when undefined."""

    psnr: Public[float | None] = None
    psnr_reason: Public[str] = ""
    ssim: Public[float | None] = None
    ssim_reason: Public[str] = ""
    lpips: Public[float | None] = None
    lpips_reason: Public[str] = ""
    mse: Public[float | None] = None
    mse_reason: Public[str] = ""


class TokenMetrics(Section):
    """How well a guess fits a private text."""

    accuracy: Public[float | None] = Field(description="fraction of places with the right token; null without an order")
    precision: Public[float] = Field(description="share of the tokens said to occur that are in the batch")
    recall: Public[float] = Field(description="share of the text's different tokens that are among them")


class TokenResult(TokenMetrics):
    """What was read of one private text; ids and words are left out of a redacted report."""

    original: Private[list[int]] = Field(description="token ids")
    recovered: Private[list[int | None]] = Field(description="the id read at each place, null where none was")
    found: Private[list[int]] = Field(description="ids said to occur in the batch, in no order")
    words: Private[dict[int, str]] = Field(
        default_factory=dict, description="words of these ids, if the batch file names them"
    )
    floors: Public[dict[str, TokenMetrics]] = Field(
        default_factory=dict, description="what guesses without the update score: chance, frequent, other"
    )
    skill: Public[float] = Field(description="share of the way from the best floor to perfection")


class TableResult(Section):
    """What was read of one private row, column by column; its cells are left out of a redacted report."""

    columns: Public[int]
    right: Public[int] = Field(description="cells that are right")
    names: Private[list[str]] = Field(description="of the columns")
    original: Private[list[str]] = Field(description="cells: levels, and numbers in the unit of their column")
    recovered: Private[list[str | None]] = Field(description="what was read of each, null where nothing was")
    wrong: Private[list[int]] = Field(description="positions of the cells that are not right")
    errors: Private[list[float | None]] = Field(description="of numbers, in the unit of their column; null of levels")
    confidence: Private[list[float]] = Field(
        default_factory=list, description="how sure the attack is of each cell, from 0 to 1, without knowing the truth"
    )


class PartResult(Section):
    """The part of a sample that leaked, where it is not the whole."""

    entries: Public[int] = Field(description="how many entries of the sample were read")
    of: Public[int] = Field(description="how many the model reads")
    psnr: Public[float | None] = Field(
        description="on these, dB; null where they are identical to the last bit, or no picture"
    )
    name: Public[str] = Field(default="", description="of the input that they are, where a model has several")


class SampleResult(Metrics):
    """One private sample and its reconstruction."""

    index: Public[int] = Field(description="position of the sample in the batch file")
    label: Private[int | None]
    inferred_label: Private[int | None] = Field(
        default=None, description="of the reconstruction that it was matched with; the order of labels is not inferred"
    )
    label_row: Private[list[float] | None] = Field(
        default=None, description="the label as numbers, where a sample has several classes or is labelled by numbers"
    )
    inferred_row: Private[list[float] | None] = Field(default=None, description="the same of the reconstruction")
    label_right: Public[bool | None] = Field(
        default=None, description="whether its label is among those inferred, each counted once; null if assumed"
    )
    floors: Public[dict[str, Metrics]] = Field(
        default_factory=dict,
        description="what knows nothing of the sample scores: grey, mean, other, prior_only; and its own flat colour",
    )
    margin: Public[float | None] = Field(default=None, description="PSNR above the best floor, dB")
    margin_reason: Public[str] = ""
    lpips_margin: Public[float | None] = Field(default=None, description="LPIPS below the best floor")
    reidentified: Public[bool | None] = Field(
        default=None, description="the true sample is nearer than every distractor"
    )
    reidentified_reason: Public[str] = ""
    rank_among: Public[int | None] = Field(
        default=None, description="number of images it was told from, itself included"
    )
    augmented: Public[int] = Field(default=0, description="how many of these are augmentations of the images at hand")
    near_duplicates: Public[int] = Field(default=0, description="images that it cannot be told from, left out of these")
    leaked: Public[bool] = False
    leaked_reason: Public[str] = Field(default="", description="why it does not count as leaked")
    scored: Public[bool] = Field(
        default=True, description="whether the private sample was there to compare with; if not, metrics are null"
    )
    proved: Public[bool] = Field(
        default=False, description="without the private sample: the attack's own check proves the reconstruction"
    )
    reading: Private[list[int | None]] = Field(
        default_factory=list, description="of a text that nobody has, the id read at each place, null where none was"
    )
    found: Private[list[int]] = Field(
        default_factory=list, description="of such a text, ids said to occur in the batch"
    )
    part: Public[PartResult | None] = Field(default=None, description="what leaked, where it is not the whole sample")
    tokens: Public[TokenResult | None] = Field(
        default=None, description="of a model over token ids; images are null then"
    )
    table: Public[TableResult | None] = Field(
        default=None, description="of a model over rows of a table; images are null then"
    )
    original_png: Picture[str | None] = None
    reconstruction_png: Picture[str | None] = None
    label_png: Picture[str | None] = Field(
        default=None, description="the label drawn, a colour for each class, where a sample has one at each place"
    )
    inferred_label_png: Picture[str | None] = Field(default=None, description="the same of the reconstruction")
    metrics: Public[dict[str, float | None]] = Field(
        default_factory=dict, description="of this domain, by the names in the report's list of metrics"
    )
    metric_reasons: Public[dict[str, str]] = Field(default_factory=dict, description="why a metric is null")
    metric_floors: Public[dict[str, dict[str, float | None]]] = Field(
        default_factory=dict, description="what guesses that know nothing of the sample score, by the floor's name"
    )
    closeness: Public[float | None] = Field(
        default=None, description="how near, by the domain's measure; null where exact"
    )
    recognisable: Public[bool] = Field(default=False, description="shows the sample itself, not only its outline")
    told: Public[str] = Field(default="", description="how near, in words")
    claim: Public[str] = Field(default="", description="what was done to it, where that is no reconstruction")
    distractors_wanted: Public[int] = Field(
        default=0, description="real others that would make identification a hard test"
    )

    @property
    def decibels(self) -> float | None:
        """PSNR of an image or a volume, SNR of a signal; ``None`` where it has none or is exact."""
        return self.psnr if self.psnr is not None else self.metrics.get("snr")
