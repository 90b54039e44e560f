"""Several variants of one model in one report: checkpoints of its training, and both modes of its clients.

Leakage changes with training and with dropout and BatchNorm, so one file in one mode is one point. Every variant is
audited by itself, with the same victims (the same seed draws the same samples); the report compares them, shows the
worst one in full, and its verdict is the worst case. A variant that cannot be audited is listed with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leakaudit.audit.request import Request
from leakaudit.audit.results import without_pictures
from leakaudit.document.schema import AttackEntry, FindingEntry, VariantEntry, VictimResult
from leakaudit.document.status import VerdictStatus
from leakaudit.errors import AuditError, LeakauditError
from leakaudit.findings import SEVERITIES
from leakaudit.protocols.base import Mode
from leakaudit.report.domains import card_for
from leakaudit.report.domains.base import Shown
from leakaudit.report.saving import Report
from leakaudit.sweeps.audits import Audits, Outcome
from leakaudit.sweeps.names import distinct_names

EVAL_ONLY = "LA404"
"""The finding that train mode was not audited."""
RANKING = (
    VerdictStatus.LEAKS_CERTIFIED,
    VerdictStatus.LEAKS_MEASURED,
    VerdictStatus.INCONCLUSIVE,
    VerdictStatus.NOT_APPLICABLE,
    VerdictStatus.NOT_SHOWN,
    VerdictStatus.BOUNDED,
)
"""The statuses, the worst first: what was not concluded is worse than what was not shown."""


@dataclass(frozen=True)
class Variant:
    """One model as one kind of client trains it.

    Args:
        label: For the report, as ``early.onnx, train mode``.
        request: What is audited.
    """

    label: str
    request: Request


def name_variants(paths: Sequence[Path], modes: Sequence[Mode]) -> list[tuple[str, Path, Mode]]:
    """Label, path and mode of every combination; labels say what differs."""
    shown = distinct_names(paths)
    found = []
    for name, path in zip(shown, paths, strict=True):
        for mode in modes:
            parts = [name] if len(paths) > 1 or len(modes) == 1 else []
            parts += [f"{mode} mode"] if len(modes) > 1 else []
            found.append((", ".join(parts), path, mode))
    return found


def audit_variants(variants: Sequence[Variant], audits: Audits) -> Report:
    """Audit every variant and combine the reports; a single one is returned as it is.

    Args:
        variants: What to audit.
        audits: Runs them.

    Raises:
        AuditError: None can be audited.
    """
    reports: dict[int, Report] = {}
    failed: dict[int, AuditError] = {}

    def ended(number: int, outcome: Outcome) -> None:
        if outcome is None:
            failed[number] = AuditError("not audited: interrupted")
        elif isinstance(outcome, AuditError):
            failed[number] = outcome
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            reports[number] = outcome

    titles = [f"variant {number} of {len(variants)}: {variant.label}" for number, variant in enumerate(variants, 1)]
    audits.run([variant.request for variant in variants], titles, ended)
    if not reports:
        raise failed[0]
    if len(variants) == 1:
        return reports[0]
    labels = [variant.label for variant in variants]
    return combine(
        [(labels[n], reports[n]) for n in sorted(reports)], [(labels[n], failed[n]) for n in sorted(failed)], labels
    )


def combine(
    reports: Sequence[tuple[str, Report]], failed: Sequence[tuple[str, LeakauditError]], order: Sequence[str]
) -> Report:
    """One report of several.

    Args:
        reports: Label and report of what was audited.
        failed: Label and error of what could not be.
        order: All labels, as they are to be listed.
    """
    reports = [(label, _answered(one, reports)) for label, one in reports]
    worst, report = min(reports, key=lambda item: _badness(item[1]))
    clearest = card_for(report).clearest(report.attacks)
    index = None if clearest is None else clearest[1].samples[clearest[2]].index
    entries = {label: _entry(label, one, label == worst, index) for label, one in reports}
    entries |= {label: _unaudited(label, error) for label, error in failed}
    verdict = report.verdict
    if len(order) > 1:
        assumed = [*verdict.assumed, f"Worst of {len(order)} variants: {worst}. The others are compared with it."]
        verdict = verdict.model_copy(update={"headline": f"{verdict.headline} ({worst})", "assumed": assumed})
    partial = next((one.partial for _, one in reports if one.partial), "")
    findings = _union(worst, reports)
    severe = min((f.severity for f in findings), key=SEVERITIES.index, default=verdict.severity)
    return report.model_copy(
        update={
            "variants": [entries[label] for label in order],
            "findings": findings,
            "verdict": verdict.model_copy(update={"severity": severe}),
            "seconds": sum(one.seconds for _, one in reports),
            "partial": partial,
        }
    )


def _answered(report: Report, reports: Sequence[tuple[str, Report]]) -> Report:
    """Without the finding that train mode was not audited, where another variant of the same model audited it."""
    here = (report.target.path, report.target.sha256)
    if not any(o.protocol.mode == "train" and (o.target.path, o.target.sha256) == here for _, o in reports):
        return report
    return report.model_copy(update={"findings": [f for f in report.findings if f.id != EVAL_ONLY]})


def _unaudited(label: str, error: LeakauditError) -> VariantEntry:
    """The entry of a variant that could not be audited; what may quote a sample stands in a field of its own."""
    code = VerdictStatus.NOT_APPLICABLE
    return VariantEntry(label=label, status=str(code), code=code, headline=error.discreet, reason=error.message)


def _badness(report: Report) -> tuple[int, int, int]:
    """Smaller is worse."""
    verdict = report.verdict
    return RANKING.index(verdict.code), -verdict.samples_leaked, SEVERITIES.index(verdict.severity)


def _union(worst: str, reports: Sequence[tuple[str, Report]]) -> list[FindingEntry]:
    """Every finding id once, in its most severe form, with the variants that have it."""
    found: dict[str, FindingEntry] = {}
    having: dict[str, list[str]] = {}
    for label, report in sorted(reports, key=lambda item: item[0] != worst):
        for finding in report.findings:
            having.setdefault(finding.id, [])
            if label not in having[finding.id]:
                having[finding.id].append(label)
            known = found.get(finding.id)
            if known is None or SEVERITIES.index(finding.severity) < SEVERITIES.index(known.severity):
                message = finding.message if label == worst else f"{label}: {finding.message}"
                found[finding.id] = finding.model_copy(update={"message": message})
    several = len(reports) > 1
    merged = [
        f.model_copy(update={"evidence": {**f.evidence, "variants": having[f.id]}}) if several else f
        for f in found.values()
    ]
    return sorted(merged, key=lambda f: (SEVERITIES.index(f.severity), f.id))


def _entry(label: str, report: Report, worst: bool, index: int | None) -> VariantEntry:
    """The entry of one variant, with the pictures of the sample of this index."""
    shown = None if index is None else card_for(report).clearest(report.attacks, index)
    scored = [s for a in report.attacks if not a.upper_bound for r in a.results for s in r.samples]
    labels = {r.victim: r.labels for a in report.attacks for r in a.results}
    return VariantEntry(
        label=label,
        status=report.verdict.status,
        code=report.verdict.code,
        headline=report.verdict.headline,
        severity=report.verdict.severity,
        confidence=report.verdict.confidence,
        worst=worst,
        path=report.target.path,
        sha256=report.target.sha256,
        mode=report.protocol.mode,
        risk=report.rank.risk,
        samples_leaked=report.verdict.samples_leaked,
        samples_attacked=report.verdict.samples_attacked,
        interval=report.verdict.interval,
        best_psnr=max((s.psnr for s in scored if s.psnr is not None), default=None),
        best_margin=max((s.margin for s in scored if s.margin is not None), default=None),
        labels_right=sum(item.correct for item in labels.values()),
        labels_total=sum(item.count for item in labels.values()),
        seconds=report.seconds,
        attacks=[_bare(attack, shown) for attack in report.attacks],
        controls=report.controls,
        findings=report.findings,
    )


def _bare(attack: AttackEntry, shown: Shown | None) -> AttackEntry:
    """An attack's numbers, and the pictures of one reconstruction if it is this attack's."""
    return attack.model_copy(update={"results": [_with_one(result, shown) for result in attack.results]})


def _with_one(result: VictimResult, shown: Shown | None) -> VictimResult:
    bare = without_pictures(result)
    if shown is None or shown[1] is not result:
        return bare
    place = shown[2]
    samples = [*bare.samples[:place], result.samples[place], *bare.samples[place + 1 :]]
    return bare.model_copy(update={"samples": samples})
