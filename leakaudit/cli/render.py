"""``leakaudit render``: other formats of a report that is already there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakaudit.cli.options.policy import ENVIRONMENT, judge, load_baseline, policy_options
from leakaudit.cli.options.report import check_writable, report_options, write
from leakaudit.cli.output import say
from leakaudit.errors import UsageError

if TYPE_CHECKING:
    from leakaudit.report.saving import Report


@click.command(context_settings=ENVIRONMENT)
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@report_options
@policy_options
def render(report: Path, debug: bool, writing: dict[str, Any], gate: dict[str, Any]) -> None:
    """Write other formats of REPORT (a report.json), or the same ones under another policy or evidence level.

    What a report leaves out stays out: a blurred one cannot be made full again. Exits with 1 if the policy fails.
    """
    from leakaudit.document.redact import redact
    from leakaudit.report.saving import Report

    check_writable(writing["out"])
    baseline = load_baseline(gate)
    known = Report.load(report)
    settings = known.policy.settings if known.policy else []
    judged = judge(known, gate, baseline)
    if judged.policy is not None:
        judged = judged.model_copy(update={"policy": judged.policy.model_copy(update={"settings": settings})})
    redacted = redact(judged, writing["evidence"])
    _refuse_loss(report, known, redacted, writing)
    for path in write(redacted, writing):
        say(f"Report: {path}")
    sys.exit(1 if any(finding.fails for finding in judged.findings) else 0)


def _refuse_loss(path: Path, report: Report, redacted: Report, writing: dict[str, Any]) -> None:
    """Refuse to write beside the report that is rendered what shows less of it: it would have to be removed."""
    here = path.resolve().parent == writing["out"].resolve()
    from leakaudit.report.formats.registry import chosen

    replaced = any(kind.document for kind in chosen(writing["formats"]))
    if redacted.evidence != report.evidence and here and not replaced:
        raise UsageError(
            f"--out {writing['out']} holds {path.name} itself, which shows what --evidence {redacted.evidence} hides",
            "choose another folder with --out, or add -f json to replace it",
        )
