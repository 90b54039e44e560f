"""One cell of a sweep: audit, judge, redact, render, and put what came of it into one value.

Whatever happens, a cell ends with a :class:`leakaudit.sweeps.results.Result`: a model that cannot be loaded, samples
that do not fit it and a defect of leakaudit are reasons, and no end of the sweep. It runs where a runner lets it, so
everything that it needs is in a :class:`Task`, which can be pickled; the audit itself is handed in as a function.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from leakaudit.audit.request import Request
from leakaudit.document.paths import short_paths, shortener
from leakaudit.document.status import CellStatus
from leakaudit.errors import LeakauditError
from leakaudit.observer import Observer, SilentObserver
from leakaudit.policy.read import Policy
from leakaudit.sweeps.contents import named_files
from leakaudit.sweeps.results import DOCUMENT, Facts, Result

if TYPE_CHECKING:
    from leakaudit.report.saving import Report

Audit = Callable[..., "Report"]
"""Takes a request, and an observer as a keyword; `leakaudit.scan`."""
Evidence = Literal["full", "blurred", "none"]
FORMATS = ("json", "html")
"""Formats of every cell's report where nobody names others: the document, and the page that the matrix links to."""
INTERRUPTED = "interrupted"
LONGEST = 300
"""Characters of an internal error that a reason quotes; chosen, as the command line does."""


@dataclass(frozen=True, kw_only=True)
class Presentation:
    """How the reports of a sweep appear.

    Args:
        formats: Names of formats.
        evidence: What they show of private samples.
        paths: ``short`` leaves out folders outside the working folder.
        policy: Findings are judged by it.
    """

    formats: tuple[str, ...] = FORMATS
    evidence: Evidence = "full"
    paths: Literal["short", "full"] = "short"
    policy: Policy = field(default_factory=Policy)

    @property
    def judged_by(self) -> str:
        """A hash of what the policy says, whichever file it is in."""
        from leakaudit.audit.cache import digest

        policy = self.policy
        rules = [(s.rule, s.reason, s.expires.isoformat()) for s in policy.suppressions]
        return digest(policy.fail_on, dict(policy.rules), rules)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A cell as a runner gets it.

    Args:
        key: Hash of all that its result depends on.
        request: What is audited.
        shown: How the report appears.
    """

    key: str
    request: Request
    shown: Presentation


def run_cell(task: Task, audit: Audit, observer: Observer | None = None) -> Result:
    """Audit one cell.

    Args:
        task: The cell.
        audit: Does it.
        observer: Told the progress, and asked whether to stop.
    """
    started = time.monotonic()
    try:
        report = audit(task.request, observer=observer or SilentObserver())
        seconds = time.monotonic() - started
        if report.partial:
            return Result(key=task.key, status=CellStatus.NOT_RUN, reason=INTERRUPTED, seconds=seconds)
        return result_of(task.key, report, task.shown, seconds)
    except Exception as error:
        status, reason = failure(error, task.shown.evidence)
        if task.shown.paths == "short":
            reason = shortener(str(path) for paths in named_files(task.request).values() for path in paths)(reason)
        return Result(key=task.key, status=status, reason=reason, seconds=time.monotonic() - started)


def failure(error: Exception, evidence: Evidence) -> tuple[CellStatus, str]:
    """What an error makes of a cell; the reason quotes samples only where the reports show them."""
    if _no_memory(error):
        return CellStatus.MEMORY, "the audit needs more memory than there is"
    if isinstance(error, LeakauditError):
        return CellStatus.FAILED, error.message if evidence == "full" else error.discreet
    text = f": {' '.join(str(error).split())[:LONGEST]}" if evidence == "full" else ""
    return CellStatus.FAILED, f"internal error, a defect of leakaudit: {type(error).__name__}{text}"


def _no_memory(error: Exception) -> bool:
    """Whether memory ran out; torch has no error of its own for that on a CPU."""
    torch = sys.modules.get("torch")
    on_card = torch is not None and isinstance(error, torch.OutOfMemoryError)
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_card or on_cpu or isinstance(error, MemoryError)


def result_of(key: str, report: Report, shown: Presentation, seconds: float) -> Result:
    """The result that a report makes.

    Args:
        key: Of the cell.
        report: As the audit made it; judged here, and redacted.
        shown: How it appears.
        seconds: That the audit took.
    """
    from leakaudit.document.redact import redact
    from leakaudit.policy.apply import apply_policy

    judged = redact(apply_policy(report, shown.policy), shown.evidence)
    judged = short_paths(judged) if shown.paths == "short" else judged
    files = rendered(judged, shown.formats)
    return Result(
        key=key,
        status=CellStatus.DONE,
        seconds=seconds,
        policy=shown.judged_by,
        facts=facts_of(judged),
        files={DOCUMENT: judged.to_json().encode(), **files},
    )


def rendered(report: Report, formats: Sequence[str]) -> dict[str, bytes]:
    """A report in some formats, by file name; those whose libraries are missing are left out."""
    from leakaudit.report.formats.base import FormatUnavailable, Rendering
    from leakaudit.report.formats.registry import chosen

    files: dict[str, bytes] = {}
    rendering = Rendering(report)
    for kind in chosen(formats):
        try:
            files[kind.file] = kind.content(rendering)
        except FormatUnavailable:
            continue
    return files


def facts_of(report: Report) -> Facts:
    """What the tables of a sweep say of a report."""
    from leakaudit.findings import samples_of

    verdict = report.verdict
    scored = samples_of(report.attacks)
    best = max(scored, key=lambda item: _closeness(item[2].closeness), default=None)
    metric = report.metrics[0].name if report.metrics else ""
    return Facts(
        verdict=str(verdict.code),
        severity=verdict.severity,
        inconclusive=verdict.inconclusive,
        failing=tuple(finding.id for finding in report.findings if finding.fails),
        leaked=verdict.samples_leaked,
        samples=verdict.samples_attacked,
        closest=None if best is None else best[2].metrics.get(metric),
        metric=metric,
        told="" if best is None else best[2].told,
        attack="" if best is None else best[0].name,
    )


def _closeness(value: float | None) -> float:
    """An exact reconstruction has no number, and none is nearer."""
    return float("inf") if value is None else value
