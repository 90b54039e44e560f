"""The report document, schema version 1: the only thing that the views (HTML, PDF, …) read.

Keys are stable; additions only. A number that could not be computed is ``None`` with the reason beside it,
never 0 and never infinite. Images are PNG data URIs, so the document alone is enough to render every view.

Every field declares what it may show below ``--evidence full`` (see `leakaudit.document.disclosure`); one that does not
is treated as private.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from leakaudit.document.carried import document_in
from leakaudit.document.disclosure import CommandLine, FileName, OptionValue, Picture, Private, Public, limited
from leakaudit.document.earlier import upgraded
from leakaudit.document.status import AuxiliarySource, ControlStatus, Cut, MisuseKind, RunStatus, VerdictStatus
from leakaudit.domains.specs import ALL
from leakaudit.errors import UsageError, first_line
from leakaudit.safety.confined import confined
from leakaudit.safety.files import ordinary
from leakaudit.safety.text import encodable

SCHEMA_VERSION = 1
HASH_KEY = "self_sha256"
MOST_BYTES = 1 << 30
"""Bytes of a report that is read, at most; chosen."""

Severity = Literal["critical", "high", "medium", "low", "none"]
Confidence = Literal["certified", "measured", "estimated"]

EVIDENCE = limited(
    *ALL,
    *("attack", "attacks", "attacks_that_used_them", "batch_size", "batches", "claimed", "correct", "defence",
      "defences", "deficient_layers", "fewer_iterations", "layer", "layers", "level", "measured", "most",
      "not_run", "others", "parameters", "property", "ratio", "records", "rounds", "samples",
      "samples_attacked", "samples_leaked", "score", "shared", "stopped", "tensors", "total", "unknowns",
      "variants", "victim"),
)  # fmt: skip
"""Keys of a finding's evidence that say nothing of a sample's content; ``samples`` are positions in the batch file."""
CONTROL_NUMBERS = limited(
    *ALL, "cases", "iterations", "parameters", "passing_as_leak", "reached", "reference", "seconds"
)


R = TypeVar("R", bound="Report")


class Section(BaseModel):
    """A part of a document: strict, in valid Unicode."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")

    @model_validator(mode="before")
    @classmethod
    def _in_unicode(cls, values: Any) -> Any:
        """Names of files may hold bytes of no encoding; a document that is made of one is still written."""
        return encodable(values)


class Tool(Section):
    """The program that wrote the report."""

    name: Public[str] = "leakaudit"
    version: Public[str]


class FidelityEntry(Section):
    """One difference between the audited network and the one that the client may train."""

    id: Public[str]
    message: Public[str]
    hint: Public[str] = ""


class FirstLayer(Section):
    """The trained layer that reads the input."""

    name: Public[str]
    kind: Public[str]
    bias: Public[bool] = Field(description="whether its bias is trained, so part of an update")


class InputEntry(Section):
    """One of several inputs of a model."""

    name: Public[str]
    domain: Public[str] = Field(description="what it is: images, signals, volumes or table")
    shape: Public[list[int]]


class TargetSection(Section):
    """The model under audit."""

    name: Public[str]
    path: FileName[str | None]
    repository_path: Public[str | None] = Field(
        default=None, description="path from the root of the repository that holds the file, as code scanning wants it"
    )
    sha256: Public[str | None]
    format: Public[str]
    producer: Public[str] = ""
    classes: Public[int] = Field(description="number of classes; 0 where labels are no classes")
    task: Public[str] = Field(default="single-label", description="what a label is, by the name of its task")
    task_evidence: Public[str] = Field(default="", description="what the task was told from, or what asked for it")
    outputs: Public[int | None] = Field(default=None, description="numbers that the model returns per sample")
    input_shape: Public[list[int]]
    native_shape: Public[list[int]] = Field(default_factory=list)
    layout: Public[str] = "NCHW"
    domain: Public[str] = Field(default="", description="what a sample is: images, tokens, table, or that of a plug-in")
    vocabulary: Public[int | None] = Field(default=None, description="number of token ids, where the layout is tokens")
    columns: Public[int | None] = Field(default=None, description="number of columns of a table")
    inputs: Public[list[InputEntry]] = Field(
        default_factory=list, description="the inputs of the model that are one sample together, where it has several"
    )
    unread: Public[int] = Field(
        default=0, description="entries of an input that the model never reads; they are left out of every score"
    )
    parameters: Public[int]
    trainable_tensors: Public[int]
    layers: Public[list[str]] = Field(default_factory=list)
    resting: Public[list[str]] = Field(
        default_factory=list, description="trained tensors that have no gradient only because others are still zero"
    )
    dropout_layers: Public[list[str]] = Field(default_factory=list)
    batchnorm_layers: Public[list[str]] = Field(default_factory=list)
    first_layer: Public[FirstLayer | None] = None
    fidelity: Public[list[FidelityEntry]] = Field(default_factory=list)
    loss: Public[str] = "cross-entropy"


class BatchSection(Section):
    """The private samples: counts and hashes only; images appear with the results."""

    path: Private[str | None]
    sha256: Public[str | None]
    samples: Public[int]
    batch_size: Public[int]
    victims: Public[int]
    mean: Public[list[float]]
    std: Public[list[float]]
    accuracy: Public[float | None] = Field(
        default=None, description="share of the samples that the model classifies right, in eval mode"
    )
    accuracy_reason: Public[str] = ""
    accuracy_samples: Public[int] = Field(default=0, description="how many samples of the file it was measured on")
    class_names: Private[list[str]] = Field(default_factory=list)
    notes: Private[list[str]] = Field(default_factory=list)
    distinct_records: Public[list[int | None]] = Field(
        default_factory=list,
        description="of each victim, how many distinct records the rank of its update shows; null where none does",
    )


class RoundEntry(Section):
    """One of several recorded rounds, a victim each."""

    victim: Public[int]
    label: Private[str] = Field(description="its folder")
    client: Private[str] = ""
    round: Public[str] = ""
    kind: Public[str] = Field(description="weights, delta or gradient")
    sha256: Public[str | None]
    samples: Public[int] = Field(description="behind the update")
    known: Public[bool] = Field(description="whether the samples were there to score reconstructions against")
    own_weights: Public[bool] = Field(
        description="it began with other weights than the model's, and was attacked there"
    )
    notes: Public[list[str]] = Field(default_factory=list, description="what reading it changed, one sentence each")


class LeftOutEntry(Section):
    """A recorded round that does not go with the model or the others."""

    label: Private[str]
    reason: Private[str]


class CarriedEntry(Section):
    """Two rounds of one client between which momentum was kept."""

    earlier: Private[str]
    later: Private[str]
    tensor: Public[str] = Field(description="whose rows show it")
    rows: Public[int] = Field(description="how many repeat the earlier round by one factor")
    factor: Public[float]


class ProtocolSection(Section):
    """How the client makes an update."""

    algorithm: Public[str] = "fedsgd"
    title: Public[str] = Field(  # documents without this key are of the one protocol that there was
        default="FedSGD: one gradient", description="The protocol's name for people, and what a client shares"
    )
    steps: Public[int] = Field(
        default=1,
        description="Local steps behind one update; where settings hold no local_steps, only their least number",
    )
    assumption: Public[str] = Field(
        default="", description="How the update is taken to be made, as the verdict states it"
    )
    mode: Public[str] = "eval"
    batch_size: Public[int]
    shared_statistics: Public[str] = Field(default="none", description="BatchNorm statistics that go with an update")
    settings: Public[dict[str, Any]] = Field(
        default_factory=dict,
        description="What else the protocol says of itself, by name, such as a local learning rate",
    )
    update_path: Private[str | None] = Field(
        default=None, description="File of a recorded update; without one it is computed"
    )
    update_sha256: Public[str | None] = None
    update_notes: Public[list[str]] = Field(
        default_factory=list, description="What was renamed or left out in reading a recorded update, one sentence each"
    )
    weight_decay: Public[float | None] = Field(
        default=None, description="weight decay that was subtracted from a recorded update"
    )
    weight_decay_note: Public[str] = Field(default="", description="how it is known")
    rounds: Public[list[RoundEntry]] = Field(
        default_factory=list, description="where several rounds were recorded, one entry a victim"
    )
    left_out: Public[list[LeftOutEntry]] = Field(default_factory=list)
    carried: Public[list[CarriedEntry]] = Field(default_factory=list)
    statistics_sent: Public[list[str] | None] = Field(
        default=None, description="BatchNorm layers whose statistics a recorded update holds; null where it is computed"
    )

    @property
    def batch_sizes(self) -> list[int]:
        """The samples behind each update; recorded rounds may differ in them."""
        return [entry.samples for entry in self.rounds] or [self.batch_size]


class ConstraintCounts(Section):
    """Equations that a layer's input must satisfy, by origin."""

    gradient: Public[int | None]
    weight: Public[int | None]
    virtual: Public[int | None]


class RankLayer(Section):
    """Rank analysis of one layer."""

    name: Public[str]
    kind: Public[str]
    unknowns: Public[int | None]
    constraints: Public[ConstraintCounts]
    index: Public[int | None] = Field(description="the paper's count: unknowns - gradient - weight constraints")
    rank: Public[int | None] = Field(default=None, description="exact structural rank of the layer's linear system")
    deficit: Public[int | None] = Field(default=None, description="unknowns - rank")
    unique: Public[bool | None]
    bound: Public[bool] = Field(
        default=False, description="rank is an upper bound: a deficit is certain, its absence is not"
    )
    note: Public[str] = ""


class RankSection(Section):
    """Risk inherent in the architecture."""

    risk: Public[Literal["high", "medium", "low", "unknown"]]
    score: Public[float | None]
    score_reason: Public[str] = ""
    level: Public[str] = Field(
        default="", description="exact leak, identifiable, partially identifiable, counts unavailable"
    )
    propagated_deficit: Public[int | None] = None
    layers: Public[list[RankLayer]]
    notes: Public[list[str]] = Field(default_factory=list)
    update_change: Public[float | None] = Field(
        default=None, description="relative change of the update by another sample; null where not computed"
    )
    update_flat: Public[bool] = Field(default=False, description="neither logits nor update have a slope in the input")
    update_told: Public[str] = Field(default="", description="that the update hardly depends on the sample, if so")
    smallest_changes: Public[list[str]] = Field(
        default_factory=list, description="single changes after which the update determines less, the cheapest first"
    )


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


class HistoryPoint(Section):
    """The objective after an iteration."""

    iteration: Public[int]
    objective: Public[float | None]
    match: Public[float | None]


class SnapshotEntry(Section):
    """Reconstructions of a victim's samples part of the way."""

    fraction: Public[float]
    images_png: Picture[list[str]]


class LabelResult(Section):
    """Labels of one victim's batch, as multisets in ascending order; below full evidence their counts alone.

    The update does not tell which sample has which label, so a label is right as a member of the multiset, not by
    place.
    """

    true: Private[list[int]]
    inferred: Private[list[int]]
    correct: Public[int] = Field(
        description="how many are right, as the task counts: of one class the size of the intersection of both, of "
        "several the right answers of yes and no, of numbers those within one per cent; 0 where merely assumed"
    )
    chance: Public[float | None] = Field(
        default=None, description="share that the best guess without the update has right; null where it is 1/classes"
    )
    rows: Private[list[list[float]] | None] = Field(
        default=None, description="labels of several classes or numbers, a row per sample in the order of the batch"
    )
    inferred_rows: Private[list[list[float]] | None] = Field(
        default=None, description="the same as inferred; fractions say how many samples of the batch have a class"
    )
    assumed: Public[bool] = Field(
        default=False, description="nothing in the update told them: they are no inference, and none counts as right"
    )
    method: Public[str] = ""
    total: Public[int | None] = Field(default=None, description="how many labels the batch has")
    known: Public[bool] = Field(default=True, description="whether the true labels were there to compare with")
    soft: Private[list[float] | None] = Field(
        default=None,
        description="class probabilities of one sample, where the update shows its label to be no one class",
    )
    true_soft: Private[list[list[float]] | None] = Field(
        default=None, description="class probabilities of each sample in the order of the batch, where labels are soft"
    )

    @model_validator(mode="after")
    def _counted(self) -> LabelResult:
        """Count the labels while they are there; reports of older versions held no total."""
        if self.total is None:
            self.total = len(self.true)
        if self.inferred_total is None:
            self.inferred_total = len(self.inferred)
        return self

    inferred_total: Public[int | None] = Field(default=None, description="how many were inferred")

    @property
    def inferred_count(self) -> int:
        """How many labels were inferred, also where they are left out."""
        return len(self.inferred) if self.inferred_total is None else self.inferred_total

    @property
    def count(self) -> int:
        """How many labels the batch has."""
        return len(self.true) if self.total is None else self.total


class VictimResult(Section):
    """One attack on one victim batch."""

    victim: Public[int]
    seed: Public[int]
    residual: Public[float | None]
    residual_reason: Public[str] = ""
    residuals: Public[dict[str, float | None]] = Field(
        default_factory=dict, description="per tensor, relative to it; null where the observed tensor is zero"
    )
    match: Public[float | None] = None
    certified: Public[bool | None] = None
    certified_reason: Public[str] = ""
    seconds: Public[float]
    iterations: Public[int] = 0
    stopped: Public[str] = ""
    cuts: Public[list[Cut]] = Field(
        default_factory=list, description="what time or an interruption took from what its settings say"
    )
    labels: Public[LabelResult]
    samples: Public[list[SampleResult]]
    history: Public[list[HistoryPoint]] = Field(default_factory=list)
    snapshots: Public[list[SnapshotEntry]] = Field(default_factory=list)
    notes: Public[list[str]] = Field(default_factory=list)


class Comparison(Section):
    """Results of the attack that another one extends, on the same victims, so that its addition is not overrated."""

    name: Public[str]
    title: Public[str]
    hyperparameters: Public[dict[str, Any]] = Field(default_factory=dict)
    reason: Public[str] = Field(default="", description="what time or memory cost it")
    cut: Public[Cut | None] = Field(default=None, description="victims that time or memory cost it")
    in_ledger: Public[bool] = Field(default=False, description="it was asked for too, and is not run twice")
    gain: Public[float | None] = Field(
        default=None,
        description="what the attack adds to this one, in dB, the median over samples on which both had all their "
        "steps; null where there are none, or an error has no unit",
    )
    seconds: Public[float] = 0.0
    results: Public[list[VictimResult]] = Field(default_factory=list)


class AuxiliaryEntry(Section):
    """What an attacker of threat model D was given to learn from."""

    source: Public[AuxiliarySource]
    samples: Public[int] = Field(
        description="to learn from; of a generator, those that it made as a floor of every score"
    )
    share: Public[float | None] = Field(default=None, description="of the batch file, where they come from it")

    @property
    def rare(self) -> bool:
        """Whether not everybody has such samples: anyone can generate some."""
        return self.source is not AuxiliarySource.GENERATED

    @property
    def told(self) -> str:
        """Their number, origin and what was looked at, without a full stop."""
        if self.source is AuxiliarySource.GIVEN:
            return f"{self.samples} public samples"
        if self.source is AuxiliarySource.GENERATOR:
            return "a generator of similar samples, the user's own; what it learnt from was not looked at"
        if self.source is AuxiliarySource.GENERATED:
            return f"{self.samples} generated samples, which are nobody's and of no one's distribution"
        share = "" if self.share is None else f" ({self.share:.0%} of it)"
        return (
            f"{self.samples} samples of the batch file{share} that no victim holds, none of them equal to a victim's; "
            "near-duplicates were not looked for"
        )


class AttackEntry(Section):
    """One attack: run, or why not."""

    name: Public[str]
    title: Public[str]
    status: Public[RunStatus]
    reason: Public[str] = ""
    cut: Public[Cut | None] = Field(default=None, description="victims that time or memory cost it")
    family: Public[Literal["closed form", "optimisation"]] = "optimisation"
    finding: Public[str] = Field(default="", description="id that its success is reported under")
    threat_model: Public[str]
    upper_bound: Public[bool] = Field(default=False, description="given what no attacker has; never evidence of a leak")
    given: Public[dict[str, Any]] = Field(default_factory=dict, description="everything that the attacker was given")
    auxiliary: Public[AuxiliaryEntry | None] = Field(default=None, description="samples that it learnt from, if any")
    in_passing: Public[bool] = Field(
        default=False, description="tried with less effort since nobody asked for it: its failure says nothing"
    )
    hyperparameters: Public[dict[str, Any]] = Field(default_factory=dict)
    planned: Public[int | None] = Field(
        default=None, description="iterations that its settings ask for on a victim; null for algebra"
    )
    reference: Public[str] = ""
    seconds: Public[float] = 0.0
    results: Public[list[VictimResult]] = Field(default_factory=list)
    beside: Public[Comparison | None] = Field(default=None, description="the attack that this one extends, at its best")


class ControlEntry(Section):
    """One control run."""

    kind: Public[Literal["positive", "negative", "prior_only", "ladder"]]
    attack: Public[str] = Field(description="name of the attack")
    title: Public[str] = ""
    passed: Public[bool | None] = Field(description="null where the control could not run; the detail says why")
    detail: Public[str]
    numbers: Annotated[dict[str, Any], CONTROL_NUMBERS] = Field(default_factory=dict)
    steps: Public[list[int]] = Field(default_factory=list, description="of a ladder: the numbers of local steps tried")
    recovered: Public[list[bool | None]] = Field(
        default_factory=list, description="whether what is known was recovered at each; null where that is not decided"
    )

    @property
    def reached(self) -> int:
        """K*, the largest number of local steps at which what is known was recovered; 0 for none."""
        return max((steps for steps, found in zip(self.steps, self.recovered, strict=True) if found), default=0)

    @property
    def status(self) -> ControlStatus:
        """What became of it."""
        if self.passed is None:
            return ControlStatus.NOT_RUN
        return ControlStatus.PASSED if self.passed else ControlStatus.FAILED


class AccountingEntry(Section):
    """What an accounted random defence guarantees, whatever the attack."""

    epsilon: Public[float | None]
    delta: Public[float]
    noise_multiplier: Public[float]
    rate: Public[float]
    steps: Public[int]
    prior: Public[float] = Field(description="probability of guessing a sample before any update")
    reconstruction: Public[float] = Field(
        description="largest probability of reconstructing it after all updates (ReRo)"
    )
    reconstruction_one_step: Public[float] = Field(description="the same from one update that the sample took part in")
    epsilon_one_step: Public[float | None] = Field(default=None, description="ε of such an update")
    epsilon_renyi: Public[float | None] = Field(default=None, description="ε of the training by Rényi accounting")
    reading: Public[str] = Field(default="", description="how the settings were read: units and divisor of the noise")
    other_reading: Public[str] = Field(default="", description="another unit that the noise may have been meant in")
    other_epsilon: Public[float | None] = Field(default=None, description="ε of the training, were it so")
    other_reconstruction: Public[float | None] = Field(
        default=None, description="the bound of the training, were it so"
    )
    unit: Public[Literal["sample", "client"]] = Field(
        default="sample", description="whose presence ε hides: one sample, or one client with all its samples"
    )
    update_steps: Public[int] = Field(
        default=1, description="mechanisms that one update composes for whoever took part in it"
    )
    mse: Public[float | None] = Field(
        default=None, description="least MSE of unbiased attackers from one update, in pixels"
    )
    mse_reason: Public[str] = ""


class ClaimCheck(Section):
    """One property that the shared update should have by the claimed defence."""

    what: Public[str]
    expected: Public[str]
    measured: Public[str]
    holds: Public[bool]


class MisuseEntry(Section):
    """One thing that deployed code does wrong with a defence."""

    kind: Public[MisuseKind]
    told: Public[str]
    sure: Public[Confidence]
    grave: Public[bool] = Field(description="whether the protection is void, and not merely less than stated")


class DefenceEntry(Section):
    """What clients do to their updates, and what the attacker who knows it does about it."""

    name: Public[str]
    title: Public[str]
    text: Public[str] = Field(description="as on the command line")
    settings: Public[dict[str, Any]] = Field(default_factory=dict)
    adaptive_attack: Public[str] = Field(default="", description="empty: attacked only by those who ignore it")
    evaluated: Public[bool] = Field(
        description="an attack that works through all defences of the client ran on this model"
    )
    evaluated_by: Public[list[str]] = Field(default_factory=list, description="names of these attacks")
    reference: Public[str] = ""
    accounting: Public[AccountingEntry | None] = Field(default=None, description="only for a clipped and noised update")
    accounting_reason: Public[str] = Field(default="", description="why there is no bound")
    withheld: Public[bool] = Field(default=False, description="it would have a bound, and a premise of it fails here")
    checks: Public[list[ClaimCheck]] = Field(default_factory=list)
    remains: Public[str] = Field(default="", description="what stays exact through it, where that is worth saying")
    misuses: Public[list[MisuseEntry]] = Field(default_factory=list)


class ClaimEntry(Section):
    """A defence that the client believes in, held against what it shared."""

    text: Public[str]
    checks: Public[list[ClaimCheck]]
    misuses: Public[list[MisuseEntry]] = Field(default_factory=list)


class RecommendationEntry(Section):
    """What would help, and how its effect is known."""

    title: Public[str]
    effect: Public[str]
    status: Public[Literal["measured", "computed", "literature"]]
    reference: Public[str] = ""
    try_it: Public[str] = Field(default="", description="a command that measures it")


class DefenceTrial(Section):
    """One setting of a defence, attacked and trained with. An empty text is the undefended model."""

    text: Public[str]
    title: Public[str]
    status: Public[Literal[RunStatus.RUN, RunStatus.NOT_RUN]]
    reason: Public[str] = ""
    adaptive_attack: Public[str] = ""
    evaluated: Public[bool] = True
    attacked: Public[int] = Field(default=0, description="samples attacked")
    leaked: Public[int] = 0
    leaked_interval: Public[list[float] | None] = Field(
        default=None, description="Clopper-Pearson, 95 %; needs 5 samples"
    )
    psnr: Public[float | None] = Field(default=None, description="best sample of all attacks, dB")
    metrics: Public[dict[str, float | None]] = Field(default_factory=dict, description="of that sample, by name")
    told: Public[str] = Field(default="", description="how near it is, in words; empty where nothing was attacked")
    attack: Public[str] = Field(default="", description="the attack that it came from")
    value: Public[float | None] = Field(default=None, description="what the goal compares")
    meets: Public[bool] = False
    loss: Public[float | None] = Field(default=None, description="on held-out samples after training with the setting")
    accuracy: Public[float | None] = None
    evaluated_on: Public[int] = Field(default=0, description="held-out samples")
    accounting: Public[AccountingEntry | None] = None
    seconds: Public[float] = 0.0
    recommended: Public[bool] = False

    @model_validator(mode="after")
    def _shown_by_attacks(self) -> DefenceTrial:
        """What no attack that works through it was measured with meets no goal, and is not recommended."""
        if not self.evaluated or self.status is not RunStatus.RUN:
            self.meets = self.recommended = False
        return self


class FindingEntry(Section):
    """One finding: what leaked, how sure, on what evidence, and what to do."""

    id: Public[str]
    title: Public[str]
    severity: Public[Severity]
    confidence: Public[Confidence]
    message: Public[str]
    evidence: Annotated[dict[str, Any], EVIDENCE] = Field(default_factory=dict)
    remedy: Public[str]
    suppressed: Public[bool] = False
    fails: Public[bool] = Field(default=False, description="whether the policy fails on it")
    gate: Public[str] = Field(default="", description="why it fails or not")
    change: Public[Literal["", "new", "worse", "same"]] = Field(default="", description="against the baseline, if any")


class SuppressionEntry(Section):
    """A finding that somebody decided to accept for a while."""

    rule: Public[str]
    reason: Public[str]
    expires: Public[str]
    state: Public[Literal["active", "expired", "unused"]]


class SettingEntry(Section):
    """One option as it was resolved."""

    name: Public[str]
    value: OptionValue[Any]
    source: Public[Literal["command line", "environment", "file", "default"]]


class BaselineEntry(Section):
    """The earlier report that this one was compared with."""

    path: Private[str]
    created: Public[str]
    changes: Public[list[str]] = Field(default_factory=list)


class PolicySection(Section):
    """What counts as a failure, as resolved from command line, environment and file."""

    fail_on: Public[Literal["critical", "high", "medium", "low", "never"]] = "high"
    rules: Public[dict[str, str]] = Field(default_factory=dict, description="thresholds of single rules or families")
    file: Public[str | None] = None
    suppressions: Public[list[SuppressionEntry]] = Field(default_factory=list)
    settings: Public[list[SettingEntry]] = Field(default_factory=list)
    baseline: Public[BaselineEntry | None] = None


class Verdict(Section):
    """The answer, in three statements: at least, at most, assumed."""

    status: Public[str] = Field(description="the code, and a reason in brackets where nothing applies")
    code: Public[VerdictStatus] = Field(description="the status alone")
    severity: Public[Severity]
    confidence: Public[Confidence]
    headline: Public[str]
    at_least: Public[str]
    at_most: Public[str]
    assumed: Public[list[str]]
    samples_leaked: Public[int] = 0
    samples_attacked: Public[int] = 0
    interval: Public[list[float] | None] = Field(
        default=None, description="Clopper-Pearson interval (95 %) of the share of samples that leak"
    )
    interval_reason: Public[str] = ""
    clients_leaked: Public[int] = Field(default=0, description="victims with a sample that leaked")
    clients_attacked: Public[int] = 0
    clients_interval: Public[list[float] | None] = Field(
        default=None, description="of several recorded rounds: the same interval of the share of them that leak"
    )

    @property
    def inconclusive(self) -> bool:
        """Whether nothing can be concluded: exit code 5."""
        return self.code.inconclusive


class VariantEntry(Section):
    """One checkpoint of the model, or one mode of its clients; with pictures of one sample, the same in all of them."""

    label: Public[str]
    status: Public[str]
    code: Public[VerdictStatus] = Field(description="the status alone")
    headline: Public[str] = Field(description="the verdict, or that it could not be audited")
    reason: Private[str] = Field(default="", description="why it could not be audited; may quote a sample")
    severity: Public[Severity] = "none"
    confidence: Public[Confidence] = "estimated"
    worst: Public[bool] = Field(default=False, description="whether the rest of the report is about this one")
    path: FileName[str | None] = None
    sha256: Public[str | None] = None
    mode: Public[str] = ""
    risk: Public[str] = "unknown"
    samples_leaked: Public[int] = 0
    samples_attacked: Public[int] = 0
    interval: Public[list[float] | None] = None
    best_psnr: Public[float | None] = None
    best_margin: Public[float | None] = None
    labels_right: Public[int] = 0
    labels_total: Public[int] = 0
    seconds: Public[float] = 0.0
    attacks: Public[list[AttackEntry]] = Field(default_factory=list)
    controls: Public[list[ControlEntry]] = Field(default_factory=list)
    findings: Public[list[FindingEntry]] = Field(default_factory=list)


class Report(Section):
    """An audit report as a document; `leakaudit.report.saving.Report` can also write its views."""

    schema_version: Public[int] = SCHEMA_VERSION
    tool: Public[Tool]
    created: Public[str]
    command: CommandLine[list[str]]
    seed: Public[int]
    preset: Public[str]
    threat_model: Public[str | None] = Field(
        default=None, description="attacks that need a stronger attacker than this letter were not run"
    )
    device: Public[str]
    versions: Public[dict[str, str]]
    seconds: Public[float] = 0.0
    partial: Public[str] = Field(default="", description="why the audit ended early, or empty")
    target: Public[TargetSection]
    batch: Public[BatchSection]
    protocol: Public[ProtocolSection]
    rank: Public[RankSection]
    variants: Public[list[VariantEntry]] = Field(
        default_factory=list, description="checkpoints and modes that were compared; the rest is about the worst"
    )
    metrics: Public[list[MetricEntry]] = Field(
        default_factory=list, description="what samples of this domain are measured by"
    )
    attacks: Public[list[AttackEntry]]
    controls: Public[list[ControlEntry]] = Field(default_factory=list)
    defences: Public[list[DefenceEntry]] = Field(default_factory=list)
    claims: Public[list[ClaimEntry]] = Field(default_factory=list)
    recommendations: Public[list[RecommendationEntry]] = Field(default_factory=list)
    trials: Public[list[DefenceTrial]] = Field(
        default_factory=list, description="settings measured by leakaudit defend"
    )
    goal: Public[str] = Field(default="", description="what a setting had to reach")
    recommendation: Public[str] = ""
    findings: Public[list[FindingEntry]]
    verdict: Public[Verdict]
    policy: Public[PolicySection | None] = None
    evidence: Public[Literal["full", "blurred", "none"]] = Field(
        default="full", description="how private images appear"
    )

    @property
    def measured(self) -> bool:
        """Whether any attack came to a result; a report of an interrupted audit without one holds nothing."""
        ledgers = [self.attacks, *(variant.attacks for variant in self.variants)]
        return any(attack.results for ledger in ledgers for attack in ledger)

    def to_json(self) -> str:
        """The document as indented JSON with a hash over itself; NaN and infinities become null."""
        document = json.loads(self.model_dump_json())
        return json.dumps({**document, HASH_KEY: self_hash(document)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Read a ``report.json``.

        Raises:
            UsageError: It is not there, or not a report of this schema version. Keys that this version does not know
                are left out.
        """
        document = read_document(path)
        document.pop(HASH_KEY, None)
        try:  # a later minor version may have added keys; what is written here is held to the schema strictly
            return cls.model_validate(upgraded(document), extra="ignore")
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is not a leakaudit report: {first_line(error)}", "audit again") from error


def self_hash(document: dict[str, Any]) -> str:
    """SHA-256 over a report's document without its own hash, independent of white space and order of keys."""
    rest = {key: value for key, value in document.items() if key != HASH_KEY}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _parsed(content: bytes, path: str | Path) -> Any:
    try:
        if len(content) > MOST_BYTES:
            raise ValueError("too long")
        return document_in(content)
    except (ValueError, RecursionError) as error:
        kind = "is not JSON, and no page or PDF that carries a report"
        raise UsageError(f"{path} {kind}", "give the report.json that leakaudit scan wrote") from error


def read_document(path: str | Path) -> dict[str, Any]:
    """The JSON object of a ``report.json``, or of the HTML or PDF that carries it.

    Raises:
        UsageError: It is not there, or not a report of this schema version.
    """
    try:
        with ordinary(Path(path)).open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        document = confined(lambda: _parsed(content, path), str(path), UsageError)
    except OSError as error:
        raise UsageError(f"cannot read the report {path}: {error.strerror}", "give a report.json") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has report schema {version!r}, expected {SCHEMA_VERSION}", "audit again with this version"
        )
    return dict(document)
