"""Hold a report against a policy: which findings fail, and why the others do not."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from leakaudit.audit.environment import timestamp
from leakaudit.document.schema import (
    BaselineEntry,
    FindingEntry,
    PolicySection,
    Report,
    SettingEntry,
    SuppressionEntry,
)
from leakaudit.policy.compare import Change, Setup, compare_findings, differences, refuse_different
from leakaudit.policy.read import Policy, Suppression

R = TypeVar("R", bound=Report)


def today() -> datetime.date:
    """The day in UTC, or that of ``SOURCE_DATE_EPOCH``."""
    return datetime.datetime.fromisoformat(timestamp()).date()


def apply_policy(
    report: R,
    policy: Policy,
    *,
    baseline: Report | None = None,
    baseline_path: Path | None = None,
    settings: Sequence[SettingEntry] = (),
    day: datetime.date | None = None,
    allow_different: bool = False,
) -> R:
    """The report with every finding judged by the policy.

    Args:
        report: As the audit made it.
        policy: Thresholds and suppressions.
        baseline: An earlier report; only what is new or worse fails.
        baseline_path: Where it was read from.
        settings: All options as resolved, for the report.
        day: The day at which suppressions are judged; default today.
        allow_different: Take a baseline of another protocol, defence or threat model.

    Raises:
        UsageError: The baseline is of another protocol, defence or threat model.
    """
    day = day or today()
    changes: Sequence[Change | None] = [None] * len(report.findings)
    if baseline is not None:
        if not allow_different:
            refuse_different(Setup.of(baseline), Setup.of(report))
        changes = compare_findings(baseline.findings, report.findings)
    findings = [_judged(f, policy, change, day) for f, change in zip(report.findings, changes, strict=True)]
    section = PolicySection(
        fail_on=policy.fail_on,
        rules=dict(policy.rules),
        file=None if policy.file is None else policy.file.name,
        suppressions=[_entry(s, report.findings, day) for s in policy.suppressions],
        settings=list(settings),
        baseline=None if baseline is None else _baseline(report, baseline, baseline_path),
    )
    return report.model_copy(update={"findings": findings, "policy": section})


def _judged(finding: FindingEntry, policy: Policy, change: Change | None, day: datetime.date) -> FindingEntry:
    own = [s for s in policy.suppressions if s.rule == finding.id]
    active = next((s for s in own if s.active(day)), None)
    threshold = policy.threshold(finding.id)
    fails, reason = True, f"severity {finding.severity}, the policy fails on {threshold} or above"
    if not policy.reaches(finding):
        where = "the policy never fails on it" if threshold == "never" else f"below {threshold}"
        fails, reason = False, where
    elif active is not None:
        fails, reason = False, f"suppressed until {active.expires}: {active.reason}"
    elif change is not None and change.kind == "same":
        fails, reason = False, f"in the baseline, not worse: {change.detail}"
    elif own:
        reason += f"; its suppression ended on {max(s.expires for s in own)}"
    if fails and change is not None:
        reason += f"; against the baseline {change.kind}: {change.detail}"
    kind = "" if change is None else change.kind
    update = {"suppressed": active is not None, "fails": fails, "gate": reason, "change": kind}
    return finding.model_copy(update=update)


def _entry(suppression: Suppression, findings: Sequence[FindingEntry], day: datetime.date) -> SuppressionEntry:
    used = any(finding.id == suppression.rule for finding in findings)
    state = "expired" if not suppression.active(day) else "active" if used else "unused"
    return SuppressionEntry.model_validate(
        {
            "rule": suppression.rule,
            "reason": suppression.reason,
            "expires": suppression.expires.isoformat(),
            "state": state,
        }
    )


def _baseline(report: Report, baseline: Report, path: Path | None) -> BaselineEntry:
    name = "" if path is None else path.name
    return BaselineEntry(path=name, created=baseline.created, changes=differences(baseline, report))
