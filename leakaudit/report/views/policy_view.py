"""The policy as the report shows it: thresholds, suppressions with their state, the baseline, every option."""

from __future__ import annotations

from dataclasses import dataclass

from leakaudit.document.schema import BaselineEntry, PolicySection, Report
from leakaudit.report.views.cells import Cell, Fact, Table
from leakaudit.report.wording import clip, count, plain


@dataclass(frozen=True)
class PolicyView:
    """What the policy section shows."""

    summary: str
    suppressions: Table
    settings: Table
    baseline: list[Fact]


def build_policy(report: Report) -> PolicyView:
    """The policy of a report; without one, the tables are empty."""
    policy = report.policy or PolicySection()
    return PolicyView(_summary(report, policy), _suppressions(policy), _settings(policy), _baseline(policy.baseline))


def _summary(report: Report, policy: PolicySection) -> str:
    failing = sum(finding.fails for finding in report.findings)
    where = "" if policy.file is None else f" Read from {clip(policy.file, 80)}."
    limit = "Nothing fails" if policy.fail_on == "never" else f"Findings of severity {policy.fail_on} or above fail"
    rules = "; ".join(f"{clip(rule, 20)}: {clip(level, 20)}" for rule, level in policy.rules.items())
    other = f", except for these thresholds: {rules}" if rules else ""
    return f"{limit}{other}. {failing} of {count(len(report.findings), 'finding')} fail.{where}"


def _suppressions(policy: PolicySection) -> Table:
    columns = (("Rule", False), ("State", False), ("Until", False), ("Reason", False))
    table = Table("suppressions", "Suppressions", columns)
    for entry in policy.suppressions:
        state = {"active": "active", "expired": "expired: counts again", "unused": "unused: nothing to suppress"}
        mark = "alert" if entry.state == "expired" else ""
        table.add([clip(entry.rule, 20), Cell(state[entry.state], mark=mark), clip(entry.expires, 20), entry.reason])
    return table


def _settings(policy: PolicySection) -> Table:
    table = Table("settings", "Options as resolved", (("Option", False), ("Value", False), ("From", False)))
    for entry in policy.settings:
        table.add([clip(entry.name.replace("_", "-"), 60), plain(entry.value), entry.source])
    return table


def _baseline(baseline: BaselineEntry | None) -> list[Fact]:
    if baseline is None:
        return []
    facts = [Fact("Compared with", clip(baseline.path or "a report in memory"), f"of {clip(baseline.created, 40)}")]
    differs = "; ".join(clip(line, 200) for line in baseline.changes)
    return [*facts, Fact("Differs in", differs or "nothing that was recorded")]
