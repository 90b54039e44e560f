"""Of the report: findings, the policy that they are judged by, and the verdict."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from leakaudit.document.disclosure import OptionValue, Private, Public, limited
from leakaudit.document.schema.section import Confidence, Section, Severity
from leakaudit.document.status import VerdictStatus
from leakaudit.domains.specs import ALL

EVIDENCE = limited(
    *ALL,
    *("attack", "attacks", "attacks_that_used_them", "batch_size", "batches", "claimed", "correct", "defence",
      "defences", "deficient_layers", "fewer_iterations", "layer", "layers", "level", "measured", "most",
      "not_run", "others", "parameters", "property", "ratio", "records", "rounds", "samples",
      "samples_attacked", "samples_leaked", "score", "shared", "stopped", "tensors", "total", "unknowns",
      "variants", "victim"),
)  # fmt: skip
"""Keys of a finding's evidence that say nothing of a sample's content; ``samples`` are positions in the batch file."""


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
