"""The report document, schema version 1: the only thing that the views (HTML, PDF, …) read.

Keys are stable; additions only. A number that could not be computed is ``None`` with the reason beside it,
never 0 and never infinite. Images are PNG data URIs, so the document alone is enough to render every view.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from leakaudit.errors import UsageError

SCHEMA_VERSION = 1
HASH_KEY = "self_sha256"

Severity = Literal["critical", "high", "medium", "low", "none"]
Confidence = Literal["certified", "measured", "estimated"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


class Tool(_Model):
    """The program that wrote the report."""

    name: str = "leakaudit"
    version: str


class FidelityEntry(_Model):
    """One difference between the audited network and the one that the client may train."""

    id: str
    message: str
    hint: str = ""


class FirstLayer(_Model):
    """The trained layer that reads the input."""

    name: str
    kind: str
    bias: bool = Field(description="whether its bias is trained, so part of an update")


class TargetSection(_Model):
    """The model under audit."""

    name: str
    path: str | None
    sha256: str | None
    format: str
    producer: str = ""
    classes: int
    input_shape: list[int]
    native_shape: list[int] = Field(default_factory=list)
    layout: str = "NCHW"
    vocabulary: int | None = Field(default=None, description="number of token ids, where the layout is tokens")
    parameters: int
    trainable_tensors: int
    layers: list[str] = Field(default_factory=list)
    dropout_layers: list[str] = Field(default_factory=list)
    batchnorm_layers: list[str] = Field(default_factory=list)
    first_layer: FirstLayer | None = None
    fidelity: list[FidelityEntry] = Field(default_factory=list)
    loss: str = "cross-entropy"


class BatchSection(_Model):
    """The private samples: counts and hashes only; images appear with the results."""

    path: str | None
    sha256: str | None
    samples: int
    batch_size: int
    victims: int
    mean: list[float]
    std: list[float]
    class_names: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class ProtocolSection(_Model):
    """How the client makes an update."""

    algorithm: str = "fedsgd"
    mode: str = "eval"
    batch_size: int
    shared_statistics: str = Field(default="none", description="BatchNorm statistics that go with an update")
    update_path: str | None = Field(default=None, description="File of a recorded update; without one it is computed")
    update_sha256: str | None = None


class ConstraintCounts(_Model):
    """Equations that a layer's input must satisfy, by origin."""

    gradient: int | None
    weight: int | None
    virtual: int | None


class RankLayer(_Model):
    """Rank analysis of one layer."""

    name: str
    kind: str
    unknowns: int | None
    constraints: ConstraintCounts
    index: int | None = Field(description="the paper's count: unknowns - gradient - weight constraints")
    rank: int | None = Field(default=None, description="exact structural rank of the layer's linear system")
    deficit: int | None = Field(default=None, description="unknowns - rank")
    unique: bool | None
    note: str = ""


class RankSection(_Model):
    """Risk inherent in the architecture."""

    risk: Literal["high", "medium", "low", "unknown"]
    score: float | None
    score_reason: str = ""
    level: str = Field(default="", description="exact leak, identifiable, partially identifiable, counts unavailable")
    propagated_deficit: int | None = None
    layers: list[RankLayer]
    notes: list[str] = Field(default_factory=list)
    smallest_changes: list[str] = Field(
        default_factory=list, description="single changes after which the update determines less, the cheapest first"
    )


class Metrics(_Model):
    """Image metrics against the true sample; ``None`` with a reason when undefined."""

    psnr: float | None = None
    psnr_reason: str = ""
    ssim: float | None = None
    ssim_reason: str = ""
    lpips: float | None = None
    lpips_reason: str = ""
    mse: float | None = None
    mse_reason: str = ""


class TokenMetrics(_Model):
    """How well a guess fits a private text."""

    accuracy: float | None = Field(description="fraction of places with the right token; null without an order")
    precision: float = Field(description="share of the tokens said to occur that are in the batch")
    recall: float = Field(description="share of the text's different tokens that are among them")


class TokenResult(TokenMetrics):
    """What was read of one private text; ids and words are left out of a redacted report."""

    original: list[int] = Field(description="token ids")
    recovered: list[int | None] = Field(description="the id read at each place, null where none was")
    found: list[int] = Field(description="ids said to occur in the batch, in no order")
    words: dict[int, str] = Field(default_factory=dict, description="words of these ids, if the batch file names them")
    floors: dict[str, TokenMetrics] = Field(
        default_factory=dict, description="what guesses without the update score: chance, frequent, other"
    )
    skill: float = Field(description="share of the way from the best floor to perfection")


class SampleResult(Metrics):
    """One private sample and its reconstruction."""

    index: int = Field(description="position of the sample in the batch file")
    label: int
    inferred_label: int | None = None
    floors: dict[str, Metrics] = Field(
        default_factory=dict,
        description="what knows nothing of the sample scores: grey, mean, other, prior_only; and its own flat colour",
    )
    margin: float | None = Field(default=None, description="PSNR above the best floor, dB")
    margin_reason: str = ""
    lpips_margin: float | None = Field(default=None, description="LPIPS below the best floor")
    reidentified: bool | None = Field(default=None, description="the true sample is nearer than every distractor")
    reidentified_reason: str = ""
    rank_among: int | None = Field(default=None, description="number of images it was told from, itself included")
    augmented: int = Field(default=0, description="how many of these are augmentations of the images at hand")
    near_duplicates: int = Field(default=0, description="images that it cannot be told from, left out of these")
    leaked: bool = False
    leaked_reason: str = Field(default="", description="why it does not count as leaked")
    tokens: TokenResult | None = Field(default=None, description="of a model over token ids; images are null then")
    original_png: str | None = None
    reconstruction_png: str | None = None


class HistoryPoint(_Model):
    """The objective after an iteration."""

    iteration: int
    objective: float | None
    match: float | None


class SnapshotEntry(_Model):
    """Reconstructions of a victim's samples part of the way."""

    fraction: float
    images_png: list[str]


class LabelResult(_Model):
    """Labels of one victim's batch, as multisets in ascending order."""

    true: list[int]
    inferred: list[int]
    correct: int
    method: str = ""
    soft: list[float] | None = Field(
        default=None,
        description="class probabilities of one sample, where the update shows its label to be no one class",
    )


class VictimResult(_Model):
    """One attack on one victim batch."""

    victim: int
    seed: int
    residual: float | None
    residual_reason: str = ""
    residuals: dict[str, float | None] = Field(
        default_factory=dict, description="per tensor, relative to it; null where the observed tensor is zero"
    )
    match: float | None = None
    certified: bool | None = None
    certified_reason: str = ""
    seconds: float
    iterations: int = 0
    stopped: str = ""
    labels: LabelResult
    samples: list[SampleResult]
    history: list[HistoryPoint] = Field(default_factory=list)
    snapshots: list[SnapshotEntry] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class Comparison(_Model):
    """Results of the attack that another one extends, on the same victims, so that its addition is not overrated."""

    name: str
    title: str
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    reason: str = Field(default="", description="what time or memory cost it")
    in_ledger: bool = Field(default=False, description="it was asked for too, and is not run twice")
    seconds: float = 0.0
    results: list[VictimResult] = Field(default_factory=list)


class AttackEntry(_Model):
    """One attack: run, or why not."""

    name: str
    title: str
    status: Literal["run", "not_applicable", "not_run"]
    reason: str = ""
    family: Literal["closed form", "optimisation"] = "optimisation"
    finding: str = Field(default="", description="id that its success is reported under")
    threat_model: str
    upper_bound: bool = Field(default=False, description="given what no attacker has; never evidence of a leak")
    given: dict[str, Any] = Field(default_factory=dict, description="everything that the attacker was given")
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    reference: str = ""
    seconds: float = 0.0
    results: list[VictimResult] = Field(default_factory=list)
    beside: Comparison | None = Field(default=None, description="the attack that this one extends, at its best")


class ControlEntry(_Model):
    """One control run."""

    kind: Literal["positive", "negative", "prior_only"]
    attack: str = Field(description="name of the attack")
    title: str = ""
    passed: bool | None = Field(description="null where the control could not run; the detail says why")
    detail: str
    numbers: dict[str, Any] = Field(default_factory=dict)


class DefenceEntry(_Model):
    """What clients do to their updates, and what the attacker who knows it does about it."""

    name: str
    title: str
    text: str = Field(description="as on the command line")
    settings: dict[str, Any] = Field(default_factory=dict)
    adaptive_attack: str = Field(default="", description="empty: attacked only by those who ignore it")
    evaluated: bool = Field(description="an attack that works through all defences of the client ran on this model")
    evaluated_by: list[str] = Field(default_factory=list, description="names of these attacks")
    reference: str = ""
    accounting: AccountingEntry | None = Field(default=None, description="only for a clipped and noised update")
    accounting_reason: str = ""
    checks: list[ClaimCheck] = Field(default_factory=list)


class AccountingEntry(_Model):
    """What an accounted random defence guarantees, whatever the attack."""

    epsilon: float | None
    delta: float
    noise_multiplier: float
    rate: float
    steps: int
    prior: float = Field(description="probability of guessing a sample before any update")
    reconstruction: float = Field(description="largest probability of reconstructing it after all updates (ReRo)")
    reconstruction_one_step: float
    mse: float | None = Field(default=None, description="least MSE of unbiased attackers from one update, in pixels")
    mse_reason: str = ""


class ClaimCheck(_Model):
    """One property that the shared update should have by the claimed defence."""

    what: str
    expected: str
    measured: str
    holds: bool


class ClaimEntry(_Model):
    """A defence that the client believes in, held against what it shared."""

    text: str
    checks: list[ClaimCheck]


class RecommendationEntry(_Model):
    """What would help, and how its effect is known."""

    title: str
    effect: str
    status: Literal["measured", "computed", "literature"]
    reference: str = ""
    try_it: str = Field(default="", description="a command that measures it")


class DefenceTrial(_Model):
    """One setting of a defence, attacked and trained with. An empty text is the undefended model."""

    text: str
    title: str
    status: Literal["run", "not_run"]
    reason: str = ""
    adaptive_attack: str = ""
    evaluated: bool = True
    attacked: int = Field(default=0, description="samples attacked")
    leaked: int = 0
    leaked_interval: list[float] | None = Field(default=None, description="Clopper-Pearson, 95 %; needs 5 samples")
    psnr: float | None = Field(default=None, description="best sample of all attacks, dB")
    attack: str = Field(default="", description="the attack that it came from")
    value: float | None = Field(default=None, description="what the goal compares")
    meets: bool = False
    loss: float | None = Field(default=None, description="on held-out samples after training with the setting")
    accuracy: float | None = None
    evaluated_on: int = Field(default=0, description="held-out samples")
    accounting: AccountingEntry | None = None
    seconds: float = 0.0
    recommended: bool = False


class FindingEntry(_Model):
    """One finding: what leaked, how sure, on what evidence, and what to do."""

    id: str
    title: str
    severity: Severity
    confidence: Confidence
    message: str
    evidence: dict[str, Any] = Field(default_factory=dict)
    remedy: str
    suppressed: bool = False
    fails: bool = Field(default=False, description="whether the policy fails on it")
    gate: str = Field(default="", description="why it fails or not")
    change: Literal["", "new", "worse", "same"] = Field(default="", description="against the baseline, if any")


class SuppressionEntry(_Model):
    """A finding that somebody decided to accept for a while."""

    rule: str
    reason: str
    expires: str
    state: Literal["active", "expired", "unused"]


class SettingEntry(_Model):
    """One option as it was resolved."""

    name: str
    value: Any
    source: Literal["command line", "environment", "file", "default"]


class BaselineEntry(_Model):
    """The earlier report that this one was compared with."""

    path: str
    created: str
    changes: list[str] = Field(default_factory=list)


class PolicySection(_Model):
    """What counts as a failure, as resolved from command line, environment and file."""

    fail_on: Literal["critical", "high", "medium", "low", "never"] = "high"
    rules: dict[str, str] = Field(default_factory=dict, description="thresholds of single rules or families")
    file: str | None = None
    suppressions: list[SuppressionEntry] = Field(default_factory=list)
    settings: list[SettingEntry] = Field(default_factory=list)
    baseline: BaselineEntry | None = None


class Verdict(_Model):
    """The answer, in three statements: at least, at most, assumed."""

    status: str
    severity: Severity
    confidence: Confidence
    headline: str
    at_least: str
    at_most: str
    assumed: list[str]
    samples_leaked: int = 0
    samples_attacked: int = 0
    interval: list[float] | None = Field(
        default=None, description="Clopper-Pearson interval (95 %) of the share of samples that leak"
    )
    interval_reason: str = ""

    @property
    def inconclusive(self) -> bool:
        """Whether nothing can be concluded: exit code 5."""
        return self.status.startswith(("INCONCLUSIVE", "NOT APPLICABLE"))


class VariantEntry(_Model):
    """One checkpoint of the model, or one mode of its clients; without pictures, which are those of the worst one."""

    label: str
    status: str
    headline: str = Field(description="the verdict, or why it could not be audited")
    severity: Severity = "none"
    confidence: Confidence = "estimated"
    worst: bool = Field(default=False, description="whether the rest of the report is about this one")
    path: str | None = None
    sha256: str | None = None
    mode: str = ""
    risk: str = "unknown"
    samples_leaked: int = 0
    samples_attacked: int = 0
    interval: list[float] | None = None
    best_psnr: float | None = None
    best_margin: float | None = None
    labels_right: int = 0
    labels_total: int = 0
    seconds: float = 0.0
    attacks: list[AttackEntry] = Field(default_factory=list)
    controls: list[ControlEntry] = Field(default_factory=list)
    findings: list[FindingEntry] = Field(default_factory=list)


class Report(_Model):
    """An audit report. `save` writes it; `scan` returns it."""

    schema_version: int = SCHEMA_VERSION
    tool: Tool
    created: str
    command: list[str]
    seed: int
    preset: str
    device: str
    versions: dict[str, str]
    seconds: float = 0.0
    partial: str = Field(default="", description="why the audit ended early, or empty")
    target: TargetSection
    batch: BatchSection
    protocol: ProtocolSection
    rank: RankSection
    variants: list[VariantEntry] = Field(
        default_factory=list, description="checkpoints and modes that were compared; the rest is about the worst"
    )
    attacks: list[AttackEntry]
    controls: list[ControlEntry] = Field(default_factory=list)
    defences: list[DefenceEntry] = Field(default_factory=list)
    claims: list[ClaimEntry] = Field(default_factory=list)
    recommendations: list[RecommendationEntry] = Field(default_factory=list)
    trials: list[DefenceTrial] = Field(default_factory=list, description="settings measured by leakaudit defend")
    goal: str = Field(default="", description="what a setting had to reach")
    recommendation: str = ""
    findings: list[FindingEntry]
    verdict: Verdict
    policy: PolicySection | None = None
    evidence: Literal["full", "blurred", "none"] = Field(default="full", description="how private images appear")

    def to_json(self) -> str:
        """The document as indented JSON with a hash over itself; NaN and infinities become null."""
        document = json.loads(self.model_dump_json())
        return json.dumps({**document, HASH_KEY: self_hash(document)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read a ``report.json``.

        Raises:
            UsageError: It is not there, or not a report of this schema version.
        """
        document = read_document(path)
        document.pop(HASH_KEY, None)
        try:
            return cls.model_validate(document)
        except ValueError as error:
            raise UsageError(
                f"{path} is not a leakaudit report: {str(error).splitlines()[0]}", "audit again"
            ) from error

    def save(
        self,
        directory: str | Path,
        formats: Sequence[str] = (),
        template_dir: Path | None = None,
        pdf_variant: str = "pdf/ua-1",
    ) -> list[Path]:
        """Write ``report.json``, ``report.html``, ``report.pdf`` and other views into a directory.

        Everything is rendered beside the target first and moved over an older report only when complete.

        Args:
            directory: Created if missing.
            formats: Any of ``json``, ``html``, ``pdf``, ``sarif``, ``junit``, ``markdown``, ``csv`` and what other
                packages bring; empty for the first three.
            template_dir: Folder whose templates override the bundled ones.
            pdf_variant: ``pdf/ua-1`` (accessible), or ``pdf/a-3u`` (for archives, with report.json attached).

        Returns:
            The files written. The PDF is left out, with a warning, where its libraries are missing.

        Raises:
            UsageError: The directory is not writable.
        """
        from leakaudit.report.write import write_report

        return write_report(self, Path(directory), formats, template_dir, pdf_variant)


def self_hash(document: dict[str, Any]) -> str:
    """SHA-256 over a report's document without its own hash, independent of white space and order of keys."""
    rest = {key: value for key, value in document.items() if key != HASH_KEY}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def read_document(path: str | Path) -> dict[str, Any]:
    """The JSON object of a ``report.json``.

    Raises:
        UsageError: It is not there, or not a report of this schema version.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the report {path}: {error.strerror}", "give a report.json") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON", "give the report.json that leakaudit scan wrote") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has report schema {version!r}, expected {SCHEMA_VERSION}", "audit again with this version"
        )
    return dict(document)
