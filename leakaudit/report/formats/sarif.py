"""SARIF 2.1.0, with every field that GitHub code scanning asks for.

Each rule of the registry is listed with its page; each finding is a result at the model file. Nothing private is in
it: no image, no label of a sample; findings say counts and distances.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from leakaudit.document.fingerprint import architecture_hash, fingerprints
from leakaudit.document.paths import path_in_repository
from leakaudit.document.schema import FindingEntry, Report, Severity
from leakaudit.document.status import RunStatus
from leakaudit.document.version import __version__
from leakaudit.findings import RULES, Rule
from leakaudit.report.formats.base import HEAD, Format, Rendering
from leakaudit.safety.text import shown

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS: dict[Severity, str] = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "none": "none"}
SECURITY_SEVERITY: dict[Severity, str] = {"critical": "9.5", "high": "8.0", "medium": "5.5", "low": "3.0", "none": ""}
PRECISION = {"certified": "very-high", "measured": "high", "estimated": "medium"}
LONGEST = 900
"""Characters of a description; GitHub shows 1024."""


_LINK = re.compile(r"\[(?=[^\]]*\]\()")


def _message(text: str) -> str:
    """One line of plain text, in which no name is a link: SARIF reads ``[text](target)`` as one."""
    return _LINK.sub(r"\\[", shown(text))


def render_sarif(report: Report) -> str:
    """The report as one SARIF log with one run."""
    rules = sorted(RULES)
    run: dict[str, Any] = {
        "tool": {"driver": _driver(report, rules)},
        "automationDetails": {"id": f"leakaudit/{quote(shown(report.target.name)[:200], safe='')}/"},
        "invocations": [_invocation(report)],
        "results": _results(report, rules),
        "columnKind": "utf16CodeUnits",
        "properties": {"verdict": shown(report.verdict.status), "architecture": architecture_hash(report.target)},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False) + "\n"


def _driver(report: Report, rules: list[str]) -> dict[str, Any]:
    return {
        "name": shown(report.tool.name),
        "version": shown(report.tool.version),
        "semanticVersion": shown(report.tool.version),
        "rules": [_rule(RULES[identifier]) for identifier in rules],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    properties: dict[str, Any] = {"tags": ["security", "privacy"], "precision": "high"}
    if rule.worst != "none":
        properties["security-severity"] = SECURITY_SEVERITY[rule.worst]
    page = "\n\n".join(" ".join(paragraph.split()) for paragraph in rule.page.split("\n\n"))
    return {
        "id": rule.id,
        "name": "".join(word.capitalize() for word in "".join(c if c.isalnum() else " " for c in rule.title).split()),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.summary[:LONGEST]},
        "help": {
            "text": f"{page}\n\nWhat to do: {rule.remedy}",
            "markdown": f"{page}\n\n**What to do.** {rule.remedy}",
        },
        "defaultConfiguration": {"level": LEVELS[rule.worst] if rule.worst != "none" else "note"},
        "properties": properties,
    }


def _results(report: Report, rules: list[str]) -> list[dict[str, Any]]:
    marks = fingerprints(report.target, report.findings)
    location = {
        "physicalLocation": {
            "artifactLocation": {"uri": model_uri(report), "uriBaseId": "%SRCROOT%"},
            "region": {"startLine": 1},
        }
    }
    results = []
    for finding, mark in zip(report.findings, marks, strict=True):
        result: dict[str, Any] = {
            "ruleId": finding.id,
            "level": LEVELS[finding.severity],
            "kind": "fail" if finding.severity != "none" else "informational",
            "message": {"text": _message(f"{finding.message} What to do: {finding.remedy}")},
            "locations": [location],
            "partialFingerprints": {"primaryLocationLineHash": mark, "ruleAndArchitecture/v1": mark},
            "properties": _finding_properties(finding),
        }
        if finding.id in rules:
            result["ruleIndex"] = rules.index(finding.id)
        if finding.suppressed:
            result["suppressions"] = [
                {"kind": "external", "status": "accepted", "justification": shown(finding.gate)[:LONGEST]}
            ]
        if finding.change:
            result["baselineState"] = {"new": "new", "worse": "updated", "same": "unchanged"}[finding.change]
        results.append(result)
    return results


def _finding_properties(finding: FindingEntry) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "severity": finding.severity,
        "confidence": finding.confidence,
        "precision": PRECISION[finding.confidence],
        "failsPolicy": finding.fails,
    }
    if SECURITY_SEVERITY[finding.severity]:
        properties["security-severity"] = SECURITY_SEVERITY[finding.severity]
    return properties


def _invocation(report: Report) -> dict[str, Any]:
    """Whether the audit came to a result, and which attacks did not run and why."""
    inconclusive = report.verdict.inconclusive
    unrun = [attack for attack in report.attacks if attack.status is not RunStatus.RUN]
    notes = [_notification("note", f"{attack.title} did not run: {attack.reason}") for attack in unrun]  # fmt: skip
    if inconclusive or report.partial:
        notes.insert(0, _notification("error", report.partial or report.verdict.headline))
    return {
        "executionSuccessful": not inconclusive and not report.partial,
        "endTimeUtc": report.created.replace("+00:00", "Z"),
        "toolExecutionNotifications": notes,
    }


def _notification(level: str, text: str) -> dict[str, Any]:
    return {"level": level, "message": {"text": _message(text)[:LONGEST]}}


def model_uri(report: Report) -> str:
    """The model file as a URI relative to the root of its repository, which code scanning takes ``%SRCROOT%`` for.

    In no repository it is relative to the working folder, and its name alone where it lies elsewhere.
    """
    known = report.target.repository_path or path_in_repository(report.target.path)
    path = PurePath(shown(known)) if known else _below_working_folder(report)
    return quote(path.as_posix()[-LONGEST:])


def _below_working_folder(report: Report) -> PurePath:
    path = Path(shown(report.target.path or report.target.name or "model"))
    try:
        return path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):
        return PurePath(path.name)


def failure_sarif(model: str, message: str) -> str:
    """A run without results whose invocation failed; SARIF has no place for the model's name then."""
    from leakaudit.audit.environment import timestamp

    invocation = {
        "executionSuccessful": False,
        "endTimeUtc": timestamp().replace("+00:00", "Z"),
        "toolExecutionNotifications": [{"level": "error", "message": {"text": message}}],
    }
    driver = {"name": "leakaudit", "version": __version__, "semanticVersion": __version__, "rules": []}
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": []}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _render(rendering: Rendering) -> str:
    return render_sarif(rendering.report)


def _ours(content: bytes) -> bool:
    return b'"name": "leakaudit"' in content[:HEAD]


def _failed(content: bytes) -> bool:
    return b'"executionSuccessful": false' in content and b'"results": []' in content


FORMAT = Format(
    name="sarif",
    file="report.sarif",
    title="for code scanning",
    render=_render,
    failure=failure_sarif,
    ours=_ours,
    failed=_failed,
)
