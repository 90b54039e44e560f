"""The policy as the report shows it: thresholds, suppressions with their state, the baseline, every option."""

from __future__ import annotations

from dataclasses import dataclass

from leakaudit.document.counting import count
from leakaudit.document.schema import BaselineEntry, PolicySection, Report
from leakaudit.report.views.cells import Cell, Fact, Table
from leakaudit.report.wording import clip, plain


@dataclass(frozen=True)
class PolicyView:
    """What the policy section shows; of the options those that were set, and how many had their defaults."""

    summary: str
    suppressions: Table
    settings: Table
    defaults: str
    baseline: list[Fact]


def build_policy(report: Report) -> PolicyView:
    """The policy of a report; without one, the tables are empty."""
    policy = report.policy or PolicySection()
    return PolicyView(
        summary=_summary(report, policy),
        suppressions=_suppressions(policy),
        settings=_settings(policy),
        defaults=_defaults(policy),
        baseline=_baseline(policy.baseline),
    )


def _summary(report: Report, policy: PolicySection) -> str:
    failing = sum(finding.fails for finding in report.findings)
    where = "" if policy.file is None else f" Read from {clip(policy.file, 80)}."
    never = policy.fail_on == "never"
    limit = "The policy lets everything pass" if never else f"The policy fails on {policy.fail_on} findings and above"
    rules = "; ".join(f"{clip(rule, 20)}: {clip(level, 20)}" for rule, level in policy.rules.items())
    other = f", except for these thresholds: {rules}" if rules else ""
    result = f"{failing} of {count(len(report.findings), 'finding')} fail{'s' if failing == 1 else ''} it."
    return f"{limit}{other}{'' if never and not rules else f'. {result[:-1]}'}.{where}"


def _suppressions(policy: PolicySection) -> Table:
    columns = (("Rule", False), ("State", False), ("Until", False), ("Reason", False))
    table = Table("suppressions", "Suppressions", columns)
    for entry in policy.suppressions:
        state = {"active": "active", "expired": "expired: counts again", "unused": "unused: nothing to suppress"}
        mark = "alert" if entry.state == "expired" else ""
        table.add([clip(entry.rule, 20), Cell(state[entry.state], mark=mark), clip(entry.expires, 20), entry.reason])
    return table


def _settings(policy: PolicySection) -> Table:
    table = Table("settings", "Options that were set", (("Option", False), ("Value", False), ("From", False)))
    for entry in (setting for setting in policy.settings if setting.source != "default"):
        table.add([clip(entry.name.replace("_", "-"), 60), plain(entry.value), entry.source])
    return table


def _defaults(policy: PolicySection) -> str:
    usual = sum(entry.source == "default" for entry in policy.settings)
    return f"{count(usual, 'other option')} had the default; report.json lists all." if usual else ""


def _baseline(baseline: BaselineEntry | None) -> list[Fact]:
    if baseline is None:
        return []
    facts = [Fact("Compared with", clip(baseline.path or "a report in memory"), f"of {clip(baseline.created, 40)}")]
    differs = "; ".join(clip(line, 200) for line in baseline.changes)
    return [*facts, Fact("Differs in", differs or "nothing that was recorded")]
