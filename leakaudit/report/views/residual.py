"""What remains open after an audit, in sentences that every view uses."""

from __future__ import annotations

from leakaudit.document.counting import count
from leakaudit.document.schema import Report
from leakaudit.document.status import RunStatus
from leakaudit.document.threat_models import BEYOND, MANIPULATING
from leakaudit.report.views.facts import victims_told

SENTENCE = "Evidence only for the attacks run; not a determination of anonymity or legal compliance."


def _at_hand(report: Report) -> str:
    samples = report.batch.samples
    return f"the file holds {samples}" if samples else "nobody has these samples, so nothing was scored"


def residual_risk(report: Report, *, named: bool = True) -> list[str]:
    """What this audit does not rule out, from what was not run, not applicable, cut short or assumed.

    Args:
        report: The document.
        named: Whether the attacks that did not run are named, where nothing else beside names them.
    """
    left = [a.title for a in report.attacks if a.status is not RunStatus.RUN]
    short = sorted({a.title for a in report.attacks for r in a.results if any(cut.stopped for cut in r.cuts)})
    modelled = ", ".join(sorted({a.threat_model for a in report.attacks if a.status is RunStatus.RUN})) or "none"
    statements = [
        SENTENCE,
        report.verdict.at_most,
        f"Attackers were modelled under threat model {modelled}; {MANIPULATING} ({BEYOND}) were not.",
        f"Attacked: {victims_told(report)}; "
        f"{_at_hand(report)}. Other samples, later weights and other settings may leak more.",
    ]
    if left:
        which = ", ".join(left) if named else f"{count(len(left), 'attack')}, named in the scope"
        statements.append(f"Not run or not applicable, so not ruled out: {which}.")
    if short:
        statements.append(f"Ended before they were done: {', '.join(short)}.")
    if report.partial:
        statements.append(f"The audit ended early: {report.partial}.")
    return statements
