"""One cell of a sweep: audit, judge, redact, render, and put what came of it into one value.

Whatever happens, a cell ends with a :class:`leakaudit.sweeps.results.Result`: a model that cannot be loaded, samples
that do not fit it and a defect of leakaudit are reasons, and no end of the sweep. It runs where a runner lets it, so
everything that it needs is in a :class:`Task`, which can be pickled; the audit itself is handed in as a function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from leakaudit.audit.request import Request
from leakaudit.document.paths import short_paths, shortener
from leakaudit.document.status import CellStatus
from leakaudit.errors import AuditError, LeakauditError, kinds
from leakaudit.observer import Observer, SilentObserver
from leakaudit.policy.read import Policy
from leakaudit.safety.confined import out_of_memory
from leakaudit.sweeps.contents import Contents, named_files
from leakaudit.sweeps.results import Facts, Result

if TYPE_CHECKING:
    from leakaudit.report.saving import Report

Audit = Callable[..., "Report"]
"""Takes a request, and an observer as a keyword; `leakaudit.scan`."""
Evidence = Literal["full", "blurred", "none"]
FORMATS = ("json", "html")
"""Formats of every cell's report where nobody names others: the document, and the page that the matrix links to."""
DOCUMENT_FORMAT = "json"
"""The one that is always kept: from it every other one can be made again."""
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
        policy: Findings are judged by it; ``None`` leaves that to others.
    """

    formats: tuple[str, ...] = FORMATS
    evidence: Evidence = "full"
    paths: Literal["short", "full"] = "short"
    policy: Policy | None = field(default_factory=Policy)

    @property
    def judged_by(self) -> str:
        """A hash of what the policy says, whichever file it is in."""
        from leakaudit.audit.cache import digest

        policy = self.policy
        if policy is None:
            return "nobody"
        rules = [(s.rule, s.reason, s.expires.isoformat()) for s in policy.suppressions]
        return digest(policy.fail_on, dict(policy.rules), rules)

    def key_of(self, request: Request, contents: Contents) -> str:
        """The name of a cell's result: by all that it depends on, but a policy, by which it can be judged again."""
        judged = () if self.policy is not None else ("unjudged",)
        return contents.key(request, self.evidence, self.paths, *judged)


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
        return failed(task, error, time.monotonic() - started)


def failed(task: Task, error: Exception, seconds: float = 0.0) -> Result:
    """The result of a cell that an error ended; its reason names files as the reports do."""
    status, reason = failure(error, task.shown.evidence)
    if task.shown.paths == "short":
        reason = shortener(str(path) for paths in named_files(task.request).values() for path in paths)(reason)
    kind = type(error).__name__ if isinstance(error, LeakauditError) else ""
    hint = error.hint if isinstance(error, LeakauditError) and task.shown.evidence == "full" else ""
    return Result(key=task.key, status=status, reason=reason, error=kind, hint=hint, seconds=seconds)


def error_of(result: Result) -> LeakauditError:
    """The error that ended a cell elsewhere; of memory, time or workers one of the audit."""
    return kinds().get(result.error, AuditError)(result.reason, result.hint)


def failure(error: Exception, evidence: Evidence) -> tuple[CellStatus, str]:
    """What an error makes of a cell; the reason quotes samples only where the reports show them."""
    if isinstance(error, LeakauditError):
        return CellStatus.FAILED, error.message if evidence == "full" else error.discreet
    if out_of_memory(error):
        return CellStatus.MEMORY, "the audit needs more memory than there is"
    text = f": {' '.join(str(error).split())[:LONGEST]}" if evidence == "full" else ""
    return CellStatus.FAILED, f"internal error, a defect of leakaudit: {type(error).__name__}{text}"


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

    judged = report if shown.policy is None else apply_policy(report, shown.policy)
    judged = redact(judged, shown.evidence)
    judged = short_paths(judged) if shown.paths == "short" else judged
    return Result(
        key=key,
        status=CellStatus.DONE,
        seconds=seconds,
        policy=shown.judged_by,
        facts=facts_of(judged),
        files=rendered(judged, shown.formats),
    )


def rendered(report: Report, formats: Sequence[str]) -> dict[str, bytes]:
    """A report as its document and in some formats, by file name; those whose libraries are missing are left out."""
    from leakaudit.report.formats.base import FormatUnavailable, Rendering
    from leakaudit.report.formats.registry import chosen

    files: dict[str, bytes] = {}
    rendering = Rendering(report)
    wanted = {kind.file: kind for kind in [*chosen(formats), *chosen([DOCUMENT_FORMAT])]}
    for kind in wanted.values():
        try:
            files[kind.file] = kind.content(rendering)
        except FormatUnavailable:
            continue
    return files


def facts_of(report: Report) -> Facts:
    """What the tables of a sweep say of a report."""
    from leakaudit.findings import closest, samples_of

    verdict = report.verdict
    best = closest(samples_of(report.attacks))
    metric = report.metrics[0].name if report.metrics else ""
    return Facts(
        verdict=verdict.code,
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
