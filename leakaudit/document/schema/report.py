"""The report as a whole, written and read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from leakaudit.document.carried import document_in
from leakaudit.document.disclosure import CommandLine, FileName, Private, Public
from leakaudit.document.earlier import upgraded
from leakaudit.document.schema.attacks import AttackEntry, ControlEntry
from leakaudit.document.schema.defences import ClaimEntry, DefenceEntry, DefenceTrial, RecommendationEntry
from leakaudit.document.schema.findings import FindingEntry, PolicySection, Verdict
from leakaudit.document.schema.protocol import BatchSection, ProtocolSection
from leakaudit.document.schema.samples import MetricEntry
from leakaudit.document.schema.section import HASH_KEY, SCHEMA_VERSION, Confidence, Section, Severity
from leakaudit.document.schema.target import RankSection, TargetSection, Tool
from leakaudit.document.status import VerdictStatus
from leakaudit.errors import UsageError, first_line
from leakaudit.safety.confined import confined
from leakaudit.safety.files import ordinary

MOST_BYTES = 1 << 30
"""Bytes of a report that is read, at most; chosen."""
R = TypeVar("R", bound="Report")


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
